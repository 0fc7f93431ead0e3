"""How often noise too weak to be noticed leaves a unit on the same parts.

Source: Huang et al., *Evaluation and Improvement of Interpretability for Self-Explainable
Part-Prototype Networks*, ICCV 2023 (arXiv 2212.05946), with the released code.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pellucid.metrics import plots
from pellucid.metrics.part_box import (
    check_landmarks,
    check_share,
    landmarks_in_box,
    upsampled_peaks,
)
from pellucid.metrics.part_consistency import BOX
from pellucid.metrics.part_metric import check_maps, check_shape
from pellucid.metrics.unit_category import (
    JudgedByCategory,
    of_own_category,
    sum_by_category,
)
from pellucid.metrics.unit_metric import UnitMetric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIGMA = 0.2
LIMIT = 0.25


def perturb(
    image: Tensor,
    sigma: float = SIGMA,
    limit: float = LIMIT,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Add the noise of the stability score: Gaussian, cut off at a limit.

    Args:
        image: (..., H, W) floating point, normalised to a standard deviation of about 1, as the
            model takes it.
        sigma: Standard deviation of the noise before it is cut off, at least 0.
        limit: Greatest noise in size, at least 0.
        generator: Where the noise comes from, on any device; None: the image's device's own. The
            same generator on the same device gives the same noise to images on all devices.

    Returns:
        The image with noise, of the same shape, type and device.

    Raises:
        ValueError: If an argument is out of range.
    """
    if sigma < 0 or limit < 0:
        raise ValueError(
            f"sigma and limit must be at least 0, got {sigma} and {limit}; usual is {SIGMA} and "
            f"{LIMIT}"
        )
    if not image.is_floating_point():
        raise ValueError(f"image must be floating point, got {image.dtype}: normalise it first")
    source = image.device if generator is None else generator.device
    noise = sigma * torch.randn(image.shape, generator=generator, device=source)
    return image + noise.clamp(-limit, limit).to(image)


def part_stability(
    maps: Tensor,
    noisy_maps: Tensor,
    parts: Tensor,
    part_visible: Tensor,
    image_size: tuple[int, int],
    box: float = BOX,
    grid: tuple[float, float] | None = None,
    counted: Tensor | None = None,
    label: Tensor | None = None,
) -> Tensor:
    """Stability score: how often a unit's parts are the same with and without noise.

    A unit's parts in an image are those whose visible landmarks are in the box around the peak of
    its map, upsampled bicubically. The score is the share of images in which all of them are the
    same, and no other, for the image with noise (:func:`perturb`); mean over units. Images that
    show no part tell nothing and are left out. A unit that reaches no part in either image is
    stable there, so a dead unit is always: look at consistency as well.

    The paper judges a prototype by the images of its own category alone. For units whose category
    is not given with the model, ``label`` does so: a unit's category is the one on whose images
    the mean of its map is greatest on average (Zhang et al., CVPR 2018), of those that show parts.
    Where the model gives it, ``counted`` says which images count. With neither, all do: a unit of
    one category among several cannot score well then, having no part to find on the others.

    Args:
        maps: (B, U, h, w) floating point, finite: the units' responses.
        noisy_maps: (B, U, h, w), those to the same images with noise.
        parts: (B, P, 2) landmarks as (x, y) in pixels, the centre of the top left one at (0, 0).
        part_visible: (B, P) bool.
        image_size: Height and width of the images in pixels.
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
        ValueError: If the box, a shape, or an activation is wrong; names the unit.
    """
    check_share("box", box, "72 / 224 = 0.32")
    same, counts = _observe(maps, noisy_maps, parts, part_visible, image_size, box, grid, counted)
    if label is not None:
        own = of_own_category(maps, label, counts)
        same, counts = same & own, counts & own
    return (same.sum(0) / counts.sum(0)).nanmean()


def _observe(
    maps: Tensor,
    noisy_maps: Tensor,
    parts: Tensor,
    part_visible: Tensor,
    image_size: tuple[int, int],
    box: float,
    grid: tuple[float, float] | None,
    counted: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(B, U) whether the image counts and the parts are the same, and whether it counts."""
    check_shape("noisy_maps", noisy_maps, maps.shape)
    check_landmarks(maps, parts, part_visible)
    clean, noisy = (
        landmarks_in_box(
            upsampled_peaks(check_maps(m), image_size, grid), parts, part_visible, image_size, box
        )
        for m in (maps, noisy_maps)
    )
    counts = part_visible.any(1, keepdim=True).expand(maps.shape[:2])
    if counted is not None:
        check_shape("counted", counted, maps.shape[:2])
        counts = counts & counted.bool()
    same = (clean == noisy).all(-1) & counts
    return same, counts


class PartStability(UnitMetric, JudgedByCategory):
    """How often units stay with their parts under noise, as a share of images; higher is better.

    See :func:`part_stability` for the definition; :meth:`per_unit` is (U,). It holds ``12 K U``
    bytes for K categories, however many images there are. Batch sizes, order and the number of
    processes do not change the result, but where rounding decides between two categories of a
    unit (and the noise is the caller's: draw it from each image's index if it is to be the same);
    images that a distributed sampler repeats do count twice. A metric that has seen no part is
    NaN.

    Args:
        num_units: Number of units, ``U``.
        box: Sides of the box as a share of the image's sides, above 0 and at most 1.
        num_classes: Number of categories, to judge each unit on images of its own; None: on all.

    Raises:
        ValueError: If an argument is out of range.
    """

    higher_is_better = True
    same: Tensor
    images: Tensor

    def __init__(self, num_units: int, box: float = BOX, num_classes: int | None = None) -> None:
        super().__init__(num_units)
        check_share("box", box, "72 / 224 = 0.32")
        self.box = box
        none = torch.zeros(self._add_category_states(num_units, num_classes), num_units).int()
        self.add_state("same", none, dist_reduce_fx="sum")
        self.add_state("images", none.clone(), dist_reduce_fx="sum")

    def update(
        self,
        maps: Tensor,
        noisy_maps: Tensor,
        parts: Tensor,
        part_visible: Tensor,
        image_size: tuple[int, int],
        grid: tuple[float, float] | None = None,
        counted: Tensor | None = None,
        label: Tensor | None = None,
    ) -> None:
        """Look at one batch; the arguments are those of :func:`part_stability`."""
        check_shape("maps", maps, (None, self.num_units, None, None))
        seen = _observe(maps, noisy_maps, parts, part_visible, image_size, self.box, grid, counted)
        self._add_responses(maps, label)
        same, images = (sum_by_category(one, label, len(self.same)) for one in seen)
        # Not in place: a state that was reset in inference mode could not be changed outside it.
        self.same, self.images = self.same + same, self.images + images

    def compute(self) -> Tensor:
        """The mean over units."""
        category = self._unit_categories(self.images > 0)
        unit = torch.arange(self.num_units, device=category.device)
        self._per_unit = self.same[category, unit] / self.images[category, unit]
        return self._per_unit.nanmean()

    def plot(self) -> tuple["Figure", "Axes"]:
        """A dot for each unit, and the mean."""
        return plots.unit_rows(
            self.per_unit().cpu().unsqueeze(1),
            ("units",),
            "share of images in which noise leaves the unit on the same parts",
            limit=1.0,
        )
