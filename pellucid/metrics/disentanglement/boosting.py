"""Gradient-boosted trees of the kind that DCI reads importances from, many classes at once.

Source: Friedman, *Greedy Function Approximation: A Gradient Boosting Machine*, Annals of Statistics
29 (2001), algorithm 6 (algorithm 5 for two classes), as scikit-learn's
``GradientBoostingClassifier`` has it with its defaults: 100 stages of trees of depth 3 that are
fitted to the residuals by squared error, with one Newton step for the value of each leaf. The one
difference is that in columns of more than 1,500 values splits are looked for at 254 quantiles.
(``HistGradientBoostingClassifier`` is another algorithm: it weighs rows by the second derivative,
and tells no importances.)
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pellucid.metrics.disentanglement.code_table import Floats, Integers

Singles = NDArray[np.float32]
Bins = NDArray[np.uint16]

NUM_STAGES = 100
LEARNING_RATE = 0.1
_DEPTH = 3
_MAX_BINS = 255
_ALL_VALUES = 1500
"""Of a column with no more values each is a bin: few rows are overfitted, one by one."""
_LEAST_GAIN = 1e-9
_TIE = 3e-6
"""Relative difference below which rounding decides which of two splits is better."""


class Boosted(NamedTuple):
    """What is known of boosted trees."""

    importances: Floats
    """(L,) share of each column in the fall of the squared error over all splits; sums to 1, or to
    0 where no split was worth it."""
    predicted: Integers
    """(m,) class of each test row."""


def fit_boosted_trees(
    train: Floats,
    labels: Integers,
    test: Floats,
    *,
    num_stages: int = NUM_STAGES,
    learning_rate: float = LEARNING_RATE,
) -> Boosted:
    """Fit boosted trees, and tell what they looked at and what they predict.

    Args:
        train: (n, L).
        labels: (n,), at least two different ones.
        test: (m, L).
        num_stages: Trees of each class.
        learning_rate: Share of each tree that is added.
    """
    classes, number = np.unique(labels, return_inverse=True)
    edges = [_edges(column) for column in train.T]
    bins, test_bins = _bin(train, edges), _bin(test, edges)
    wanted = (number == np.arange(len(classes))[:, None]).astype(np.float32)
    share = wanted.mean(1, keepdims=True, dtype=np.float64)
    if len(classes) == 2:
        # One tree a stage decides between two.
        wanted, share = wanted[1:], share[1:] / share[:1]
    scores = np.repeat(np.log(share).astype(np.float32), len(train), axis=1)
    test_scores = np.repeat(scores[:, :1], len(test), axis=1)
    grower = _Grower(bins, max(len(edge) for edge in edges) + 1)
    importances = np.zeros(train.shape[1])
    factor = learning_rate * (1.0 if len(classes) == 2 else (len(classes) - 1) / len(classes))
    for _ in range(num_stages):
        residual = wanted - _probabilities(scores)
        trees, leaf = grower.grow(residual)
        np.add.at(importances, trees.column, trees.gain)
        values = (factor * _leaf_values(residual, leaf)).astype(np.float32)
        scores += values[leaf]
        test_scores += values[_route(test_bins, trees)]
    total = importances.sum()
    best = test_scores.argmax(0) if len(classes) > 2 else (test_scores[0] > 0).astype(np.int64)
    return Boosted(importances / total if total else importances, classes[best])


def _edges(column: Floats) -> Floats:
    """Places between neighbouring values; of many values 254 of them, at quantiles."""
    values = np.unique(column)
    if len(values) > _ALL_VALUES:
        ranks = np.linspace(0, len(column) - 1, _MAX_BINS + 1)[1:-1].round().astype(np.int64)
        chosen = np.unique(np.searchsorted(values, np.sort(column)[ranks]))
        chosen = chosen[chosen < len(values) - 1]
        middle: Floats = (values[chosen] + values[chosen + 1]) / 2
        return middle
    return (values[:-1] + values[1:]) / 2


def _bin(rows: Floats, edges: list[Floats]) -> Bins:
    """(L, n) number of edges that each value is above."""
    columns = [np.searchsorted(edge, column) for edge, column in zip(edges, rows.T, strict=True)]
    return np.stack(columns).astype(np.uint16)


def _probabilities(scores: Singles) -> Singles:
    if len(scores) == 1:
        return (1 / (1 + np.exp(-scores))).astype(np.float32)
    exponent = np.exp(scores - scores.max(0))
    shares: Singles = exponent / exponent.sum(0)
    return shares


def _leaf_values(residual: Singles, leaf: Integers) -> Floats:
    """(8 C,) one Newton step for each leaf of each tree."""
    size = 2**_DEPTH * len(residual)
    curve = np.abs(residual)
    curve *= 1 - curve
    above = np.bincount(leaf.ravel(), residual.ravel(), size)
    below = np.bincount(leaf.ravel(), curve.ravel(), size)
    small = below < 1e-150
    values: Floats = np.where(small, 0.0, above / np.where(small, 1.0, below))
    return values


class _Trees(NamedTuple):
    """One tree for each of C classes; its 7 splits in the order 1, 2 and 2, 4 and so on."""

    column: Integers
    """(7, C) column that is looked at."""
    last_left: Integers
    """(7, C) last bin that goes to the left; all do where there is no split."""
    gain: Floats
    """(7, C) fall of the squared error."""


def _route(bins: Bins, trees: _Trees) -> Integers:
    """(C, n) the leaf of each row in each tree, leaves of all trees numbered on."""
    node = np.zeros((trees.column.shape[1], bins.shape[1]), dtype=np.uint16)
    for level in range(_DEPTH):
        first = 2**level - 1
        node = _descend(bins, node, trees.column[first:], trees.last_left[first:], 2**level)
    return _number_leaves(node)


def _descend(
    bins: Bins,
    node: Bins,
    column: Integers,
    last_left: Integers,
    nodes: int,
) -> Bins:
    """(C, n) the node of each row in each tree in the next level, from that in this one."""
    right = bins[column[0]] > last_left[0, :, None]
    for which in range(1, nodes):
        here = bins[column[which]] > last_left[which, :, None]
        right = np.where(node == which, here, right)
    below: Bins = 2 * node + right
    return below


def _number_leaves(node: Bins) -> Integers:
    leaf: Integers = node + 2**_DEPTH * np.arange(len(node))[:, None]
    return leaf


class _Grower:
    """Grows one tree for each class at once.

    The histogram of a sum over bins is the product of a matrix that says which row is in which bin
    with one column for each node of each tree, so that a stage costs a few sparse products.
    """

    def __init__(self, bins: Bins, width: int) -> None:
        columns, rows = bins.shape
        self.bins, self.width, self.columns = bins, width, columns
        place = (bins + width * np.arange(columns)[:, None]).ravel()
        order = np.argsort(place, kind="stable")
        counts = np.bincount(place, minlength=columns * width)
        start = np.concatenate([[0], counts.cumsum()])
        ones = np.ones(len(order), dtype=np.float32)
        self.members = csr_array((ones, order % rows, start), shape=(columns * width, rows))
        self.rng = np.random.default_rng(0)
        self.counts = counts.astype(np.float32).reshape(columns, width, 1)

    def histogram(self, sums: Singles) -> Singles:
        """(L, bins, C) sums of (n, C) by bin."""
        found: Singles = (self.members @ sums).reshape(self.columns, self.width, -1)
        return found

    def grow(self, residual: Singles) -> tuple[_Trees, Integers]:
        """The trees, and (C, n) the leaf of each row, leaves of all trees numbered on."""
        node = np.zeros(residual.shape, dtype=np.uint16)
        across = np.ascontiguousarray(residual.T)
        sums = [self.histogram(across)]
        counts = [np.broadcast_to(self.counts, sums[0].shape)]
        found: list[tuple[Integers, Integers, Floats]] = []
        for level in range(_DEPTH):
            splits = [_best_split(s, n, self.rng) for s, n in zip(sums, counts, strict=True)]
            found += splits
            column, last_left = np.stack([s[0] for s in splits]), np.stack([s[1] for s in splits])
            node = _descend(self.bins, node, column, last_left, len(splits))
            if level + 1 == _DEPTH:
                break
            across_node = np.ascontiguousarray(node.T)
            left = [
                (across_node == child).astype(np.float32) for child in range(0, len(splits) * 2, 2)
            ]
            joint = self.histogram(np.concatenate([*left, *(across * mask for mask in left)], 1))
            parts = np.split(joint, 2 * len(splits), axis=2)
            sums = _children(sums, parts[len(splits) :])
            counts = _children(counts, parts[: len(splits)])
        trees = _Trees(*(np.stack(each) for each in zip(*found, strict=True)))
        return trees, _number_leaves(node)


def _children(parents: list[Singles], left: list[Singles]) -> list[Singles]:
    """The histograms of left and right children by turns: what is not left is right."""
    return [
        each for parent, half in zip(parents, left, strict=True) for each in (half, parent - half)
    ]


def _best_split(
    sums: Singles, counts: Singles, rng: np.random.Generator
) -> tuple[Integers, Integers, Floats]:
    """(C,) column, last bin on the left, and gain of the best split of one node of each tree."""
    left, left_count = sums.cumsum(1), counts.cumsum(1)
    total, count = left[:1, -1:], left_count[:1, -1:]
    right_count = count - left_count
    # The total that the division by 0 rows would spoil has no weight there.
    gain = left**2 / np.maximum(left_count, 1) + (total - left) ** 2 / np.maximum(right_count, 1)
    gain[(left_count < 0.5) | (right_count < 0.5)] = -np.inf
    bin_ = gain.argmax(1)
    of_column = np.take_along_axis(gain, bin_[:, None], axis=1)[:, 0]
    # Columns that are as good as each other, as copies are, take turns.
    column = (of_column * (1 + _TIE * rng.random(of_column.shape))).argmax(0)
    trees = np.arange(len(column))
    last_left = bin_[column, trees]
    most = of_column[column, trees] - (total**2 / np.maximum(count, 1))[0, 0]
    good = most > _LEAST_GAIN
    return (
        np.where(good, column, 0),
        np.where(good, last_left, sums.shape[1]).astype(np.uint16),
        np.where(good, most, 0.0).astype(np.float64),
    )
