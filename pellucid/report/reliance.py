"""What a model relies on, as bars: how often a change of the image changes its mind."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pellucid.report.glossary import Figure, figure
from pellucid.report.runs import Run

STAGE = "bias"


@dataclass(frozen=True)
class Bar:
    """One run's figure."""

    run: int
    text: str
    width: float
    """In per cent of the whole."""


@dataclass(frozen=True)
class Bars:
    """One figure of all runs."""

    figure: Figure
    bars: tuple[Bar, ...]


def make_reliance(runs: Sequence[Run]) -> list[Bars]:
    """The bars of every figure of what models rely on; empty where none was measured."""
    names = dict.fromkeys(
        key.partition("/")[2] for run in runs for key in run.metrics if key.startswith(f"{STAGE}/")
    )
    return [
        Bars(
            known,
            tuple(
                Bar(n, known.write(value), 100 * min(max(value, 0.0), 1.0))
                for n, run in enumerate(runs)
                if math.isfinite(value := run.metrics.get(f"{STAGE}/{name}", math.nan))
            ),
        )
        for name in names
        for known in [figure(name)]
    ]
