"""The evaluation of explanations as text."""

from collections.abc import Mapping, Sequence
from typing import Any

_ARROWS = {True: "↑", False: "↓", None: ""}
_UNIT_NAMES = {"": "0 to 1"}
_PARTS_KEY = "part_effects"


def text_evaluation(evaluation: Mapping[str, Any], width: int = 100) -> str:
    """A table of methods by metrics, cut into as many blocks as the width asks for.

    Args:
        evaluation: As ``explanations.json`` has it.
        width: Characters of a line, at least 60.

    Raises:
        ValueError: The width is below 60.
    """
    if width < 60:
        raise ValueError(f"width must be at least 60 characters, got {width}")
    rows = with_randomised(evaluation["rows"])
    if not rows:
        return "\n".join(_reasons(evaluation))
    images = evaluation["images"]
    columns = [_column(column, rows, images) for column in evaluation["columns"]]
    if evaluation["part_effects"] is not None:
        columns.append(_parts_column(evaluation, rows))
    labels = ["", "", "", "", *(row["label"] for row in rows)]
    first = max(len(label) for label in labels) + 2
    lines: list[str] = []
    block = [_padded(labels, first)]
    for column in columns:
        wide = max(len(cell) for cell in column) + 2
        if sum(len(part[0]) for part in block) + wide > width and len(block) > 1:
            lines += [*_joined(block), ""]
            block = [_padded(labels, first)]
        block.append([f"{cell:>{wide}}" for cell in column])
    lines += [*_joined(block), ""]
    target = evaluation["target"]
    lines.append(
        f"{images} images of the {evaluation['split']} split; explained: the {target}. ↑ more is "
        "better, ↓ less is"
    )
    lines.append(
        "better; ± is half of the 95 % bootstrap interval of the mean over images, of n of"
    )
    lines.append("them where a figure is not of all.")
    return "\n".join([*lines, *_reasons(evaluation)])


def with_randomised(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows, and below each method what it reaches on a network that knows nothing.

    Args:
        rows: As ``explanations.json`` has them.
    """
    found: list[Mapping[str, Any]] = []
    for row in rows:
        found.append(row)
        if isinstance(random := row.get("randomised"), dict) and any(random.values()):
            label = f"{row.get('label', '')}, random network"
            found.append({"method": "", "label": label, "kind": "baseline", "cells": random})
    return found


def _column(column: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], images: int) -> list[str]:
    """Four lines of heading and a cell for each row."""
    unit = _UNIT_NAMES.get(column["unit"], column["unit"])
    cells = [_cell(row["cells"].get(column["key"]), images) for row in rows]
    return [*_heading(column["key"], column["higher_is_better"], unit), *cells]


def _parts_column(evaluation: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    found = {row["method"]: row["correlation"] for row in evaluation["part_effects"]["rows"]}
    cells = [_cell(found.get(row["method"]), evaluation["images"]) for row in rows]
    return [*_heading(_PARTS_KEY, True, "rank correlation"), *cells]


def _heading(key: str, higher_is_better: bool | None, unit: str) -> list[str]:
    """Three lines of name and arrow, and one of the unit."""
    words, lines = key.split("_"), [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if len(longer) <= 11 or len(lines) == 3:
            lines[-1] = longer
        else:
            lines.append(word)
    lines[-1] = f"{lines[-1]} {_ARROWS[higher_is_better]}".strip()
    return [*[""] * (3 - len(lines)), *lines, f"({unit})"]


def _cell(cell: Mapping[str, Any] | None, images: int) -> str:
    if cell is None or cell["mean"] is None:
        return "-"
    mean, low, high = cell["mean"], cell["low"], cell["high"]
    of = f" n={cell['count']}" if cell["count"] < images else ""
    if low is None or high is None:
        return f"{_number(mean)}{of}"
    return f"{_number(mean)} ±{_number((high - low) / 2)}{of}"


def _number(value: float) -> str:
    """Two or three digits that count."""
    if value and abs(value) < 0.005:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e+")
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.2g}"


def _padded(labels: Sequence[str], width: int) -> list[str]:
    return [f"{label:<{width}}" for label in labels]


def _joined(block: Sequence[Sequence[str]]) -> list[str]:
    lines = ["".join(parts).rstrip() for parts in zip(*block, strict=True)]
    return [line for line in lines if line]


def _reasons(evaluation: Mapping[str, Any]) -> list[str]:
    """What was left out and why, and what methods have to say."""
    lines = [f"{key}: {reason}" for key, reason in evaluation["skipped"].items()]
    return lines + [f"{row['label']}: {row['note']}" for row in evaluation["rows"] if row["note"]]
