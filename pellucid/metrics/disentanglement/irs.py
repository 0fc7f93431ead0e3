"""Interventional robustness: how little a code moves while another factor varies.

Source: Suter, Miladinović, Schölkopf, Bauer, *Robustly Disentangled Causal Mechanisms*, ICML 2019
(arXiv 1811.00007), equations 6 to 9, for independent factors, with the quantile of Locatello et
al., ICML 2019.
"""

import numpy as np

from pellucid.arguments import check_at_least
from pellucid.metrics.disentanglement.code_table import (
    NUM_BINS,
    NUM_TRAIN,
    CodeTable,
    equal_width_bins,
    is_active,
    need_rows,
)

QUANTILE = 0.99


def irs(
    table: CodeTable,
    *,
    num_train: int = NUM_TRAIN,
    num_bins: int = NUM_BINS,
    quantile: float = QUANTILE,
    seed: int = 0,
) -> float:
    r"""Interventional robustness score, :math:`\sum_j w_j \max_k (1 - d_{jk} / m_j)`.

    :math:`d_{jk}` is how far code j strays from its mean while factor k stands at one value, as a
    quantile, mean over the values; :math:`m_j` is the furthest that it ever strays, and
    :math:`w_j = m_j / \sum m`. Constant codes are left out; those that hardly move have hardly any
    weight.

    Args:
        table: Codes and factors.
        num_train: Rows that are looked at; all where there are no more.
        num_bins: Bins of equal width for the values of each factor.
        quantile: Of the deviations, in (0, 1]; 1 is the furthest, as in the paper.
        seed: Chooses the rows.

    Returns:
        At most 1, higher is better.

    Raises:
        ValueError: If an option is out of range, or there are fewer rows than bins.
    """
    check_at_least(1, num_train=num_train, num_bins=num_bins)
    need_rows(len(table), num_bins)
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile must be in (0, 1], got {quantile}; usual is {QUANTILE}")
    rows = table.rows(num_train, np.random.default_rng(seed))
    codes = table.codes[rows]
    codes = codes[:, is_active(codes)]
    furthest = np.abs(codes - codes.mean(0)).max(0)
    strays = np.empty((codes.shape[1], table.num_factors))
    for k, column in enumerate(table.factors[rows].T):
        groups = equal_width_bins(column, num_bins)
        of_values = []
        for value in np.unique(groups):
            group = codes[groups == value]
            of_values.append(np.quantile(np.abs(group - group.mean(0)), quantile, axis=0))
        strays[:, k] = np.mean(of_values, axis=0)
    robust = (1 - strays / furthest[:, None]).max(1)
    return float(np.average(robust, weights=furthest))
