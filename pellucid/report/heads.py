"""Where each head or branch of a model with few maps looks, beside the masks of the parts."""

import colorsys
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from pellucid.models.explanation import Explanation
from pellucid.report.checked import records, sequence, text
from pellucid.report.drawing import Picture, as_picture, overlay, resize
from pellucid.report.embed import embed
from pellucid.report.runs import Run

FILE = "heads.json"
FOLDER = "images/heads"
MOST_HEADS = 16
"""A layer with more maps is one of units, which have a gallery of their own."""

_LIMIT = 12_000


@dataclass(frozen=True)
class Row:
    """One image with what is known of it."""

    label: str
    pictures: tuple[tuple[str, str], ...]
    """Data URIs, empty where there is none, and captions: the image, its parts, each head."""


@dataclass(frozen=True)
class Heads:
    """What the page shows of a model's heads."""

    rows: tuple[Row, ...]
    parts: tuple[tuple[str, str], ...]
    """Names of the parts and their colours, as ``#rrggbb``."""


def colour_of(part: int, count: int) -> tuple[int, int, int]:
    """Red, green, blue of one part among several, evenly spread over all hues."""
    red, green, blue = colorsys.hls_to_rgb(part / max(count, 1), 0.5, 0.7)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_parts(image: Picture | Tensor, masks: Tensor) -> Picture:
    """Draw the masks of parts over an image.

    Args:
        image: (H, W, 3) uint8.
        masks: (P, H, W) bool, one mask per part; a later one covers an earlier one.

    Raises:
        ValueError: If the masks have not the image's size.
    """
    picture = as_picture(image)
    if masks.ndim != 3 or masks.shape[1:] != picture.shape[:2]:
        raise ValueError(
            f"masks must be (P, {picture.shape[0]}, {picture.shape[1]}) as the image, got "
            f"{tuple(masks.shape)}"
        )
    drawn = picture.astype(np.float32) * 0.5 + 90
    for part, mask in enumerate(masks.bool().cpu().numpy()):
        drawn[mask] = 0.3 * picture[mask] + 0.7 * np.array(colour_of(part, len(masks)))
    return drawn.clip(0, 255).astype(np.uint8)


def save_heads(
    explanation: Explanation,
    images: Sequence[Picture],
    labels: Sequence[str],
    run_directory: Path | str,
    masks: Tensor | None = None,
    part_names: Sequence[str] = (),
    *,
    size: int = 128,
) -> Path:
    """Write the pictures of where each head looks, which the report shows.

    Writes ``heads.json``, whose path it returns, and pictures under ``images/heads``.

    Args:
        explanation: Of B images, with at most ``MOST_HEADS`` maps, on the CPU.
        images: B pictures (H, W, 3) uint8.
        labels: B names.
        run_directory: The run; made if it is not there.
        masks: (B, P, H, W) bool; None: the data has no masks of parts.
        part_names: P names.
        size: Pixels of the longer side of each picture.

    Raises:
        ValueError: If there are no maps, too many, or not one for each image.
    """
    maps = explanation.maps
    if maps is None or not 1 <= maps.shape[1] <= MOST_HEADS or len(maps) != len(images):
        shape = None if maps is None else tuple(maps.shape)
        raise ValueError(
            f"maps must be ({len(images)}, 1 to {MOST_HEADS}, h, w), one row per image, got {shape}"
        )
    folder = Path(run_directory) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        pictures = [("image", resize(image, size))]
        if masks is not None:
            pictures.append(("parts", resize(draw_parts(image, masks[i]), size)))
        for unit in range(maps.shape[1]):
            names = explanation.unit_names
            name = names[unit] if unit < len(names) else f"head {unit + 1}"
            activation = maps[i, unit].clamp(min=0)
            largest = float(activation.max())
            pictures.append(
                (name, overlay(resize(image, size), activation, largest=largest or 1.0))
            )
        files = []
        for place, (caption, picture) in enumerate(pictures):
            path = folder / f"image_{i}_{place:02d}.jpg"
            Image.fromarray(picture).save(path, quality=88, optimize=True)
            files.append({"file": f"{FOLDER}/{path.name}", "caption": caption})
        rows.append({"label": label, "pictures": files})
    parts = [] if masks is None else list(part_names)
    colours = ["#{:02x}{:02x}{:02x}".format(*colour_of(n, len(parts))) for n in range(len(parts))]
    content = {"rows": rows, "parts": parts, "colours": colours}
    path = Path(run_directory) / FILE
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    return path


def make_heads(run: Run) -> Heads | None:
    """Where the heads of a run look; None where nothing was drawn of them."""
    missing: list[str] = []
    rows = tuple(
        Row(
            text(row.get("label")),
            tuple(
                (embed(run, shown.get("file"), _LIMIT, missing, FILE), text(shown.get("caption")))
                for shown in records(row.get("pictures"))
            ),
        )
        for row in records(run.heads.get("rows"))
    )
    if missing:
        run.problems.append(
            f"{len(missing)} pictures of heads cannot be shown, the first one {missing[0]}."
        )
    if not rows:
        return None
    names = [str(name) for name in sequence(run.heads.get("parts"))]
    colours = ["#{:02x}{:02x}{:02x}".format(*colour_of(n, len(names))) for n in range(len(names))]
    return Heads(rows, tuple(zip(names, colours, strict=True)))
