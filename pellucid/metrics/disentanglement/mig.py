"""Mutual information gap.

Source: Chen, Li, Grosse, Duvenaud, *Isolating Sources of Disentanglement in Variational
Autoencoders*, NeurIPS 2018 (arXiv 1802.04942), section 4.1, equation 6, in the discrete form of
Locatello et al., *Challenging Common Assumptions in the Unsupervised Learning of Disentangled
Representations*, ICML 2019.
"""

import numpy as np

from pellucid.arguments import check_at_least
from pellucid.metrics.disentanglement.code_table import (
    NUM_BINS,
    NUM_TRAIN,
    CodeTable,
    need_rows,
)
from pellucid.metrics.disentanglement.discrete_information import (
    discretise,
    entropy,
    mutual_information,
)


def mig(
    table: CodeTable, *, num_train: int = NUM_TRAIN, num_bins: int = NUM_BINS, seed: int = 0
) -> float:
    r"""Mutual information gap, :math:`\frac{1}{F} \sum_k (I_{k,1} - I_{k,2}) / H(v_k)`.

    :math:`I_{k,1}` and :math:`I_{k,2}` are the largest and the second largest mutual information
    of factor :math:`v_k` with any code. It is 1 where each factor is told entirely by one code and
    by no other, 0 where two codes tell as much of each factor. A dead code has no information and
    changes nothing; a single code has 0 as its rival.

    Args:
        table: Codes and factors.
        num_train: Rows that are looked at; all where there are no more.
        num_bins: Bins of equal width for each code.
        seed: Chooses the rows.

    Returns:
        From 0 to 1, higher is better.

    Raises:
        ValueError: If an option is out of range, there are fewer rows than bins, or a factor has
            one value in all that are looked at.
    """
    check_at_least(1, num_train=num_train, num_bins=num_bins)
    need_rows(len(table), num_bins)
    rows = table.rows(num_train, np.random.default_rng(seed))
    values = table.values[rows]
    information = mutual_information(discretise(table.codes[rows], num_bins), values)
    ranked = np.sort(np.pad(information, ((1, 0), (0, 0))), axis=0)
    of_factors = entropy(values)
    if not of_factors.all():
        name = table.factor_names[int(of_factors.argmin())]
        raise ValueError(f"factor {name} has one value in the rows that mig looks at: give more")
    return float(((ranked[-1] - ranked[-2]) / of_factors).mean())
