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
    find = _peaks_by_row if maps.device.type == "cpu" else _peaks_of_all
    # A few rows of each map stay in a core's cache; all of many fill a GPU.
    step = max(1, (2**23 if maps.device.type == "cpu" else 2**26) // (height * width))
    pixel = torch.cat(
        [
            find(some, tolerated, image_size)
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


def _weights(cells: int, pixels: int) -> Tensor:
    """(pixels, cells) weight of each cell in each pixel: how unit vectors are interpolated."""
    unit = torch.eye(cells)[None, None]
    return F.interpolate(unit, size=(pixels, cells), mode="bicubic")[0, 0]


def _peaks_of_all(maps: Tensor, slack: Tensor, image_size: tuple[int, int]) -> Tensor:
    """(N, 2) column and row of the first of the greatest values of upsampled (N, h, w) maps."""
    large = F.interpolate(maps.unsqueeze(0), size=image_size, mode="bicubic")[0]
    # Row by row: argmax over all pixels takes seven times as long.
    rows = large.amax(2)
    least = rows.amax(1, keepdim=True) - slack.unsqueeze(1)
    row = (rows >= least).byte().argmax(1)
    line = large[torch.arange(len(large), device=large.device), row]
    column = (line >= least).byte().argmax(1)
    return torch.stack((column, row), 1).float()


def _peaks_by_row(maps: Tensor, slack: Tensor, image_size: tuple[int, int]) -> Tensor:
    """The same, of those rows alone that can hold the peak: a tenth of the time on a CPU."""
    down, across = (_weights(*pair) for pair in zip(maps.shape[1:], image_size, strict=True))
    pixel = torch.zeros(len(maps), 2)
    # A constant map, as that of a unit that does not fire, has its peak in the first pixel.
    (varied,) = (maps.amax((1, 2)) > maps.amin((1, 2))).nonzero(as_tuple=True)
    if not len(varied):
        return pixel
    slack = slack[varied]
    # Mixed precision would move peaks.
    with torch.autocast("cpu", enabled=False):
        # Columns before rows: the greatest of a row is then found for many rows at a time.
        tall = maps[varied].transpose(1, 2) @ down.T
        # Weights sum to one, those below zero to no less than -dip: no value of a row is above.
        high, low = tall.amax(1), tall.amin(1)
        dip = -across.clamp(max=0).sum(1).min()
        bound = high + dip * (high - low)
        leader = tall[torch.arange(len(tall)), :, high.argmax(1)] @ across.T
        reached = leader.amax(1) - 2 * slack
        plane, row = (bound >= reached.unsqueeze(1)).nonzero(as_tuple=True)
        lines = tall[plane, :, row] @ across.T
    peak = lines.amax(1)
    best = torch.full_like(slack, -torch.inf).scatter_reduce(0, plane, peak, "amax")
    least = (best - slack)[plane]
    (kept,) = (peak >= least).nonzero(as_tuple=True)
    first = kept[torch.searchsorted(plane[kept], torch.arange(len(tall)))]
    column = (lines[first] >= least[first].unsqueeze(1)).byte().argmax(1)
    pixel[varied] = torch.stack((column, row[first]), 1).float()
    return pixel
