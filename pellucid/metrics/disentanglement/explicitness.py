"""Whether a linear classifier can read the factors from the codes.

Source: Ridgeway, Mozer, *Learning Deep Disentangled Embeddings with the F-Statistic Loss*, NeurIPS
2018 (arXiv 1802.05312), section 3, with the sample sizes of Locatello et al., ICML 2019.
"""

import numpy as np
from scipy.stats import rankdata

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

LEAST_ROWS = 30
"""Of fewer rows a classifier learns nothing."""


def explicitness(
    table: CodeTable,
    *,
    num_train: int = NUM_TRAIN,
    num_test: int = NUM_TEST,
    penalty: float = LOGISTIC_PENALTY,
    seed: int = 0,
) -> float:
    """Explicitness: area under the ROC curve of logistic regression on standardised codes.

    One classifier for each factor; the area of each value against all others on the test part,
    mean over values, then over factors. The paper's own figure is twice this less one. Constant
    codes are 0 after standardising and change nothing; a code that is nearly dead is stretched to
    standard deviation 1 like any other, so what it still knows counts in full.

    Args:
        table: Codes and factors.
        num_train: Rows that the classifiers are trained on.
        num_test: Rows that are counted; where there are fewer in all, they are divided in this
            proportion.
        penalty: Weight of half the squared norm in the logistic regression, above 0.
        seed: Chooses the rows.

    Returns:
        From 0 to 1, higher is better; 0.5 for codes that know nothing.

    Raises:
        ValueError: If an option is out of range, there are fewer than 30 rows, or each factor has
            one value in the rows of a part.
    """
    check_at_least(1, num_train=num_train, num_test=num_test)
    need_rows(len(table), LEAST_ROWS)
    train, test = table.split(num_train, num_test, np.random.default_rng(seed))
    mean, std = table.codes[train].mean(0), table.codes[train].std(0)
    codes = (table.codes - mean) / np.where(std > 0, std, 1.0)
    areas = []
    for labels in table.values.T:
        if len(np.unique(labels[train])) < 2:
            continue
        classifier = fit_logistic_regression(codes[train], labels[train], penalty)
        shares = classifier.predict_proba(codes[test])
        if shares.shape[1] == 2:  # One column decides; the other is its complement.
            classes = classifier.classes_[1:]
            shares = shares[:, 1:]
        else:
            classes = classifier.classes_
        found = _areas(shares, labels[test][:, None] == classes)
        if not np.isnan(found).all():
            areas.append(np.nanmean(found))
    if not areas:
        raise ValueError(
            "factors have one value each in the training rows or in the test rows: give more rows"
        )
    return float(np.mean(areas))


def _areas(shares: Floats, right: Integers) -> Floats:
    """(K,) area under the ROC curve of each column; NaN where the test part has no such value."""
    ranks = rankdata(shares, axis=0)
    positive = right.sum(0)
    negative = len(right) - positive
    with np.errstate(invalid="ignore"):
        area: Floats = ((ranks * right).sum(0) - positive * (positive + 1) / 2) / (
            positive * negative
        )
    return area
