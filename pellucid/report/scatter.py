"""A trade-off as points with error bars that the template draws as inline SVG."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pellucid.report.curves import Tick, nice_ticks
from pellucid.report.glossary import Figure, figure
from pellucid.report.labels import Box, place_labels, text_box
from pellucid.report.tradeoff import Estimate, Group, Tradeoff, seeds_of

WIDTH, HEIGHT = 460, 330
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 12, 48

_MARGIN = 0.1
# Half a marker, with a little air.
_MARKER = 7.0
# Half a line's width, likewise.
_AIR = 2.5
# A line is an obstacle at steps of this many units.
_STEP = 5.0
SHAPES = {
    "circle": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0Z",
    "diamond": "M0 -7.5L7.5 0L0 7.5L-7.5 0Z",
    "square": "M-5 -5H5V5H-5Z",
    "triangle": "M0 -6.5L6.5 5.5H-6.5Z",
}
"""Markers around (0, 0), as SVG writes a path."""


@dataclass(frozen=True)
class Label:
    """A text beside a point, and the line that leads to it where it had to go far."""

    x: float
    y: float
    text: str
    leader: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class Point:
    """One group: its mean, its bars and its name."""

    x: float
    y: float
    bars: tuple[tuple[float, float, float, float], ...]
    """Lines (x1, y1, x2, y2) of one standard error to either side; none for a single seed."""
    shape: str
    colour: int
    title: str
    label: Label


@dataclass(frozen=True)
class Scatter:
    """Accuracy against one interpretability metric."""

    figure: Figure
    accuracy: Figure
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    paths: tuple[str, ...]
    """One polyline per line, through its points by rising parameter."""
    points: tuple[Point, ...]
    better: str
    """The corner in which both are better, as its CSS class: ``left`` or ``right``."""


@dataclass(frozen=True)
class _Spot:
    group: Group
    shape: str
    name: str
    text: str
    x: Estimate
    y: Estimate


class _Axis:
    """From values to places in the drawing."""

    def __init__(self, estimates: Sequence[Estimate], start: float, stop: float) -> None:
        lows = [e.mean - (e.error or 0.0) for e in estimates]
        highs = [e.mean + (e.error or 0.0) for e in estimates]
        low, high = min(lows), max(highs)
        marks = nice_ticks(low, high, 5)
        margin = _MARGIN * ((high - low) or (marks[-1] - marks[0]))
        self.low, self.high = low - margin, high + margin
        self.start, self.stop = start, stop
        self.step = marks[1] - marks[0]
        marks = [marks[0] - self.step, *marks, marks[-1] + self.step]
        self.marks = [mark for mark in marks if self.low <= mark <= self.high]

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def ticks(self, known: Figure) -> tuple[Tick, ...]:
        """Round numbers along the axis, in the figure's own way of writing."""
        factor, unit = (100, " %") if known.percent else (1, "")
        digits = max(0, -math.floor(math.log10(self.step * factor) + 1e-9))
        # No minus in front of zero.
        return tuple(
            Tick(self(mark), f"{round(mark * factor, digits) + 0.0:.{digits}f}{unit}")
            for mark in self.marks
        )


def make_scatters(tradeoff: Tradeoff) -> list[Scatter]:
    """One picture per interpretability metric: the metric along x, accuracy along y."""
    return [_make_scatter(tradeoff, name) for name in tradeoff.metrics]


def make_caption(tradeoff: Tradeoff) -> str:
    """What the pictures show, as sentences."""
    lines = " and ".join(line.label for line in tradeoff.lines)
    text = (
        f"The number at a point is its {tradeoff.name}, and a line joins the points of {lines} "
        "from the smallest to the largest. "
    )
    if tradeoff.references:
        names = " and ".join(group.label for group in tradeoff.references)
        text += f"Without a line, for comparison: {names}. "
    return text + seeds_of(tradeoff)


def _make_scatter(tradeoff: Tradeoff, name: str) -> Scatter:
    known, accuracy = figure(name), figure("accuracy")
    # Which is which can be seen without colours: each line and each reference has its own shape.
    shapes = itertools.cycle(SHAPES)
    rows = [_spots(line.groups, name, next(shapes), tradeoff) for line in tradeoff.lines]
    if len(rows) > 1:
        for line, row in zip(tradeoff.lines, rows, strict=True):
            row[-1:] = [replace(spot, text=f"{line.label}: {spot.text}") for spot in row[-1:]]
    alone = [
        spot
        for group in tradeoff.references
        for spot in _spots([group], name, next(shapes), tradeoff)
    ]
    spots = [spot for row in rows for spot in row] + alone
    x = _Axis([spot.x for spot in spots], LEFT, WIDTH - RIGHT)
    y = _Axis([spot.y for spot in spots], HEIGHT - BOTTOM, TOP)
    places = [[(x(spot.x.mean), y(spot.y.mean)) for spot in row] for row in rows]
    bars = [_bars(spot, x, y) for spot in spots]
    better = "left" if known.better == "lower" else "right"
    labels = _labels(spots, x, y, bars, places, better)
    points = tuple(
        Point(
            x=x(spot.x.mean),
            y=y(spot.y.mean),
            bars=lines,
            shape=spot.shape,
            colour=spot.group.number,
            title=_title(spot, known, accuracy),
            label=label,
        )
        for spot, lines, label in zip(spots, bars, labels, strict=True)
    )
    paths = tuple(" ".join(f"{a:.1f},{b:.1f}" for a, b in row) for row in places if len(row) > 1)
    return Scatter(known, accuracy, x.ticks(known), y.ticks(accuracy), paths, points, better)


def _spots(groups: Sequence[Group], name: str, shape: str, tradeoff: Tradeoff) -> list[_Spot]:
    """The groups that have both figures."""
    found = []
    for group in groups:
        x, y = group.estimate(name), group.estimate("accuracy")
        if x is not None and y is not None:
            found.append(_Spot(group, shape, tradeoff.name_of(group), group.label, x, y))
    return found


def _title(spot: _Spot, known: Figure, accuracy: Figure) -> str:
    seeds = f"{spot.x.count} seed{'s' * (spot.x.count > 1)}"
    return (
        f"{spot.name}: {known.label.lower()} {spot.x.write(known)}, "
        f"{accuracy.label.lower()} {spot.y.write(accuracy)} ({seeds})"
    )


def _bars(spot: _Spot, x: _Axis, y: _Axis) -> tuple[tuple[float, float, float, float], ...]:
    across, up = x(spot.x.mean), y(spot.y.mean)
    found = []
    if (error := spot.x.error) is not None:
        found.append((x(spot.x.mean - error), up, x(spot.x.mean + error), up))
    if (error := spot.y.error) is not None:
        found.append((across, y(spot.y.mean - error), across, y(spot.y.mean + error)))
    return tuple(found)


def _labels(
    spots: Sequence[_Spot],
    x: _Axis,
    y: _Axis,
    bars: Sequence[Sequence[tuple[float, float, float, float]]],
    places: Sequence[Sequence[tuple[float, float]]],
    better: str,
) -> list[Label]:
    """Place the names where they cover neither points nor bars nor lines nor one another."""
    anchors = [(x(spot.x.mean), y(spot.y.mean)) for spot in spots]
    solid = [Box(a - _MARKER, b - _MARKER, a + _MARKER, b + _MARKER) for a, b in anchors]
    corner = (LEFT + 30 if better == "left" else WIDTH - RIGHT - 30, TOP + 10)
    solid.append(text_box("← better", *corner))
    thin = [
        Box(min(a, c) - _AIR, min(b, d) - _AIR, max(a, c) + _AIR, max(b, d) + _AIR)
        for lines in bars
        for a, b, c, d in lines
    ]
    for row in places:
        for (a, b), (c, d) in itertools.pairwise(row):
            count = max(1, round(math.hypot(c - a, d - b) / _STEP))
            for n in range(count + 1):
                p, q = a + (c - a) * n / count, b + (d - b) * n / count
                thin.append(Box(p - _AIR, q - _AIR, p + _AIR, q + _AIR))
    texts = [spot.text for spot in spots]
    area = Box(LEFT + 2, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM - 2)
    centres = place_labels(texts, anchors, area, solid, thin)
    return [
        Label(a, b, text, _leader(anchor, text_box(text, a, b)))
        for text, anchor, (a, b) in zip(texts, anchors, centres, strict=True)
    ]


def _leader(point: tuple[float, float], box: Box) -> tuple[float, float, float, float] | None:
    """From the marker's edge to the nearest place of the text's box, where that is not beside."""
    end = (min(max(point[0], box.left), box.right), min(max(point[1], box.top), box.bottom))
    distance = math.hypot(end[0] - point[0], end[1] - point[1])
    if distance < 2 * _MARKER:
        return None
    share = _MARKER / distance
    start = [p + share * (e - p) for p, e in zip(point, end, strict=True)]
    return start[0], start[1], end[0], end[1]
