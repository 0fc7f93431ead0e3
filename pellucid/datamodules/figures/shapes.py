"""The shapes of a creature's parts, as signed distances in the part's own frame.

A creature faces right. Lengths are in figure units (half of the image's side at scale 1), ``x`` to
the right and ``y`` down. A distance is negative inside the shape; near the edge it is exact or
close to it, which is what smooth edges need.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
"""Pixels are float32; the wider type is what NumPy's annotations promise of arithmetic."""
Shape = Callable[[Array, Array], Array]
"""Maps coordinates ``x, y`` of one shape to the signed distance, of the same shape."""


def disc(x: Array, y: Array, cx: float, cy: float, radius: float) -> Array:
    """A disc about (cx, cy)."""
    x, y = x - cx, y - cy
    return np.sqrt(x * x + y * y) - radius


def ring(x: Array, y: Array, cx: float, cy: float, radius: float, half_width: float) -> Array:
    """A ring about (cx, cy)."""
    distance: Array = np.abs(disc(x, y, cx, cy, radius)) - half_width
    return distance


def box(x: Array, y: Array, cx: float, cy: float, w: float, h: float, corner: float) -> Array:
    """A box of half width ``w`` and half height ``h`` with round corners."""
    x, y = np.abs(x - cx) - (w - corner), np.abs(y - cy) - (h - corner)
    outside_x, outside_y = np.maximum(x, 0), np.maximum(y, 0)
    outside: Array = np.sqrt(outside_x * outside_x + outside_y * outside_y)
    return outside + np.minimum(np.maximum(x, y), 0) - corner


def ellipse(x: Array, y: Array, cx: float, cy: float, w: float, h: float) -> Array:
    """An ellipse of half axes ``w`` and ``h``; the distance is of first order about the edge."""
    x, y = (x - cx) / w, (y - cy) / h
    square = x * x + y * y
    gradient = np.sqrt(x * x / (w * w) + y * y / (h * h)) + 1e-6
    distance: Array = (square - 1) / (2 * gradient)
    return distance


def limb(x: Array, y: Array, start: tuple[float, ...], end: tuple[float, ...]) -> Array:
    """A bone with round ends, each given as (x, y, radius); the radius runs linearly between."""
    (ax, ay, ar), (bx, by, br) = start, end
    bone_x, bone_y = bx - ax, by - ay
    x, y = x - ax, y - ay
    scale = 1 / (bone_x * bone_x + bone_y * bone_y)
    along = np.clip(x * (bone_x * scale) + y * (bone_y * scale), 0, 1)
    x, y = x - along * bone_x, y - along * bone_y
    return np.sqrt(x * x + y * y) - (ar + along * (br - ar))


def union(*shapes: Array) -> Array:
    """Whatever is in one of the shapes."""
    joined: Array = reduce(np.minimum, shapes)
    return joined


# Heads are about the head's centre, with the muzzle to the right.
def _round_head(x: Array, y: Array) -> Array:
    return union(disc(x, y, 0, 0, 0.26), disc(x, y, 0.2, 0.1, 0.13))


def _pointed_head(x: Array, y: Array) -> Array:
    return union(limb(x, y, (-0.06, -0.03, 0.2), (0.4, 0.13, 0.035)), disc(x, y, -0.06, 0, 0.2))


def _square_head(x: Array, y: Array) -> Array:
    return union(box(x, y, -0.02, -0.01, 0.24, 0.23, 0.05), box(x, y, 0.2, 0.09, 0.13, 0.13, 0.04))


# Ears are about the crown of the head; the far ear stands to the right.
def _round_ears(x: Array, y: Array) -> Array:
    return union(disc(x, y, -0.1, -0.09, 0.13), disc(x, y, 0.17, -0.09, 0.11))


def _pointed_ears(x: Array, y: Array) -> Array:
    near = limb(x, y, (-0.08, 0.04, 0.12), (-0.13, -0.26, 0.015))
    return union(near, limb(x, y, (0.11, 0.04, 0.1), (0.14, -0.24, 0.015)))


def _long_ears(x: Array, y: Array) -> Array:
    near = limb(x, y, (-0.06, 0.05, 0.05), (-0.15, -0.36, 0.085))
    return union(near, limb(x, y, (0.07, 0.05, 0.05), (0.1, -0.36, 0.07)))


def _horns(x: Array, y: Array) -> Array:
    near = union(
        limb(x, y, (-0.03, 0.05, 0.075), (-0.15, -0.1, 0.065)),
        limb(x, y, (-0.15, -0.1, 0.065), (-0.12, -0.32, 0.015)),
    )
    far = union(
        limb(x, y, (0.1, 0.05, 0.065), (0.2, -0.1, 0.055)),
        limb(x, y, (0.2, -0.1, 0.055), (0.17, -0.3, 0.015)),
    )
    return union(near, far)


# Bodies are about the middle of the body.
def _oval_body(x: Array, y: Array) -> Array:
    return ellipse(x, y, 0, 0, 0.46, 0.28)


def _box_body(x: Array, y: Array) -> Array:
    return box(x, y, 0, 0, 0.43, 0.25, 0.12)


def _pear_body(x: Array, y: Array) -> Array:
    return limb(x, y, (-0.16, 0.0, 0.29), (0.28, -0.06, 0.18))


# What grows on the back is about the top of the shoulders.
def _wing(x: Array, y: Array) -> Array:
    feathers = (
        limb(x, y, (0.04, 0.06, 0.11), (-0.2, -0.42, 0.05)),
        limb(x, y, (0.02, 0.07, 0.11), (-0.36, -0.27, 0.05)),
        limb(x, y, (0.0, 0.08, 0.11), (-0.4, -0.08, 0.05)),
    )
    return union(*feathers)


def _plates(x: Array, y: Array) -> Array:
    spikes = (
        limb(x, y, (0.15, 0.0, 0.08), (0.13, -0.2, 0.015)),
        limb(x, y, (-0.06, -0.02, 0.1), (-0.1, -0.3, 0.015)),
        limb(x, y, (-0.28, 0.02, 0.08), (-0.35, -0.2, 0.015)),
    )
    return union(*spikes)


def _shell(x: Array, y: Array) -> Array:
    dome = ellipse(x, y, -0.06, 0.12, 0.37, 0.36)
    cut: Array = np.maximum(dome, y - 0.12)
    return cut


# Legs are about the hip and hang down.
def _thin_leg(x: Array, y: Array) -> Array:
    return limb(x, y, (0, 0, 0.075), (0, 0.46, 0.05))


def _stout_leg(x: Array, y: Array) -> Array:
    return union(limb(x, y, (0, 0, 0.12), (0, 0.33, 0.095)), box(x, y, 0, 0.38, 0.12, 0.07, 0.02))


def _booted_leg(x: Array, y: Array) -> Array:
    shin = limb(x, y, (0, 0, 0.08), (0, 0.42, 0.055))
    return union(shin, limb(x, y, (0.0, 0.44, 0.065), (0.14, 0.46, 0.055)))


# Tails are about the root and point to the left.
def _brush_tail(x: Array, y: Array) -> Array:
    return union(
        limb(x, y, (0.05, 0.02, 0.06), (-0.24, -0.07, 0.13)),
        limb(x, y, (-0.24, -0.07, 0.13), (-0.36, -0.18, 0.14)),
        limb(x, y, (-0.36, -0.18, 0.14), (-0.47, -0.42, 0.02)),
    )


def _curled_tail(x: Array, y: Array) -> Array:
    stem = limb(x, y, (0.05, 0.02, 0.065), (-0.26, -0.06, 0.065))
    return union(stem, ring(x, y, -0.33, -0.25, 0.185, 0.065))


def _fan_tail(x: Array, y: Array) -> Array:
    # A disc about the root, cut by a wedge of 80 degrees about the direction of the tail.
    along, across = -0.92 * x - 0.39 * y, -0.39 * x + 0.92 * y
    wedge = 0.77 * np.abs(across) - 0.64 * (along + 0.08)
    return np.maximum(disc(x, y, 0, 0, 0.5), wedge)


@dataclass(frozen=True)
class PartKind:
    """What parts of one kind have in common.

    Attributes:
        shapes: Signed distance of each shape by its name.
        anchor: (x, y) of the landmark in the part's frame; a point of every shape.
        centre: (x, y) in the part's frame of a disc that holds every shape ...
        reach: ... and its radius.
    """

    shapes: Mapping[str, Shape]
    anchor: tuple[float, float]
    centre: tuple[float, float]
    reach: float


HEAD = PartKind(
    {"round": _round_head, "pointed": _pointed_head, "square": _square_head},
    anchor=(0.02, 0.0),
    centre=(0.07, 0.0),
    reach=0.42,
)
EARS = PartKind(
    {"round": _round_ears, "pointed": _pointed_ears, "long": _long_ears, "horns": _horns},
    anchor=(-0.11, -0.1),
    centre=(0.0, -0.15),
    reach=0.36,
)
BODY = PartKind(
    {"oval": _oval_body, "box": _box_body, "pear": _pear_body},
    anchor=(0.0, 0.11),
    centre=(0.0, 0.0),
    reach=0.5,
)
BACK = PartKind(
    {"wing": _wing, "plates": _plates, "shell": _shell},
    anchor=(-0.08, -0.04),
    centre=(-0.12, -0.1),
    reach=0.43,
)
LEG = PartKind(
    {"thin": _thin_leg, "stout": _stout_leg, "booted": _booted_leg},
    anchor=(0.0, 0.3),
    centre=(0.02, 0.2),
    reach=0.36,
)
TAIL = PartKind(
    {"brush": _brush_tail, "curl": _curled_tail, "fan": _fan_tail},
    anchor=(-0.28, -0.08),
    centre=(-0.25, -0.15),
    reach=0.42,
)
# Only drawn on heads; always inside them.
EYE = PartKind({"eye": lambda x, y: disc(x, y, 0, 0, 0.075)}, (0, 0), (0, 0), 0.1)
PUPIL = PartKind({"pupil": lambda x, y: disc(x, y, 0.02, 0.005, 0.042)}, (0, 0), (0, 0), 0.08)

KINDS: dict[str, PartKind] = {
    "head": HEAD,
    "ears": EARS,
    "body": BODY,
    "back": BACK,
    "front_legs": LEG,
    "hind_legs": LEG,
    "tail": TAIL,
}
PARTS = tuple(KINDS)
"""Names of the parts, in the order of landmarks and masks."""

SHAPES: dict[str, tuple[str, ...]] = {
    "head": tuple(HEAD.shapes),
    "ears": tuple(EARS.shapes),
    "body": tuple(BODY.shapes),
    "back": tuple(BACK.shapes),
    "legs": tuple(LEG.shapes),
    "tail": tuple(TAIL.shapes),
}
"""Shape names by part; front and hind legs share their shape and colour."""

COLOURS: dict[str, tuple[float, float, float]] = {
    "rust": (0.80, 0.40, 0.24),
    "cream": (0.95, 0.86, 0.68),
    "slate": (0.45, 0.53, 0.64),
    "ochre": (0.90, 0.68, 0.26),
    "plum": (0.58, 0.36, 0.55),
    "teal": (0.27, 0.60, 0.59),
}
"""RGB in [0, 1]; every part can have every colour, so no colour tells one part from another."""
