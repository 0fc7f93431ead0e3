"""The linear classifier that two of the scores are made with."""

import warnings
from typing import Any

from pellucid.metrics.disentanglement.code_table import Floats, Integers


def fit_logistic_regression(points: Floats, labels: Integers) -> Any:
    """scikit-learn's logistic regression with its defaults, as the published scores have it.

    Args:
        points: (n, L).
        labels: (n,), at least two different ones.

    Returns:
        The classifier, with ``predict`` and ``predict_proba``.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        # The published protocol stops after 100 steps whether or not it has converged.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression().fit(points, labels)
