"""Chosen images with the explanations of all methods, as the page shows them."""

import io
from dataclasses import dataclass
from typing import Any

from PIL import Image

from pellucid.report.checked import number, records, text
from pellucid.report.embed import embed
from pellucid.report.runs import Run

_FILE = "explanations.json"
# Pixels below which single pixels are shown as such when the picture is enlarged.
_SMALL = 100
# Of all pictures of a run's explanations, before base64 adds a third.
_BYTES, _LEAST_BYTES, _MOST_BYTES = 640_000, 2_500, 40_000


@dataclass(frozen=True)
class Overlay:
    """The explanation of one method over one image."""

    method: str
    label: str
    picture: str
    """Data URI; empty where there is none."""
    caption: str
    error: str
    """Completeness error as text; empty where the method promises nothing."""


@dataclass(frozen=True)
class ShownImage:
    """One image with its explanations."""

    picture: str
    small: bool
    """Whether it has so few pixels that they are better seen one by one."""
    name: str
    label: str
    predicted: str
    score: str
    why: str
    overlays: tuple[Overlay, ...]

    @property
    def right(self) -> bool:
        """Whether the predicted class is the labelled one."""
        return self.label == self.predicted


@dataclass(frozen=True)
class Explained:
    """What a run's page shows of chosen images."""

    images: tuple[ShownImage, ...]
    methods: tuple[tuple[str, str], ...]
    """Name in the file and name for people, of every method that has a picture."""


def make_explained(run: Run, num_runs: int = 1) -> Explained | None:
    """The explained images of a run; None where there are none.

    Args:
        run: The run.
        num_runs: Number of runs with explanations on the page, which share its room.
    """
    shown = records(run.explanations.get("shown"))
    if not shown:
        return None
    count = sum(1 + len(records(entry.get("overlays"))) for entry in shown)
    room = _BYTES * min(num_runs, 3) // max(num_runs, 1)
    limit = min(max(room // max(count, 1), _LEAST_BYTES), _MOST_BYTES)
    missing: list[str] = []
    images = tuple(
        _image(run, number_, entry, limit, missing) for number_, entry in enumerate(shown)
    )
    if missing:
        run.problems.append(
            f"{len(missing)} pictures of explanations cannot be shown, the first one {missing[0]}."
        )
    methods = {
        overlay.method: overlay.label
        for image in images
        for overlay in image.overlays
        if overlay.picture
    }
    return Explained(images, tuple(methods.items()))


def _image(
    run: Run, place: int, entry: dict[str, Any], limit: int, missing: list[str]
) -> ShownImage:
    score, index = number(entry.get("score")), number(entry.get("index"))
    file = text(entry.get("image"))
    return ShownImage(
        picture=embed(run, entry.get("image"), limit, missing, _FILE),
        small=_is_small(run, file),
        name=f"Image {index:.0f}" if index is not None else f"Image {place + 1}",
        label=text(entry.get("label")),
        predicted=text(entry.get("predicted")),
        score="" if score is None else f"{score:.2f}",
        why=text(entry.get("why")),
        overlays=tuple(
            _overlay(run, overlay, limit, missing) for overlay in records(entry.get("overlays"))
        ),
    )


def _overlay(run: Run, entry: dict[str, Any], limit: int, missing: list[str]) -> Overlay:
    error, method = number(entry.get("completeness_error")), text(entry.get("method"))
    label = text(entry.get("label")) or method or "unnamed method"
    caption = text(entry.get("caption"))
    return Overlay(
        method=method or label,
        label=label,
        picture=embed(run, entry.get("file"), limit, missing, _FILE),
        # The name stands before it already.
        caption=caption.removeprefix(label).lstrip(),
        error="" if error is None else f"{error:.1e}" if error else "0",
    )


def _is_small(run: Run, file: str) -> bool:
    path = (run.path / file).resolve()
    try:
        if not file or not path.is_relative_to(run.path):
            return False
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            return max(picture.size) <= _SMALL
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
