"""Separated attribute predictability.

Source: Kumar, Sattigeri, Balakrishnan, *Variational Inference of Disentangled Latent Concepts from
Unlabeled Observations*, ICLR 2018 (arXiv 1711.00848), section 3, with the settings of Locatello et
al., ICML 2019.
"""

from typing import NamedTuple

import numpy as np

from pellucid.arguments import check_at_least
from pellucid.metrics.disentanglement.code_table import (
    NUM_TEST,
    NUM_TRAIN,
    CodeTable,
    Floats,
    Integers,
    is_active,
    need_rows,
)

PENALTY = 0.01
LEAST_ROWS = 30
"""Of fewer rows a classifier learns nothing."""
_STEPS = 100
_HALVINGS = 30


def sap(
    table: CodeTable,
    *,
    num_train: int = NUM_TRAIN,
    num_test: int = NUM_TEST,
    penalty: float = PENALTY,
    seed: int = 0,
) -> float:
    r"""SAP score, :math:`\frac{1}{F} \sum_k (S_{k,1} - S_{k,2})`.

    :math:`S_{jk}` is how well code j alone predicts factor k: the accuracy of a linear SVM on the
    test part (squared hinge, ``C = penalty``, balanced classes, one against the rest), or, where
    the factor is continuous, the squared correlation on the training part. The gap is that of the
    two best codes. The SVM is solved to its optimum, in which scikit-learn's ``LinearSVC`` agrees
    once it has converged; older versions of it stopped earlier, which moves published figures.

    A dead code predicts the most weighted value; it never is the best unless all are as bad.

    Args:
        table: At least two codes, and factors.
        num_train: Rows that the SVMs are trained on.
        num_test: Rows that are counted; where there are fewer in all, they are divided in this
            proportion.
        penalty: Weight of the hinge loss against the norm, above 0.
        seed: Chooses the rows.

    Returns:
        From 0 to 1, higher is better.

    Raises:
        ValueError: If an option is out of range, there are fewer than 30 rows, or one code.
    """
    check_at_least(1, num_train=num_train, num_test=num_test)
    need_rows(len(table), LEAST_ROWS)
    if not penalty > 0:
        raise ValueError(f"penalty must be above 0, got {penalty}; usual is {PENALTY}")
    if table.codes.shape[1] < 2:
        raise ValueError("sap needs at least 2 codes, got 1")
    train, test = table.split(num_train, num_test, np.random.default_rng(seed))
    scores = np.empty((table.codes.shape[1], table.num_factors))
    for k, continuous in enumerate(table.continuous):
        if continuous:
            scores[:, k] = _squared_correlation(table.codes[train], table.factors[train, k])
            continue
        labels = table.values[train, k]
        for j, codes in enumerate(table.codes.T):
            svm = fit_svm(codes[train], labels, penalty)
            scores[j, k] = (svm.predict(codes[test]) == table.values[test, k]).mean()
    ranked = np.sort(scores, axis=0)
    return float((ranked[-1] - ranked[-2]).mean())


def _squared_correlation(codes: Floats, factor: Floats) -> Floats:
    """(L,) R squared; 0 for constant codes."""
    active = is_active(codes)
    found = np.zeros(codes.shape[1])
    if factor.std() > 0:
        centred = codes[:, active] - codes[:, active].mean(0)
        aim = factor - factor.mean()
        found[active] = (centred.T @ aim) ** 2 / ((centred**2).sum(0) * (aim**2).sum())
    return found


class LineSVM(NamedTuple):
    """A linear SVM of one input, one line for each class or one for both of two."""

    classes: Integers
    """(K,) in rising order."""
    weight: Floats
    """(K,), or (1,) for two classes: slope of each line."""
    bias: Floats
    """Likewise."""

    def predict(self, inputs: Floats) -> Integers:
        """The class of each input.

        Args:
            inputs: (n,).
        """
        lines = inputs[:, None] * self.weight + self.bias
        best = lines.argmax(1) if lines.shape[1] > 1 else (lines[:, 0] > 0).astype(np.int64)
        # With a single class there is nothing to choose.
        found: Integers = self.classes[np.minimum(best, len(self.classes) - 1)]
        return found


def fit_svm(inputs: Floats, labels: Integers, penalty: float) -> LineSVM:
    r"""Minimise :math:`(w^2 + b^2) / 2 + \sum_i C_i \max(0, 1 - y_i (w x_i + b))^2` by class.

    For sorted inputs the points within the margin are a prefix or a suffix, so that sums of
    ``1, x, x^2`` up to each point give objective, gradient and Hessian in logarithmic time.

    Args:
        inputs: (n,).
        labels: (n,).
        penalty: ``C``; multiplied by ``n / (K n_k)`` for the n_k points of the class itself (of
            both classes where there are two).
    """
    classes, number = np.unique(labels, return_inverse=True)
    order = np.argsort(inputs, kind="stable")
    x = inputs[order]
    right = number[order, None] == np.arange(len(classes))
    if len(classes) == 2:
        right = right[:, 1:]
    moments = np.stack([np.ones_like(x), x, x * x])
    sums = _running_sums(moments[:, :, None] * right)
    rest = _running_sums(np.broadcast_to(moments[:, :, None], sums[:, 1:].shape)) - sums
    balance = len(x) / len(classes)
    cost = penalty * balance / sums[0, -1]
    # One against the rest weighs the class alone, as liblinear does.
    other = penalty * balance / rest[0, -1] if len(classes) == 2 else np.full_like(cost, penalty)
    problem = _Problem(x, sums, rest, cost, other)
    return LineSVM(classes, *problem.solve())


def _running_sums(terms: Floats) -> Floats:
    """(3, n + 1, K) sums over the first points."""
    return np.pad(terms.cumsum(1), ((0, 0), (1, 0), (0, 0)))


class _Problem(NamedTuple):
    x: Floats
    """(n,) sorted."""
    own: Floats
    """(3, n + 1, K) running sums of 1, x, x^2 over the points of each class."""
    rest: Floats
    """Likewise over all other points."""
    own_cost: Floats
    rest_cost: Floats

    def solve(self) -> tuple[Floats, Floats]:
        """Newton's method, with steps that are halved until the objective falls."""
        weight, bias = np.zeros((2, len(self.own_cost)))
        value, slope, curve = self.at(weight, bias)
        for _ in range(_STEPS):
            determinant = curve[0] * curve[2] - curve[1] ** 2
            step = (
                (curve[2] * slope[0] - curve[1] * slope[1]) / determinant,
                (curve[0] * slope[1] - curve[1] * slope[0]) / determinant,
            )
            gain = step[0] * slope[0] + step[1] * slope[1]
            moving = gain > 1e-12 * (1 + value)
            if not moving.any():
                break
            length = moving.astype(np.float64)
            for _ in range(_HALVINGS):
                found = self.at(weight - length * step[0], bias - length * step[1])
                short = found[0] > value - 1e-4 * length * gain
                if not (short & moving).any():
                    break
                length = np.where(short, length / 2, length)
            weight, bias = weight - length * step[0], bias - length * step[1]
            value, slope, curve = found
        return weight, bias

    def at(self, weight: Floats, bias: Floats) -> tuple[Floats, Floats, Floats]:
        """Objective (K,), gradient (2, K), and the Hessian's ww, wb, bb (3, K)."""
        one, x, xx = self._within(self.own, weight, bias, 1.0)
        one_, x_, xx_ = self._within(self.rest, weight, bias, -1.0)
        c, d = self.own_cost, self.rest_cost
        curve = np.stack(
            [1 + 2 * (c * xx + d * xx_), 2 * (c * x + d * x_), 1 + 2 * (c * one + d * one_)]
        )
        pull = 2 * np.stack([c * x - d * x_, c * one - d * one_])
        slope = (
            np.stack([curve[0] * weight + curve[1] * bias, curve[1] * weight + curve[2] * bias])
            - pull
        )
        square = curve[0] * weight**2 + 2 * curve[1] * weight * bias + curve[2] * bias**2
        value = square / 2 - pull[0] * weight - pull[1] * bias + c * one + d * one_
        return value, slope, curve

    def _within(self, sums: Floats, weight: Floats, bias: Floats, side: float) -> Floats:
        """(3, K) sums over the points of one side with ``side (w x + b) < 1``."""
        column = np.arange(len(weight))
        with np.errstate(divide="ignore", invalid="ignore"):
            edge = (side - bias) / weight
        flat = weight == 0
        edge = np.where(flat, 0.0, edge)
        total = sums[:, -1]
        below = sums[:, np.searchsorted(self.x, edge), column]
        found = np.where(weight * side > 0, below, total - below)
        return np.where(flat, total * (side * bias < 1), found)
