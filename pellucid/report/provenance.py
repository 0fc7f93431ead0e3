"""Where a run comes from: the rows of a table."""

import json
from collections.abc import Sequence
from typing import Any

from pellucid.report.runs import Run

_ELSEWHERE = {"metrics", "skipped", "experiment", "model", "data"}


def make_provenance(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Rows of a table: a name and one text per run."""
    columns: list[dict[str, str]] = []
    for run in runs:
        column = {"run directory": run.path.name}
        for key, value in run.results.items():
            if key in _ELSEWHERE:
                continue
            label = key.replace("_", " ")
            if isinstance(value, dict):
                column |= {f"{label}: {inner}": _text(v) for inner, v in value.items()}
            else:
                column[label] = _text(value)
        columns.append(column)
    names = dict.fromkeys(name for column in columns for name in column)
    return [(name, [column.get(name, "—") for column in columns]) for name in names]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) >= 1e5 else str(value)
    if value is None:
        return "—"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
