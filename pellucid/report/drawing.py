"""Small pictures of maps and places, all (H, W, 3) uint8."""

from collections.abc import Sequence
from typing import cast

import matplotlib
import numpy as np
import torch
from einops import rearrange
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pellucid.logging import figure_picture
from pellucid.metrics.plots import draw_spread, show_image

Picture = NDArray[np.uint8]
"""(H, W, 3) uint8, red, green, blue."""


def as_picture(image: Picture | Tensor) -> Picture:
    """Check a picture and take it to numpy.

    Raises:
        ValueError: If it is not (H, W, 3) uint8.
    """
    picture = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(
            f"a picture must be (height, width, 3) of uint8, got {tuple(picture.shape)} of "
            f"{picture.dtype}; pellucid.analysis.units.denormalise makes one of a batch's image"
        )
    return cast(Picture, picture)


def resize(image: Picture | Tensor, size: int) -> Picture:
    """Resize a picture so that its longer side has ``size`` pixels."""
    picture = as_picture(image)
    height, width = picture.shape[:2]
    scale = size / max(height, width)
    to = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(picture).resize(to, Image.Resampling.LANCZOS))


def upsample(activation: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
    """Enlarge a map (h, w) bilinearly to (H, W), both spanning the same image."""
    if activation.ndim != 2:
        raise ValueError(f"a map must be (h, w), got {tuple(activation.shape)}")
    large = F.interpolate(
        activation.detach().float().cpu()[None, None], size, mode="bilinear", align_corners=False
    )
    return cast(NDArray[np.float32], large[0, 0].numpy())


def overlay(
    image: Picture | Tensor,
    activation: Tensor,
    *,
    largest: float | None = None,
    opacity: float = 0.65,
) -> Picture:
    """Draw an activation over an image.

    The colour map is perceptually uniform (inferno), and the stronger the activation, the less of
    the image shines through it: where a unit is silent the image is untouched.

    Args:
        image: (H, W, 3) uint8.
        activation: (h, w); values below zero are not drawn.
        largest: Value that gets the full colour; None: the largest of the map.
        opacity: Share of the colour where the activation is largest, in [0, 1].

    Raises:
        ValueError: If ``opacity`` is outside [0, 1].
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be in [0, 1], got {opacity}")
    picture = as_picture(image)
    top = float(activation.max()) if largest is None else largest
    strength = upsample(activation, cast(tuple[int, int], picture.shape[:2]))
    strength = np.clip(strength / top, 0, 1) if top > 0 else np.zeros_like(strength)
    # The dark third of the map would read as shadow, its pale end as highlight.
    colour = matplotlib.colormaps["inferno"](0.35 + 0.5 * strength)[..., :3] * 255
    alpha = (opacity * strength)[..., None]
    return cast(Picture, (picture * (1 - alpha) + colour * alpha).round().astype(np.uint8))


def outline(
    image: Picture | Tensor,
    activation: Tensor,
    threshold: float,
    *,
    colour: tuple[int, int, int] = (255, 255, 255),
    width: int = 1,
) -> Picture:
    """Draw the outline of the region where an activation is above a threshold.

    Args:
        image: (H, W, 3) uint8.
        activation: (h, w), enlarged bilinearly before it is compared.
        threshold: Activation above which a pixel is inside.
        colour: Red, green and blue in [0, 255].
        width: Pixels of the line, which lies inside the region.

    Raises:
        ValueError: If ``width`` is below 1.
    """
    if width < 1:
        raise ValueError(f"width must be at least 1 pixel, got {width}")
    picture = as_picture(image).copy()
    inside = upsample(activation, cast(tuple[int, int], picture.shape[:2])) > threshold
    core = inside
    for _ in range(width):
        # Outside of the image counts as inside, so that the image's own edge is not a contour.
        wide = np.pad(core, 1, constant_values=True)
        core = core & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    picture[inside & ~core] = colour
    return picture


def contact_sheet(
    pictures: Sequence[Picture],
    *,
    columns: int | None = None,
    gap: int = 4,
    background: tuple[int, int, int] = (255, 255, 255),
) -> Picture:
    """Set pictures side by side, row by row, in cells of the size of the largest.

    Args:
        pictures: At least one, each (H, W, 3) uint8.
        columns: Pictures per row; None: all in one row.
        gap: Pixels between two pictures.
        background: Red, green and blue between them.

    Raises:
        ValueError: If there is no picture, or ``columns`` is below 1, or ``gap`` below 0.
    """
    if not pictures or gap < 0 or (columns is not None and columns < 1):
        raise ValueError(
            "a contact sheet needs at least 1 picture, 1 column and a gap of 0, got "
            f"{len(pictures)} pictures, {columns} columns and a gap of {gap}"
        )
    columns = min(columns or len(pictures), len(pictures))
    rows = -(-len(pictures) // columns)
    high, wide = (max(p.shape[axis] for p in pictures) for axis in (0, 1))
    sheet = np.empty((rows * (high + gap) - gap, columns * (wide + gap) - gap, 3), np.uint8)
    sheet[:] = background
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        top = row * (high + gap) + (high - picture.shape[0]) // 2
        left = column * (wide + gap) + (wide - picture.shape[1]) // 2
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def draw_position(
    image: Picture | Tensor,
    mean: Tensor,
    covariance: Tensor,
    points: Tensor | None = None,
    *,
    size: int = 112,
) -> Picture:
    """Draw where a unit fires over many images: mean, and ellipses of one and two deviations.

    Args:
        image: (H, W, 3) uint8, one typical image, drawn pale.
        mean: (2,) mean position (x, y) in pixels of the image; NaN draws the image alone.
        covariance: (2, 2) covariance in square pixels; NaN draws no ellipse.
        points: (T, 2) single positions; NaN where there is none.
        size: Pixels of the longer side of the result.
    """
    picture = as_picture(image)
    scale = size / max(picture.shape[:2])
    pixels = rearrange(torch.from_numpy(resize(picture, size).copy()), "h w c -> c h w")
    height, width = pixels.shape[1:]
    # At 72 points an inch a point is a pixel.
    page = Figure(figsize=(width / 72, height / 72), dpi=72)
    axes = page.add_axes((0, 0, 1, 1))
    show_image(axes, pixels, pale=True)
    axes.set_axis_off()
    # A position counts from the centre of the first pixel, a drawing from its corner.
    spots = None if points is None else (points + 0.5) * scale
    draw_spread(axes, (mean + 0.5) * scale, covariance * scale**2, spots)
    return figure_picture(page)
