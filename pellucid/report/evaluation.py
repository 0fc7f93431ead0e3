"""The evaluation of explanations as the page shows it: a table, agreement, and true part effects.

Everything is read from ``explanations.json``, of which nothing is taken on trust.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pellucid.report.checked import mapping, number, records, sequence, text
from pellucid.report.glossary import Figure, figure
from pellucid.report.runs import Run

VERSION = 1

# The dots of part effects, in units of the drawing.
WIDTH, ROW = 360, 24
LEFT, RIGHT = 132, 54
_LONGEST_NAME = 20
_KINDS = {"own": "the model itself", "post_hoc": "after the fact", "baseline": "baseline"}


@dataclass(frozen=True)
class Cell:
    """One figure of one method."""

    text: str
    interval: str
    """The 95 % bootstrap interval as text; empty where there is none."""
    value: float | None
    randomised: str
    """The same figure of the method on a network with random weights; empty if not measured."""
    count: str = ""
    """For how many images it is defined; empty where it is for all."""
    best: bool = False


@dataclass(frozen=True)
class Method:
    """One row of the table."""

    label: str
    kind: str
    kind_text: str
    cells: tuple[Cell, ...]
    note: str


@dataclass(frozen=True)
class Evaluation:
    """The table of one run."""

    columns: tuple[Figure, ...]
    rows: tuple[Method, ...]
    images: str
    """On what it was measured, as a sentence."""
    baselines: bool
    """Whether baselines are among the rows."""


@dataclass(frozen=True)
class Agreement:
    """Rank correlations between methods."""

    names: tuple[str, ...]
    rows: tuple[tuple[tuple[str, float], ...], ...]
    """Of each pair: the correlation as text, and how strongly to colour it, in [-1, 1]."""


@dataclass(frozen=True)
class Dot:
    """The correlation of one method with true effects, in the drawing."""

    name: str
    title: str
    kind: str
    y: float
    x: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class PartEffects:
    """How well methods know what removing a part does."""

    dots: tuple[Dot, ...]
    zero: float
    """Where a correlation of zero is drawn."""
    effects: tuple[tuple[str, str, float], ...]
    """Part, true effect as text, and the bar's length in per cent."""
    effect_of: str
    """Of what the effects are a fall."""


def check_version(run: Run) -> None:
    """Note on the page that the file is of another version than is read here."""
    found = run.explanations.get("version")
    if run.explanations and found != VERSION:
        run.problems.append(
            f"explanations.json is of version {found!r}, and this Pellucid reads version "
            f"{VERSION}: what it does not know of it is left out; `pellucid evaluate` writes it "
            "again."
        )


def make_evaluation(run: Run) -> Evaluation | None:
    """The table of a run's explanations; None where there is none, or nothing in it."""
    keys = {
        key: _column(column, key)
        for column in records(run.explanations.get("columns"))
        if (key := text(column.get("key")))
    }
    rows = [_method(run, row, keys) for row in records(run.explanations.get("rows"))]
    if run.explanations and not (keys and rows):
        run.problems.append("explanations.json has no table of methods and metrics.")
        return None
    if not rows:
        return None
    # The clock is a column like any other.
    columns = [*keys.values(), figure("seconds_per_image")]
    return Evaluation(
        tuple(columns),
        tuple(_mark(rows, columns)),
        _images(run),
        any(row.kind == "baseline" for row in rows),
    )


def _column(column: dict[str, Any], key: str) -> Figure:
    """The figure of a column: its direction and unit as the file says, its definition as we do."""
    higher = column.get("higher_is_better")
    better = {True: "higher", False: "lower"}.get(higher) if isinstance(higher, bool) else None
    known = figure(key)
    return replace(
        known,
        better=better if "higher_is_better" in column else known.better,  # type: ignore[arg-type]
        unit=known.unit or text(column.get("unit")),
        definition=known.definition or text(column.get("definition")),
    )


def _method(run: Run, row: dict[str, Any], keys: dict[str, Figure]) -> Method:
    cells, randomised = mapping(row.get("cells")), mapping(row.get("randomised"))
    images = number(run.explanations.get("images"))
    found = [
        _cell(cells.get(key), randomised.get(key), known, images) for key, known in keys.items()
    ]
    seconds = number(row.get("seconds_per_image"))
    found.append(Cell(figure("seconds_per_image").write(seconds), "", seconds, ""))
    kind = text(row.get("kind"))
    label = text(row.get("label")) or text(row.get("method")) or "unnamed method"
    kind = kind if kind in _KINDS else "post_hoc"
    return Method(label, kind, _KINDS[kind], tuple(found), text(row.get("note")))


def _cell(cell: Any, randomised: Any, known: Figure, images: float | None) -> Cell:
    mean = _mean(cell)
    low, high = (number(mapping(cell).get(key)) for key in ("low", "high"))
    interval = "" if low is None or high is None else f"{known.write(low)} to {known.write(high)}"
    other = _mean(randomised)
    count = number(mapping(cell).get("count"))
    fewer = mean is not None and count is not None and images is not None and count < images
    return Cell(
        known.write(mean),
        interval,
        mean,
        "" if other is None else known.write(other),
        count=f"{count:.0f} image{'s' * (count != 1)}" if fewer else "",
    )


def _mean(cell: Any) -> float | None:
    return number(mapping(cell).get("mean")) if isinstance(cell, dict) else number(cell)


def _mark(rows: Sequence[Method], columns: Sequence[Figure]) -> list[Method]:
    """The best figure of each column marked, among what explains: a baseline wins nothing."""
    marked = list(rows)
    for place, known in enumerate(columns):
        judged = [n for n, row in enumerate(rows) if row.kind != "baseline"]
        values = {n: v for n in judged if (v := rows[n].cells[place].value) is not None}
        if not known.comparable or (pick := known.pick()) is None or len(set(values.values())) < 2:
            continue
        best = pick(values.values())
        for n in (n for n, value in values.items() if value == best):
            cells = list(marked[n].cells)
            cells[place] = replace(cells[place], best=True)
            marked[n] = replace(marked[n], cells=tuple(cells))
    return marked


def _images(run: Run) -> str:
    content = run.explanations
    count, split = number(content.get("images")), text(content.get("split"))
    target = text(content.get("target")) or "predicted class"
    parts = [f"{count:.0f} images" if count else "Images"]
    if split:
        parts.append(f"of the {split} split")
    parts.append(f"(explained: the {target})")
    if (seconds := number(content.get("seconds"))) is not None:
        parts.append(f"in {seconds:.0f} seconds")
    return f"{' '.join(parts)}."


def make_agreement_of_methods(run: Run) -> Agreement | None:
    """How far methods rank the places of an image alike; None where that was not measured."""
    found = mapping(run.explanations.get("agreement"))
    names = [text(name) for name in sequence(found.get("methods"))]
    rows = [sequence(row) for row in sequence(found.get("rank_correlation"))]
    if not found:
        return None
    if len(names) < 2 or len(rows) != len(names) or any(len(row) != len(names) for row in rows):
        run.problems.append("explanations.json: the table of agreement is not square; left out.")
        return None
    labels = _labels(run)
    cells = [[number(value) for value in row] for row in rows]
    return Agreement(
        tuple(labels.get(name, name) for name in names),
        tuple(
            tuple(
                ("—" if v is None else f"{v + 0.0:.2f}", max(min(v or 0.0, 1.0), -1.0)) for v in row
            )
            for row in cells
        ),
    )


def make_part_effects(run: Run) -> PartEffects | None:
    """What methods say of parts against what removing them does; None where not measured."""
    found = mapping(run.explanations.get("part_effects"))
    labels, rows = _labels(run), []
    kinds = {r.get("method"): text(r.get("kind")) for r in records(run.explanations.get("rows"))}
    for row in records(found.get("rows")):
        cell = mapping(row.get("correlation"))
        if (mean := number(cell.get("mean"))) is not None:
            name = text(row.get("method"))
            low, high = number(cell.get("low")), number(cell.get("high"))
            rows.append((labels.get(name, name), kinds.get(name, ""), mean, low, high))
    if not rows:
        return None
    rows.sort(key=lambda row: -row[2])
    effects = {
        k: v for k, x in mapping(found.get("true_effect")).items() if (v := number(x)) is not None
    }
    largest = max((abs(value) for value in effects.values()), default=0.0) or 1.0
    return PartEffects(
        tuple(_dot(place, *row) for place, row in enumerate(rows)),
        _x(0.0),
        tuple(
            (name, f"{value + 0.0:.3g}", 100 * abs(value) / largest)
            for name, value in sorted(effects.items(), key=lambda item: -item[1])
        ),
        text(found.get("true_effect_unit")) or "score",
    )


def _dot(
    place: int, name: str, kind: str, mean: float, low: float | None, high: float | None
) -> Dot:
    known = low is not None and high is not None
    interval = f" ({low:.2f} to {high:.2f})" if known else ""
    return Dot(
        name=name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…",
        title=f"{name}: {mean:.2f}{interval}",
        kind=kind,
        y=(place + 0.5) * ROW,
        x=_x(mean),
        low=_x(low if known and low is not None else mean),
        high=_x(high if known and high is not None else mean),
        text=f"{mean + 0.0:.2f}",
    )


def _x(correlation: float) -> float:
    share = (min(max(correlation, -1.0), 1.0) + 1) / 2
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _labels(run: Run) -> dict[str, str]:
    """Names of methods for people, by the names in the file."""
    return {
        text(row.get("method")): text(row.get("label"))
        for row in records(run.explanations.get("rows"))
        if text(row.get("label"))
    }


def make_left_out(run: Run) -> list[tuple[str, str]]:
    """What was not measured of explanations, with the reason."""
    skipped = mapping(run.explanations.get("skipped"))
    return [(figure(name).label, text(why) or str(why)) for name, why in skipped.items()]
