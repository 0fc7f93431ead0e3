"""Placing texts beside points so that nothing covers anything."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Of 11.5 units' bold type, in no common font wider than this.
_CHARACTER, _HEIGHT = 7.2, 14.0

_DIRECTIONS = 16
# From the edge of the marker's box outwards, nearest first.
_DISTANCES = (9.0, 15.0, 23.0, 34.0, 48.0, 66.0)
# What an overlap costs per unit of area, against one unit of distance.
_SOLID, _THIN = 20.0, 4.0


@dataclass(frozen=True)
class Box:
    """An upright rectangle; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        """The area that both cover."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(wide, 0.0) * max(high, 0.0)

    def holds(self, other: "Box") -> bool:
        """Whether the other one lies inside."""
        return (
            self.left <= other.left
            and self.top <= other.top
            and other.right <= self.right
            and other.bottom <= self.bottom
        )


def text_box(text: str, x: float, y: float) -> Box:
    """The room that a text takes whose centre is at (x, y)."""
    wide = _CHARACTER * len(text) + 2
    return Box(x - wide / 2, y - _HEIGHT / 2, x + wide / 2, y + _HEIGHT / 2)


def place_labels(
    texts: Sequence[str],
    points: Sequence[tuple[float, float]],
    area: Box,
    solid: Sequence[Box] = (),
    thin: Sequence[Box] = (),
) -> list[tuple[float, float]]:
    """Place one text beside each point, one after the other, the longest first.

    Args:
        texts: One per point.
        points: (x, y) of each.
        area: Where texts may lie.
        solid: What no text should cover, the markers of the points among it.
        thin: What a text covers rather than go far away, as lines.

    Returns:
        (x, y) of the centre of each text.
    """
    taken = list(solid)
    places: dict[int, tuple[float, float]] = {}
    for number in sorted(range(len(texts)), key=lambda n: -len(texts[n])):
        best, least = points[number], math.inf
        for place, distance in _candidates(texts[number], points[number]):
            box = text_box(texts[number], *place)
            if not area.holds(box):
                continue
            cost = distance + _SOLID * sum(box.overlap(other) for other in taken)
            cost += _THIN * sum(box.overlap(other) for other in thin)
            if cost < least:
                best, least = place, cost
        places[number] = best
        taken.append(text_box(texts[number], *best))
    return [places[number] for number in range(len(texts))]


def _candidates(text: str, point: tuple[float, float]) -> list[tuple[tuple[float, float], float]]:
    """Places around a point, up and to the right first, each with its distance."""
    half = (_CHARACTER * len(text) + 2) / 2
    found = []
    for distance in _DISTANCES:
        for step in range(_DIRECTIONS):
            angle = 2 * math.pi * (step / _DIRECTIONS + 1 / 8)
            across, up = math.cos(angle), math.sin(angle)
            # The text's nearest edge, not its centre, keeps the distance.
            x = point[0] + across * (distance + half)
            y = point[1] - up * (distance + _HEIGHT / 2)
            found.append(((x, y), distance))
    return found
