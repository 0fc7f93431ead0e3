"""The few activations that are high enough to matter, found without looking at the others."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

# Values looked at together, which bounds the memory of one update.
_BLOCK = 2**19

# Rows of a tile: few enough that a tile is small, enough that there are few of them.
_ROWS = 8


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
    tiles = rearrange(maps[..., :whole, :], "... (y row) x -> ... y row x", row=_ROWS).amax(-2)
    if whole == maps.shape[-2]:
        return tiles
    return torch.cat((tiles, maps[..., whole:, :].amax(-2, keepdim=True)), dim=-2)


def values_above(
    maps: Tensor, tiles: Tensor, floor: Tensor, size: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Find the values of upsampled maps that are above the floor of their unit.

    Where nothing can be, nothing is computed: of maps of that size only the tiles are looked at
    that reach the floor; others are interpolated only between cells of which one does.

    Args:
        maps: (B, U, h, w) float32.
        tiles: (B, U, ceil(h / 8), w), what :func:`tiles_of` gives for them.
        floor: (U,) float32.
        size: Height and width to upsample to.

    Yields:
        (M,) int64 unit, (M,) int64 pixel ``(image * H + y) * W + x`` and (M,) value of some of
        them, unit after unit, so that what is counted of one unit is next to each other in memory.
    """
    if maps.shape[2:] == torch.Size(size):
        return _own_values_above(maps, tiles, floor)
    # Nothing between the values of a map is above the greatest of them.
    bright = (tiles.amax((2, 3)) > floor).T.flatten().nonzero().squeeze(1)
    return _values_between(maps, bright, floor, size) if len(bright) else iter(())


def _own_values_above(
    maps: Tensor, tiles: Tensor, floor: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What :func:`values_above` yields without upsampling."""
    images, units, height, width = maps.shape
    flat = maps.reshape(-1)
    down = torch.arange(0, _ROWS * width, width, device=maps.device)
    across = tiles.shape[2] * width
    reaches = rearrange(tiles, "b u y x -> u b (y x)") > rearrange(floor, "u -> u 1 1")
    for tile in torch.split(true_places(reaches.flatten()), max(1, _BLOCK // _ROWS)):
        # Selecting is ten times as fast as indexing, and dividing slow.
        plane = tile // across
        within = tile - plane * across
        strip = within // width
        unit = plane // images
        image = plane - unit * images
        first = within + strip * ((_ROWS - 1) * width)
        shift = image * (height * width)
        place = (first + (image * units + unit) * (height * width)).unsqueeze(1) + down
        if height % _ROWS:
            # What the last tiles lack below, their top row stands for, and is then left out.
            lacks = (strip * _ROWS).unsqueeze(1) + down // width >= height
            place = torch.where(lacks, place[:, :1], place)
        value = flat.index_select(0, place.flatten())
        above = value.view_as(place) > floor.index_select(0, unit).unsqueeze(1)
        if height % _ROWS:
            above &= ~lacks
        hit = true_places(above.flatten())
        row = hit >> 3
        pixel = ((first + shift).index_select(0, row)).add_(down.index_select(0, hit & 7))
        yield unit.index_select(0, row), pixel, value.index_select(0, hit)


def _values_between(
    maps: Tensor, bright: Tensor, floor: Tensor, size: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What :func:`values_above` yields of the given maps (unit by unit), interpolated.

    The pixels between the centres of four neighbouring cells, or beyond the outermost centres, are
    a patch; no value in it is above the greatest of the four.
    """
    images, _, height, width = maps.shape
    planes = rearrange(maps, "b u h w -> (u b) h w")
    (down, y), (across, x) = (
        (share.to(maps.device), place.to(maps.device))
        for share, place in (_between(height, size[0]), _between(width, size[1]))
    )
    patch = down.shape[1] * across.shape[1]
    pixels = (y[:, None, :, None] * size[1] + x[None, :, None, :]).flatten()
    for some in torch.split(bright, max(1, _BLOCK // (height * width))):
        padded = F.pad(planes.index_select(0, some), (1, 1, 1, 1), mode="replicate")
        units = some // images
        shift = (some - units * images) * (size[0] * size[1])
        limit = floor.index_select(0, units)
        rows = torch.maximum(padded[:, 1:], padded[:, :-1])
        highest = torch.maximum(rows[..., 1:], rows[..., :-1]).flatten()
        reaches = highest.view(len(some), -1) > limit.unsqueeze(1)
        for found in torch.split(true_places(reaches.flatten()), max(1, _BLOCK // patch)):
            plane = found // reaches.shape[1]
            number = found - plane * reaches.shape[1]
            row = number // (width + 1)
            column = number - row * (width + 1)
            # Padded maps have two cells more a row and column than cells, one more than patches.
            corner = (plane * (height + 2) + row) * (width + 2) + column
            share = across.index_select(0, column)
            upper, lower = (
                _mix(
                    padded.view(-1).index_select(0, left).unsqueeze(1),
                    padded.view(-1).index_select(0, left + 1).unsqueeze(1),
                    share,
                )
                for left in (corner, corner + width + 2)
            )
            share = down.index_select(0, row).unsqueeze(2)
            value = _mix(upper.unsqueeze(1), lower.unsqueeze(1), share).flatten(1)
            # Rounding can lift a plateau by one float, above a threshold that equals it.
            value = torch.minimum(value, highest.index_select(0, found).unsqueeze(1))
            # What a smaller patch lacks is NaN, which is above nothing.
            hit = true_places((value > limit.index_select(0, plane).unsqueeze(1)).flatten())
            which = hit // patch
            place = (
                ((number - torch.arange(len(found), device=hit.device)) * patch)
                .index_select(0, which)
                .add_(hit)
            )
            plane = plane.index_select(0, which)
            yield (
                units.index_select(0, plane),
                pixels.index_select(0, place).add_(shift.index_select(0, plane)),
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
