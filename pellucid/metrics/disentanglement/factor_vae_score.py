"""The metric of the FactorVAE paper.

Source: Kim, Mnih, *Disentangling by Factorising*, ICML 2018 (arXiv 1802.05983), section 4 and
appendix B, with the sample sizes of Locatello et al., ICML 2019.
"""

import numpy as np
from numpy.typing import NDArray

from pellucid.arguments import check_at_least
from pellucid.metrics.disentanglement.code_table import (
    NUM_TEST,
    NUM_TRAIN,
    CodeTable,
    Integers,
    need_rows,
)

BATCH_SIZE = 64
LEAST_STD = 0.05
_AT_ONCE = 1000
"""Batches that are in memory together."""


def factor_vae_score(
    table: CodeTable,
    *,
    num_train: int = NUM_TRAIN,
    num_test: int = NUM_TEST,
    batch_size: int = BATCH_SIZE,
    num_rows: int = NUM_TRAIN,
    least_std: float = LEAST_STD,
    seed: int = 0,
) -> float:
    """FactorVAE metric: how often the steadiest code names the factor that is held.

    In a batch of images that share one factor, the code whose variance is the smallest share of its
    variance over all images has a vote for that factor. Each code stands for the factor that most
    of its votes in ``num_train`` batches were for; the score is the share of the votes in
    ``num_test`` other batches that agree.

    Codes with a standard deviation below ``least_std`` are dropped: a dead code's ratio is noise,
    and it would win votes. Where none is left the score is 0. Several public versions drop none.

    Args:
        table: Codes and factors.
        num_train: Batches by which codes are assigned to factors.
        num_test: Batches that are counted.
        batch_size: Images of a batch.
        num_rows: Rows by which each code's variance over all images is known; all where there are
            no more.
        least_std: Codes with a smaller standard deviation are dead; 0 keeps all that vary.
        seed: Chooses factors and batches.

    Returns:
        From 0 to 1, higher is better; about 1 / F for codes that know nothing.

    Raises:
        ValueError: If an option is out of range, or there are fewer rows than in a batch.
    """
    check_at_least(1, num_train=num_train, num_test=num_test)
    # One has no variance.
    check_at_least(2, batch_size=batch_size, num_rows=num_rows)
    need_rows(len(table), batch_size)
    if least_std < 0:
        raise ValueError(f"least_std must be at least 0, got {least_std}; usual is {LEAST_STD}")
    rng = np.random.default_rng(seed)
    variance = table.codes[table.rows(num_rows, rng)].var(0, ddof=1)
    active = (variance >= least_std**2) & (variance > 0)
    if not active.any():
        return 0.0
    scaled = (table.codes - table.codes.mean(0))[:, active] / np.sqrt(variance[active])
    codes = scaled.astype(np.float32)
    train = _votes(table, codes, num_train, batch_size, rng)
    test = _votes(table, codes, num_test, batch_size, rng)
    chosen = train.argmax(0)
    return float(test[chosen, np.arange(test.shape[1])].sum() / num_test)


def _votes(
    table: CodeTable, codes: NDArray[np.float32], batches: int, size: int, rng: np.random.Generator
) -> Integers:
    """(F, L) how often each code was the steadiest while each factor was held."""
    votes = np.zeros((table.num_factors, codes.shape[1]), dtype=np.int64)
    held = rng.integers(table.num_factors, size=batches)
    for factor in range(table.num_factors):
        left = int((held == factor).sum())
        while left > 0:
            now = min(left, _AT_ONCE)
            left -= now
            anchors = np.repeat(table.draw((now, 1), rng), size, axis=1)
            batch = codes[table.sharing(anchors, factor, rng)]
            steadiest = batch.var(1).argmin(1)
            votes[factor] += np.bincount(steadiest, minlength=codes.shape[1])
    return votes
