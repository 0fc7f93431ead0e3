"""The few activations that are high enough to matter, found without looking at the others."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

# Values looked at together, which bounds the memory of one update.
_BLOCK = 2**19

# Values of a tile, next to each other in memory: torch takes the greatest of 32 several times as
# fast as that of 16, and of larger tiles too many values would be looked at in vain.
_TILE = 32


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
    """Greatest value of each tile, of 32 values next to each other; reads each map once.

    Args:
        maps: (B, U, h, w) float.

    Returns:
        (B, U, ceil(h * w / 32)) float; tiles go on from one row to the next, and the last one has
        fewer values where 32 do not divide h * w.
    """
    return _in_tiles(maps).amax(-1)


def _in_tiles(maps: Tensor) -> Tensor:
    """(B, U, N, 32) the values of maps, filled up with what is above no floor."""
    flat = maps.flatten(2)
    if flat.shape[2] % _TILE:
        flat = F.pad(flat, (0, -flat.shape[2] % _TILE), value=-torch.inf)
    return rearrange(flat, "b u (tile value) -> b u tile value", value=_TILE)


def values_above(
    maps: Tensor, tiles: Tensor, floor: Tensor, size: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Find the values of upsampled maps that are above the floor of their unit.

    Where nothing can be, nothing is computed: of maps of that size only the tiles are looked at
    that reach the floor; others are interpolated only between cells of which one does.

    Args:
        maps: (B, U, h, w) float32.
        tiles: (B, U, N), what :func:`tiles_of` gives for them.
        floor: (U,) float32.
        size: Height and width to upsample to.

    Yields:
        (M,) int64 unit, (M,) int64 pixel ``(image * H + y) * W + x`` and (M,) value of some of
        them, unit after unit, so that what is counted of one unit is next to each other in memory.
    """
    if maps.shape[2:] == torch.Size(size):
        return _own_values_above(maps, tiles, floor)
    # Nothing between the values of a map is above the greatest of them.
    bright = true_places((tiles.amax(2) > floor).T.flatten())
    return _values_between(maps, bright, floor, size) if len(bright) else iter(())


def _own_values_above(
    maps: Tensor, tiles: Tensor, floor: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What :func:`values_above` yields without upsampling."""
    images, units, number = tiles.shape
    pixels = maps.shape[2] * maps.shape[3]
    values = _in_tiles(maps).reshape(-1, _TILE)
    reaches = rearrange(tiles > rearrange(floor, "u -> u 1"), "b u tile -> u b tile")
    for some in torch.split(true_places(reaches.flatten()), max(1, _BLOCK // _TILE)):
        # Selecting is ten times as fast as indexing, and dividing slow.
        plane = some // number
        within = some - plane * number
        unit = plane // images
        image = plane - unit * images
        value = values.index_select(0, (image * units + unit) * number + within)
        above = value > floor.index_select(0, unit).unsqueeze(1)
        hit = true_places(above.flatten())
        tile = hit >> (_TILE.bit_length() - 1)
        # Pixel of a tile's first value, less where that is among those looked at.
        shift = image * pixels + (within - torch.arange(len(some), device=some.device)) * _TILE
        yield (
            unit.index_select(0, tile),
            shift.index_select(0, tile).add_(hit),
            value.flatten().index_select(0, hit),
        )


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
    """Where flags are set; on a CPU up to ten times as fast as ``nonzero``.

    Args:
        flags: (N,) bool.

    Returns:
        (M,) int64, rising.
    """
    if flags.device.type != "cpu":
        return flags.nonzero().squeeze(1)
    return torch.from_numpy(np.flatnonzero(flags.numpy()))
