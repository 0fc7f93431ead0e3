"""Pictures of a layer's units, and the files that the report reads."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from pellucid.analysis.categories import UnitCategories
from pellucid.analysis.unit_examples import SHOWN, Examples
from pellucid.analysis.units import UnitSummary
from pellucid.report.drawing import (
    Picture,
    contact_sheet,
    draw_position,
    outline,
    overlay,
    resize,
)
from pellucid.report.unit_figures import describe_unit, unit_metrics, without_nan


def save_units(
    summary: UnitSummary,
    run_directory: Path | str,
    per_unit: Mapping[str, Tensor] | None = None,
    part_names: Sequence[str] = (),
    *,
    concepts: Mapping[str, Sequence[str]] | None = None,
    categories: UnitCategories | None = None,
    size: int = 112,
    progress: bool = True,
) -> Path:
    """Write the pictures and figures of a layer's units, which the report shows.

    Writes ``units.json``, whose path it returns, and under ``images/units`` a sheet of each unit's
    strongest images with the activation drawn over them, its position, and strips of its
    representative and of its surprising images, if it has any.

    Args:
        summary: What :func:`pellucid.analysis.units.collect_units` found.
        run_directory: The run; made if it is not there.
        per_unit: Metrics by name, (U,) or (U, P), one column per part; NaN where there is none.
        part_names: Names of the P columns.
        concepts: By metric, names of its columns where they are others.
        categories: The units' categories and votes; None: by strongest mean activation.
        size: Pixels of the longer side of each image.
        progress: Whether to show a bar after two seconds.

    Raises:
        ValueError: If a metric has not one row per unit or not one column per part.
    """
    run_directory = Path(run_directory)
    per_unit = {name: value.detach().cpu() for name, value in (per_unit or {}).items()}
    units = len(summary.peaks)
    columns = {name: (concepts or {}).get(name, part_names) for name in per_unit}
    for name, value in per_unit.items():
        parts = columns[name]
        if value.shape not in ((units,), (units, len(parts))):
            raise ValueError(
                f"per_unit[{name!r}] must have shape ({units},) or ({units}, {len(parts)}) "
                f"for the parts {list(parts)}, got {tuple(value.shape)}"
            )
    folder = run_directory / "images" / "units"
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for unit in tqdm(range(units), desc="Unit pictures", disable=not progress, delay=2):
        sheet = folder / f"unit_{unit:03d}.jpg"
        position = folder / f"position_{unit:03d}.jpg"
        _save(draw_strongest(summary, unit, size=size), sheet)
        image = summary.images[int(summary.indices[unit, 0])]
        mean, covariance = summary.position_mean[unit], summary.position_covariance[unit]
        points = summary.positions[unit]
        _save(draw_position(image, mean, covariance, points, size=size), position)
        entry = describe_unit(summary, unit, categories)
        entry |= unit_metrics(per_unit, unit, columns)
        entry["images"] = sheet.relative_to(run_directory).as_posix()
        entry["position_image"] = position.relative_to(run_directory).as_posix()
        for kind, examples in (
            ("representative", summary.representative),
            ("surprising", summary.surprising),
        ):
            if examples and examples[unit].indices:
                path = folder / f"{kind}_{unit:03d}.jpg"
                _save(draw_examples(summary, unit, examples[unit], size=3 * size // 4), path)
                entry[f"{kind}_image"] = path.relative_to(run_directory).as_posix()
        entries.append(without_nan(entry))
    path = run_directory / "units.json"
    path.write_text(json.dumps(entries, indent=1, ensure_ascii=False), encoding="utf-8")
    return path


def draw_strongest(
    summary: UnitSummary, unit: int, *, size: int = 112, columns: int | None = 3
) -> Picture:
    """Draw the strongest images of a unit, strongest first, with its activation over them.

    One scale of colour holds for all of them, so that a weaker image looks weaker; the outline is
    the region above half of the strongest peak.

    Args:
        summary: What :func:`pellucid.analysis.units.collect_units` found.
        unit: Number of the unit.
        size: Pixels of the longer side of each image.
        columns: Images per row; None: a strip.

    Raises:
        ValueError: If there is no such unit.
    """
    if not 0 <= unit < len(summary.peaks):
        raise ValueError(f"unit must be in [0, {len(summary.peaks) - 1}], got {unit}")
    largest = float(summary.peaks[unit, 0])
    shown = zip(summary.indices[unit].tolist(), summary.maps[unit], strict=True)
    tiles = [_tile(summary.images[index], each, largest, size) for index, each in shown]
    return contact_sheet(tiles, columns=columns, gap=2)


def draw_examples(
    summary: UnitSummary, unit: int, examples: Examples, *, size: int = 84
) -> Picture:
    """Draw images of one kind of a unit as a strip, on the scale of its strongest image.

    Args:
        summary: What :func:`pellucid.analysis.units.collect_units` found.
        unit: Number of the unit.
        examples: Its representative or its surprising images, at least one.
        size: Pixels of the longer side of each image.
    """
    largest = float(summary.peaks[unit, 0])
    shown = zip(examples.indices, examples.maps, strict=True)
    tiles = [_tile(summary.images[index], each, largest, size) for index, each in shown]
    # As many cells as there may be, so that all strips have pictures of one size.
    tiles += [np.full_like(tiles[0], 255)] * (SHOWN - len(tiles))
    return contact_sheet(tiles, gap=2)


def _tile(image: Tensor, activation: Tensor, largest: float, size: int) -> Picture:
    """An image with an activation over it, and the outline of what is above half of a scale."""
    small = overlay(resize(image, size), activation, largest=largest)
    return outline(small, activation, largest / 2) if largest > 0 else small


def _save(picture: Picture, path: Path) -> None:
    Image.fromarray(picture).save(path, quality=82, optimize=True)
