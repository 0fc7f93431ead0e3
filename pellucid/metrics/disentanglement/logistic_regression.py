"""The linear classifier that two of the scores are made with."""

import warnings
from typing import Any

from pellucid.arguments import check_positive
from pellucid.metrics.disentanglement.code_table import Floats, Integers

LOGISTIC_PENALTY = 1.0


def fit_logistic_regression(
    points: Floats, labels: Integers, penalty: float = LOGISTIC_PENALTY
) -> Any:
    """scikit-learn's logistic regression with its defaults, as the published scores have it.

    Args:
        points: (n, L).
        labels: (n,), at least two different ones.
        penalty: Weight of half the squared norm of the weights against the sum of the losses.

    Returns:
        The classifier, with ``predict`` and ``predict_proba``.

    Raises:
        ValueError: If ``penalty`` is not above 0.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    check_positive(penalty=penalty)
    with warnings.catch_warnings():
        # The published protocol stops after 100 steps whether or not it has converged.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=1 / penalty).fit(points, labels)
