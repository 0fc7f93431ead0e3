"""How many units stay with one and the same part from image to image.

Source: Huang et al., *Evaluation and Improvement of Interpretability for Self-Explainable
Part-Prototype Networks*, ICCV 2023 (arXiv 2212.05946), with the released code.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from pellucid.metrics import plots
from pellucid.metrics.part_box import (
    check_landmarks,
    check_share,
    landmarks_in_box,
    upsampled_peaks,
)
from pellucid.metrics.part_metric import PartMetric, check_maps, check_shape
from pellucid.metrics.unit_category import (
    JudgedByCategory,
    of_own_category,
    sum_by_category,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BOX = 72 / 224
THRESHOLD = 0.8


def part_consistency(
    maps: Tensor,
    parts: Tensor,
    part_visible: Tensor,
    image_size: tuple[int, int],
    threshold: float = THRESHOLD,
    box: float = BOX,
    grid: tuple[float, float] | None = None,
    counted: Tensor | None = None,
    label: Tensor | None = None,
) -> Tensor:
    r"""Consistency score of a set of images, :math:`\mathrm{mean}_u [\max_k a_{u,k} \ge t]`.

    :math:`a_{u,k}` is the share of the images showing part :math:`k` in which its landmark is in
    the box around the peak of unit :math:`u`'s map, upsampled bicubically: element :math:`k` of
    the paper's averaged corresponding object parts. A unit is consistent if it reaches the
    threshold :math:`t` for some part. Units of whose images none shows a part are left out.

    The paper judges a prototype by the images of its own category alone. For units whose category
    is not given with the model, ``label`` does so: a unit's category is the one on whose images
    the mean of its map is greatest on average (Zhang et al., CVPR 2018), of those that show parts.
    Where the model gives it, ``counted`` says which images count. With neither, all do: a unit of
    one category among several cannot score well then, having no part to find on the others.

    Args:
        maps: (B, U, h, w) floating point, finite: the units' responses.
        parts: (B, P, 2) landmarks as (x, y) in pixels, the centre of the top left one at (0, 0).
        part_visible: (B, P) bool.
        image_size: Height and width of the images in pixels.
        threshold: Least share of a consistent unit, above 0 and at most 1.
        box: Sides of the box as a share of the image's sides (72 of 224 pixels in the paper).
        grid: Stride and offset in pixels of the maps' cells, see
            :func:`~pellucid.metrics.location_instability.peak_positions`; None: cells that tile
            the image, as in the paper.
        counted: (B, U) bool, whether the image counts for the unit; None: all do.
        label: (B,) int64, the category, from 0: each unit is judged on images of its own; None:
            on all.

    Returns:
        Scalar from 0 to 1, higher is better. NaN if no image that counts shows any part.

    Raises:
        ValueError: If an option, a shape, or an activation is wrong; names the unit.
    """
    _check_options(threshold, box)
    inside, shown = _observe(maps, parts, part_visible, image_size, box, grid, counted)
    if label is not None:
        own = of_own_category(maps, label, shown.any(-1)).unsqueeze(-1)
        inside, shown = inside & own, shown & own
    return _score(inside.sum(0), shown.sum(0), threshold)


def _check_options(threshold: float, box: float) -> None:
    if not 0 < threshold <= 1:
        raise ValueError(
            f"threshold must be above 0 and at most 1, got {threshold}; usual is {THRESHOLD}"
        )
    check_share("box", box, "72 / 224 = 0.32")


def _observe(
    maps: Tensor,
    parts: Tensor,
    part_visible: Tensor,
    image_size: tuple[int, int],
    box: float,
    grid: tuple[float, float] | None,
    counted: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(B, U, P) whether the part is in the unit's box; whether the image counts and shows it."""
    maps = check_maps(maps)
    check_landmarks(maps, parts, part_visible)
    peak = upsampled_peaks(maps, image_size, grid)
    inside = landmarks_in_box(peak, parts, part_visible, image_size, box)
    shown = rearrange(part_visible, "b p -> b 1 p").expand_as(inside)
    if counted is not None:
        check_shape("counted", counted, maps.shape[:2])
        inside, shown = (seen & counted.bool().unsqueeze(-1) for seen in (inside, shown))
    return inside, shown


def _score(inside: Tensor, shown: Tensor, threshold: float) -> Tensor:
    """Share of units that reach the threshold, of those with any image."""
    # 0.8 * 15 is 12.000000000000002.
    reached = (inside >= shown * (threshold - 1e-6)) & (shown > 0)
    known = (shown > 0).any(1)
    return reached.any(1)[known].float().mean()


class PartConsistency(PartMetric, JudgedByCategory):
    """How many units stay with one part, as a share of the units; higher is better.

    See :func:`part_consistency` for the definition; :meth:`per_unit` has the shares
    :math:`a_{u,k}`. It holds about ``8 K U P`` bytes for K categories (12 MB for 512 units,
    15 parts, 200 categories), however many images there are. Batch sizes, order and the number of
    processes do not change the result, but where rounding decides between two categories of a
    unit; images that a distributed sampler repeats do count twice. A metric that has seen no part
    is NaN.

    Args:
        num_units: Number of units, ``U``.
        part_names: Names of the ``P`` landmarks, in the order of the batch's ``parts``.
        threshold: Least share of a consistent unit, above 0 and at most 1.
        box: Sides of the box as a share of the image's sides, above 0 and at most 1.
        num_classes: Number of categories, to judge each unit on images of its own; None: on all.

    Raises:
        ValueError: If an argument is out of range.
    """

    higher_is_better = True
    inside: Tensor
    shown: Tensor

    def __init__(
        self,
        num_units: int,
        part_names: Sequence[str],
        threshold: float = THRESHOLD,
        box: float = BOX,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(num_units, part_names)
        _check_options(threshold, box)
        self.threshold, self.box = threshold, box
        count = self._add_category_states(num_units, num_classes)
        none = torch.zeros(count, num_units, len(self.part_names), dtype=torch.int32)
        self.add_state("inside", none, dist_reduce_fx="sum")
        self.add_state("shown", none.clone(), dist_reduce_fx="sum")

    def update(
        self,
        maps: Tensor,
        parts: Tensor,
        part_visible: Tensor,
        image_size: tuple[int, int],
        grid: tuple[float, float] | None = None,
        counted: Tensor | None = None,
        label: Tensor | None = None,
    ) -> None:
        """Look at one batch; the arguments are those of :func:`part_consistency`."""
        check_shape("maps", maps, (None, self.num_units, None, None))
        check_shape("parts", parts, (len(maps), len(self.part_names), 2))
        seen = _observe(maps, parts, part_visible, image_size, self.box, grid, counted)
        self._add_responses(maps, label)
        inside, shown = (sum_by_category(one, label, len(self.inside)) for one in seen)
        # Not in place: a state that was reset in inference mode could not be changed outside it.
        self.inside, self.shown = self.inside + inside, self.shown + shown

    def compute(self) -> Tensor:
        """The share of consistent units."""
        category = self._unit_categories(self.shown.sum(-1) > 0)
        unit = torch.arange(self.num_units, device=category.device)
        inside, shown = self.inside[category, unit], self.shown[category, unit]
        self._per_unit = inside / shown
        return _score(inside, shown, self.threshold)

    def plot(self) -> tuple["Figure", "Axes"]:
        """A dot for each unit in a row for each part, the row's mean, and the threshold."""
        figure, axes = plots.unit_rows(
            self.per_unit().cpu(),
            self.part_names,
            "share of images with the part in the unit's box "
            f"(consistent from {self.threshold:g} on)",
            limit=1.0,
        )
        axes.axvline(self.threshold, color="black", lw=0.8, ls=":")
        return figure, axes
