"""Which concepts and categories count where units fire."""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from pellucid.metrics.bright_values import true_places
from pellucid.metrics.mask_grid import masks_on_grid
from pellucid.metrics.part_metric import check_shape


def categories_of(
    concepts: int, categories: Sequence[str] | None
) -> tuple[tuple[str, ...], Tensor]:
    """Number the categories in the order in which they appear.

    Args:
        concepts: Number of concepts, ``C``.
        categories: Category of each concept; None: all are of one, called ``concept``.

    Returns:
        Names of the ``K`` categories, and (C,) int64, the number of each concept's category.

    Raises:
        ValueError: If there is not one category for each concept.
    """
    if categories is None:
        return ("concept",), torch.zeros(concepts, dtype=torch.int64)
    if len(categories) != concepts:
        raise ValueError(
            f"categories must name one for each of {concepts} concepts, got {len(categories)}"
        )
    names = tuple(dict.fromkeys(categories))
    return names, torch.tensor([names.index(name) for name in categories], dtype=torch.int64)


def counted_masks(
    masks: Tensor,
    visible: Tensor | None,
    annotated: Tensor | None,
    category: Tensor,
    resolution: int | None,
) -> tuple[Tensor, Tensor]:
    """Masks on a grid, empty where their concept is not visible or not annotated.

    Args:
        masks: (B, C, H, W) bool.
        visible: (B, C) bool; None: all.
        annotated: (B, K) bool, for each category; None: all.
        category: (C,) int64, category of each concept.
        resolution: See :func:`~pellucid.metrics.mask_grid.masks_on_grid`.

    Returns:
        (B, C, h, w) bool, and (B, K) bool, ``annotated``.

    Raises:
        ValueError: If a shape or type is wrong.
    """
    images, concepts = len(masks), len(category)
    if visible is None:
        visible = masks.new_ones(images, concepts, dtype=torch.bool)
    if annotated is None:
        annotated = masks.new_ones(images, int(category.max()) + 1, dtype=torch.bool)
    check_shape("visible", visible, (images, concepts))
    check_shape("annotated", annotated, (images, int(category.max()) + 1))
    for name, tensor in {"masks": masks, "visible": visible, "annotated": annotated}.items():
        if tensor.dtype != torch.bool:
            raise ValueError(f"{name} must be bool, got {tensor.dtype}; give {name} > 0")
    shown = visible & annotated[:, category]
    if resolution is None or resolution >= max(masks.shape[-2:]):
        hidden = (~shown).flatten().nonzero().squeeze(1)
        if len(hidden):
            # Filling rows is ten times as fast as writing where a mask says.
            masks = masks.flatten(0, 1).index_fill(0, hidden, False).view_as(masks)
        return masks, annotated
    return masks_on_grid(masks, shown, resolution)[0], annotated


def concepts_by_pixel(masks: Tensor) -> tuple[Tensor, Tensor]:
    """List the concepts of each pixel.

    Args:
        masks: (B, C, h, w) bool.

    Returns:
        (N, B * h * w) int64, the numbers of the concepts in each column, then ``C`` to fill it,
        where ``N`` is the number of concepts of the pixel that has most; and (C,) int64, the
        number of pixels of each concept.
    """
    images, concepts = masks.shape[:2]
    flat = masks.flatten(2)
    pixels = flat.shape[2]
    place = true_places(flat.flatten())
    mask = place // pixels
    image, concept = mask // concepts, mask % concepts
    # How many of the pixel's concepts come before each.
    count = flat.cumsum(1, dtype=torch.uint8 if concepts < 256 else torch.int64)
    rank = count.flatten().index_select(0, place).long() - 1
    rows = int(rank.max()) + 1 if len(rank) else 0
    table = place.new_full((rows, images * pixels), concepts)
    column = place - (mask - image) * pixels
    table.view(-1).scatter_(0, rank * table.shape[1] + column, concept)
    return table, torch.bincount(concept, minlength=concepts)


# Greatest number of codes of regions in a table.
_CODES = 2**18

# Counters for each activation up to which it pays to count in a table of all that could come.
_COUNTERS = 8


def regions_of(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Number the sets of concepts that pixels have.

    Args:
        masks: (C, N) bool.

    Returns:
        (N,) int64, the region of each pixel, from 0 to R - 1: pixels are of one region if they have
        the same concepts; and (C, R) bool, the concepts of each.
    """
    pixels = masks.shape[1]
    region, number = torch.zeros(pixels, dtype=torch.int64, device=masks.device), 1
    left = masks.sum(1).nonzero().squeeze(1)
    while len(left):
        # A bit for each concept, as many at a time as the table has room for.
        bits = max(1, (_CODES // number).bit_length() - 1)
        some, left = left[:bits], left[bits:]
        # In double precision, which mixed precision leaves alone.
        weight = 2.0 ** torch.arange(len(some), dtype=torch.float64, device=masks.device)
        code = (weight @ masks.index_select(0, some).double()).long()
        code += region << len(some)
        found = torch.zeros(number << len(some), dtype=torch.bool, device=masks.device)
        codes = true_places(found.index_fill_(0, code, True))
        number = len(codes)
        rank = torch.zeros(len(found), dtype=torch.int64, device=masks.device)
        rank.index_copy_(0, codes, torch.arange(number, device=masks.device))
        region = rank.index_select(0, code)
    # Any pixel of a region shows its concepts.
    pixel = torch.zeros(number, dtype=torch.int64, device=masks.device)
    pixel.scatter_(0, region, torch.arange(pixels, device=masks.device))
    return region, masks.index_select(1, pixel)


class AreaCounter:
    """Counts pixels of one image by level of activation, inside and outside of their concepts.

    Neighbours mostly agree in level and concepts. So pixels are counted by unit, level and region
    first, and then each count is added once for each concept of the region.

    Args:
        counts: (C + K + 1, U, L) int64, added to in place: pixels inside each concept; for each
            category that the image is annotated for, in none of its concepts, less one for each
            further concept of a pixel that has several, so that a category's counts and those of
            its concepts add up to all pixels; and a last one, which means nothing.
        everywhere: (U, L) int64, added to in place: all pixels; None: not counted.
        masks: (C, h, w) bool, empty where the category is not annotated.
        known: (K,) bool, whether the image is annotated for each category.
        category: (C,) int64, category of each concept.
        first: (U,) int64, least level that each unit can have.
        last: (U,) int64, greatest level; less than ``first`` where nothing will be counted.

    Attributes:
        area: (C,) int64, pixels of each concept.
    """

    def __init__(
        self,
        counts: Tensor,
        everywhere: Tensor | None,
        masks: Tensor,
        known: Tensor,
        category: Tensor,
        first: Tensor,
        last: Tensor,
    ) -> None:
        self._counts, self._everywhere = counts.view(-1), everywhere
        self._size = counts.shape[2]
        self._region, member = regions_of(masks.flatten(1))
        self._regions = member.shape[1]
        pixels = torch.bincount(self._region, minlength=self._regions)
        self.area = (member * pixels).sum(1)
        # How often a region counts in each row: as its concepts, as in none of a category.
        several = torch.zeros(len(known), len(pixels), dtype=torch.int64, device=masks.device)
        several.index_add_(0, category, member.long())
        weight = torch.cat((member.long(), (1 - several) * known.unsqueeze(1)))
        rows, _ = concepts_by_pixel(rearrange(weight != 0, "row region -> 1 row 1 region"))
        weight = F.pad(weight, (0, 0, 0, 1), value=1).gather(0, rows)
        alike = (weight == 1).all(1).tolist()
        self._rows = [
            (row, None if same else often)
            for row, often, same in zip(rows * counts[0].numel(), weight, alike, strict=True)
        ]
        # The levels that can come, unit after unit.
        width = (last - first + 1).clamp_(min=0)
        end = width.cumsum(0)
        self._shift = end - width - first
        self._end = [0, *end.tolist()]
        unit = torch.arange(0, counts[0].numel(), self._size, device=masks.device)
        self._place = torch.repeat_interleave(unit - self._shift, width)
        self._place += torch.arange(len(self._place), device=masks.device)

    def add(self, unit: Tensor, level: Tensor, pixel: Tensor) -> None:
        """Count some pixels.

        Args:
            unit: (M,) int64, rising.
            level: (M,) int64.
            pixel: (M,) int64, ``y * w + x``.
        """
        if not len(unit):
            return
        region, regions = self._region.index_select(0, pixel), self._regions
        start, end = self._end[int(unit[0])], self._end[int(unit[-1]) + 1]
        if (end - start) * regions <= _COUNTERS * len(unit):
            place = (self._shift - start).index_select(0, unit).add_(level)
            counts = torch.bincount(place.mul_(regions).add_(region))
            place = true_places(counts > 0)
            number = counts.index_select(0, place)
            window = place // regions
            region = place - window * regions
            place = self._place[start:].index_select(0, window)
        else:
            place, number = torch.add(level, unit, alpha=self._size), torch.ones_like(unit)
        if self._everywhere is not None:
            self._everywhere.view(-1).scatter_add_(0, place, number)
        for row, often in self._rows:
            some = number if often is None else number * often.index_select(0, region)
            self._counts.scatter_add_(0, row.index_select(0, region).add_(place), some)
