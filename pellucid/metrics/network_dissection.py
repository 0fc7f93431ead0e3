"""Which concepts the units of a layer detect, over a whole data set.

Source: Bau, Zhou, Khosla, Oliva, Torralba, *Network Dissection: Quantifying Interpretability of
Deep Visual Representations*, CVPR 2017 (arXiv 1704.05796), section 2.2, equation 1.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from einops import rearrange, reduce
from torch import Tensor

from pellucid.metrics import bright_values, concept_pixels, dissection_plots
from pellucid.metrics.concept_pixels import AreaCounter
from pellucid.metrics.mask_grid import chunks
from pellucid.metrics.part_metric import PartMetric, check_maps, check_shape
from pellucid.metrics.streaming_quantile import GREATEST, STEPS, LevelGrid, allowed_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUANTILE = 0.005
IOU_THRESHOLD = 0.04
RESOLUTION = 112

# A floor costs as much as a tenth of an image, and hardly moves while a sixteenth more are seen.
_IMAGES_PER_FLOOR = 16


def network_dissection(
    maps: Tensor,
    masks: Tensor,
    visible: Tensor | None = None,
    annotated: Tensor | None = None,
    categories: Sequence[str] | None = None,
    quantile: float = QUANTILE,
    resolution: int | None = RESOLUTION,
) -> Tensor:
    r"""Data-set-wide IoU of where each unit fires and where each concept is (equation 1).

    :math:`\mathrm{IoU}_{k,c} = \sum_I |M_k(I) \cap L_c(I)| / \sum_I |M_k(I) \cup L_c(I)|` over the
    images that are annotated for the category of concept :math:`c`. Unit :math:`k` fires
    (:math:`M_k`) where its map, upsampled bilinearly, is above :math:`T_k`, the least value with
    :math:`p(a_k > T_k) \le` ``quantile`` over all positions of all maps, before they are upsampled.

    This looks at the maps twice and finds :math:`T_k` exactly; :class:`NetworkDissection` looks
    once and estimates it. Below ``1 / quantile`` positions (200) no unit can fire.

    Args:
        maps: (B, U, h, w) floating point, finite, of any sign.
        masks: (B, C, H, W) bool; masks of different concepts may overlap.
        visible: (B, C) bool, where False the mask counts as empty; None: all are visible.
        annotated: (B, K) bool, whether the image is annotated for each of the ``K`` categories, in
            the order in which they first appear; None: all are. An image that is annotated for a
            category counts against the units that fire in it where the concept is not.
        categories: Category of each concept; None: all are of one.
        quantile: Share of positions above the threshold, between 0 and 1.
        resolution: Pixels of the longer side of the grid on which areas are counted; None, or
            more than the image has: the image's own. Maps are interpolated at the centres of the
            grid's cells, masks sampled by :func:`~pellucid.metrics.mask_grid.masks_on_grid`.

    Returns:
        (U, C) float from 0 to 1, higher is better. NaN for a concept that no image shows.

    Raises:
        ValueError: If an argument or an activation is out of range; names the unit.
    """
    _check_options(quantile, resolution)
    maps = check_maps(maps)
    check_shape("masks", masks, (len(maps), None, None, None))
    category = concept_pixels.categories_of(masks.shape[1], categories)[1].to(maps.device)
    masks, known = concept_pixels.counted_masks(masks, visible, annotated, category, resolution)
    if not len(maps):
        return maps.new_full((maps.shape[1], masks.shape[1]), torch.nan)
    values = rearrange(maps, "b u h w -> u (b h w)")
    thresholds = values.topk(allowed_above(quantile, values.shape[1]) + 1).values[:, -1]
    both = torch.zeros(maps.shape[1], masks.shape[1], dtype=torch.float64, device=maps.device)
    fired = torch.zeros_like(both)
    for part in chunks(maps, masks):
        planes = maps[part].flatten(0, 1)
        large = bright_values.upsampled(planes, masks.shape[-2:], planes.amax((1, 2)))
        large = rearrange(large, "(b u) h w -> b u (h w)", u=maps.shape[1])
        # Single precision stops counting at 2^24, mixed precision far below.
        fires = (large > thresholds.unsqueeze(1)).double()
        both += torch.einsum("bup,bcp->uc", fires, masks[part].flatten(2).double())
        fired += torch.einsum("bup,bc->uc", fires, known[part][:, category].double())
    area = reduce(masks.double(), "b c h w -> c", "sum")
    return (both / (area + fired - both)).where(area > 0, torch.nan).float()


def _check_options(quantile: float, resolution: int | None) -> None:
    if not 0 < quantile < 1:
        raise ValueError(f"quantile must be between 0 and 1, got {quantile}; usual is 0.005")
    if resolution is not None and resolution < 1:
        raise ValueError(f"resolution must be at least 1 or null, got {resolution}; usual is 112")


class NetworkDissection(PartMetric):
    """How many concepts the units of a layer detect (unique detectors); higher is better.

    See :func:`network_dissection` for the IoU of a unit and a concept. A unit is labelled with the
    concept of its greatest IoU and is a detector of it if that is above ``iou_threshold``; a
    concept with several detectors counts once.

    One look at each image is enough, since areas are counted by level of activation, 16 to the
    octave, and at the end interpolated, by the number of positions above each, between the two
    levels (6 % apart at most) that enclose the exact threshold. :meth:`bounds` gives the IoUs
    between which the exact one is for certain. On smooth random maps with 600 positions above the
    threshold, IoUs were within 1.1 % (relative) of the exact ones, half of that on average, and
    bounds 13 to 43 % apart; with 100 positions, within 5 %. Values within 1.5e-5 of zero are not
    told apart; a unit that is above zero on a smaller share of positions than ``quantile`` fires
    wherever it is above zero.

    It holds ``8224 U (C + K + 2)`` bytes for ``K`` categories (236 MB for 512 units, 50 concepts
    and 4 categories; with ``steps=4`` a quarter), however many images there are. Batch sizes, order
    and the number of processes do not change the result; images that a distributed sampler repeats
    do count twice. A metric that has seen no concept is NaN.

    Args:
        num_units: Number of units, ``U``.
        concepts: Names of the ``C`` concepts, in the order of ``masks``.
        categories: Category of each concept (part, object, colour ...); None: all are of one.
        quantile: Share of positions above the threshold, between 0 and 1.
        iou_threshold: Greatest IoU that makes no detector, from 0 to below 1.
        resolution: Pixels of the longer side of the grid on which areas are counted, see
            :func:`network_dissection`.
        num_images: At least as many images as all processes together will see before
            :meth:`reset`. Activations that cannot reach the threshold any more are then passed
            over, which saves most of the time and changes no figure. None: not known.
        steps: Levels per octave, a power of two from 1 to 64.

    Raises:
        ValueError: If an argument is out of range.
    """

    higher_is_better = True
    positions: Tensor
    inside: Tensor
    area: Tensor
    annotated_area: Tensor
    total: Tensor
    limit: Tensor

    def __init__(
        self,
        num_units: int,
        concepts: Sequence[str],
        categories: Sequence[str] | None = None,
        quantile: float = QUANTILE,
        iou_threshold: float = IOU_THRESHOLD,
        resolution: int | None = RESOLUTION,
        num_images: int | None = None,
        steps: int = STEPS,
    ) -> None:
        super().__init__(num_units, concepts)
        _check_options(quantile, resolution)
        if not 0 <= iou_threshold < 1:
            raise ValueError(
                f"iou_threshold must be from 0 to below 1, got {iou_threshold}; usual is 0.04"
            )
        if num_images is not None and num_images < 1:
            raise ValueError(f"num_images must be at least 1 or null, got {num_images}")
        self.quantile, self.iou_threshold = quantile, iou_threshold
        self.resolution, self.num_images, self.grid = resolution, num_images, LevelGrid(steps)
        self.categories, category = concept_pixels.categories_of(len(concepts), categories)
        self.register_buffer("category", category, persistent=False)
        self.category: Tensor
        # Concepts, then what is in none of a category's, then what counts for nothing.
        rows = len(concepts) + len(self.categories) + 1
        sizes: dict[str, tuple[int, ...]] = {
            "positions": (num_units, self.grid.size),
            "inside": (rows, num_units, self.grid.size),
            "area": (len(concepts),),
            "annotated_area": (len(self.categories),),
            "total": (),
        }
        for name, size in sizes.items():
            # Spread out, not held in memory yet: torchmetrics keeps a second one for reset().
            zeros = torch.zeros((), dtype=torch.int64).expand(size)
            self.add_state(name, zeros, dist_reduce_fx="sum")
        self.add_state("limit", torch.tensor(torch.iinfo(torch.int64).max), dist_reduce_fx="min")
        self._thresholds: Tensor
        self._detectors: Tensor
        self._bounds: tuple[Tensor, Tensor]

    def update(
        self,
        maps: Tensor,
        masks: Tensor,
        visible: Tensor | None = None,
        annotated: Tensor | None = None,
    ) -> None:
        """Look at one batch.

        Args:
            maps: (B, U, h, w) floating point, from -65536 to 65536.
            masks: (B, C, H, W) bool, see :func:`network_dissection`.
            visible: (B, C) bool; None: all are visible.
            annotated: (B, K) bool; None: all are annotated for all categories.

        Raises:
            ValueError: If a shape or an activation is wrong, or there are more images than
                ``num_images``. Of activations too low, only those that could matter are noticed.
        """
        check_shape("maps", maps, (None, self.num_units, None, None))
        check_shape("masks", masks, (len(maps), len(self.part_names), None, None))
        cells, allowed = maps.shape[2] * maps.shape[3], None
        floor = torch.full((self.num_units,), -torch.inf, device=maps.device)
        if self.num_images is not None:
            allowed = allowed_above(self.quantile, self.num_images * cells)
            floor = self.grid.floor(self.positions, allowed)
        # Of a unit that has a floor, it does not matter how far below other values are.
        maps, tiles, least = _checked(maps, floor.isinf())
        masks, known = concept_pixels.counted_masks(
            masks, visible, annotated, self.category, self.resolution
        )
        limit, total = self.limit, self.total + len(maps) * cells
        if self.num_images is not None:
            limit = limit.clamp(max=self.num_images * cells)
        self._check_total(total, limit)
        seen, self.limit, self.total = int(self.total) // cells, limit, total
        self.annotated_area = self.annotated_area + known.sum(0) * (masks.shape[2] * masks.shape[3])
        for name in ("positions", "inside"):
            setattr(self, name, _writable(getattr(self, name)))
        due = 0
        for image in range(len(maps)):
            if allowed is not None and image >= due:
                floor = self.grid.floor(self.positions, allowed)
                due = image + max(1, (seen + image) // _IMAGES_PER_FLOOR)
            self._count(maps[image], tiles[image], least[image], floor, masks[image], known[image])

    def _count(
        self,
        maps: Tensor,
        tiles: Tensor,
        least: Tensor,
        floor: Tensor,
        masks: Tensor,
        known: Tensor,
    ) -> None:
        """Add one image to the counts by level."""
        # What is at zero is what remains of the total, so need not be counted.
        floor = torch.where((least >= 0) & floor.isinf(), 0.0, floor)
        # A candidate's level is one more than that of what is above it; rounding can interpolate
        # a value to below the least of a map by a float.
        last = self.grid.levels(torch.where(floor.isinf(), least, floor))
        last = torch.where(floor.isinf(), last + 1, last - 1).clamp_(max=self.grid.size - 1)
        own, size = maps.shape[1:], masks.shape[1:]
        areas = AreaCounter(
            self.inside,
            self.positions if own == size else None,
            masks,
            known,
            self.category,
            self.grid.levels(tiles.amax(1)),
            last,
        )
        self.area = self.area + areas.area
        maps, tiles = maps.unsqueeze(0), tiles.unsqueeze(0)
        if own != size:
            positions = self.positions.view(-1)
            for unit, _, value in bright_values.values_above(maps, tiles, floor, own):
                place = self.grid.levels(value).add_(unit, alpha=self.grid.size)
                positions.scatter_add_(0, place, torch.ones_like(place))
        for unit, pixel, value in bright_values.values_above(maps, tiles, floor, size):
            areas.add(unit, self.grid.levels(value), pixel)

    def _check_total(self, total: Tensor, limit: Tensor) -> None:
        if total > limit:
            raise ValueError(
                f"num_images is {self.num_images}, but more were seen (or maps of another size); "
                "give a greater one or null"
            )

    def compute(self) -> Tensor:
        """The number of concepts that have a detector."""
        # Each process alone may have kept to the limit.
        self._check_total(self.total, self.limit)
        total = int(self.total)
        bracket = self.grid.enclose(self.positions, self.total, allowed_above(self.quantile, total))
        ends = torch.stack([bracket.upper, bracket.lower], -1)
        concepts = len(self.area)
        # With what is in none of its concepts, a category's counts are of all of its pixels.
        beside = self.annotated_area - self.area.new_zeros(len(self.categories)).index_add(
            0, self.category, self.area
        )
        inside = self._areas(self.inside[:concepts], self.area, ends)
        fired = self._areas(self.inside[concepts:-1], beside, ends)
        fired = fired.index_add(1, self.category, inside)[:, self.category]
        outside = fired - inside
        area = self.area.unsqueeze(-1)
        # The lower threshold has the greater areas.
        least = inside[..., 0] / (area + outside.flip(-1))[..., 0]
        greatest = inside[..., 1] / (area + outside.flip(-1))[..., 1]
        way = bracket.way.unsqueeze(-1)
        inside, outside = (torch.lerp(x[..., 0], x[..., 1], way) for x in (inside, outside))
        shown = self.area > 0
        least, iou, greatest = (
            x.where(shown, torch.nan).float()
            for x in (least, inside / (self.area + outside), greatest)
        )
        self._per_unit, self._bounds = iou, (least, greatest)
        self._thresholds = bracket.value(self.grid)
        if not total:
            self._thresholds = torch.full_like(self._thresholds, torch.nan)
        best, concept = iou.nan_to_num(-1.0).max(1)
        self._detectors = concept.masked_fill(best <= self.iou_threshold, -1)
        found = set(self._detectors.tolist()) - {-1}
        return torch.tensor(float(len(found)) if shown.any() else torch.nan, device=self.device)

    def _areas(self, counts: Tensor, total: Tensor, ends: Tensor) -> Tensor:
        """(U, N, 2) float64 pixels above the candidates of (U, 2) ``ends``, from (N, U, L)."""
        # One at a time, as the sums of all would need as much memory again.
        areas = [
            self.grid.above(some, number).gather(-1, ends)
            for some, number in zip(counts, total, strict=True)
        ]
        return torch.stack(areas, 1).double()

    def iou(self) -> Tensor:
        """The data-set-wide IoU; collective as :meth:`per_unit` is, which is the same.

        Returns:
            (U, C) float from 0 to 1, NaN for a concept that no image shows.
        """
        return self.per_unit()

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Between which values the exact IoU is; collective as :meth:`per_unit` is.

        Returns:
            Lower and upper bound, both (U, C) float, NaN for a concept that no image shows.
        """
        self.compute()
        least, greatest = self._bounds
        return least.to(self.device), greatest.to(self.device)

    def thresholds(self) -> Tensor:
        """The activation above which each unit fires; collective as :meth:`per_unit` is.

        Returns:
            (U,) float, NaN before the first image.
        """
        self.compute()
        return self._thresholds.to(self.device)

    def detectors(self) -> Tensor:
        """Which concept each unit detects; collective as :meth:`per_unit` is.

        Returns:
            (U,) int64, -1 for a unit that is no detector.
        """
        self.compute()
        return self._detectors.to(self.device)

    def unique_detectors(self) -> dict[str, int]:
        """Number of concepts of each category that have a detector; collective likewise."""
        found = set(self.detectors().tolist()) - {-1}
        category = self.category.tolist()
        counts = Counter(self.categories[category[concept]] for concept in found)
        return {name: counts[name] for name in self.categories}

    def plot(self) -> tuple["Figure", "Axes"]:
        """A bar for each detected concept: its number of detectors, coloured by category."""
        return dissection_plots.detector_bars(
            self.detectors().cpu(),
            self.part_names,
            [self.categories[number] for number in self.category.tolist()],
            f"units with an IoU above {self.iou_threshold:g}",
        )


def _checked(maps: Tensor, open_below: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Float32 maps, the greatest value of their tiles, and (B, U) least value of each.

    Where ``open_below`` (U,) is False, the greatest value of a map stands for the least.
    """
    if not maps.is_floating_point() or 0 in maps.shape:
        maps = check_maps(maps)
        return maps, maps.flatten(2), maps.flatten(2).sum(2)
    maps = maps.detach().float()
    tiles = bright_values.tiles_of(maps)
    greatest = least = tiles.amax(2)
    units = open_below.nonzero().squeeze(1)
    if len(units) == len(open_below):
        least = maps.amin((2, 3))
    elif len(units):
        least = greatest.index_copy(1, units, maps.index_select(1, units).amin((2, 3)))
    # The two stand for all, so that the maps are looked at no more often than needed.
    check_maps(rearrange([least, greatest], "e b u -> b u 1 e"), -GREATEST, GREATEST)
    return maps, tiles, least


def _writable(counts: Tensor) -> Tensor:
    """The counts themselves where they can be changed in place, else a copy."""
    # A new state is one number spread out; one that was reset in inference mode is closed outside.
    closed = counts.is_inference() and not torch.is_inference_mode_enabled()
    if closed or not counts.is_contiguous():
        return counts.clone(memory_format=torch.contiguous_format)
    return counts
