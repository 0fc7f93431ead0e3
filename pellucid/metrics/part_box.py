"""Which landmarks lie in a box around a unit's peak."""

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from pellucid.metrics.part_metric import check_shape

# Relative to the map's greatest value, and in pixels: rounding must not decide.
_EQUAL_VALUES = 1e-5
_EQUAL_PLACES = 1e-3


def upsampled_peaks(
    maps: Tensor, image_size: tuple[int, int], grid: tuple[float, float] | None = None
) -> Tensor:
    """Where each unit's map is greatest after bicubic interpolation to the image's size.

    It finds peaks between the cells of the map, as
    :func:`~pellucid.metrics.location_instability.peak_positions` does not. The interpolation is
    that of OpenCV and PyTorch (Keys, ``a = -0.75``, edges repeated). Of equal values (to 1e-5 of
    the map's greatest) the first in reading order counts.

    Args:
        maps: (B, U, h, w) float32.
        image_size: Height and width of the image in pixels.
        grid: Stride and offset in pixels of the maps' cells, see
            :func:`~pellucid.metrics.location_instability.peak_positions`; None: cells that tile
            the image.

    Returns:
        (B, U, 2) float32, (x, y) in pixels, the centre of the top left one being (0, 0).
    """
    height, width = image_size
    flat = rearrange(maps, "b u h w -> (b u) h w")
    slack = _EQUAL_VALUES * flat.abs().amax((1, 2))
    # Upsampled maps stay in a core's cache, or fill a GPU.
    step = max(1, (2**19 if maps.device.type == "cpu" else 2**26) // (height * width))
    pixel = torch.cat(
        [
            _first_peak(_upsample(some, height, width), tolerated)
            for some, tolerated in zip(
                torch.split(flat, step), torch.split(slack, step), strict=True
            )
        ]
    ).view(*maps.shape[:2], 2)
    if grid is None:
        return pixel.float()
    stride, offset = grid
    size = pixel.new_tensor([width, height])
    cells = pixel.new_tensor([maps.shape[3], maps.shape[2]])
    return offset + float(stride) * ((pixel + 0.5) * (cells / size) - 0.5)


def landmarks_in_box(
    position: Tensor,
    parts: Tensor,
    part_visible: Tensor,
    image_size: tuple[int, int],
    share: float,
) -> Tensor:
    """Which visible landmarks lie in the box around each unit's position, its edges included.

    Args:
        position: (B, U, 2) centre of the box as (x, y) in pixels.
        parts: (B, P, 2) landmarks as (x, y) in pixels; any value where not visible.
        part_visible: (B, P) bool.
        image_size: Height and width of the image in pixels.
        share: Sides of the box as a share of the image's sides.

    Returns:
        (B, U, P) bool.
    """
    half = share * position.new_tensor(image_size[::-1]) / 2
    away = rearrange(position, "b u d -> b u 1 d") - rearrange(parts.float(), "b p d -> b 1 p d")
    # A landmark that is NaN is in no box.
    inside = (away.abs() <= half + _EQUAL_PLACES).all(-1)
    return inside & rearrange(part_visible, "b p -> b 1 p")


def check_landmarks(maps: Tensor, parts: Tensor, part_visible: Tensor) -> None:
    """Check that landmarks are of the maps' images.

    Args:
        maps: (B, U, h, w).
        parts: Should be (B, P, 2).
        part_visible: Should be (B, P).

    Raises:
        ValueError: Names the tensor, the wanted and the given shape.
    """
    check_shape("parts", parts, (len(maps), None, 2))
    check_shape("part_visible", part_visible, parts.shape[:2])


def check_share(name: str, share: float, usual: str) -> None:
    """Check the size of a box.

    Args:
        name: What the option is called.
        share: Sides of the box as a share of the image's sides.
        usual: The usual size.

    Raises:
        ValueError: If the share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(
            f"{name} must be above 0 and at most 1, got {share}: it is a share of the image's "
            f"sides, usual is {usual}"
        )


def _upsample(maps: Tensor, height: int, width: int) -> Tensor:
    """(N, h, w) to (N, height, width), bicubic."""
    if maps.device.type != "cpu":
        return F.interpolate(maps.unsqueeze(0), size=(height, width), mode="bicubic")[0]
    # As two products, on the CPU six times as fast as the interpolation.
    down, across = _weights(maps.shape[1], height), _weights(maps.shape[2], width)
    # Mixed precision would move peaks.
    with torch.autocast("cpu", enabled=False):
        return down @ maps @ across.T


def _weights(cells: int, pixels: int) -> Tensor:
    """(pixels, cells) weight of each cell in each pixel: how unit vectors are interpolated."""
    unit = torch.eye(cells)[None, None]
    return F.interpolate(unit, size=(pixels, cells), mode="bicubic")[0, 0]


def _first_peak(maps: Tensor, slack: Tensor) -> Tensor:
    """(N, 2) column and row of the first of the greatest values of (N, H, W) maps, as float."""
    # Row by row: argmax over all pixels takes seven times as long.
    rows = maps.amax(2)
    least = rows.amax(1, keepdim=True) - slack.unsqueeze(1)
    row = (rows >= least).byte().argmax(1)
    line = maps[torch.arange(len(maps), device=maps.device), row]
    column = (line >= least).byte().argmax(1)
    return torch.stack((column, row), 1).float()
