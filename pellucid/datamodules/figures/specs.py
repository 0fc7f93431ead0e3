"""What a figure is, before it is drawn: its factors, and how they are chosen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pellucid.datamodules.figures.scenes import CLUTTER_DRAWS, SCENES
from pellucid.datamodules.figures.shapes import COLOURS, SHAPES


@dataclass(frozen=True)
class Factor:
    """A generative factor with whole numbers from ``low`` to ``high`` as values.

    Attributes:
        low: Least value.
        high: Largest value.
        unit: What one step of a measured factor is; empty for a category.
        names: Names of the values of a category; empty for a measured factor.
    """

    low: int
    high: int
    unit: str = ""
    names: tuple[str, ...] = ()


def _category(names: Sequence[str]) -> Factor:
    return Factor(0, len(names) - 1, names=tuple(names))


# Pose is drawn in whole degrees and thousandths, so that integers state it exactly.
FACTORS: dict[str, Factor] = {
    **{f"{part}_shape": _category(shapes) for part, shapes in SHAPES.items()},
    **{f"{part}_colour": _category(tuple(COLOURS)) for part in SHAPES},
    "scene": _category(tuple(SCENES)),
    "mirror": _category(("faces right", "faces left")),
    "rotation": Factor(-20, 20, "degrees, clockwise before mirroring"),
    # Size and joints change the distances between parts, which even a perfect detector of one part
    # cannot help: wide ranges would hide, in every measure of where a unit fires relative to the
    # parts, how well the unit itself is placed.
    "scale": Factor(920, 1060, "thousandths of half the image's side per figure unit"),
    "x": Factor(-180, 180, "thousandths of the image's side, from its centre"),
    "y": Factor(-180, 180, "thousandths of the image's side, from its centre"),
    "head_angle": Factor(-12, 12, "degrees"),
    "ears_angle": Factor(-12, 12, "degrees"),
    "back_angle": Factor(-10, 10, "degrees"),
    "front_legs_angle": Factor(-15, 15, "degrees"),
    "hind_legs_angle": Factor(-15, 15, "degrees"),
    "tail_angle": Factor(-15, 15, "degrees"),
}
FACTOR_NAMES = tuple(FACTORS)

TINT_DRAWS = 3 * len(SHAPES)
_EXTRA_DRAWS = 2  # class member, confounding
_DRAWS = len(FACTORS) + TINT_DRAWS + CLUTTER_DRAWS + _EXTRA_DRAWS


@dataclass(frozen=True)
class FigureSpecs:
    """N figures, ready to be drawn at any size.

    Attributes:
        factors: (N, F) int64, in the order of ``FACTOR_NAMES``.
        nuisance: (N, D) float64 in [0, 1): tints of the colours, then the clutter of the
            background.
    """

    factors: NDArray[np.int64]
    nuisance: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.factors)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Self:
        return replace(self, factors=self.factors[rows], nuisance=self.nuisance[rows])

    def factor(self, name: str) -> NDArray[np.int64]:
        """(N,) int64, the values of one factor.

        Raises:
            ValueError: There is no such factor.
        """
        return self.factors[:, _position(name)]

    def with_factors(self, **values: int | NDArray[np.int64]) -> Self:
        """The same figures with other values of some factors: counterfactuals.

        Args:
            **values: One value, or (N,) values, by factor name.

        Raises:
            ValueError: There is no such factor, or it has no such value.
        """
        factors = self.factors.copy()
        for name, value in values.items():
            position, factor = _position(name), FACTORS[name]
            if np.any((value < np.int64(factor.low)) | (value > np.int64(factor.high))):
                raise ValueError(
                    f"{name} must be from {factor.low} to {factor.high}, got {value}: "
                    "choose values in that range"
                )
            factors[:, position] = value
        return replace(self, factors=factors)


def _position(name: str) -> int:
    if name not in FACTORS:
        raise ValueError(f"no factor is called {name!r}; choose from {', '.join(FACTORS)}")
    return FACTOR_NAMES.index(name)


def _uniforms(
    seed: int, stream: int, kind: int, indices: NDArray[np.int64], draws: int
) -> NDArray[np.float64]:
    """(N, draws) in [0, 1): a function of the arguments and each single index.

    Philox turns a key and a counter into numbers, so no draw depends on an earlier one.
    """
    rows = np.empty((len(indices), draws))
    for row, index in zip(rows, indices.tolist(), strict=True):
        counter = np.array([0, 0, kind, index], dtype=np.uint64)
        key = np.array([seed, stream], dtype=np.uint64)
        np.random.Generator(np.random.Philox(key=key, counter=counter)).random(out=row)
    return rows


def draw_labels(
    seed: int, stream: int, indices: NDArray[np.int64], num_classes: int
) -> NDArray[np.int64]:
    """(N,) int64: each run of ``num_classes`` figures holds every class once, in random order."""
    block, place = np.divmod(indices, num_classes)
    order = _uniforms(seed, stream, 1, block, num_classes).argsort(axis=1)
    return order[np.arange(len(indices)), place].astype(np.int64)


CLASSES_MIN, CLASSES_MAX = 2, 8

# (head, tail) of each class: every head and every tail of four classes belongs to two of them.
_PAIRS = ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (0, 2), (1, 2))


def class_members(num_classes: int) -> list[list[dict[str, int]]]:
    """The label's definition: for each class the shapes of head and tail that make it.

    One pair per class, except that two classes are one pair against the three others that share
    a head or a tail with it; so neither part alone is enough.
    """
    pairs = [{"head_shape": head, "tail_shape": tail} for head, tail in _PAIRS]
    if num_classes == CLASSES_MIN:
        return [pairs[:3], [pairs[3]]]
    return [[pair] for pair in pairs[:num_classes]]


def draw_specs(
    seed: int,
    stream: int,
    indices: NDArray[np.int64],
    classes: Sequence[Sequence[dict[str, int]]],
    confound: float = 0.0,
) -> tuple[FigureSpecs, NDArray[np.int64]]:
    """Choose figures.

    Args:
        seed: Seed, not negative.
        stream: Which of the seed's independent sequences, such as one per split.
        indices: (N,) positions in the sequence; a figure depends on its own one alone.
        classes: For each class its members, each a combination of factor values. Scenes are the
            first ``len(classes)``.
        confound: Share in [0, 1] of figures whose scene is tied to the class: class c has scene c.

    Returns:
        The figures and their labels, (N,) int64.
    """
    labels = draw_labels(seed, stream, indices, len(classes))
    draws = _uniforms(seed, stream, 0, indices, _DRAWS)
    chosen, member, tie, nuisance = np.split(
        draws, np.cumsum([len(FACTORS), 1, 1]).tolist(), axis=1
    )
    low = np.array([f.low for f in FACTORS.values()])
    high = np.array([f.high for f in FACTORS.values()])
    scene = _position("scene")
    high[scene] = len(classes) - 1
    factors = (low + np.floor(chosen * (high - low + 1))).astype(np.int64)
    for row, (label, u) in enumerate(zip(labels, member[:, 0], strict=True)):
        members = classes[label]
        for name, value in members[int(u * len(members))].items():
            factors[row, _position(name)] = value
    tied = tie[:, 0] < confound
    factors[tied, scene] = labels[tied]
    return FigureSpecs(factors, nuisance), labels
