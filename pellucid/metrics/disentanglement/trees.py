"""Trees of depth 3 that fit the residuals of every class by squared error, for boosting.

Two ways to find the same splits: in the order of each column, between any two values, and in the
histogram of each column, between its bins.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pellucid.metrics.disentanglement.code_table import Floats, Integers

Singles = NDArray[np.float32]
Bins = NDArray[np.uint32]
Nodes = NDArray[np.uint16]
"""Numbers of nodes within a level."""

DEPTH = 3
_LEAST_GAIN = 1e-9
_TIE = 3e-6
"""Relative difference below which rounding decides which of two splits is better."""


class Trees(NamedTuple):
    """One tree for each of C classes; its 7 splits in the order 1, 2 and 2, 4 and so on."""

    column: Integers
    """(7, C) column that is looked at."""
    last_left: Integers
    """(7, C) last bin that goes to the left; all do where there is no split."""
    gain: Floats
    """(7, C) fall of the squared error."""


def route(bins: Bins, trees: Trees) -> Integers:
    """(C, n) the leaf of each row in each tree, leaves of all trees numbered on."""
    node: Nodes = np.zeros((trees.column.shape[1], bins.shape[1]), dtype=np.uint16)
    for level in range(DEPTH):
        first = 2**level - 1
        node = _descend(bins, node, trees.column[first:], trees.last_left[first:], 2**level)
    return _number_leaves(node)


def _descend(
    bins: Bins,
    node: Nodes,
    column: Integers,
    last_left: Integers,
    nodes: int,
) -> Nodes:
    """(C, n) the node of each row in each tree in the next level, from that in this one."""
    right = bins[column[0]] > last_left[0, :, None]
    for which in range(1, nodes):
        here = bins[column[which]] > last_left[which, :, None]
        right = np.where(node == which, here, right)
    below: Nodes = 2 * node + right
    return below


def _number_leaves(node: Nodes) -> Integers:
    leaf: Integers = node + 2**DEPTH * np.arange(len(node))[:, None]
    return leaf


class SortingGrower:
    """Grows one tree for each class, with splits between any two values.

    The rows of a node are kept in the order of each column, so that the sums on the left of all
    its splits are running sums.
    """

    def __init__(self, bins: Bins, train: Floats, width: int) -> None:
        columns, rows = bins.shape
        self.bins, self.train, self.no_split = bins, train, width
        self.values = [np.unique(column) for column in train.T]
        self.order = np.argsort(bins, axis=1, kind="stable")
        self.each_column = np.arange(columns)
        self.tied = any(len(values) < rows for values in self.values)
        self.rng = np.random.default_rng(0)

    def grow(self, residual: Singles) -> tuple[Trees, Integers]:
        """The trees, and (C, n) the leaf of each row, leaves of all trees numbered on."""
        node: Nodes = np.zeros(residual.shape, dtype=np.uint16)
        splits = [
            self._tree(each, nodes)
            for each, nodes in zip(residual.astype(np.float64), node, strict=True)
        ]
        column, last_left, gain = np.array(splits).T
        trees = Trees(column.astype(np.int64), last_left.astype(np.int64), gain)
        return trees, _number_leaves(node)

    def _tree(self, residual: Floats, node: Nodes) -> list[tuple[int, int, float]]:
        """Column, last bin on the left and gain of its 7 splits; counts rows on in ``node``."""
        splits = []
        orders = [self.order]
        for level in range(DEPTH):
            below = []
            for order in orders:
                splits.append(self._best_split(residual, order))
                column, last_left, _ = splits[-1]
                right = self.bins[column] > last_left
                node[order[0]] = 2 * node[order[0]] + right[order[0]]
                if level + 1 < DEPTH:
                    side = right[order]
                    below += [order[part].reshape(len(order), -1) for part in (~side, side)]
            orders = below
        return splits

    def _best_split(self, residual: Floats, order: Integers) -> tuple[int, int, float]:
        """Column, last bin on the left, and gain of the best split of a node's rows."""
        number = order.shape[1]
        if number < 2:
            return 0, self.no_split, 0.0
        ordered = residual[order]
        ordered -= ordered[0].mean()
        left = ordered.cumsum(1)[:, :-1]
        count = np.arange(1, number)
        gain = left**2
        gain *= number / (count * (number - count))
        if self.tied:
            rank = np.take_along_axis(self.bins, order, axis=1)
            gain[rank[:, 1:] == rank[:, :-1]] = -np.inf
        last = gain.argmax(1)
        of_column = gain[self.each_column, last]
        # Columns that are as good as each other, as copies are, take turns.
        column = int((of_column * (1 + _TIE * self.rng.random(len(of_column)))).argmax())
        if not of_column[column] > _LEAST_GAIN:
            return 0, self.no_split, 0.0
        here = order[column, last[column] : last[column] + 2]
        middle = self.train[here, column].mean()
        below = int(np.searchsorted(self.values[column], middle, side="right"))
        # The middle of neighbouring floats may be the right one of them.
        last_left = min(below - 1, int(self.bins[column, here[1]]) - 1)
        return column, last_left, float(of_column[column])


class HistogramGrower:
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

    def grow(self, residual: Singles) -> tuple[Trees, Integers]:
        """The trees, and (C, n) the leaf of each row, leaves of all trees numbered on."""
        node: Nodes = np.zeros(residual.shape, dtype=np.uint16)
        across = np.ascontiguousarray(residual.T)
        sums = [self.histogram(across)]
        counts = [np.broadcast_to(self.counts, sums[0].shape)]
        found: list[tuple[Integers, Integers, Floats]] = []
        for level in range(DEPTH):
            splits = [_best_split(s, n, self.rng) for s, n in zip(sums, counts, strict=True)]
            found += splits
            column, last_left = np.stack([s[0] for s in splits]), np.stack([s[1] for s in splits])
            node = _descend(self.bins, node, column, last_left, len(splits))
            if level + 1 == DEPTH:
                break
            across_node = np.ascontiguousarray(node.T)
            left = [
                (across_node == child).astype(np.float32) for child in range(0, len(splits) * 2, 2)
            ]
            joint = self.histogram(np.concatenate([*left, *(across * mask for mask in left)], 1))
            parts = np.split(joint, 2 * len(splits), axis=2)
            sums = _children(sums, parts[len(splits) :])
            counts = _children(counts, parts[: len(splits)])
        trees = Trees(*(np.stack(each) for each in zip(*found, strict=True)))
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
        np.where(good, last_left, sums.shape[1]),
        np.where(good, most, 0.0).astype(np.float64),
    )
