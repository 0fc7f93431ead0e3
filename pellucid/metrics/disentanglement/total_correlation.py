"""How much the codes depend on each other, without any factors.

Source: Watanabe, *Information Theoretical Analysis of Multivariate Correlation*, IBM Journal 4
(1960), for Gaussian codes, and mutual information in bins, both as in Locatello et al., ICML 2019.
"""

from typing import Any

import numpy as np

from pellucid.arguments import check_at_least
from pellucid.metrics.disentanglement.code_table import (
    NUM_BINS,
    as_codes,
    is_active,
)
from pellucid.metrics.disentanglement.discrete_information import discretise, mutual_information

MOST_CODES = 1000
"""More have more than a million pairs, which take minutes to count."""
_LEAST_EIGENVALUE = 1e-10


def total_correlation(codes: Any) -> float:
    r"""Total correlation of Gaussian codes, :math:`-\frac{1}{2} \ln \det \mathrm{corr}(z)`.

    It sees linear dependence only. Constant codes depend on nothing and are left out; codes that
    are nearly dead count like any other, since their scale does not matter.

    Args:
        codes: (N, L) with more rows than columns.

    Returns:
        In nats, at least 0, lower is better.

    Raises:
        ValueError: If the codes are not finite or constant, there are too few rows, or some are a
            linear function of others, for which it is infinite.
    """
    rows = as_codes(codes)
    rows = as_codes(rows, rows.shape[1] + 1)
    rows = rows[:, is_active(rows)]
    if rows.shape[1] == 1:
        return 0.0
    # Standardised, so that the product of variances does not drown in rounding.
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(rows, rowvar=False))
    # Networks give codes in float32: what is left of a linear function may be their rounding.
    rounding = (np.finfo(np.float32).eps * np.abs(rows).max(0) / rows.std(0)).max() ** 2
    if eigenvalues[0] < _LEAST_EIGENVALUE + rounding:
        raise ValueError(
            "codes have an infinite total correlation: one of them is a linear function of others, "
            "as probabilities that sum to 1 are"
        )
    return max(0.0, float(-np.log(eigenvalues).sum() / 2))


def pairwise_mutual_information(codes: Any, num_bins: int = NUM_BINS) -> float:
    """Mutual information of two codes, mean over all pairs.

    Dead codes have what noise in bins has by chance, about ``(num_bins - 1)**2 / 2N``, constant
    ones 0.

    Args:
        codes: (N, L).
        num_bins: Bins of equal width for each code.

    Returns:
        In nats, at least 0, lower is better; 0 for a single code.

    Raises:
        ValueError: If the codes are not finite or constant, have fewer rows than bins, or more than
            1,000 columns.
    """
    check_at_least(1, num_bins=num_bins)
    rows = as_codes(codes, num_bins)
    if rows.shape[1] == 1:
        return 0.0
    if rows.shape[1] > MOST_CODES:
        raise ValueError(
            f"codes have {rows.shape[1]} columns, and pairs of up to {MOST_CODES} are counted"
        )
    bins = discretise(rows, num_bins)
    information = mutual_information(bins, bins)
    return float(information[~np.eye(len(information), dtype=bool)].mean())
