"""What a finished run hands to its dashboards: tables with pictures, best figures, the report."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pytorch_lightning.loggers import Logger
from pytorch_lightning.loggers.logger import DummyLogger

from pellucid.logging import RunCSVLogger
from pellucid.report.explanation_table import with_randomised

# Pictures of more units than these make a dashboard slow.
MOST_PICTURES = 64
_SIMPLE = (str, int, float, bool)

Picture = npt.NDArray[np.uint8]


def hand_over(
    loggers: Sequence[Logger],
    directory: Path,
    metrics: Mapping[str, float],
    settings: Mapping[str, Any],
    best: Mapping[str, float] | None = None,
) -> None:
    """Give a finished run's tables, pictures, best figures and report to its loggers.

    Weights & Biases gets tables with pictures, every figure in the summary, so that runs sort by
    them, and the report as an artifact; TensorBoard gets tables as text, pictures, and the figures
    beside the settings (its tab HPARAMS). A file that is not there is left out.

    Args:
        loggers: Of the run, on its first process.
        directory: The run, in which ``units.json``, ``explanations.json`` and ``report.html`` are.
        metrics: All figures by ``stage/name``; those that are not finite are left out.
        settings: Hyper-parameters by name.
        best: The best figure of validation by name, as ``val/accuracy``.
    """
    finite = {key: float(v) for key, v in metrics.items() if math.isfinite(v)}
    finite |= {f"best/{k}": float(v) for k, v in (best or {}).items() if math.isfinite(v)}
    tables = {
        "units": units_table(directory),
        "explanations": explanations_table(directory),
    }
    for logger in loggers:
        # Lightning's dummy, in a fast_dev_run, says yes to whatever it is asked.
        if isinstance(logger, RunCSVLogger | DummyLogger):
            continue
        for name, (columns, rows) in tables.items():
            if rows:
                _give_table(logger, name, columns, rows)
        _give_pictures(logger, directory)
        _give_figures(logger, finite, settings)
        _give_report(logger, directory / "report.html")


def hand_over_explanations(loggers: Sequence[Logger], directory: Path) -> None:
    """Give what was found of a finished run's explanations to loggers, and the page made anew.

    Args:
        loggers: As :func:`pellucid.logging.reopen_loggers` makes them.
        directory: The run.
    """
    columns, rows = explanations_table(directory)
    for logger in loggers:
        if rows:
            _give_table(logger, "explanations", columns, rows)
        _give_pictures(logger, directory)
        _give_report(logger, directory / "report.html")


def units_table(directory: Path) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of ``units.json``: a unit's name, its picture as (H, W, 3) uint8, figures.

    Args:
        directory: The run.
    """
    entries = [entry for entry in _read(directory / "units.json", list) if isinstance(entry, dict)]
    # Text and numbers; lists and objects have no place in a cell.
    keys = dict.fromkeys(
        key
        for entry in entries
        for key, value in entry.items()
        if key not in ("unit", "images", "position_image") and isinstance(value, _SIMPLE)
    )
    rows = []
    for place, entry in enumerate(entries):
        drawn = _picture(directory, entry.get("images")) if place < MOST_PICTURES else None
        values = [v if isinstance(v := entry.get(key), _SIMPLE) else None for key in keys]
        rows.append([entry.get("unit", place), drawn, *values])
    return ["unit", "strongest images", *keys], rows


def explanations_table(directory: Path) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the evaluation table in ``explanations.json``, with its intervals.

    Args:
        directory: The run.
    """
    content = _read(directory / "explanations.json", dict)
    found = content.get("columns")
    keys = [
        str(column["key"])
        for column in (found if isinstance(found, list) else [])
        if isinstance(column, dict) and "key" in column
    ]
    columns = ["method", "kind", *(f"{k}{end}" for k in keys for end in ("", " low", " high"))]
    rows = []
    given = content.get("rows")
    known = [row for row in (given if isinstance(given, list) else []) if isinstance(row, dict)]
    for row in with_randomised(known):
        cells = row.get("cells")
        if not isinstance(cells, dict):
            continue
        values: list[Any] = [str(row.get("label", row.get("method", ""))), str(row.get("kind", ""))]
        for key in keys:
            cell = cells.get(key)
            cell = cell if isinstance(cell, dict) else {}
            values += [_number(cell.get(name)) for name in ("mean", "low", "high")]
        rows.append(values)
    return columns, rows


def best_of_history(path: Path, modes: Mapping[str, str]) -> dict[str, float]:
    """The best value of each figure of validation in ``metrics.csv``.

    Args:
        path: The file.
        modes: ``max`` or ``min`` by key, as ``val/accuracy``; other figures are left out.
    """
    found: dict[str, list[float]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for key in modes:
                    value = _number(row.get(key))
                    if value is not None:
                        found.setdefault(key, []).append(value)
    except (OSError, ValueError, csv.Error):
        return {}
    return {key: (max if modes[key] == "max" else min)(v) for key, v in found.items()}


def _give_table(logger: Logger, name: str, columns: list[str], rows: list[list[Any]]) -> None:
    key = f"tables/{name}"
    if callable(give := getattr(logger, "log_table", None)):
        import wandb

        cells = [
            [
                wandb.Image(v, caption=f"{name.removesuffix('s')} {r[0]}") if _is_picture(v) else v
                for v in r
            ]
            for r in rows
        ]
        give(key, columns=columns, data=cells)
    elif callable(add := getattr(getattr(logger, "experiment", None), "add_text", None)):
        add(key, _markdown(columns, rows), 0)


def _give_pictures(logger: Logger, directory: Path) -> None:
    """The explained images, each with its explanations beside it."""
    content = _read(directory / "explanations.json", dict)
    given = content.get("shown")
    for entry in given if isinstance(given, list) else []:
        if not isinstance(entry, dict):
            continue
        overlays = entry.get("overlays")
        found = [("image", _picture(directory, entry.get("image")))]
        for overlay in overlays if isinstance(overlays, list) else []:
            if isinstance(overlay, dict):
                label = str(overlay.get("label", ""))
                found.append((label, _picture(directory, overlay.get("file"))))
        known = [(label, picture) for label, picture in found if picture is not None]
        key = f"explanations/{entry.get('index', '')}"
        if not known:
            continue
        if callable(give := getattr(logger, "log_image", None)):
            name = f"{entry.get('label', '')}, predicted {entry.get('predicted', '')}"
            captions = [f"{label}: {name}" for label, _ in known]
            give(key, [picture for _, picture in known], caption=captions)
        elif callable(add := getattr(getattr(logger, "experiment", None), "add_image", None)):
            for label, picture in known:
                add(f"{key}/{label}", picture, 0, dataformats="HWC")


def _give_figures(logger: Logger, finite: dict[str, float], settings: Mapping[str, Any]) -> None:
    experiment = getattr(logger, "experiment", None)
    summary = getattr(experiment, "summary", None)
    if callable(update := getattr(summary, "update", None)):
        update(finite)
    elif callable(add := getattr(experiment, "add_hparams", None)):
        plain = {k: v if isinstance(v, _SIMPLE) else str(v) for k, v in settings.items()}
        # Into the run's own file: by default each call makes a run of its own beside it.
        add(plain, finite, run_name=".")


def _give_report(logger: Logger, report: Path) -> None:
    experiment = getattr(logger, "experiment", None)
    give = getattr(experiment, "log_artifact", None)
    if not report.is_file() or not callable(give):
        return
    import wandb

    identity = getattr(experiment, "id", None) or "run"
    artifact = wandb.Artifact(f"report-{identity}", type="report")
    artifact.add_file(str(report))
    give(artifact)


def _markdown(columns: list[str], rows: list[list[Any]]) -> str:
    kept = [n for n in range(len(columns)) if not any(_is_picture(row[n]) for row in rows)]
    lines = [[columns[n] for n in kept], ["---"] * len(kept)]
    lines += [[_write(row[n]) for n in kept] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _write(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _is_picture(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def _number(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def _read(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return kind()
    return content if isinstance(content, kind) else kind()


def _picture(directory: Path, name: Any) -> Picture | None:
    if not isinstance(name, str):
        return None
    path = (directory / name).resolve()
    try:
        if not path.is_relative_to(directory.resolve()):
            return None
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
