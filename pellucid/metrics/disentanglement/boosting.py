"""Gradient-boosted trees of the kind that DCI reads importances from, many classes at once.

Source: Friedman, *Greedy Function Approximation: A Gradient Boosting Machine*, Annals of Statistics
29 (2001), algorithm 6 (algorithm 5 for two classes), as scikit-learn's
``GradientBoostingClassifier`` has it with its defaults: 100 stages of trees of depth 3 that are
fitted to the residuals by squared error, with one Newton step for the value of each leaf. Splits
are looked for between all values, or, on demand and in less time, at 254 quantiles of columns of
more than 1,500 values: trees cannot tell single rows then, and spread their importance a little.
(``HistGradientBoostingClassifier`` is another algorithm: it weighs rows by the second derivative,
and tells no importances.)
"""

from typing import NamedTuple

import numpy as np

from pellucid.metrics.disentanglement.code_table import Floats, Integers
from pellucid.metrics.disentanglement.trees import (
    DEPTH,
    Bins,
    HistogramGrower,
    Singles,
    SortingGrower,
    route,
)

NUM_STAGES = 100
LEARNING_RATE = 0.1
_MAX_BINS = 255
_ALL_VALUES = 1500
"""Of a column with no more values each is a bin: few rows are overfitted, one by one."""


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
    quantiles: bool = False,
    num_stages: int = NUM_STAGES,
    learning_rate: float = LEARNING_RATE,
) -> Boosted:
    """Fit boosted trees, and tell what they looked at and what they predict.

    Args:
        train: (n, L).
        labels: (n,), at least two different ones.
        test: (m, L).
        quantiles: Whether splits are looked for at quantiles alone, of columns of many values.
        num_stages: Trees of each class.
        learning_rate: Share of each tree that is added.
    """
    classes, number = np.unique(labels, return_inverse=True)
    edges = [_edges(column, quantiles) for column in train.T]
    bins, test_bins = _bin(train, edges), _bin(test, edges)
    wanted = (number == np.arange(len(classes))[:, None]).astype(np.float32)
    share = wanted.mean(1, keepdims=True, dtype=np.float64)
    if len(classes) == 2:
        # One tree a stage decides between two.
        wanted, share = wanted[1:], share[1:] / share[:1]
    scores = np.repeat(np.log(share).astype(np.float32), len(train), axis=1)
    test_scores = np.repeat(scores[:, :1], len(test), axis=1)
    width = max(len(edge) for edge in edges) + 1
    grower = HistogramGrower(bins, width) if quantiles else SortingGrower(bins, train, width)
    importances = np.zeros(train.shape[1])
    factor = learning_rate * (1.0 if len(classes) == 2 else (len(classes) - 1) / len(classes))
    for _ in range(num_stages):
        residual = wanted - _probabilities(scores)
        trees, leaf = grower.grow(residual)
        np.add.at(importances, trees.column, trees.gain)
        values = (factor * _leaf_values(residual, leaf)).astype(np.float32)
        scores += values[leaf]
        test_scores += values[route(test_bins, trees)]
    total = importances.sum()
    best = test_scores.argmax(0) if len(classes) > 2 else (test_scores[0] > 0).astype(np.int64)
    return Boosted(importances / total if total else importances, classes[best])


def _edges(column: Floats, quantiles: bool) -> Floats:
    """Places between neighbouring values, or, of many values, 254 of them at quantiles."""
    values = np.unique(column)
    if quantiles and len(values) > _ALL_VALUES:
        ranks = np.linspace(0, len(column) - 1, _MAX_BINS + 1)[1:-1].round().astype(np.int64)
        chosen = np.unique(np.searchsorted(values, np.sort(column)[ranks]))
        chosen = chosen[chosen < len(values) - 1]
        middle: Floats = (values[chosen] + values[chosen + 1]) / 2
        return middle
    return (values[:-1] + values[1:]) / 2


def _bin(rows: Floats, edges: list[Floats]) -> Bins:
    """(L, n) number of edges that each value is above."""
    columns = [np.searchsorted(edge, column) for edge, column in zip(edges, rows.T, strict=True)]
    return np.stack(columns).astype(np.uint32)


def _probabilities(scores: Singles) -> Singles:
    if len(scores) == 1:
        return (1 / (1 + np.exp(-scores))).astype(np.float32)
    exponent = np.exp(scores - scores.max(0))
    shares: Singles = exponent / exponent.sum(0)
    return shares


def _leaf_values(residual: Singles, leaf: Integers) -> Floats:
    """(8 C,) one Newton step for each leaf of each tree."""
    size = 2**DEPTH * len(residual)
    curve = np.abs(residual)
    curve *= 1 - curve
    above = np.bincount(leaf.ravel(), residual.ravel(), size)
    below = np.bincount(leaf.ravel(), curve.ravel(), size)
    small = below < 1e-150
    values: Floats = np.where(small, 0.0, above / np.where(small, 1.0, below))
    return values
