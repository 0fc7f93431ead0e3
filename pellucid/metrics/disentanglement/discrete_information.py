"""Mutual information of codes and factors, as the scores count it: in bins, in nats."""

import numpy as np

from pellucid.metrics.disentanglement.code_table import Floats, Integers, equal_width_bins


def discretise(codes: Floats, num_bins: int) -> Integers:
    """Put each code into bins of equal width between its smallest and its largest value.

    Args:
        codes: (N, L).
        num_bins: Bins of each code.

    Returns:
        (N, L) from 0 to ``num_bins - 1``; a constant code is all in one bin.
    """
    return np.stack([equal_width_bins(column, num_bins) for column in codes.T], 1)


def mutual_information(first: Integers, second: Integers) -> Floats:
    r"""Plug-in mutual information of every pair of columns.

    :math:`I(a; b) = \sum_{a, b} p(a, b) \ln \frac{p(a, b)}{p(a) p(b)}` with the shares of the rows
    as probabilities. For ``N`` rows it is too large by about
    :math:`(|a| - 1)(|b| - 1) / 2N` where the two are independent.

    Args:
        first: (N, L) from 0 on.
        second: (N, F) from 0 on.

    Returns:
        (L, F) in nats.
    """
    own, other = entropy(first), entropy(second)
    joint = np.empty((first.shape[1], second.shape[1]))
    width = int(second.max()) + 1
    for row, left in enumerate(first.T):
        for column, right in enumerate(second.T):
            joint[row, column] = _entropy_of_counts(np.bincount(left * width + right))
    return np.maximum(own[:, None] + other[None] - joint, 0.0)


def entropy(columns: Integers) -> Floats:
    """Entropy of each column.

    Args:
        columns: (N, F) from 0 on.

    Returns:
        (F,) in nats.
    """
    return np.array([_entropy_of_counts(np.bincount(column)) for column in columns.T])


def _entropy_of_counts(counts: Integers) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
