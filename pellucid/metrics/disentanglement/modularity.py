"""Whether each code knows of one factor alone.

Source: Ridgeway, Mozer, *Learning Deep Disentangled Embeddings with the F-Statistic Loss*, NeurIPS
2018 (arXiv 1802.05312), section 3, with mutual information in bins as in Locatello et al., ICML
2019.
"""

import numpy as np

from pellucid.arguments import check_at_least
from pellucid.metrics.disentanglement.code_table import (
    NUM_BINS,
    NUM_TRAIN,
    CodeTable,
    need_rows,
)
from pellucid.metrics.disentanglement.discrete_information import discretise, mutual_information


def modularity(
    table: CodeTable, *, num_train: int = NUM_TRAIN, num_bins: int = NUM_BINS, seed: int = 0
) -> float:
    r"""Modularity, :math:`\frac{1}{L} \sum_j 1 - \frac{\sum_k I_{jk}^2 - m_j^2}{m_j^2 (F - 1)}`.

    :math:`I_{jk}` is the mutual information of code j and factor k, :math:`m_j` its largest over
    factors. A code without any information counts as 0, so a constant one lowers the mean; one
    that is nearly constant but not quite has the information of its bins, and what noise has by
    chance is spread over factors. That the score is about the codes alone, several of which may
    know of the same factor, is how it is published.

    Args:
        table: Codes and factors, at least two that vary.
        num_train: Rows that are looked at; all where there are no more.
        num_bins: Bins of equal width for each code.
        seed: Chooses the rows.

    Returns:
        From 0 to 1, higher is better.

    Raises:
        ValueError: If an option is out of range, there are fewer rows than bins, or one factor.
    """
    check_at_least(1, num_train=num_train, num_bins=num_bins)
    need_rows(len(table), num_bins)
    if table.num_factors < 2:
        raise ValueError("modularity needs at least 2 factors that vary, got 1")
    rows = table.rows(num_train, np.random.default_rng(seed))
    information = mutual_information(discretise(table.codes[rows], num_bins), table.values[rows])
    squares = information**2
    largest = squares.max(1)
    known = largest > 0
    others = (squares.sum(1) - largest)[known] / (largest[known] * (table.num_factors - 1))
    return float((1 - others).sum() / len(largest))
