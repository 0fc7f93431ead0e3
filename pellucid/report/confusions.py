"""Which classes a classifier takes for which others, as the page shows it."""

from dataclasses import dataclass

from pellucid.report.checked import number, sequence
from pellucid.report.runs import Run

# A larger table is no picture; its worst pairs are named instead.
_MOST_CLASSES = 24
_PAIRS = 10


@dataclass(frozen=True)
class Square:
    """Images of one class taken for one class."""

    count: int
    share: float
    """Of the images of the labelled class, in [0, 1]."""
    right: bool

    @property
    def text(self) -> str:
        """The share in per cent; empty where there is nothing."""
        if not self.count:
            return ""
        return f"{100 * self.share:.1f}" if self.share < 0.0995 else f"{100 * self.share:.0f}"


@dataclass(frozen=True)
class Confused:
    """One class that is taken for another."""

    label: str
    predicted: str
    count: int
    share: float

    @property
    def text(self) -> str:
        """As a sentence without its end."""
        return (
            f"{self.label} taken for {self.predicted}: {self.count} image"
            f"{'s' if self.count != 1 else ''}, {100 * self.share:.1f} % of {self.label}"
        )


@dataclass(frozen=True)
class Confusion:
    """The table of one run."""

    names: tuple[str, ...]
    rows: tuple[tuple[Square, ...], ...]
    pairs: tuple[Confused, ...]
    """The most frequent confusions, the most frequent first."""
    total: int

    @property
    def drawn(self) -> bool:
        """Whether the table is small enough to be looked at."""
        return len(self.names) <= _MOST_CLASSES


def make_confusion(run: Run) -> Confusion | None:
    """The confusions of a run; None where they are not known."""
    found = run.confusion
    if not found:
        return None
    names = tuple(str(name) for name in sequence(found.get("class_names")))
    counts = [[number(v) for v in sequence(row)] for row in sequence(found.get("counts"))]
    size = len(names)
    whole = size > 0 and len(counts) == size and all(len(row) == size for row in counts)
    if not whole or any(v is None or v < 0 for row in counts for v in row):
        run.problems.append(
            f"confusion.json holds no table of counts of {size} x {size} classes: left out."
        )
        return None
    table = [[int(v or 0) for v in row] for row in counts]
    sums = [sum(row) or 1 for row in table]
    pairs = [
        Confused(names[i], names[j], table[i][j], table[i][j] / sums[i])
        for i in range(size)
        for j in range(size)
        if i != j and table[i][j]
    ]
    pairs.sort(key=lambda pair: (-pair.count, -pair.share))
    return Confusion(
        names,
        tuple(
            tuple(Square(count, count / sums[i], i == j) for j, count in enumerate(row))
            for i, row in enumerate(table)
        ),
        tuple(pairs[:_PAIRS]),
        sum(map(sum, table)),
    )
