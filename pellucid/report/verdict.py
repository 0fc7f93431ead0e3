"""The verdict: three sentences made from the figures."""

from collections.abc import Sequence
from statistics import fmean

from pellucid.report.confusions import Confusion
from pellucid.report.differences import Comparison, groups_of, name_of
from pellucid.report.evaluation import Evaluation, Method
from pellucid.report.glossary import figure
from pellucid.report.results import make_verdict
from pellucid.report.runs import Run
from pellucid.report.tradeoff import STAGE

# What of an explanation is worth a sentence, the most telling first.
_TELLING = (
    "relevance_mass",
    "relevance_mass_parts",
    "insertion_auc",
    "deletion_auc",
    "pointing_game",
)
_SAID = ("accuracy", "location_instability", "part_interpretability")


def three_sentences(
    runs: Sequence[Run],
    confusions: Sequence[Confusion | None],
    evaluations: Sequence[Evaluation | None],
    differences: Sequence[Comparison],
    comparable: bool = True,
) -> list[str]:
    """What the figures say: of the task, of the units, of the explanations.

    Args:
        runs: The runs of the page.
        confusions: Of each run.
        evaluations: Of each run.
        differences: Between groups of runs.
        comparable: Whether figures of the runs can be compared.

    Returns:
        Up to three sentences, plain text; empty without any figure.
    """
    if not comparable:
        alone = [sentence for run in runs for sentence in make_verdict([run])]
        return alone[:3]
    first = make_verdict(runs)
    if not first:
        return []
    if len(runs) > 2:
        first = first[:1] if first[0].startswith("Of ") else [_best_of(runs)]
    second = _confused(runs[0], confusions[0]) if len(runs) == 1 else _intervals(differences)
    third = _explained(runs, evaluations)
    return [sentence for sentence in (*first, second, third) if sentence]


def _best_of(runs: Sequence[Run]) -> str:
    """Where each figure is best among three or more groups of runs."""
    groups = groups_of(runs)
    parts = []
    for name in _SAID:
        known = figure(name)
        if len(groups) > 1:
            found = [(e, group) for group in groups if (e := group.estimate(name))]
            values = [(e.mean, name_of(g)) for e, g in found]
        else:
            values = [
                (v, run.label)
                for run in runs
                if (v := run.metrics.get(f"{STAGE}/{name}")) is not None and v == v
            ]
        if len(values) < 2 or (pick := known.pick()) is None:
            continue
        best = pick(value for value, _ in values)
        winners = [label for value, label in values if value == best]
        if len(winners) == 1:
            parts.append(f"{known.label.lower()} is best in {winners[0]} ({known.write(best)})")
    if not parts:
        return ""
    return f"Of {len(runs)} runs on the test split, {_join(parts)}."


def _confused(run: Run, confusion: Confusion | None) -> str:
    if confusion is None:
        return ""
    if not confusion.pairs:
        return f"It takes no class for another on the {confusion.total:,} images tested."
    worst = confusion.pairs[0]
    share = f"{100 * worst.share:.1f} % of {worst.label}"
    return (
        f"Its most frequent confusion is {worst.label} taken for {worst.predicted} "
        f"({worst.count} image{'s' if worst.count > 1 else ''}, {share})."
    )


def _intervals(differences: Sequence[Comparison]) -> str:
    """Which differences are more than chance."""
    if not differences:
        return ""
    rows = [row for comparison in differences[:1] for row in comparison.rows]
    name, before = differences[0].name, differences[0].first
    if not any(row.interval for row in rows):
        return (
            "Each is one run of a single seed, so none of these differences has an interval; more "
            "seeds would tell them from chance."
        )
    known = [row for row in rows if row.interval]
    sure = [row for row in known if row.judged != "open"]
    if not sure:
        if len(known) < len(rows):
            which = _join([row.figure.label.lower() for row in known[:2]])
            more = f" and {len(known) - 2} more" if len(known) > 2 else ""
            have, hold = ("has an interval", "holds") if len(known) == 1 else ("have one", "hold")
            return (
                f"Of {len(rows)} differences, {len(known)} {have}, that of {which}{more}, and "
                f"{hold} zero; the others, of a single seed each, have none."
            )
        return (
            f"None of the differences between {name} and {before} is more than their 95 % "
            "intervals leave open."
        )
    better = [row for row in sure if row.judged == "better"]
    worse = [row for row in sure if row.judged == "worse"]
    parts = []
    for found, word in ((better, "better"), (worse, "worse")):
        if found:
            labels = [f"{r.figure.label.lower()} ({r.text}, {r.interval})" for r in found[:2]]
            more = f", and {len(found) - 2} more figures" if len(found) > 2 else ""
            parts.append(f"{word} in {_join(labels) if not more else ', '.join(labels)}{more}")
    by = "its 95 % interval" if len(known) == 1 else "their 95 % intervals"
    of = "" if len(known) == len(rows) else "the "
    with_one = "" if len(known) == len(rows) else " that have one"
    return (
        f"By {by}, {name} differs from {before} in {len(sure)} of {of}"
        f"{len(known)} figures{with_one}: {'; '.join(parts)}."
    )


def _explained(runs: Sequence[Run], evaluations: Sequence[Evaluation | None]) -> str:
    if len(runs) == 1 and evaluations[0] is not None:
        return _own_against_others(evaluations[0])
    known = figure(_TELLING[0])
    values: dict[int, float] = {}
    for run, evaluation in zip(runs, evaluations, strict=True):
        if evaluation is None or (own := _of_kind(evaluation, "own")) is None:
            continue
        for cell, column in zip(own.cells, evaluation.columns, strict=True):
            if cell.value is not None and column.label == known.label:
                values[id(run)] = cell.value
    found = []
    for group in groups_of(runs):
        if own_values := [values[id(run)] for run in group.runs if id(run) in values]:
            found.append(f"{known.write(fmean(own_values))} for {name_of(group)}")
    if len(found) < 2:
        return ""
    return (
        f"Of their own explanations' relevance, the share on the object ({known.label.lower()}) is "
        f"{_join(found)}."
    )


def _own_against_others(evaluation: Evaluation) -> str:
    own = _of_kind(evaluation, "own")
    labels = {figure(name).label: name for name in _TELLING}
    for place, column in enumerate(evaluation.columns):
        if column.label not in labels or (pick := column.pick()) is None:
            continue
        values = {
            row.label: v
            for row in evaluation.rows
            if row.kind == "post_hoc" and (v := row.cells[place].value) is not None
        }
        if not values:
            continue
        extreme = pick(values.values())
        best = next(label for label, value in values.items() if value == extreme)
        what = f"{column.label.lower()} ({column.better} is better)"
        random = [r for r in evaluation.rows if r.kind == "baseline"]
        names = _join([r.label.lower() for r in random])
        tail = f"; {names} reach {_join([r.cells[place].text for r in random])}" if random else ""
        text = column.write(values[best])
        if own is None or own.cells[place].value is None:
            return (
                f"Of the methods applied after the fact, {best} has the best {what}: {text}{tail}."
            )
        mine = own.cells[place]
        interval = f" ({mine.interval})" if mine.interval else ""
        return (
            f"The {what} of its own explanation is {mine.text}{interval}, against {text} for "
            f"{best}, the best of {len(values)} methods applied after the fact{tail}."
        )
    return ""


def _of_kind(evaluation: Evaluation, kind: str) -> Method | None:
    return next((row for row in evaluation.rows if row.kind == kind), None)


def _join(parts: Sequence[str]) -> str:
    if len(parts) < 3:
        return " and ".join(parts)
    return f"{', '.join(parts[:-1])}, and {parts[-1]}"
