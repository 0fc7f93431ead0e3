"""The metric of the beta-VAE paper.

Source: Higgins et al., *beta-VAE: Learning Basic Visual Concepts with a Constrained Variational
Framework*, ICLR 2017, section 3 and algorithm 1, with the sample sizes and the classifier of
Locatello et al., ICML 2019. (The paper's own classifier is a linear one trained by gradient
descent, so that its figures are not comparable to the last digit.)
"""

import numpy as np

from pellucid.arguments import check_at_least
from pellucid.metrics.disentanglement.code_table import (
    NUM_TEST,
    NUM_TRAIN,
    CodeTable,
    Floats,
    Integers,
    need_rows,
)
from pellucid.metrics.disentanglement.logistic_regression import (
    LOGISTIC_PENALTY,
    fit_logistic_regression,
)

BATCH_SIZE = 64
_AT_ONCE = 1000
"""Points that are in memory together."""


def beta_vae_score(
    table: CodeTable,
    *,
    num_train: int = NUM_TRAIN,
    num_test: int = NUM_TEST,
    batch_size: int = BATCH_SIZE,
    penalty: float = LOGISTIC_PENALTY,
    seed: int = 0,
) -> float:
    """beta-VAE metric: whether a linear classifier can tell which factor pairs of images share.

    A point is the mean of ``|z1 - z2|`` over ``batch_size`` pairs of images that share one factor;
    logistic regression (scikit-learn's: an L2 penalty, at most 100 steps) tells which, and the
    score is its accuracy. A dead code's difference is about 0 whatever is shared, and the
    classifier has no use for it.

    Args:
        table: Codes and factors, at least two that vary.
        num_train: Points that the classifier is trained on.
        num_test: Points that are counted.
        batch_size: Pairs of a point.
        penalty: Weight of half the squared norm in the logistic regression, above 0.
        seed: Chooses factors and pairs.

    Returns:
        From 0 to 1, higher is better; about 1 / F for codes that know nothing.

    Raises:
        ValueError: If an option is out of range, there are fewer rows than pairs in a point, or one
            factor.
    """
    check_at_least(1, num_train=num_train, num_test=num_test, batch_size=batch_size)
    need_rows(len(table), batch_size)
    if table.num_factors < 2:
        raise ValueError("beta_vae_score needs at least 2 factors that vary, got 1")
    rng = np.random.default_rng(seed)
    points, shared = _points(table, num_train, batch_size, rng)
    classifier = fit_logistic_regression(points, shared, penalty)
    points, shared = _points(table, num_test, batch_size, rng)
    return float((classifier.predict(points) == shared).mean())


def _points(
    table: CodeTable, count: int, pairs: int, rng: np.random.Generator
) -> tuple[Floats, Integers]:
    """(n, L) mean differences, and (n,) the factor that was shared."""
    shared = np.sort(rng.integers(table.num_factors, size=count))
    codes = table.codes.astype(np.float32)
    points = np.empty((count, codes.shape[1]))
    for factor in range(table.num_factors):
        first, last = np.searchsorted(shared, [factor, factor + 1])
        for start in range(first, last, _AT_ONCE):
            stop = min(start + _AT_ONCE, last)
            rows = table.draw((stop - start, pairs), rng)
            other = codes[table.sharing(rows, factor, rng)]
            points[start:stop] = np.abs(codes[rows] - other).mean(1)
    return points, shared
