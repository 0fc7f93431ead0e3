"""The 737,280 pictures of dSprites, drawn from their factors.

Matthey, Higgins, Hassabis, Lerchner, *dSprites: Disentanglement testing Sprites dataset*, 2017
(https://github.com/google-deepmind/dsprites-dataset). The published code draws with a graphics
library; sizes, angles and places here are those that were fitted to the published pictures, of
which 90 in 100 are met to the pixel (mean intersection over union 0.9987). A pixel is white if its
centre is inside the outline.

A row of pixels crosses an outline two or four times, and where it does depends on shape, scale,
orientation and the row's height above the sprite's centre. Centres lie 32/31 pixels apart, so that
there are few such heights: a table of 5 MB holds all crossings, and drawing is to look them up.
"""

import functools
import math

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

FACTOR_NAMES = ("shape", "scale", "orientation", "x", "y")
FACTOR_SIZES = (3, 6, 40, 32, 32)
"""Number of values of each factor; pictures are numbered with the last factor running fastest."""
COUNT = math.prod(FACTOR_SIZES)
SHAPES = ("square", "ellipse", "heart")
SIZE = 64
"""Height and width of a picture in pixels."""

_SCALES = np.linspace(0.5, 1, FACTOR_SIZES[1])
# The first and the last angle are the same, 0 and 360 degrees, as in the published file.
_ANGLES = 2 * np.pi * (np.arange(FACTOR_SIZES[2]) % 39) / 39

# Outlines at scale 1, in pixels from the sprite's centre, x to the right and y down.
_SQUARE_HALF = 9.6
_ELLIPSE_AXES = (12.76, 7.22)
_HEART_CORNERS = 720  # Within a thousandth of a pixel of the curve.

# A sprite's centre is 16 + 32 p / 31 pixels from the left and the top, p from 0 to 31.
_STEP, _PARTS, _FIRST = 32, 31, 16
# Heights of rows above and below a centre, in 31sts of a pixel; no sprite reaches the ends.
_HEIGHTS = _PARTS * 31
_CROSSINGS = 4

# [i] has its lowest i bits set.
_BELOW: NDArray[np.uint64] = (np.uint64(1) << np.arange(SIZE, dtype=np.uint64)) - np.uint64(1)


def factors_of(index: Tensor) -> Tensor:
    """The factors of pictures, by their numbers.

    Args:
        index: (N,) int64, from 0 to 737,279.

    Returns:
        (N, 5) int64 in the order of ``FACTOR_NAMES``, each from 0 to its size less one.

    Raises:
        ValueError: A number is out of range.
    """
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < COUNT:
        raise ValueError(
            f"index must be from 0 to {COUNT - 1}, got {int(index.min())} to {int(index.max())}"
        )
    strides, sizes = _strides(index.device)
    return rearrange(index, "n -> n 1") // strides % sizes


def index_of(factors: Tensor) -> Tensor:
    """The numbers of pictures, by their factors.

    Args:
        factors: (N, 5) int64 in the order of ``FACTOR_NAMES``.

    Returns:
        (N,) int64, from 0 to 737,279.

    Raises:
        ValueError: There are not five columns of whole numbers, or one is out of range.
    """
    names = ", ".join(FACTOR_NAMES)
    if factors.ndim != 2 or factors.shape[1] != len(FACTOR_SIZES) or factors.is_floating_point():
        raise ValueError(
            f"factors must be (N, {len(FACTOR_SIZES)}) int64, one column for each of {names}; "
            f"got {tuple(factors.shape)} of type {str(factors.dtype).removeprefix('torch.')}"
        )
    strides, sizes = _strides(factors.device)
    if bool((wrong := (factors < 0) | (factors >= sizes)).any()):
        row, column = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"factors must have {FACTOR_NAMES[column]} from 0 to {FACTOR_SIZES[column] - 1}, got "
            f"{int(factors[row, column])} in row {row}"
        )
    return (factors.long() * strides).sum(1)


def _strides(device: torch.device) -> tuple[Tensor, Tensor]:
    strides = [math.prod(FACTOR_SIZES[i + 1 :]) for i in range(len(FACTOR_SIZES))]
    return torch.tensor(strides, device=device), torch.tensor(FACTOR_SIZES, device=device)


def render(factors: Tensor) -> Tensor:
    """Draw pictures.

    Args:
        factors: (N, 5) int64 in the order of ``FACTOR_NAMES``, each in its range.

    Returns:
        (N, 64, 8) uint8: rows of eight bytes, whose lowest bit is the leftmost of eight pixels;
        :func:`unpack` makes images of them.
    """
    shape, scale, orientation, x, y = factors.numpy().T
    pose = (shape * FACTOR_SIZES[1] + scale) * FACTOR_SIZES[2] + orientation
    height = _PARTS * np.arange(SIZE) - _STEP * y[:, None]
    rows = pose[:, None] * _HEIGHTS + height.clip(0, _HEIGHTS - 1)
    crossings = np.take(crossing_table(), rows, axis=0)
    shift = (_STEP * x + _PARTS - 1).astype(np.int16)
    columns = (crossings + shift[:, None, None]) // np.int16(_PARTS)
    # Inside is where the number of crossings to the left is odd.
    inside = np.bitwise_xor.reduce(_BELOW[columns], axis=-1).astype("<u8", copy=False)
    return torch.from_numpy(inside.view(np.uint8).reshape(len(inside), SIZE, SIZE // 8))


def unpack(packed: Tensor) -> Tensor:
    """Images of packed pictures, on their device.

    Args:
        packed: (N, 64, 8) uint8, as from :func:`render`.

    Returns:
        (N, 1, 64, 64) float, 0 or 1.
    """
    eights = torch.nn.functional.embedding(packed.int(), _bits(packed.device))
    return rearrange(eights, "n h w eight -> n 1 h (w eight)")


@functools.cache
def _bits(device: torch.device) -> Tensor:
    """(256, 8) float, the bits of each byte, the lowest first."""
    return (torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device) & 1).float()


@functools.cache
def crossing_table() -> NDArray[np.int16]:
    """Where rows of pixels cross the outlines, made once in about a second.

    Returns:
        (poses * heights, 4) int16, poses in the order of shape, scale and orientation. For a sprite
        at x = 0: 31 times the column that lies right of a crossing, rounded up so that
        ``(value + 32 x + 30) // 31`` is the first column whose centre is not left of it. Rows
        without four crossings are filled up with pairs of equal ones, between which nothing is.
    """
    heights = (np.arange(_HEIGHTS) - _PARTS * (_FIRST - 0.5)) / _PARTS
    table = np.empty((*FACTOR_SIZES[:3], _HEIGHTS, _CROSSINGS), np.int16)
    at_scale_1 = (heights / _SCALES[:, None]).ravel()
    square, heart = _square(), _heart()
    for orientation, angle in enumerate(_ANGLES):
        for shape, crossings in enumerate(
            (
                _polygon_crossings(square, angle, at_scale_1),
                _ellipse_crossings(angle, at_scale_1),
                _polygon_crossings(heart, angle, at_scale_1),
            )
        ):
            scaled = crossings.reshape(len(_SCALES), _HEIGHTS, _CROSSINGS) * _SCALES[:, None, None]
            ends = _PARTS * (scaled + (_FIRST - 0.5))
            # A run starts with the first pixel from a crossing on, and ends after the last one
            # before the next.
            table[shape, :, orientation, :, 0::2] = np.ceil(ends[..., 0::2])
            table[shape, :, orientation, :, 1::2] = np.floor(ends[..., 1::2]) + 1
    return table.reshape(-1, _CROSSINGS)


def _square() -> NDArray[np.float64]:
    return _SQUARE_HALF * np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])


def _heart() -> NDArray[np.float64]:
    t = np.linspace(0, 2 * np.pi, _HEART_CORNERS, endpoint=False)
    x = 9.6 * np.sin(t) ** 3
    up = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -(19.2 / 29) * up - 1.44], axis=1)


def _polygon_crossings(
    corners: NDArray[np.float64], angle: float, heights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(H, 4), x of where horizontal lines cross a turned polygon, in rising order, then zeros."""
    cos, sin = np.cos(angle), np.sin(angle)
    u, v = corners.T
    x, y = cos * u + sin * v, cos * v - sin * u
    above = y <= heights[:, None]
    line, edge = np.nonzero(above != np.roll(above, -1, axis=1))
    slope = (np.roll(x, -1) - x)[edge] / (np.roll(y, -1) - y)[edge]
    at = x[edge] + (heights[line] - y[edge]) * slope
    order = np.lexsort((at, line))
    line, at = line[order], at[order]
    counts = np.bincount(line, minlength=len(heights))
    number = np.arange(len(line)) - (np.cumsum(counts) - counts)[line]
    crossings = np.zeros((len(heights), _CROSSINGS))
    crossings[line, number] = at
    return crossings


def _ellipse_crossings(angle: float, heights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same for the turned ellipse: the roots of ``a x^2 + 2 b x + c = 0``."""
    cos, sin = np.cos(angle), np.sin(angle)
    p, q = (axis**-2 for axis in _ELLIPSE_AXES)
    a = p * cos**2 + q * sin**2
    b = (q - p) * cos * sin * heights
    c = (p * sin**2 + q * cos**2) * heights**2 - 1
    root = np.sqrt(np.maximum(b**2 - a * c, 0))
    crossings = np.zeros((len(heights), _CROSSINGS))
    crossings[:, 0], crossings[:, 1] = (-b - root) / a, (-b + root) / a
    # A line that misses the ellipse has no crossing, not two at one place.
    crossings[b**2 < a * c] = 0
    return crossings
