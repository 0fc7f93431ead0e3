"""What a hyper-parameter costs and buys: runs of equal settings as one mean over their seeds."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pellucid.report.glossary import FIGURES, Figure, figure
from pellucid.report.runs import Run
from pellucid.report.settings import (
    Settings,
    describe,
    differing_keys,
    frozen,
    read_settings,
    short,
)

STAGE = "test"
_TASK = "accuracy"
# Figures with a direction that say nothing of how well a model can be understood.
_NO_INTERPRETABILITY = {_TASK, "dead_units"}
# Up to this number, the comparison run by run is easier to read than the one of means.
_FEW_RUNS = 4
TOLD = 4
"""How many interpretability metrics, the best known, the page tells of and draws at once."""


@dataclass(frozen=True)
class Estimate:
    """A figure over seeds."""

    mean: float
    error: float | None
    """Standard error of the mean; None for a single seed."""
    count: int

    def write(self, known: Figure) -> str:
        """Mean and standard error as text."""
        if self.error is None:
            return known.write(self.mean)
        # One digit more than a single value has, so that small errors are none of zero.
        if known.percent:
            return f"{100 * self.mean:.2f} ± {100 * self.error:.2f} %"
        if abs(self.mean) < 10 and not known.whole:
            return f"{self.mean + 0.0:.4f} ± {self.error:.4f}"
        return f"{known.write(self.mean)} ± {self.error:.2g}"


@dataclass
class Group:
    """Runs of equal settings that differ in their seeds."""

    number: int
    """Place among all groups, which gives its colour."""
    settings: Settings
    runs: list[Run] = field(default_factory=list)
    label: str = ""

    @property
    def experiment(self) -> str:
        """Name of the experiment of its first run."""
        return self.runs[0].experiment

    def estimate(self, name: str) -> Estimate | None:
        """A figure of the test split over the seeds; None where no run has it.

        Args:
            name: As ``accuracy``.
        """
        found = [run.metrics.get(f"{STAGE}/{name}", math.nan) for run in self.runs]
        return estimate(value for value in found if math.isfinite(value))


@dataclass(frozen=True)
class Line:
    """Groups that differ in the one parameter, by its value."""

    label: str
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Tradeoff:
    """Accuracy against interpretability over one hyper-parameter."""

    parameter: str
    """Its key, as ``model.filter_loss_weight``."""
    lines: tuple[Line, ...]
    references: tuple[Group, ...]
    """Groups that differ from every line in other settings, as a plain twin does."""
    metrics: tuple[str, ...]
    """Interpretability metrics that were measured, as ``location_instability``."""

    @property
    def name(self) -> str:
        """The parameter in words."""
        return short(self.parameter).replace("_", " ")

    @property
    def groups(self) -> list[Group]:
        """All groups: line by line, then the references."""
        return [group for line in self.lines for group in line.groups] + list(self.references)

    def name_of(self, group: Group) -> str:
        """A group's name outside of the picture, where its line does not stand beside it."""
        for line in self.lines:
            if any(member is group for member in line.groups):
                return f"{line.label}, {short(self.parameter)} {group.label}"
        return group.label


def estimate(values: Iterable[float]) -> Estimate | None:
    """Mean and standard error of the mean, s / sqrt(n) with s over n - 1; None without values."""
    found = list(values)
    if not found:
        return None
    error = statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else None
    return Estimate(statistics.fmean(found), error, len(found))


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Runs of equal settings together, in the order in which they come.

    Of two runs with equal settings and equal seed the later one counts: the same run twice says
    nothing about the spread over seeds. Runs without a readable config are left out.
    """
    groups: dict[frozenset[tuple[str, str]], Group] = {}
    seeds: dict[tuple[int, str], Run] = {}
    for run in runs:
        if not (settings := read_settings(run.config)):
            continue
        group = groups.setdefault(frozen(settings), Group(len(groups), settings))
        seed = run.results.get("seed")
        seeds[group.number, str(run.path if seed is None else seed)] = run
    ordered = list(groups.values())
    for (number, _), run in seeds.items():
        ordered[number].runs.append(run)
    return ordered


def find_tradeoff(runs: Sequence[Run]) -> Tradeoff | None:
    """Find the hyper-parameter over which runs on the same data were made.

    It is the number that takes the most values while all else is equal.

    Args:
        runs: As :func:`pellucid.report.runs.read_runs` gives them.

    Returns:
        None where no two runs differ in one number alone, where their data differ, or where the
        test split has no accuracy or no interpretability metric.
    """
    groups = [group for group in group_runs(runs) if group.estimate(_TASK)]
    keys = differing_keys([group.settings for group in groups])
    if any(key.startswith("data.") and key != "data.batch_size" for key in keys):
        return None
    choices = [(key, _classes(groups, key)) for key in keys]
    parameter, classes = max(
        choices, key=lambda choice: max(map(len, choice[1])), default=("", [[]])
    )
    swept = [members for members in classes if len(members) > 1]
    alone = [members[0] for members in classes if len(members) == 1]
    metrics = interpretability_metrics([group for members in swept for group in members])
    if not swept or not metrics:
        return None
    for members in swept:
        members.sort(key=lambda group: float(group.settings[parameter]))
        for group in members:
            group.label = f"{group.settings[parameter]:g}"
    names = _name([members[0] for members in swept] + alone, parameter)
    for group, name in zip(alone, names[len(swept) :], strict=True):
        group.label = name
    lines = [Line(name, tuple(members)) for name, members in zip(names, swept, strict=False)]
    return Tradeoff(parameter, tuple(lines), tuple(alone), metrics)


def _classes(groups: Sequence[Group], key: str) -> list[list[Group]]:
    """Groups that are equal but for one number; a group without it has a class of its own."""
    found: dict[frozenset[tuple[str, str]], list[Group]] = {}
    for group in groups:
        value = group.settings.get(key)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        rest = {n: v for n, v in group.settings.items() if n != key or not number}
        found.setdefault(frozen(rest), []).append(group)
    return list(found.values())


def interpretability_metrics(groups: Sequence[Group]) -> tuple[str, ...]:
    """Interpretability metrics that at least two of the groups have, the best known first."""
    count = Counter(
        name
        for group in groups
        for name in {key.partition("/")[2] for run in group.runs for key in run.metrics}
        if not name.endswith("loss")
        and name not in _NO_INTERPRETABILITY
        and figure(name).better is not None
        and group.estimate(name)
    )
    rank = {name: number for number, name in enumerate(FIGURES)}
    names = [name for name in count if count[name] > 1]
    return tuple(sorted(names, key=lambda name: (rank.get(name, len(rank)), name)))


def _name(groups: Sequence[Group], parameter: str) -> list[str]:
    """Name lines and references by experiment, and by settings where that is not enough."""
    names = [group.experiment for group in groups]
    found = []
    for group, name in zip(groups, names, strict=True):
        alike = [g.settings for g, other in zip(groups, names, strict=True) if other == name]
        keys = [key for key in differing_keys(alike) if key != parameter]
        text = describe(group.settings, keys)
        found.append(f"{name}, {text}" if text else name)
    return found


def seeds_of(tradeoff: Tradeoff) -> str:
    """How many seeds stand behind a point, and what its bars are, as a sentence."""
    counts = {len(group.runs) for group in tradeoff.groups}
    fewest, most = min(counts), max(counts)
    if most == 1:
        return "Each point is one run of a single seed, so there are no error bars."
    number = f"{most}" if fewest == most else f"{fewest} to {most}"
    text = (
        f"Each point is the mean over {number} seeds, its bars are one standard error of that mean."
    )
    return f"{text} A point of a single seed has no bars." if fewest == 1 else text


def make_rows(tradeoff: Tradeoff) -> list[tuple[str, int, list[str]]]:
    """One row per group: its name, its number of seeds, accuracy and each metric as text."""
    rows = []
    for group in tradeoff.groups:
        found = [(figure(name), group.estimate(name)) for name in (_TASK, *tradeoff.metrics)]
        cells = ["—" if value is None else value.write(known) for known, value in found]
        rows.append((tradeoff.name_of(group), len(group.runs), cells))
    return rows


def make_summary(tradeoff: Tradeoff) -> list[str]:
    """Sentences that say where each line begins and ends, and where the references are."""
    names = (_TASK, *tradeoff.metrics[:TOLD])
    rest = len(tradeoff.metrics) - TOLD
    more = f" (the table has {rest} more figure{'s' * (rest > 1)})" if rest > 0 else ""
    sentences = []
    for line in tradeoff.lines:
        first, last = line.groups[0], line.groups[-1]
        parts = [
            f"{known.label.lower()} goes from {a.write(known)} to {b.write(known)}"
            for name in names
            if (known := figure(name))
            and (a := first.estimate(name))
            and (b := last.estimate(name))
        ]
        start = f"{line.label} with a {tradeoff.name} from {first.label} to {last.label}"
        sentences.append(f"{start}, on the test split: {'; '.join(parts)}{more}.")
    for group in tradeoff.references:
        parts = [
            f"{known.label.lower()} {value.write(known)}"
            for name in names
            if (known := figure(name)) and (value := group.estimate(name))
        ]
        sentences.append(f"{group.label}, for comparison: {'; '.join(parts)}.")
    return sentences


def is_many(runs: Sequence[Run]) -> bool:
    """Whether there are so many runs that means say more than one sentence per run."""
    return len(runs) > _FEW_RUNS


def text_tradeoff(runs: Sequence[Run]) -> str:
    """The means of many runs as a text table; empty where few runs or no trade-off are there."""
    tradeoff = find_tradeoff(runs) if is_many(runs) else None
    if tradeoff is None:
        return ""
    rows = make_rows(tradeoff)
    known = [figure(name) for name in (_TASK, *tradeoff.metrics)]
    title, names = "Test split", [name for name, _, _ in rows]
    if len(tradeoff.lines) == 1:  # Its points need no more than their values.
        title += f", {tradeoff.lines[0].label} by {short(tradeoff.parameter)}"
        names = [group.label for group in tradeoff.groups]
    # A row for each figure: there are more of them than fit side by side.
    columns = zip(*(cells for _, _, cells in rows), strict=True)
    table = [[title, *names], ["seeds", *(str(count) for _, count, _ in rows)]]
    table += [
        [f"{k.label} ({k.better} is better)", *cells]
        for k, cells in zip(known, columns, strict=True)
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in table
    ]
    return "\n".join([*lines, "", seeds_of(tradeoff)])
