"""By how much runs differ, with intervals."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.report.checked import number, sequence
from pellucid.report.glossary import FIGURES, Figure, figure
from pellucid.report.runs import Run
from pellucid.report.tradeoff import STAGE, Group, group_runs

_SAMPLES = 2000
# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_NORMAL = 1.960
_NO_DIFFERENCE = {"dead_units"}


@dataclass(frozen=True)
class Difference:
    """One figure of two groups of runs."""

    figure: Figure
    before: str
    after: str
    text: str
    """The difference with its sign."""
    interval: str
    """As text; empty where there is none."""
    judged: str
    """``better``, ``worse``, or ``open`` where zero lies in the interval or there is none."""
    how: str
    """Over what the interval was taken, or why there is none."""


@dataclass(frozen=True)
class Comparison:
    """One group of runs against the first."""

    name: str
    first: str
    rows: tuple[Difference, ...]


def make_differences(runs: Sequence[Run]) -> list[Comparison]:
    """Every group of runs of equal settings against the first such group.

    Args:
        runs: Runs that can be compared, two or more.
    """
    groups = groups_of(runs)
    if len(groups) < 2:
        return []
    first, *others = groups
    names = [
        name
        for name in FIGURES
        if figure(name).better is not None
        and figure(name).comparable
        and name not in _NO_DIFFERENCE
        and _values(first, name)
    ]
    found = []
    for other in others:
        rows = [_difference(first, other, name) for name in names if _values(other, name)]
        if rows:
            found.append(Comparison(name_of(other), name_of(first), tuple(rows)))
    return found


def groups_of(runs: Sequence[Run]) -> list[Group]:
    """Runs of equal settings together; a run whose settings cannot be read stands alone."""
    groups = group_runs(runs)
    inside = {id(run) for group in groups for run in group.runs}
    settings = {id(r) for r in runs if group_runs([r])}
    for run in runs:
        # Of the same run given twice only one counts, and is in a group already.
        if id(run) not in inside and id(run) not in settings:
            groups.append(Group(len(groups), {}, [run]))
    place = {id(run): number_ for number_, run in enumerate(runs)}
    return sorted(groups, key=lambda group: min(place[id(run)] for run in group.runs))


def name_of(group: Group) -> str:
    """The experiment, or the one run's own name."""
    if len(group.runs) == 1:
        return group.runs[0].label
    return f"{_common(group)} ({len(group.runs)} seeds)"


def _common(group: Group) -> str:
    """What the names of a group's experiments begin with, where they differ in their seeds."""
    names = {run.experiment for run in group.runs}
    if len(names) == 1:
        return names.pop()
    shared = "".join(
        letters[0] for letters in _while_equal(zip(*sorted(names), strict=False))
    ).rstrip("-_ .0123456789")
    return shared.removesuffix("seed").rstrip("-_ .") or group.runs[0].experiment


def _while_equal(columns: zip) -> list[tuple[str, ...]]:  # type: ignore[type-arg]
    found = []
    for letters in columns:
        if len(set(letters)) > 1:
            break
        found.append(letters)
    return found


def _values(group: Group, name: str) -> dict[str, float]:
    """A figure of the test split by seed."""
    return {
        str(run.results.get("seed", run.path)): value
        for run in group.runs
        if math.isfinite(value := run.metrics.get(f"{STAGE}/{name}", math.nan))
    }


def _difference(first: Group, other: Group, name: str) -> Difference:
    known = figure(name)
    a, b = _values(first, name), _values(other, name)
    mean = statistics.fmean(b.values()) - statistics.fmean(a.values())
    half, how = seed_interval(a, b)
    low, high = (mean - half, mean + half) if half is not None else (None, None)
    if half is None and name == "accuracy":
        pair = paired_bootstrap(first.runs[0], other.runs[0])
        if pair is not None:
            low, high, how = *pair, "over the test images, paired"
    judged = "open"
    if low is not None and high is not None and not low <= 0 <= high:
        judged = "better" if (mean > 0) == (known.better == "higher") else "worse"
    interval = "" if low is None else f"{_signed(low, known)} to {_signed(high, known)}"
    return Difference(
        figure=known,
        before=known.write(statistics.fmean(a.values())),
        after=known.write(statistics.fmean(b.values())),
        text=_signed(mean, known),
        interval=interval,
        judged=judged,
        how=how,
    )


def seed_interval(a: dict[str, float], b: dict[str, float]) -> tuple[float | None, str]:
    """Half the width of the 95 % interval of ``mean(b) - mean(a)`` over seeds, and its kind.

    Args:
        a: Values of the first by seed.
        b: Values of the second by seed.
    """
    if set(a) == set(b) and len(a) > 1:
        gaps = [b[seed] - a[seed] for seed in a]
        error = statistics.stdev(gaps) / math.sqrt(len(gaps))
        return _t(len(gaps) - 1) * error, f"over {len(gaps)} seeds, paired"
    if len(a) > 1 and len(b) > 1:
        parts = [statistics.variance(v.values()) / len(v) for v in (a, b)]
        if (total := sum(parts)) == 0:
            return 0.0, f"over {len(a)} and {len(b)} seeds"
        # Welch and Satterthwaite; rounded down, which widens the interval.
        freedom = total**2 / sum(p**2 / (len(v) - 1) for p, v in zip(parts, (a, b), strict=True))
        return _t(int(freedom)) * math.sqrt(total), f"over {len(a)} and {len(b)} seeds"
    return None, "a single seed: no interval"


def _t(freedom: int) -> float:
    return _T[max(freedom, 1) - 1] if freedom <= len(_T) else _NORMAL


def paired_bootstrap(first: Run, other: Run) -> tuple[float, float] | None:
    """The 95 % interval of the difference in accuracy over the same test images, in fractions.

    Returns:
        None where not both runs kept their predictions of the same images.
    """
    pairs = [_right(run) for run in (first, other)]
    if pairs[0] is None or pairs[1] is None or pairs[0].keys() != pairs[1].keys():
        return None
    gaps = np.array([pairs[1][i] - pairs[0][i] for i in pairs[0]], dtype=np.float64)
    # The sum of a bootstrap sample depends only on how many gaps of each size it drew.
    sizes, counts = np.unique(gaps, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(gaps), counts / len(gaps), _SAMPLES)
    low, high = np.quantile(drawn @ sizes / len(gaps), (0.025, 0.975))
    return float(low), float(high)


def _right(run: Run) -> dict[tuple[float, float], int] | None:
    """By index of the image and its label, whether it was classified rightly."""
    columns = [sequence(run.confusion.get(key)) for key in ("index", "label", "predicted")]
    if not columns[0] or len({len(column) for column in columns}) > 1:
        return None
    found = {}
    for row in zip(*columns, strict=True):
        index, label, predicted = (number(value) for value in row)
        if index is None or label is None or predicted is None:
            return None
        found[index, label] = int(label == predicted)
    return found


def _signed(value: float | None, known: Figure) -> str:
    if value is None:
        return ""
    size = f"{100 * abs(value):.2f} points" if known.percent else known.write(abs(value))
    sign = "+" if value > 0 else "\N{MINUS SIGN}" if value < 0 else "\N{PLUS-MINUS SIGN}"
    return f"{sign}{size}"
