"""Pictures of what each latent of a generator does."""

import math
from collections.abc import Sequence

import numpy as np
from einops import rearrange, repeat
from matplotlib.figure import Figure
from torch import Tensor

from pellucid.logging import figure_picture
from pellucid.models.explanation import Explanation, Traversals
from pellucid.report.drawing import Picture, contact_sheet, resize

DEAD_NATS = 0.01
"""A latent that tells less about the image counts as dead."""

MOST_LATENTS = 32
"""More latents than these are listed, but not drawn."""

_INK, _QUIET, _WARN = "#1c2430", "#6b7480", "#8a5a00"
# Of the overview, in pixels.
_MARGIN, _GAP, _LINE = 12, 6, 14
# No character of the labels is wider on the average.
_CHARACTER = 6
_LONGEST_NAME = 22


def to_pixels(frames: Tensor) -> Tensor:
    """Turn what a generator draws into pixels.

    Args:
        frames: (..., C, H, W) float in [0, 1] with one or three channels; values outside are
            clamped, and what is not a number is black.

    Returns:
        (..., H, W, 3) uint8 on the CPU.

    Raises:
        ValueError: If there are neither one nor three channels.
    """
    channels = frames.shape[-3] if frames.ndim >= 3 else 0
    if channels not in (1, 3):
        raise ValueError(
            f"frames must be (..., C, H, W) with 1 or 3 channels, got {tuple(frames.shape)}"
        )
    values = frames.detach().float().cpu().nan_to_num(0.0).clamp(0, 1)
    pixels = rearrange((values * 255).round().byte(), "... c h w -> ... h w c")
    return pixels if channels == 3 else repeat(pixels, "... 1 -> ... c", c=3)


def by_importance(traversals: Traversals) -> list[int]:
    """The latents, the most important first; those of unknown importance last."""
    values = traversals.importance.tolist()
    return sorted(range(len(values)), key=lambda u: (math.isnan(values[u]), -values[u]))


def is_dead(importance: float, unit: str) -> bool:
    """Whether a latent tells less than 0.01 nats about the image; another unit has no limit."""
    return unit == "nats" and importance < DEAD_NATS


def shown_steps(traversals: Traversals, latent: int) -> list[int]:
    """The steps of a latent; of a categorical code, each category once.

    A code with fewer categories than other latents have steps begins again.
    """
    steps = traversals.images.shape[2]
    if traversals.kinds[latent] != "categorical":
        return list(range(steps))
    first = {
        value: step for step, value in reversed([*enumerate(traversals.values[0, latent].tolist())])
    }
    return sorted(first.values())


def draw_strip(traversals: Traversals, i: int, latent: int) -> Picture:
    """The frames of one latent and image side by side, in their own size.

    Args:
        traversals: Of a batch.
        i: Number of the image in the batch.
        latent: Number of the latent.

    Returns:
        (H, S W, 3) uint8; S is smaller for a categorical code that begins again.

    Raises:
        ValueError: If a number is out of range.
    """
    images, latents = traversals.images.shape[:2]
    if not (0 <= i < images and 0 <= latent < latents):
        raise ValueError(
            f"i must be in [0, {images - 1}] and latent in [0, {latents - 1}], got {i} and {latent}"
        )
    frames = to_pixels(traversals.images[i, latent, shown_steps(traversals, latent)])
    return np.ascontiguousarray(rearrange(frames, "s h w c -> h (s w) c").numpy())


def draw_traversals(
    traversals: Traversals,
    i: int,
    *,
    image: Picture | None = None,
    reconstruction: Tensor | None = None,
    num_latents: int = MOST_LATENTS,
    size: int = 64,
) -> Picture:
    """Draw what a generator makes of one image when one latent at a time takes other values.

    One row per latent, the most important on top, with its name, its importance, and the range of
    its values; a dead latent is marked. On the left the image and its reconstruction.

    Args:
        traversals: Of a batch.
        i: Number of the image in the batch.
        image: (H, W, 3) uint8; None: none is shown, as for what was drawn from noise alone.
        reconstruction: (C, H, W) float in [0, 1]; None: none is shown.
        num_latents: Number of latents to draw, at least 1.
        size: Pixels that a frame's longer side has at most; smaller frames are enlarged by whole
            numbers.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: If a number is out of range.
    """
    if num_latents < 1 or size < 1:
        raise ValueError(f"num_latents and size must be at least 1, got {num_latents} and {size}")
    order = by_importance(traversals)[:num_latents]
    strips = [_strip_of_size(traversals, i, latent, size) for latent in order]
    left = [] if image is None else [("image", _fit(image, size))]
    if reconstruction is not None:
        left.append(("reconstruction", _fit(to_pixels(reconstruction).numpy(), size)))
    labels = [_label(traversals, i, latent) for latent in order]
    label = _CHARACTER * max(len(text) for lines in labels for text, _ in lines)
    high, wide = strips[0].shape[0], max(strip.shape[1] for strip in strips)
    row = max(high, 3 * _LINE + 2) + _GAP
    first = max([80, *(p.shape[1] for _, p in left)]) + _MARGIN if left else 0
    height = max(len(order) * row, sum(p.shape[0] + _LINE + _GAP for _, p in left)) - _GAP
    page = np.full((height + 2 * _MARGIN, 3 * _MARGIN + first + label + wide, 3), 255, np.uint8)
    texts: list[tuple[float, float, str, str, bool]] = []
    y = _MARGIN
    for name, picture in left:
        _paste(page, picture, y, _MARGIN)
        y += picture.shape[0] + _LINE
        texts.append((_MARGIN, y - 2, name, _QUIET, False))
        y += _GAP
    for number, (lines, strip) in enumerate(zip(labels, strips, strict=True)):
        top = _MARGIN + number * row
        for line, (text, colour) in enumerate(lines):
            at = top + _LINE * (line + 1) - 2
            texts.append((_MARGIN + first, at, text, colour, line == 0))
        _paste(page, strip, top, 2 * _MARGIN + first + label)
    return _write(page, texts)


def draw_reconstructions(
    images: Sequence[Picture], reconstructions: Tensor, *, size: int = 64
) -> Picture:
    """Draw images in one row, and below each of them its reconstruction.

    Args:
        images: B pictures (H, W, 3) uint8.
        reconstructions: (B, C, H, W) float in [0, 1].
        size: As in :func:`draw_traversals`.

    Raises:
        ValueError: If there are not as many reconstructions as images.
    """
    if len(images) != len(reconstructions):
        raise ValueError(f"got {len(images)} images and {len(reconstructions)} reconstructions")
    below = [_fit(picture, size) for picture in to_pixels(reconstructions).numpy()]
    above = [_fit(picture, size) for picture in images]
    return contact_sheet([*above, *below], columns=len(images))


def latent_table(explanation: Explanation, i: int) -> str:
    """The latents of one image as text: importance, the image's own code, and the range drawn.

    Args:
        explanation: Of a batch, with traversals.
        i: Number of the image in the batch.

    Raises:
        ValueError: If there are no traversals.
    """
    traversals = explanation.traversals
    if traversals is None:
        raise ValueError("the explanation has no traversals, so there is nothing to list")
    what = f"{traversals.importance_name} ({traversals.importance_unit})"
    names = [_short(name) for name in traversals.names]
    first = max(len(name) for name in [*names, "latent"]) + 2
    lines = [f"  {'latent':<{first}}{what:>{max(len(what), 10)}}{'code':>10}  drawn"]
    for latent in by_importance(traversals):
        importance = float(traversals.importance[latent])
        code = "" if traversals.codes is None else _value(traversals, latent, i)
        dead = "  dead" if is_dead(importance, traversals.importance_unit) else ""
        text = f"{importance:>{max(len(what), 10)}.3f}{code:>10}  {_range(traversals, i, latent)}"
        lines.append(f"  {names[latent]:<{first}}{text}{dead}")
    return "\n".join(lines)


def _value(traversals: Traversals, latent: int, i: int) -> str:
    assert traversals.codes is not None
    value = float(traversals.codes[i, latent])
    whole = traversals.kinds[latent] == "categorical" and not math.isnan(value)
    return f"{value:.0f}" if whole else f"{value:.3f}"


def _range(traversals: Traversals, i: int, latent: int) -> str:
    values = traversals.values[i, latent, shown_steps(traversals, latent)].tolist()
    if traversals.kinds[latent] == "categorical":
        return f"{len(values)} categories"
    return f"{min(values):.4g} to {max(values):.4g}"


def _label(traversals: Traversals, i: int, latent: int) -> list[tuple[str, str]]:
    """Lines beside a row, each with its colour."""
    value = float(traversals.importance[latent])
    unit = traversals.importance_unit
    known = "not measured" if math.isnan(value) else f"{value:.3f} {unit}"
    dead = is_dead(value, unit)
    return [
        (_short(traversals.names[latent]), _INK),
        (
            f"{traversals.importance_name} {known}{', dead' if dead else ''}",
            _WARN if dead else _INK,
        ),
        (_range(traversals, i, latent), _QUIET),
    ]


def _short(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."


def _strip_of_size(traversals: Traversals, i: int, latent: int, size: int) -> Picture:
    strip = draw_strip(traversals, i, latent)
    steps = len(shown_steps(traversals, latent))
    return contact_sheet([_fit(frame, size) for frame in np.split(strip, steps, axis=1)], gap=1)


def _fit(picture: Picture, size: int) -> Picture:
    """Enlarge a small picture by a whole number, so that its pixels stay sharp; reduce a large."""
    longer = max(picture.shape[:2])
    if longer > size:
        return resize(picture, size)
    return picture.repeat(size // longer, axis=0).repeat(size // longer, axis=1)


def _paste(page: Picture, picture: Picture, top: int, left: int) -> None:
    page[top : top + picture.shape[0], left : left + picture.shape[1]] = picture


def _write(page: Picture, texts: Sequence[tuple[float, float, str, str, bool]]) -> Picture:
    """Write texts (x, y of the base line, text, colour, whether bold) over a page."""
    height, width = page.shape[:2]
    # Half a pixel more, as the canvas rounds down; its pixels are those of the page.
    figure = Figure(figsize=((width + 0.5) / 100, (height + 0.5) / 100), dpi=100)
    figure.figimage(page, origin="upper")
    for x, y, text, colour, bold in texts:
        weight = "bold" if bold else "normal"
        place = (x / width, 1 - y / height)
        figure.text(*place, text, size=7.5, color=colour, weight=weight, parse_math=False)
    return figure_picture(figure)
