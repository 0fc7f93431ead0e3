"""Which activations matter, and which concepts and categories count where they are."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from pellucid.metrics.mask_grid import masks_on_grid
from pellucid.metrics.part_metric import check_shape

# Values looked at together, which bounds the memory of one update.
_BLOCK = 2**19

# Rows of a tile: few enough that a tile is small, enough that there are few of them.
_ROWS = 8


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
        if not shown.all():
            masks = masks.clone()
            masks[~shown] = False
        return masks, annotated
    return masks_on_grid(masks, shown, resolution)[0], annotated


def upsampled(planes: Tensor, size: Sequence[int], peak: Tensor) -> Tensor:
    """Interpolate maps bilinearly.

    Args:
        planes: (N, h, w) float32.
        size: Height and width.
        peak: (N,) greatest value of each.
    """
    if planes.shape[1:] == torch.Size(size):
        return planes
    large = F.interpolate(planes.unsqueeze(1), size=tuple(size), mode="bilinear").squeeze(1)
    # Rounding can lift a plateau by one float, above a threshold that equals it.
    return torch.minimum(large, rearrange(peak, "n -> n 1 1"))


def tiles_of(maps: Tensor) -> Tensor:
    """Greatest value of each tile of eight rows and one column; reads each map once.

    Args:
        maps: (..., h, w) float.

    Returns:
        (..., ceil(h / 8), w) float; the last tiles have fewer rows where eight do not divide h.
    """
    whole = maps.shape[-2] // _ROWS * _ROWS
    tiles = maps[..., :whole, :].unflatten(-2, (-1, _ROWS)).amax(-2)
    if whole == maps.shape[-2]:
        return tiles
    return torch.cat((tiles, maps[..., whole:, :].amax(-2, keepdim=True)), dim=-2)


def values_above(
    planes: Tensor, tiles: Tensor, floor: Tensor, size: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Find the values of upsampled planes that are above the floor of their plane.

    Where nothing can be, nothing is computed: of a plane of that size only the tiles are looked at
    that reach its floor; another is interpolated only between cells of which one does.

    Args:
        planes: (N, h, w) float32.
        tiles: (N, ceil(h / 8), w), what :func:`tiles_of` gives for them.
        floor: (N,) float32.
        size: Height and width to upsample to.

    Yields:
        (M,) int64 plane, (M,) int64 pixel ``y * w + x`` and (M,) value of some of them, plane after
        plane.
    """
    if planes.shape[1:] == torch.Size(size):
        return _own_values_above(planes, tiles, floor)
    # Nothing between the values of a plane is above the greatest of them.
    bright = (tiles.amax((1, 2)) > floor).nonzero().squeeze(1)
    return _values_between(planes, bright, floor, size) if len(bright) else iter(())


def _own_values_above(
    planes: Tensor, tiles: Tensor, floor: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What :func:`values_above` yields without upsampling."""
    height, width = planes.shape[1:]
    flat = planes.reshape(-1)
    down = torch.arange(0, _ROWS * width, width, device=planes.device)
    found = true_places((tiles > rearrange(floor, "n -> n 1 1")).flatten())
    for tile in torch.split(found, max(1, _BLOCK // _ROWS)):
        plane = tile // (tiles.shape[1] * width)
        # A tile's top row follows the bottom row of the one above, but for planes that are cut off.
        strip = tile // width - plane * tiles.shape[1]
        top = plane * height + strip * _ROWS
        place = (tile % width + top * width).unsqueeze(1) + down
        if height % _ROWS:
            # What a tile lacks below, its top row stands for, which is then left out.
            lacks = strip.unsqueeze(1) * _ROWS + down // width >= height
            place = torch.where(lacks, place[:, :1], place)
        # Selecting is ten times as fast as indexing.
        value = flat.index_select(0, place.flatten()).view_as(place)
        above = value > floor.index_select(0, plane).unsqueeze(1)
        if height % _ROWS:
            above &= ~lacks
        hit = true_places(above.flatten())
        plane = plane.index_select(0, hit // _ROWS)
        pixel = place.flatten().index_select(0, hit) - plane * (height * width)
        yield plane, pixel, value.flatten().index_select(0, hit)


def _values_between(
    planes: Tensor, bright: Tensor, floor: Tensor, size: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What :func:`values_above` yields of the given planes, interpolated.

    The pixels between the centres of four neighbouring cells, or beyond the outermost centres, are
    a patch; no value in it is above the greatest of the four.
    """
    (height, width), device = planes.shape[1:], planes.device
    (down, y), (across, x) = (
        (share.to(device), place.to(device))
        for share, place in (_between(height, size[0]), _between(width, size[1]))
    )
    patch = down.shape[1] * across.shape[1]
    pixels = (y[:, None, :, None] * size[1] + x[None, :, None, :]).flatten()
    for some in torch.split(bright, max(1, _BLOCK // (4 * height * width))):
        padded = F.pad(planes.index_select(0, some), (1, 1, 1, 1), mode="replicate")
        limit = floor.index_select(0, some)
        rows = torch.maximum(padded[:, 1:], padded[:, :-1])
        highest = torch.maximum(rows[..., 1:], rows[..., :-1]).flatten()
        reaches = highest.view(len(some), -1) > limit.unsqueeze(1)
        for found in torch.split(true_places(reaches.flatten()), max(1, _BLOCK // patch)):
            plane = found // reaches.shape[1]
            number = found - plane * reaches.shape[1]
            row, column = number // (width + 1), number % (width + 1)
            corner = (plane * (height + 2) + row) * (width + 2) + column
            upper, lower = (
                _mix(*(padded.view(-1).index_select(0, one + dx).unsqueeze(1) for dx in (0, 1)), to)
                for to in (across.index_select(0, column),)
                for one in (corner, corner + width + 2)
            )
            share = down.index_select(0, row).unsqueeze(2)
            value = _mix(upper.unsqueeze(1), lower.unsqueeze(1), share).flatten(1)
            # Rounding can lift a plateau by one float, above a threshold that equals it.
            value = torch.minimum(value, highest.index_select(0, found).unsqueeze(1))
            # What a smaller patch lacks is NaN, which is above nothing.
            hit = true_places((value > limit.index_select(0, plane).unsqueeze(1)).flatten())
            which = hit // patch
            place = number.index_select(0, which).mul_(patch).add_(hit).sub_(which * patch)
            yield (
                some.index_select(0, plane.index_select(0, which)),
                pixels.index_select(0, place),
                value.flatten().index_select(0, hit),
            )


def _mix(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    return first * (1 - share) + second * share


@lru_cache(maxsize=16)
def _between(cells: int, pixels: int) -> tuple[Tensor, Tensor]:
    """Which pixels lie between the centres of two cells, along one axis.

    Args:
        cells: Number of cells, ``n``.
        pixels: Number of pixels to interpolate.

    Returns:
        (n + 1, M) float32, how far each pixel is on its way from the centre of the cell before to
        that of the cell after, NaN after the last pixel; and (n + 1, M) int64 pixels. The first and
        last row are beyond the outermost centres, where a cell is its own neighbour.
    """
    # In single precision, as torch's own interpolation has it.
    centre = torch.tensor(cells / pixels) * (torch.arange(pixels) + 0.5) - 0.5
    before = centre.floor().clamp(-1, cells - 1)
    row = before.long() + 1
    share = (centre - before).masked_fill((row == 0) | (row == cells), 0.0)
    rank = torch.arange(pixels) - torch.searchsorted(row, row)
    shares = torch.full((cells + 1, int(rank.max()) + 1), torch.nan)
    places = torch.zeros(shares.shape, dtype=torch.int64)
    shares[row, rank], places[row, rank] = share, torch.arange(pixels)
    return shares, places


def true_places(flags: Tensor) -> Tensor:
    """Where flags of which few are set are set; three times as fast as ``nonzero``.

    Args:
        flags: (N,) bool.

    Returns:
        (M,) int64, rising.
    """
    words = F.pad(flags, (0, -len(flags) % 8)).view(torch.int64)
    word = words.nonzero().squeeze(1)
    byte = words.index_select(0, word).view(torch.bool).nonzero().squeeze(1)
    return word.index_select(0, byte >> 3).mul_(8).add_(byte & 7)


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


class AreaCounter:
    """Counts pixels of one image by level of activation, inside and outside of its concepts.

    Args:
        inside: (C + K + 1, U, L) int64 counts, added to in place: inside each concept; for each
            category that the image is annotated for, in none of its concepts, less one for each
            further concept of a pixel that has several, so that a category's counts and those of
            its concepts add up to all pixels; and a last one, which means nothing.
        masks: (C, h, w) bool, empty where the category is not annotated.
        known: (K,) bool, whether the image is annotated for each category.
        category: (C,) int64, category of each concept.

    Attributes:
        area: (C,) int64, pixels of each concept.
    """

    def __init__(self, inside: Tensor, masks: Tensor, known: Tensor, category: Tensor) -> None:
        concepts, categories = len(category), len(known)
        self._inside, one = inside.view(-1), inside[0].numel()
        # How many concepts of each category a pixel has, and the sum of their numbers.
        member = F.one_hot(category, categories).T.float()
        numbers = torch.arange(concepts, device=masks.device)
        count, which = (torch.cat((member, member * numbers)) @ masks.flatten(1).float()).split(
            categories
        )
        shown = known.nonzero().squeeze(1)
        outside = rearrange(concepts + shown, "k -> k 1")
        self._weighted: list[tuple[int, Tensor]] = []
        if bool((count <= 1).all()):
            rows = torch.where(count[shown] > 0, which[shown].long(), outside)
            self.area = torch.bincount(rows.flatten(), minlength=concepts)[:concepts]
        else:
            rows, self.area = concepts_by_pixel(masks.unsqueeze(0))
            rows = rows.masked_fill(rows == concepts, concepts + categories)
            weights = (1 - count[shown]).long()
            self._weighted = list(zip((outside[:, 0] * one).tolist(), weights, strict=True))
        self._first = rows * one

    def add(self, count: Tensor, pixel: Tensor) -> None:
        """Count some pixels.

        Args:
            count: (M,) int64, ``unit * L + level``.
            pixel: (M,) int64, ``y * w + x``.
        """
        one = torch.ones_like(count)
        for first in self._first:
            self._inside.scatter_add_(0, first.index_select(0, pixel).add_(count), one)
        for start, weight in self._weighted:
            self._inside.scatter_add_(0, count + start, weight.index_select(0, pixel))
