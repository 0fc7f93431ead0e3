"""Pictures of heat maps over images: what ``pellucid evaluate`` leaves for eyes."""

import json
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pellucid.report.drawing import Picture, as_picture, resize, upsample

FOLDER = "explanations"
WIDEST = 256
"""Pixels of the longer side of a picture."""
_FULL = 0.99
_OPACITY = 0.8
_FOR, _AGAINST = (214.0, 39.0, 40.0), (31.0, 88.0, 190.0)
_CELL, _GAP, _HEAD, _LINES = 160, 6, 14, 3
# A palette makes a large picture a third as heavy, and is not seen in grey and one colour scale.
_PALETTE_FROM = 128


@dataclass(frozen=True)
class Shown:
    """One method's maps of the images that are shown."""

    method: str
    label: str
    heat: Tensor
    """(B, h, w) float, finite."""
    completeness_error: Tensor | None = None
    """(B,) float."""


@dataclass(frozen=True)
class ShownImage:
    """One image that is shown."""

    index: int
    """Its position in the split."""
    pixels: Picture
    label: str | None
    """Its category; None: not known."""
    predicted: str
    score: float
    """Of the predicted class, in logits."""
    why: str


def draw_heat(pixels: Picture | Tensor, heat: Tensor) -> Picture:
    """Blend a map over an image, which is drawn in grey.

    The stronger the map, the less of the image shines through. A map without negative values goes
    from violet to yellow; one that has them is red where it speaks for the class and blue where it
    speaks against it. Full colour is for the strongest hundredth of its values, so that a single
    pixel does not leave all others pale.

    Args:
        pixels: (H, W, 3) uint8.
        heat: (h, w) float, finite.
    """
    picture = as_picture(pixels)
    grey = picture @ np.array([0.299, 0.587, 0.114])
    values = upsample(heat, (picture.shape[0], picture.shape[1]))
    top = full_colour(heat)
    strength = np.clip(values / top, -1, 1) if top > 0 else np.zeros_like(values)
    size = np.abs(strength)[..., None]
    if bool((heat < 0).any()):
        colour = np.where(strength[..., None] > 0, _FOR, _AGAINST)
    else:
        colour = matplotlib.colormaps["inferno"](0.3 + 0.6 * size[..., 0])[..., :3] * 255
    mixed = grey[..., None] * (1 - _OPACITY * size) + colour * _OPACITY * size
    return np.ascontiguousarray(mixed.round().clip(0, 255).astype(np.uint8))


def full_colour(heat: Tensor) -> float:
    """Magnitude that gets the full colour; that of the greatest value in a map of a few points."""
    size = heat.detach().float().abs().flatten()
    top = float(size.quantile(_FULL)) if len(size) else 0.0
    return top if top > 0 else float(size.max())


def caption(shown: Shown, i: int, image: ShownImage) -> str:
    """What the picture of a method's map of an image shows, with its legend."""
    heat = shown.heat[i]
    rows, columns = heat.shape
    signs = "the brighter, the more it speaks for it"
    if bool((heat < 0).any()):
        signs = "red speaks for it, blue against it"
    text = f"{shown.label} of {image.predicted!r} (score {image.score:.2f}): {signs}"
    text += f"; full colour from {full_colour(heat):.3g} on; {rows} x {columns} cells"
    if not bool((heat != 0).any()):
        text = f"{shown.label} of {image.predicted!r}: the map is zero everywhere"
    return text


def save_shown(
    directory: Path, images: Sequence[ShownImage], methods: Sequence[Shown]
) -> list[dict[str, object]]:
    """Write the images and all methods' pictures of them, and one sheet of all.

    Pictures that the run's ``explanations.json`` lists, of an earlier evaluation, are removed.

    Args:
        directory: The run; pictures are in ``explanations`` below it.
        images: The images.
        methods: Their maps.

    Returns:
        One entry for each image, as ``explanations.json`` has it; files are named relative to the
        run.
    """
    folder = directory / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    _remove_listed(directory)
    (folder / "overview.png").unlink(missing_ok=True)
    entries: list[dict[str, object]] = []
    sheet = []
    for i, image in enumerate(images):
        small = _fitted(image.pixels)
        name = f"{FOLDER}/{image.index:05d}.png"
        Image.fromarray(small).save(directory / name, optimize=True)
        drawn = [draw_heat(small, shown.heat[i]) for shown in methods]
        sheet.append([small, *drawn])
        overlays = [
            _save_overlay(directory, picture, shown, i, image)
            for picture, shown in zip(drawn, methods, strict=True)
        ]
        entries.append(
            {
                "index": image.index,
                "image": name,
                "label": image.label,
                "predicted": image.predicted,
                "score": image.score,
                "why": image.why,
                "overlays": overlays,
            }
        )
    if images:
        names = ["Image", *(shown.label for shown in methods)]
        page = draw_sheet(sheet, names, [_title(image) for image in images])
        Image.fromarray(page).save(folder / "overview.png", optimize=True)
    return entries


def _save_overlay(
    directory: Path, picture: Picture, shown: Shown, i: int, image: ShownImage
) -> dict[str, object]:
    """Write one method's picture of an image, and say what it is."""
    file = Image.fromarray(picture)
    if max(picture.shape[:2]) > _PALETTE_FROM:
        file = file.quantize(256, dither=Image.Dither.NONE)
    name = f"{FOLDER}/{image.index:05d}_{_file_name(shown.method)}.png"
    file.save(directory / name, optimize=True)
    error = torch.nan if shown.completeness_error is None else float(shown.completeness_error[i])
    return {
        "method": shown.method,
        "label": shown.label,
        "file": name,
        "caption": caption(shown, i, image),
        "completeness_error": error if math.isfinite(error) else None,
    }


def _title(image: ShownImage) -> str:
    wrong = image.label not in (None, image.predicted)
    return f"{image.index}: {image.predicted}{f' (is {image.label})' if wrong else ''}"


def _remove_listed(directory: Path) -> None:
    """Remove the pictures of an earlier evaluation, and nothing else."""
    try:
        old = json.loads((directory / "explanations.json").read_text(encoding="utf-8"))
        names = [entry["image"] for entry in old["shown"]]
        names += [each["file"] for entry in old["shown"] for each in entry["overlays"]]
    # Whoever wrote it, it is about to be replaced.
    except (OSError, ValueError, LookupError, TypeError):
        return
    for name in names:
        if isinstance(name, str) and re.fullmatch(rf"{FOLDER}/\d{{5,}}(_[\w.-]+)?\.png", name):
            (directory / name).unlink(missing_ok=True)


def draw_sheet(
    rows: Sequence[Sequence[Picture]], names: Sequence[str], titles: Sequence[str]
) -> Picture:
    """All pictures at one size, a method a column and an image a row, with their names.

    Args:
        rows: Pictures of each image, as many as ``names``.
        names: Of the columns.
        titles: Of the rows.
    """
    font = ImageFont.load_default(_HEAD)
    line = _HEAD + 3
    top, below = _LINES * line + _GAP, 2 * line + _GAP
    width = len(names) * (_CELL + _GAP) + _GAP
    page = Image.new("RGB", (width, top + len(rows) * (_CELL + below)), "white")
    draw = ImageDraw.Draw(page)

    def write(text: str, left: int, above: int, lines: int) -> None:
        parts = textwrap.wrap(text, _CELL // 8)
        if len(parts) > lines:
            parts = [*parts[: lines - 1], f"{parts[lines - 1][:-1]}…"]
        for number, part in enumerate(parts):
            draw.text((left, above + number * line), part, fill="black", font=font)

    for column, name in enumerate(names):
        write(name, _GAP + column * (_CELL + _GAP), _GAP, _LINES)
    for row, pictures in enumerate(rows):
        above = top + row * (_CELL + below)
        for column, picture in enumerate(pictures):
            large = resize(picture, _CELL)
            page.paste(Image.fromarray(large), (_GAP + column * (_CELL + _GAP), above))
        write(titles[row], _GAP, above + _CELL + 2, 2)
    return np.asarray(page)


def _fitted(pixels: Picture) -> Picture:
    """The image at its own size, or smaller if it is too large."""
    picture = as_picture(pixels)
    return resize(picture, WIDEST) if max(picture.shape[:2]) > WIDEST else picture


def _file_name(method: str) -> str:
    """Part of a file's name; of a method on another network too."""
    if "/" in method:
        method = f"twin-{method}"
    return re.sub(r"[^\w.-]", "-", method)
