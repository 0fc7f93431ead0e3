"""How far a unit's strongest position wanders from the parts of the object.

Source: Zhang, Wu, Zhu, *Interpretable Convolutional Neural Networks*, CVPR 2018
(arXiv 1710.00935), section 4.2, with the sample standard deviation of the released code.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from einops import rearrange, repeat
from torch import Tensor

from pellucid.metrics import plots
from pellucid.metrics.part_metric import PartMetric, check_maps, check_shape
from pellucid.metrics.strongest import KeepsStrongest, StrongestImages, number_images

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOP_K = 100


def peak_positions(
    maps: Tensor, image_size: tuple[int, int], grid: tuple[float, float] | None = None
) -> tuple[Tensor, Tensor]:
    """Where each unit responds most.

    A position of the map stands for the centre of its receptive field: column ``j`` is at
    ``x = offset + stride j``. Where the receptive field is not known, the map's cells are taken to
    tile the image: column ``j`` of ``w`` in an image of width ``W`` is at
    ``x = (j + 0.5) W / w - 0.5``, as in a network whose layers pad evenly (VGG), but several pixels
    from the centre in many others (7.5 at stride 16 in ResNets). Rows likewise. Of equal responses
    the first in reading order counts.

    Args:
        maps: (B, U, h, w) float.
        image_size: Height and width of the image in pixels.
        grid: Stride and offset in pixels, as :class:`~pellucid.models.backbones.Backbone` has
            them; None: cells that tile the image.

    Returns:
        (B, U) the greatest response, and (B, U, 2) its position as (x, y) in pixels, the centre
        of the top left pixel being (0, 0).
    """
    (height, width), (rows, columns) = image_size, maps.shape[-2:]
    peak, cell = rearrange(maps, "b u h w -> b u (h w)").max(-1)
    column, row = cell % columns, cell.div(columns, rounding_mode="floor")
    if grid is None:
        x = (column + 0.5) * (width / columns) - 0.5
        y = (row + 0.5) * (height / rows) - 0.5
    else:
        stride, offset = grid
        # Not in whole numbers, whatever the stride's type.
        x, y = (offset + float(stride) * place for place in (column, row))
    return peak, torch.stack((x, y), -1)


def location_instability(
    maps: Tensor,
    parts: Tensor,
    part_visible: Tensor,
    image_size: tuple[int, int],
    top_k: int = TOP_K,
    index: Tensor | None = None,
    grid: tuple[float, float] | None = None,
) -> Tensor:
    r"""Location instability of a set of images, :math:`\mathrm{mean}_f\,\mathrm{mean}_k D_{f,k}`.

    For unit :math:`f` and landmark :math:`k`, the distance in an image of width :math:`w` and
    height :math:`h` is :math:`d = \|p_k - p(\hat\mu)\| / \sqrt{w^2 + h^2}`, with
    :math:`p(\hat\mu)` from :func:`peak_positions`. :math:`D_{f,k}` is the sample standard
    deviation of :math:`d` over the ``top_k`` images that show the landmark and on which the unit
    responds most; pairs with fewer than two images are left out.

    Args:
        maps: (B, U, h, w) floating point, finite: the units' responses, before any mask.
        parts: (B, P, 2) landmarks as (x, y) in pixels, the centre of the top left one at (0, 0).
        part_visible: (B, P) bool.
        image_size: Height and width of the images in pixels.
        top_k: Images per pair.
        index: (B,) int64 from 0 to 2**30 - 1, position in the split: decides between equal
            responses (the smaller first); images of the same index count once. None: all
            different, in the given order.
        grid: Stride and offset in pixels of the maps' cells, see :func:`peak_positions`; None:
            cells that tile the image.

    Returns:
        Scalar, in units of the image diagonal, from 0; lower is better. NaN if no pair has two
        images.

    Raises:
        ValueError: If a shape, the index, or an activation is wrong; names the unit.
    """
    number = number_images(index, len(maps), maps.device)
    seen = _observe(maps, parts, part_visible, image_size, number, grid)
    return _mean(_deviations(seen.best(top_k)))


def _observe(
    maps: Tensor,
    parts: Tensor,
    part_visible: Tensor,
    image_size: tuple[int, int],
    number: Tensor,
    grid: tuple[float, float] | None,
) -> StrongestImages:
    """The peaks of a batch, whose images have the given numbers.

    A unit has one row for each part and a last one for images that show any of them. Values are
    the distance to the part in diagonals (0 in the last row), and the peak's x and y as a share of
    the image's width and height.
    """
    maps = check_maps(maps)
    batch, units = maps.shape[:2]
    check_shape("parts", parts, (batch, None, 2))
    count = parts.shape[1]
    check_shape("part_visible", part_visible, (batch, count))
    size = torch.tensor(image_size[::-1], dtype=torch.float32, device=maps.device)
    peak, position = peak_positions(maps, image_size, grid)
    # Landmarks that are not visible may hold anything, NaN included.
    parts = parts.float().masked_fill(~part_visible.unsqueeze(-1), 0.0)
    offset = rearrange(position, "b u d -> u 1 b d") - rearrange(parts, "b p d -> 1 p b d")
    distance = offset.square().sum(-1).sqrt() / size.square().sum().sqrt()
    distance = torch.cat((distance, torch.zeros_like(distance[:, :1])), 1)
    shown = torch.cat((part_visible, part_visible.any(1, keepdim=True)), 1)
    scores = repeat(peak, "b u -> u p b", p=count + 1)
    share = repeat((position + 0.5) / size, "b u d -> u p b d", p=count + 1)
    return StrongestImages(
        scores.masked_fill(~rearrange(shown, "b p -> 1 p b"), -torch.inf),
        repeat(number, "b -> u p b", u=units, p=count + 1),
        torch.cat((distance.unsqueeze(-1), share), -1),
    )


def _deviations(seen: StrongestImages) -> Tensor:
    """(U, P) sample standard deviation of the distances; NaN for fewer than two images."""
    distance, real = seen.values[:, :-1, :, 0], seen.scores[:, :-1] > -torch.inf
    count = real.sum(-1, keepdim=True)
    mean = (distance * real).sum(-1, keepdim=True) / count.clamp(min=1)
    squares = ((distance - mean).square() * real).sum(-1)
    count = count.squeeze(-1)
    deviation = (squares / (count - 1).clamp(min=1)).sqrt()
    return deviation.masked_fill(count < 2, torch.nan)


def _mean(deviations: Tensor) -> Tensor:
    return deviations.nanmean(1).nanmean()


class LocationInstability(PartMetric, KeepsStrongest):
    """How far units wander from the object's parts, in image diagonals; lower is better.

    See :func:`location_instability` for the definition. It holds ``24 U (P + 1) top_k`` bytes
    (3.7 MB for 512 units, 2 parts, 100 images), however many images there are. With ``index``
    given, batch sizes, order, the number of processes and images repeated by a distributed
    sampler do not change the result. A metric that has seen no image is NaN.

    Args:
        num_units: Number of units, ``U``.
        part_names: Names of the ``P`` landmarks, in the order of the batch's ``parts``.
        top_k: Images per unit and landmark, at least 2.

    Raises:
        ValueError: If an argument is out of range.
    """

    higher_is_better = False

    def __init__(self, num_units: int, part_names: Sequence[str], top_k: int = TOP_K) -> None:
        super().__init__(num_units, part_names)
        if top_k < 2:
            raise ValueError(
                f"top_k must be at least 2, got {top_k}: one image has no standard deviation"
            )
        self._add_strongest_states(num_units, len(self.part_names) + 1, top_k, width=3)
        self._best: StrongestImages

    def update(
        self,
        maps: Tensor,
        parts: Tensor,
        part_visible: Tensor,
        image_size: tuple[int, int],
        index: Tensor | None = None,
        grid: tuple[float, float] | None = None,
    ) -> None:
        """Look at one batch; the arguments are those of :func:`location_instability`."""
        check_shape("maps", maps, (None, self.num_units, None, None))
        check_shape("parts", parts, (len(maps), len(self.part_names), 2))
        number = self._number_images(index, len(maps))
        self._keep(_observe(maps, parts, part_visible, image_size, number, grid))

    def compute(self) -> Tensor:
        """The mean over parts, then over units."""
        kept = self._strongest()
        self._best, self._per_unit = kept, _deviations(kept)
        return _mean(self._per_unit)

    def dead_units(self) -> int:
        """How many units' strongest response to any image was not above 0.

        The peak of a map of zeros is its first cell in each image, so a dead unit's instability is
        that of the landmarks about a corner, which may be smaller than that of a unit at work: look
        here before believing a small figure. Only images that show a part count. Collective as
        :meth:`per_unit` is.

        Returns:
            From 0 to ``num_units``; 0 before the first image that shows a part.
        """
        self.compute()
        strongest = self._best.scores[:, -1].amax(-1)
        return int(((strongest > -torch.inf) & (strongest <= 0)).sum())

    def top_positions(self, unit: int, part: str | None = None) -> Tensor:
        """Where a unit's peak lies in the images on which it responds most.

        Args:
            unit: The unit.
            part: Only images that show this part; None: those that show any.

        Returns:
            (N, 2) float, (x, y) as shares of the image's width and height, strongest first; N is
            at most ``top_k``.

        Raises:
            ValueError: If there is no such unit or part.
        """
        self._check_unit(unit)
        if part not in (None, *self.part_names):
            raise ValueError(f"part must be one of {', '.join(self.part_names)}, got {part!r}")
        self.compute()
        row = -1 if part is None else self.part_names.index(part)
        return self._best.values[unit, row, self._best.scores[unit, row] > -torch.inf, 1:]

    def plot(self) -> tuple["Figure", "Axes"]:
        """A dot for each unit in a row for each part, and the row's mean."""
        return plots.unit_rows(
            self.per_unit().cpu(),
            self.part_names,
            "location instability (share of the image diagonal, lower is better)",
        )

    def plot_unit(
        self, unit: int, image: Tensor | None = None, part: str | None = None
    ) -> tuple["Figure", "Axes"]:
        """The positions of a unit's peaks, their mean, and their spread at 1 and 2 sigma.

        Args:
            unit: The unit.
            image: (3, H, W) or (1, H, W), uint8 or float in [0, 1], to draw them on; None: an
                empty frame.
            part: Only images that show this part; None: those that show any.
        """
        positions = self.top_positions(unit, part).cpu()
        per_part = zip(self.part_names, self.per_unit()[unit].tolist(), strict=True)
        figure, axes = plots.position_spread(positions, image)
        axes.set_title(
            f"unit {unit}: peaks in its {len(positions)} strongest images\nlocation instability "
            + ", ".join(f"{instability:.3f} ({name})" for name, instability in per_part),
            fontsize=9,
        )
        return figure, axes
