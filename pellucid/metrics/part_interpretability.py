"""How often a unit's strong responses cover one and the same part of the object.

Source: Zhang, Wu, Zhu, *Interpretable Convolutional Neural Networks*, CVPR 2018
(arXiv 1710.00935), section 4.2, after Bau et al., *Network Dissection*, CVPR 2017.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional as F

from pellucid.metrics import plots
from pellucid.metrics.mask_grid import chunks, masks_on_grid
from pellucid.metrics.part_hits import (
    CANDIDATES,
    GREATEST,
    add_all_hits,
    add_hits_above,
    candidate,
    histogram,
    levels_of,
)
from pellucid.metrics.part_metric import PartMetric, check_maps, check_shape
from pellucid.metrics.streaming_quantile import allowed_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUANTILE = 0.005
IOU_THRESHOLD = 0.2
RESOLUTION = 56


def part_interpretability(
    maps: Tensor,
    part_masks: Tensor,
    part_visible: Tensor,
    quantile: float = QUANTILE,
    iou_threshold: float = IOU_THRESHOLD,
    resolution: int | None = RESOLUTION,
) -> Tensor:
    r"""Part interpretability of a set of images, :math:`\mathrm{mean}_f \max_k P_{f,k}`.

    Unit :math:`f` fires where its map :math:`x`, upsampled bilinearly, is above :math:`T_f`, the
    least value with :math:`p(x > T_f) \le` ``quantile`` over all positions of all maps, before
    they are upsampled. :math:`P_{f,k}` is the share of the images showing part :math:`k` (visible,
    and its mask not empty) in which the IoU of where the unit fires and the part's mask is above
    ``iou_threshold``.

    This looks at the maps twice and finds :math:`T_f` exactly; :class:`PartInterpretability` looks
    once and estimates :math:`T_f`. Below ``1 / quantile`` positions (200) no unit can fire.

    Args:
        maps: (B, U, h, w) floating point, finite and at least 0.
        part_masks: (B, P, H, W) bool.
        part_visible: (B, P) bool.
        quantile: Share of positions above the threshold, between 0 and 1.
        iou_threshold: Least IoU of a hit, from 0 to below 1.
        resolution: Pixels of the longer side of the grid on which areas are counted; None, or
            more than the image has: the image's own. Maps are interpolated at the centres of the
            grid's cells, masks sampled by :func:`~pellucid.metrics.mask_grid.masks_on_grid`.

    Returns:
        Scalar from 0 to 1, higher is better. NaN if no image shows any part.

    Raises:
        ValueError: If an argument or an activation is out of range; names the unit.
    """
    _check_options(quantile, iou_threshold, resolution)
    maps = check_maps(maps, least=0.0)
    check_shape("part_masks", part_masks, (len(maps), None, None, None))
    check_shape("part_visible", part_visible, part_masks.shape[:2])
    if not len(maps):
        return maps.new_tensor(torch.nan)
    rows = rearrange(maps, "b u h w -> u (b h w)")
    thresholds = rows.topk(allowed_above(quantile, rows.shape[1]) + 1).values[:, -1]
    masks, shown = masks_on_grid(part_masks, part_visible, resolution)
    hits = torch.zeros(maps.shape[1], masks.shape[1], device=maps.device)
    for part in chunks(maps, masks):
        large = F.interpolate(maps[part], size=masks.shape[-2:], mode="bilinear")
        fires = (large > rearrange(thresholds, "u -> u 1 1")).flatten(2).float()
        mask = masks[part].flatten(2).float()
        # Not a matrix product: mixed precision would count pixels to three digits.
        both = torch.stack([(fires * m.unsqueeze(1)).sum(-1) for m in mask.unbind(1)], -1)
        either = fires.sum(-1, keepdim=True) + rearrange(mask.sum(-1), "b p -> b 1 p") - both
        hits += (both / either > iou_threshold).sum(0)
    return _summary(hits / shown.sum(0))


def _check_options(quantile: float, iou_threshold: float, resolution: int | None) -> None:
    if not 0 < quantile < 1:
        raise ValueError(f"quantile must be between 0 and 1, got {quantile}; usual is 0.005")
    if not 0 <= iou_threshold < 1:
        raise ValueError(
            f"iou_threshold must be from 0 to below 1, got {iou_threshold}; usual is 0.2"
        )
    if resolution is not None and resolution < 1:
        raise ValueError(f"resolution must be at least 1 or null, got {resolution}; usual is 56")


def _summary(rates: Tensor) -> Tensor:
    """Mean over units of the maximum over parts, leaving parts out that were never shown."""
    best = rates.nan_to_num(-1.0).amax(1)
    return best.masked_fill(best < 0, torch.nan).mean()


class PartInterpretability(PartMetric):
    """How often units fire on one part, as a share of the images; higher is better.

    See :func:`part_interpretability` for the definition. One look at each image is enough, since
    the metric counts hits for each of 3072 candidate thresholds, 64 to the octave, and at the end
    interpolates, by the number of positions above each, between the two (1.6 % apart at most) that
    enclose the exact threshold. On smooth maps whose peaks differ from image to image by a fifth
    or more, the result was within 2 % (relative) of the exact one, at a tenth within 4 %. Where
    peaks are more nearly equal it errs further, upwards as a rule, since all hits then begin
    within a few candidates: there, use :func:`part_interpretability`. Activations
    below 6e-8 count as zero, and a unit that is above it on a smaller share of positions than
    ``quantile`` fires wherever it is above it.

    It holds ``24584 U + 12288 U P`` bytes (25 MB for 512 units and 2 parts), however many images
    there are. Batch sizes, order and the number of processes do not change the result; images that
    a distributed sampler repeats do count twice. A metric that has seen no part is NaN.

    Args:
        num_units: Number of units, ``U``.
        part_names: Names of the ``P`` parts, in the order of the batch's ``part_masks``.
        quantile: Share of positions above the threshold, between 0 and 1.
        iou_threshold: Least IoU of a hit, from 0 to below 1.
        resolution: Pixels of the longer side of the grid on which areas are counted, see
            :func:`part_interpretability`.
        num_images: At least as many images as all processes together will see before
            :meth:`reset`. Activations that cannot reach the threshold any more are then passed
            over, which saves most of the time and changes no figure. None: not known.

    Raises:
        ValueError: If an argument is out of range.
    """

    higher_is_better = True
    positions: Tensor
    changes: Tensor
    images: Tensor

    def __init__(
        self,
        num_units: int,
        part_names: Sequence[str],
        quantile: float = QUANTILE,
        iou_threshold: float = IOU_THRESHOLD,
        resolution: int | None = RESOLUTION,
        num_images: int | None = None,
    ) -> None:
        super().__init__(num_units, part_names)
        _check_options(quantile, iou_threshold, resolution)
        self.quantile, self.iou_threshold = quantile, iou_threshold
        if num_images is not None and num_images < 1:
            raise ValueError(f"num_images must be at least 1 or null, got {num_images}")
        self.resolution, self.num_images, self._cells = resolution, num_images, 0
        parts = len(self.part_names)
        # Candidates fall from left to right.
        positions = torch.zeros(num_units, CANDIDATES + 1, dtype=torch.int64)
        changes = torch.zeros(num_units, parts, CANDIDATES, dtype=torch.int32)
        self.add_state("positions", positions, dist_reduce_fx="sum")
        self.add_state("changes", changes, dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(parts, dtype=torch.int64), dist_reduce_fx="sum")
        self._thresholds: Tensor

    def update(self, maps: Tensor, part_masks: Tensor, part_visible: Tensor) -> None:
        """Look at one batch; the arguments are those of :func:`part_interpretability`."""
        check_shape("maps", maps, (None, self.num_units, None, None))
        check_shape("part_masks", part_masks, (len(maps), len(self.part_names), None, None))
        check_shape("part_visible", part_visible, part_masks.shape[:2])
        # Adding zero makes -0, whose bits are those of a huge number, to +0.
        maps = check_maps(maps, least=0.0, greatest=GREATEST) + 0.0
        # Not in place: a state that was reset in inference mode could not be changed outside it.
        levels = levels_of(rearrange(maps, "b u h w -> u (b h w)"))
        self.positions = self.positions + histogram(levels, CANDIDATES + 1)
        masks, shown = masks_on_grid(part_masks, part_visible, self.resolution)
        self.changes = self.changes.clone()
        lowest = self._lowest(maps.shape[2] * maps.shape[3])
        if lowest is None:
            for part in chunks(maps, masks):
                add_all_hits(self.changes, maps[part], masks[part], self.iou_threshold)
        else:
            add_hits_above(self.changes, maps, masks, self.iou_threshold, lowest)
        self.images = self.images + shown.sum(0)

    def _lowest(self, cells: int) -> Tensor | None:
        """(U,) number of the lowest candidate that can still be next to the unit's threshold.

        None where for most units any can, as long as few images have been seen.
        """
        if self.num_images is None:
            return None
        self._cells = max(self._cells, cells)
        self._check_total(int(self.positions[0].sum()))
        allowed = allowed_above(self.quantile, self.num_images * cells)
        # However many positions follow, more than are allowed are above this one.
        lowest = (self.positions[:, :-1].cumsum(-1) <= allowed).sum(-1)
        return lowest if int((lowest < CANDIDATES).sum()) * 2 > self.num_units else None

    def _check_total(self, total: int) -> None:
        if self.num_images is not None and total > self.num_images * self._cells > 0:
            raise ValueError(
                f"num_images is {self.num_images}, but more were seen (or maps of another size); "
                "give a greater one or null"
            )

    def compute(self) -> Tensor:
        """The mean over units of the greatest share over parts."""
        above = self.positions[:, :-1].cumsum(-1)
        total = int(self.positions[0].sum())
        # Each process alone may have kept to the limit.
        self._check_total(total)
        allowed = allowed_above(self.quantile, total)
        # The lowest candidate with few enough positions above it; there is always the highest.
        upper = ((above <= allowed).sum(-1, keepdim=True) - 1).clamp(min=0)
        lower = (upper + 1).clamp(max=CANDIDATES - 1)
        # Of the n positions between the two, the k-th from above is the threshold: on average
        # k / (n + 1) of the way down.
        first, last = above.gather(-1, upper), above.gather(-1, lower)
        way = (allowed + 1 - first) / (last - first + 1)
        way = torch.where(lower > upper, way, 0.0)
        self._thresholds = torch.lerp(candidate(upper), candidate(lower), way).squeeze(-1)
        if not total:
            self._thresholds = torch.full_like(self._thresholds, torch.nan)
        counts = self.changes.cumsum(-1)
        between = [
            counts.gather(-1, repeat(end, "u 1 -> u p 1", p=len(self.part_names))).squeeze(-1)
            for end in (upper, lower)
        ]
        hits = torch.lerp(between[0].float(), between[1].float(), way)
        self._per_unit = hits / self.images
        return _summary(self._per_unit)

    def thresholds(self) -> Tensor:
        """The activation above which each unit fires; collective as :meth:`per_unit` is.

        Returns:
            (U,) float, NaN before the first image.
        """
        self.compute()
        return self._thresholds.to(self.device)

    def plot(self) -> tuple["Figure", "Axes"]:
        """A dot for each unit in a row for each part, and the row's mean."""
        return plots.unit_rows(
            self.per_unit().cpu(),
            self.part_names,
            f"share of images in which the unit fires on the part (IoU > {self.iou_threshold:g})",
            limit=1.0,
        )

    def plot_unit(
        self,
        unit: int,
        image: Tensor | None = None,
        unit_map: Tensor | None = None,
        part_masks: Tensor | None = None,
    ) -> tuple["Figure", "Axes"]:
        """How often a unit fires on each part, beside an image and where it fires there.

        Args:
            unit: The unit.
            image: (3, H, W) or (1, H, W), uint8 or float in [0, 1]; None: the bars alone.
            unit_map: (h, w) the unit's map of this image, whose part above the threshold is drawn.
            part_masks: (P, H, W) bool, the parts' masks of this image, drawn as outlines.
        """
        self._check_unit(unit)
        rates, threshold = self.per_unit()[unit].tolist(), float(self.thresholds()[unit])
        figure, axes = plots.part_bars(
            rates, self.part_names, f"share of images (IoU > {self.iou_threshold:g})", image
        )
        if image is not None:
            plots.draw_region(figure.axes[0], image, unit_map, threshold, part_masks)
        figure.suptitle(
            f"unit {unit} fires above {threshold:.3g} ({100 * self.quantile:g} % of positions)",
            fontsize=9,
        )
        return figure, axes
