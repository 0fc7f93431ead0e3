"""The results table of a report and the sentences that sum it up."""

from collections.abc import Sequence
from dataclasses import dataclass

from pellucid.report.comparable import incomparable
from pellucid.report.glossary import Figure, figure
from pellucid.report.map_glossary import MAP_FIGURES
from pellucid.report.runs import Run
from pellucid.report.scores import SCORES, best_of, compared, reached

_STAGES = {
    "test": "Test split",
    "confounded": "Test split, backgrounds as in training",
    "deconfounded": "Test split, random backgrounds",
    "bias": "What the model relies on",
    "all": "All images",
    "val": "Validation split",
    "train": "Training split",
}
_TIMES = "\N{MULTIPLICATION SIGN}"
_HEADLINES = (
    "accuracy",
    "location_instability",
    "part_interpretability",
    "part_purity",
    "part_consistency",
    *(score.name for score in SCORES),
)
_MOST_HEADLINES = 6
_FIRST = (
    *_HEADLINES,
    "dci_completeness",
    "dci_informativeness",
    "sap",
    "modularity",
    "explicitness",
    "irs",
    "total_correlation",
    "code_error_majority",
    "part_stability",
    "network_dissection",
    "detectors",
    "category_purity",
    "category_balance",
    "decision_sparsity",
    *MAP_FIGURES,
)
"""Figures in the order of the tables, before all others."""


@dataclass(frozen=True)
class Cell:
    """The value of one run."""

    text: str
    best: bool = False
    ratio: str = ""
    """Relative to the first run."""
    spread: str = ""
    """Standard deviation over resamplings of the images; empty where it was not measured."""


@dataclass(frozen=True)
class Row:
    """One metric of one stage."""

    figure: Figure
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Stage:
    """The metrics of one stage."""

    name: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Headline:
    """A figure large at the top."""

    label: str
    value: str
    note: str
    good: bool | None
    """Whether it is better than the first run's; None: not to be judged."""
    definition: str = ""


def make_table(runs: Sequence[Run], comparable: bool = True) -> list[Stage]:
    """The metrics of all runs by stage, the test split first.

    Args:
        runs: The runs, one column each.
        comparable: Whether to judge them against each other.
    """
    keys = sorted({key for run in runs for key in run.metrics}, key=_rank)
    stages: dict[str, list[Row]] = {}
    for key in keys:
        name = key.split("/", 1)[0] if "/" in key else ""
        stages.setdefault(name, []).append(_row(key, runs, comparable))
    return [Stage(_STAGES.get(n, n.capitalize() or "Other"), tuple(r)) for n, r in stages.items()]


def _rank(key: str) -> tuple[int, int, str]:
    stage, _, name = key.rpartition("/")
    stages, first = list(_STAGES), list(_FIRST)
    return (
        stages.index(stage) if stage in stages else len(stages),
        first.index(name) if name in first else len(first),
        key,
    )


def _row(key: str, runs: Sequence[Run], comparable: bool) -> Row:
    known = figure(key)
    compares = comparable and known.comparable
    values = [run.metrics.get(key) for run in runs]
    there = [value for value in values if value is not None and value == value]
    pick = known.pick() if compares else None
    best = pick(there) if pick is not None and len(set(there)) > 1 else None
    first = values[0]
    cells = []
    for number, value in enumerate(values):
        ratio = ""
        if number and compares and value is not None and value >= 0 and first:
            times = value / first
            # Two digits would call 0.996 the same.
            ratio = f"{_TIMES} {times:.{3 if 0.95 < times < 1.05 else 2}f}" if first > 0 else ""
        spread = runs[number].spread.get(key)
        cells.append(
            Cell(
                known.write(value),
                value is not None and value == best,
                ratio,
                "" if spread is None else f"± {known.write(spread)} over resamplings",
            )
        )
    return Row(known, tuple(cells))


def make_skipped(runs: Sequence[Run]) -> list[tuple[str, str, str]]:
    """Metrics that were not built: name, reason, and the runs, empty where it holds for all."""
    found: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        for name, reason in run.skipped.items():
            found.setdefault((figure(name).label, reason), []).append(run.label)
    return [
        (name, reason, "" if len(labels) == len(runs) else ", ".join(labels))
        for (name, reason), labels in found.items()
    ]


def make_headlines(runs: Sequence[Run], comparable: bool = True) -> list[Headline]:
    """The figures for the top of the page: of a single run, or of the second against the first."""
    if len(runs) > 2 or not comparable or (stage := _stage(runs)) is None:
        return []
    run, first = runs[-1], runs[0]
    found = []
    for name in _HEADLINES:
        value, before = _get(run, stage, name), _get(first, stage, name)
        if value is None:
            continue
        known = figure(name)
        note, good = known.unit, None
        if run is not first and before is not None:
            note = f"{known.write(before)} for {first.label}"
            better = known.pick()
            good = better(value, before) == value if better and value != before else None
        label = f"{known.label} {known.arrow}"
        found.append(Headline(label, known.write(value), note, good, known.definition))
    return found[:_MOST_HEADLINES]


def text_table(runs: Sequence[Run]) -> str:
    """The headline figures of all runs side by side, with ratios to the first run, as text.

    Args:
        runs: As :func:`pellucid.report.runs.read_runs` gives them.

    Returns:
        A table of the test split and one of all images; empty without figures.
    """
    labels = {figure(name).label for name in _FIRST}
    tables: list[list[list[str]]] = []
    for stage in make_table(runs, not incomparable(runs)):
        rows = [row for row in stage.rows if row.figure.label in labels]
        if stage.name in (_STAGES["test"], _STAGES["all"]) and rows:
            head = [stage.name, *(run.label for run in runs)]
            tables.append([head, *(_text_row(row) for row in rows)])
    columns = list(zip(*(row for table in tables for row in table), strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    return "\n\n".join(
        "\n".join(
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
            for row in table
        )
        for table in tables
    )


def _text_row(row: Row) -> list[str]:
    # Not every terminal has the page's arrows.
    better = row.figure.better
    first = f"{row.figure.label} ({better} is better)" if better else row.figure.label
    return [first, *(f"{c.text} ({c.ratio})" if c.ratio else c.text for c in row.cells)]


def make_verdict(runs: Sequence[Run]) -> list[str]:
    """Sentences that say what the figures mean, plain text; empty without figures."""
    stage = _stage(runs)
    if stage is None:
        return []
    first, *others = runs
    if not others:
        return [_single(first, stage)]
    best = best_of(runs, stage)
    summary = [f"Of {len(runs)} runs on {_where(stage)}, {_join(best)}."] if best else []
    return summary + [_compare(first, other, stage) for other in others]


def _stage(runs: Sequence[Run]) -> str | None:
    """The first stage in which every run has a figure worth a sentence."""
    for stage in ("test", "all", "val"):
        if all(any(_get(run, stage, name) is not None for name in _HEADLINES) for run in runs):
            return stage
    return None


def _get(run: Run, stage: str, name: str) -> float | None:
    """A figure; None where it is missing or not a number."""
    value = run.metrics.get(f"{stage}/{name}")
    return None if value is None or value != value else value


def _where(stage: str) -> str:
    return {"test": "the test split", "all": "all images", "val": "the validation split"}[stage]


def _single(run: Run, stage: str) -> str:
    parts = []
    scores = reached(run, stage)
    value = _get(run, stage, "accuracy")
    if value is not None:
        parts.append(f"{run.label} is right on {100 * value:.1f} % of the images")
    elif not scores:
        parts.append(f"The accuracy of {run.label} was not measured")
    value = _get(run, stage, "location_instability")
    units = f"its {len(run.units)} units" if run.units else "its units"
    if value is not None:
        parts.append(
            f"the place where {units} fire varies by {value:.3f} of the image diagonal "
            "against the landmarks"
        )
    value = _get(run, stage, "part_interpretability")
    if value is not None:
        parts.append(f"a unit hits its best part on {100 * value:.1f} % of them")
    if scores:
        parts.append(f"{'it' if parts else run.label} has {_join(scores)}")
    return f"On {_where(stage)}, {_join(parts)}."


def _compare(first: Run, other: Run, stage: str) -> str:
    parts = []
    for name in ("location_instability", "part_interpretability"):
        value, before = _get(other, stage, name), _get(first, stage, name)
        if value is None or before is None or before <= 0:
            continue
        known = figure(name)
        better = known.pick()
        judged = "better" if better and better(value, before) == value else "worse"
        judged = "equal" if value == before else judged
        parts.append(
            f"its units' {known.label.lower()} is {value / before:.2f} times as large "
            f"({value:.3f} against {before:.3f}: {judged})"
        )
    value, before = _get(other, stage, "accuracy"), _get(first, stage, "accuracy")
    if value is not None and before is not None:
        points = 100 * (value - before)
        way = "higher" if points > 0 else "lower"
        change = "the same" if abs(points) < 0.05 else f"{abs(points):.1f} points {way}"
        parts.append(f"its accuracy is {change} ({100 * value:.1f} % against {100 * before:.1f} %)")
    parts += compared(first, other, stage)
    if not parts:
        return f"{first.label} and {other.label} have no figure in common on {_where(stage)}."
    return f"{other.label} compared with {first.label} on {_where(stage)}: {_join(parts)}."


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])}, and {parts[-1]}"
