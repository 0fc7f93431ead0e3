"""What each latent of a generator does: the files of a run, and what the page shows of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pellucid.models.explanation import Explanation
from pellucid.report.drawing import Picture
from pellucid.report.embed import embed
from pellucid.report.runs import Run
from pellucid.report.traversals import (
    MOST_LATENTS,
    by_importance,
    draw_strip,
    draw_traversals,
    is_dead,
    shown_steps,
    to_pixels,
)
from pellucid.report.unit_figures import without_nan

FILE = "traversals.json"
FOLDER = "images/traversals"

# Of all pictures of a run's latents in the page, before base64 adds a third.
_BYTES, _LEAST_BYTES, _MOST_BYTES = 660_000, 2_000, 30_000
_RUNS = 4  # More runs than these share the room of as many.

# The bars of importance, in units of the drawing.
WIDTH, ROW = 340, 20
LEFT, RIGHT = 112, 54
_LONGEST_NAME = 17


@dataclass(frozen=True)
class Film:
    """The frames of one latent and image."""

    picture: str
    """Data URI; empty where there is none."""
    alt: str
    code: str
    """What the image's own value is, as text."""


@dataclass(frozen=True)
class Latent:
    """One latent as the page shows it."""

    name: str
    importance: str
    """With its unit; empty where it was not measured."""
    dead: bool
    categorical: bool
    steps: tuple[str, ...]
    """The value at each step, as text."""
    films: tuple[Film, ...]
    """One per image; empty where the latent is only listed."""

    @property
    def start(self) -> int:
        """Step at which the slider stands first: no category comes before the others."""
        return 0 if self.categorical else len(self.steps) // 2


@dataclass(frozen=True)
class Bar:
    """The importance of one latent in the drawing."""

    name: str
    y: int
    width: float
    text: str
    dead: bool


@dataclass(frozen=True)
class Latents:
    """What the page shows of the latents of one run."""

    importance_name: str
    importance_unit: str
    frame: tuple[int, int]
    """Height and width of a frame."""
    images: tuple[tuple[str, str], ...]
    """The image and its reconstruction, as data URIs; empty where there is none."""
    latents: tuple[Latent, ...]
    bars: tuple[Bar, ...]

    @property
    def measured(self) -> bool:
        """Whether it is known what each latent says, as not of noise."""
        return all(latent.importance for latent in self.latents)

    @property
    def sentence(self) -> str:
        """How many latents say anything, where the unit of importance allows to tell."""
        dead = sum(latent.dead for latent in self.latents)
        count = len(self.latents)
        if self.importance_unit != "nats" or not count or not self.measured:
            return ""
        if not dead:
            return f"None of the {count} latents is dead." if count > 1 else "The latent is alive."
        rest = f"the other {dead} {'are' if dead > 1 else 'is'}" if dead < count else "all are"
        return (
            f"{count - dead} of {count} latents say something about the image; {rest} dead "
            f"({self.importance_name} below 0.01 nats)."
        )


def save_traversals(
    explanation: Explanation,
    images: Sequence[Picture],
    run_directory: Path | str,
    *,
    num_latents: int = MOST_LATENTS,
) -> Path:
    """Write the pictures and figures of a generator's latents, which the report shows.

    Writes ``traversals.json``, whose path it returns, and under ``images/traversals`` an overview
    of each image, and for each latent and image a strip of its frames.

    Args:
        explanation: Of some images, with traversals, on the CPU.
        images: B pictures (H, W, 3) uint8 that were explained; empty: the model draws from noise
            alone, and they have nothing to do with what it draws.
        run_directory: The run; made if it is not there.
        num_latents: Number of latents with pictures; the others are listed.

    Raises:
        ValueError: If there are no traversals, or not one picture for each of their images.
    """
    traversals = explanation.traversals
    if traversals is None:
        raise ValueError("the explanation has no traversals, so there is nothing to save")
    count = len(traversals.images)
    if images and len(images) != count:
        raise ValueError(f"got {len(images)} images and traversals of {count}")
    folder = Path(run_directory) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    shown = []
    for i in range(count):
        own = images[i] if images else None
        drawn = None if explanation.reconstruction is None else explanation.reconstruction[i]
        overview = draw_traversals(
            traversals, i, image=own, reconstruction=drawn, num_latents=num_latents
        )
        entry = {"overview": _save(overview, folder / f"overview_{i}.png")}
        if own is not None:
            entry["image"] = _save(own, folder / f"image_{i}.png")
        if drawn is not None:
            pixels = to_pixels(drawn).numpy()
            entry["reconstruction"] = _save(pixels, folder / f"reconstruction_{i}.png")
        shown.append(entry)
    latents = []
    for place, latent in enumerate(by_importance(traversals)):
        strips = [
            _save(draw_strip(traversals, i, latent), folder / f"latent_{place:02d}_image_{i}.png")
            for i in range(count if place < num_latents else 0)
        ]
        codes = None if traversals.codes is None else traversals.codes[:, latent].tolist()
        latents.append(
            {
                "name": traversals.names[latent],
                "kind": traversals.kinds[latent],
                "importance": float(traversals.importance[latent]),
                "values": traversals.values[:, latent, shown_steps(traversals, latent)].tolist(),
                "codes": codes,
                "strips": strips,
            }
        )
    content = {
        "importance_name": traversals.importance_name,
        "importance_unit": traversals.importance_unit,
        "frame": list(traversals.images.shape[-2:]),
        "images": shown,
        "latents": latents,
    }
    path = Path(run_directory) / FILE
    text = json.dumps(without_nan(content), indent=1, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")
    return path


def make_latents(run: Run, num_runs: int = 1) -> Latents | None:
    """The latents of a run; None where it has none, with a problem noted if its file is broken.

    Args:
        run: The run.
        num_runs: Number of runs with latents on the page.
    """
    if not run.latents:
        return None
    missing: list[str] = []
    try:
        found = _read(run, num_runs, missing)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = f"{type(error).__name__}: {error}"
        run.problems.append(
            f"{FILE} is not as `pellucid run` writes it ({what}): no sliders of the latents."
        )
        return None
    if missing:
        run.problems.append(
            f"{len(missing)} pictures of latents cannot be shown, the first one {missing[0]}."
        )
    return found


def _read(run: Run, num_runs: int, missing: list[str]) -> Latents:
    content = run.latents
    entries, shown = list(content["latents"]), list(content["images"])
    count = sum(len(entry["strips"]) for entry in entries) + 2 * len(shown)
    room = _BYTES if num_runs <= _RUNS else _BYTES * _RUNS // num_runs
    limit = min(max(room // max(count, 1), _LEAST_BYTES), _MOST_BYTES)

    def picture(entry: dict[str, Any], key: str) -> str:
        return embed(run, entry[key], limit, missing, FILE) if key in entry else ""

    height, width = (int(side) for side in content["frame"])
    if min(height, width) < 1:
        raise ValueError(f"a frame of {height} x {width} pixels")
    unit = str(content["importance_unit"])
    latents = []
    for entry in entries:
        value = entry["importance"]
        categorical = entry["kind"] == "categorical"
        codes = entry["codes"] or [None] * len(shown)
        films = tuple(
            Film(
                embed(run, strip, limit, missing, FILE),
                f"{entry['name']} of image {i + 1} of {run.label}",
                "" if codes[i] is None else _text(codes[i], categorical),
            )
            for i, strip in enumerate(entry["strips"])
        )
        latents.append(
            Latent(
                name=str(entry["name"]),
                importance="" if value is None else f"{value:.3f} {unit}",
                dead=value is not None and is_dead(value, unit),
                categorical=categorical,
                steps=_steps(entry["values"], categorical),
                films=films,
            )
        )
    return Latents(
        importance_name=str(content["importance_name"]),
        importance_unit=unit,
        frame=(height, width),
        images=tuple((picture(e, "image"), picture(e, "reconstruction")) for e in shown),
        latents=tuple(latents),
        bars=_bars(entries, latents),
    )


def _steps(values: Sequence[Sequence[float]], categorical: bool) -> tuple[str, ...]:
    """The values of each step, each once: most latents take the same ones for all images."""
    if not values or not values[0]:
        raise ValueError("a latent without values")
    rows = [[_text(value, categorical) for value in row] for row in values]
    return tuple(" / ".join(dict.fromkeys(column)) for column in zip(*rows, strict=True))


def _text(value: float, categorical: bool) -> str:
    if categorical:
        return f"category {value:.0f}"
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")


def _bars(entries: Sequence[dict[str, Any]], latents: Sequence[Latent]) -> tuple[Bar, ...]:
    values = [max(float(entry["importance"] or 0.0), 0.0) for entry in entries]
    largest = max(values, default=0.0) or 1.0
    room = WIDTH - LEFT - RIGHT
    return tuple(
        Bar(
            name=name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…",
            y=number * ROW,
            width=room * value / largest,
            text=latent.importance.split()[0] if entry["importance"] is not None else "—",
            dead=latent.dead,
        )
        for number, (entry, latent, value) in enumerate(zip(entries, latents, values, strict=True))
        for name in [latent.name]
    )


def _save(picture: Picture, path: Path) -> str:
    """Write a picture, as grey where it is; its path in the run."""
    grey = bool((picture == picture[..., :1]).all())
    Image.fromarray(picture[..., 0] if grey else picture).save(path, optimize=True)
    return f"{FOLDER}/{path.name}"
