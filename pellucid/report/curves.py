"""Training curves as lines that the template draws as inline SVG."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pellucid.report.glossary import figure
from pellucid.report.runs import Run

WIDTH, HEIGHT = 260, 170
LEFT, RIGHT, _TOP, _BOTTOM = 40, 8, 10, 24

_FIRST = ("loss", "accuracy", "location_instability", "part_interpretability")


@dataclass(frozen=True)
class Tick:
    """A mark of an axis: its place in the drawing and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Curve:
    """One figure of one run and stage by epoch."""

    run: int
    stage: str
    title: str
    points: tuple[tuple[float, float], ...]
    """(x, y) in the drawing."""

    @property
    def path(self) -> str:
        """The points as SVG writes them."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


@dataclass(frozen=True)
class Chart:
    """All curves of one figure."""

    label: str
    arrow: str
    definition: str
    unit: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    curves: tuple[Curve, ...]


def make_charts(runs: Sequence[Run]) -> list[Chart]:
    """One chart per figure that any run logged while it trained."""
    names = {key.split("/", 1)[1] for run in runs for key in run.history}
    rank = {name: number for number, name in enumerate(_FIRST)}
    ordered = sorted(names, key=lambda name: (rank.get(name, len(rank)), name))
    # A figure logged per step and per epoch is one figure.
    return [
        _chart(name, runs) for name in ordered if name.removesuffix("_step") not in names - {name}
    ]


def _chart(name: str, runs: Sequence[Run]) -> Chart:
    known = figure(name)
    found = [
        (number, stage, run, run.history[f"{stage}/{name}"])
        for number, run in enumerate(runs)
        for stage in ("train", "val")
        if f"{stage}/{name}" in run.history
    ]
    epochs = [epoch for *_, values in found for epoch in values]
    heights = [value for *_, values in found for value in values.values()]
    first, last = min(epochs), max(epochs)
    span = nice_ticks(min(heights), max(heights), 4)
    margin = 0.05 * ((max(heights) - min(heights)) or (span[-1] - span[0]))
    low, high = min(heights) - margin, max(heights) + margin
    marks = [mark for mark in span if low <= mark <= high]

    def x(epoch: float) -> float:
        share = (epoch - first) / (last - first) if last > first else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    curves = tuple(
        Curve(
            run=number,
            stage=stage,
            title=f"{run.label}, {stage}, epoch {max(values)}: {known.write(values[max(values)])}",
            points=tuple((x(epoch), y(values[epoch])) for epoch in sorted(values)),
        )
        for number, stage, run, values in found
    )
    digits = max(0, -math.floor(math.log10(span[1] - span[0]) + 1e-9))
    whole = sorted({round(mark) for mark in nice_ticks(first, last, 5) if first <= mark <= last})
    return Chart(
        label=known.label,
        arrow=known.arrow,
        definition=known.definition,
        unit=known.unit,
        x_ticks=tuple(Tick(x(mark), str(mark)) for mark in whole or [first]),
        y_ticks=tuple(Tick(y(mark), f"{mark:.{digits}f}") for mark in marks),
        curves=curves,
    )


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers (1, 2 or 5 times a power of ten) that span [low, high].

    Args:
        low: Least value.
        high: Largest value; where it is not above ``low``, both are moved apart.
        count: Wanted number of steps, at least 1.

    Returns:
        Rising numbers; the first is at most ``low``, the last at least ``high``.
    """
    if not high > low:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in _round_factors() if power * m >= raw * (1 - 1e-9))
    start, stop = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(start, stop + 1)]


def _round_factors() -> Iterable[float]:
    return 1, 2, 5, 10
