"""The disentanglement scores against a direct transcription of the published loops.

Usage: python benchmarks/disentanglement.py [--share 0.02] [--boosted-classes 3]

10,000 x 10 codes with the five factors of dSprites (3, 6, 40, 32, 32 values), published sample
sizes, one pass without resamplings. The transcription would take a quarter of an hour: a part of
each loop is timed and multiplied. Loops over points (beta-VAE and FactorVAE metric) run ``--share``
of their points, without the classifier at their end; gradient boosting grows one tree a stage for
each value of a factor, so one factor with ``--boosted-classes`` values is fitted (in two stages of
the default hundred) and the time multiplied by 50 and by the number of values of all factors over
its own; SVMs and logistic regressions are fitted in full. Timed once.
"""

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score
from sklearn.svm import LinearSVC

from pellucid.metrics.disentanglement import CodeTable, ScoreSettings
from pellucid.metrics.disentanglement.suite import SCORES

SIZES = (3, 6, 40, 32, 32)
STAGES = 2


def representation(rows: int = 10_000, codes: int = 10) -> CodeTable:
    rng = np.random.default_rng(0)
    factors = np.stack([rng.integers(size, size=rows) for size in SIZES], 1)
    own = (factors - factors.mean(0)) / factors.std(0)
    turn, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    latents = 0.1 * rng.normal(size=(rows, codes))
    latents[:, :5] += 0.5 * own + 0.5 * own @ turn
    return CodeTable(latents, factors)


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def sample(table: CodeTable, rng: np.random.Generator, size: int, factor: int) -> np.ndarray:
    """Rows of which one factor is held, one after the other."""
    rows = np.flatnonzero(table.values[:, factor] == rng.integers(table.factor_sizes[factor]))
    return table.codes[[rng.choice(rows) for _ in range(size)]]


def beta_vae_loop(table: CodeTable, points: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(points):
        factor = rng.integers(5)
        first, second = (sample(table, rng, 64, factor) for _ in range(2))
        np.mean(np.abs(first - second), axis=0)


def factor_vae_loop(table: CodeTable, points: int) -> None:
    rng = np.random.default_rng(0)
    variance = table.codes.var(0)
    for _ in range(points):
        (sample(table, rng, 64, rng.integers(5)).var(0, ddof=1) / variance).argmin()


def information_loop(table: CodeTable) -> None:
    for code in table.codes.T:
        binned = np.digitize(code, np.histogram(code, 20)[1][:-1])
        for factor in table.values.T:
            mutual_info_score(factor, binned)


def sap_loop(table: CodeTable) -> None:
    for code in table.codes.T:
        for factor in table.values.T:
            LinearSVC(C=0.01, class_weight="balanced").fit(code[:, None], factor)


def explicitness_loop(table: CodeTable) -> None:
    codes = (table.codes - table.codes.mean(0)) / table.codes.std(0)
    for factor in table.values.T:
        LogisticRegression().fit(codes, factor)


def boosting(table: CodeTable, values: int) -> float:
    labels = np.minimum(table.values[:, 2] * values // SIZES[2], values - 1)
    model = GradientBoostingClassifier(n_estimators=STAGES)
    trees = values if values > 2 else 1
    spent = seconds(lambda: model.fit(table.codes, labels))
    return spent / STAGES * 100 * sum(SIZES) / trees


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=0.02)
    parser.add_argument("--boosted-classes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    table, settings = representation(), ScoreSettings()
    points = round(15_000 * options.share)
    times = {
        "beta_vae_score": seconds(lambda: beta_vae_loop(table, points)) / options.share,
        "factor_vae_score": seconds(lambda: factor_vae_loop(table, points)) / options.share,
        "mig": seconds(lambda: information_loop(table)),
        "sap": seconds(lambda: sap_loop(table)),
        "explicitness": seconds(lambda: explicitness_loop(table)),
        "dci": boosting(table, options.boosted_classes),
    }
    times["modularity"] = times["mig"]
    total = ours = 0.0
    for name, entry in SCORES.items():
        if not entry.needs_factors:
            continue
        # The loops of IRS are over values alone: the same in both.
        own = seconds(lambda entry=entry: entry.compute(table, settings, 0))
        loops = times.get(name, own)
        total, ours = total + loops, ours + own
        print(f"{name:<18} loops {loops:8.2f} s   ours {own:6.2f} s   {loops / own:6.1f} times")
    print(
        f"{'whole suite':<18} loops {total:8.2f} s   ours {ours:6.2f} s   {total / ours:6.1f} times"
    )


if __name__ == "__main__":
    main()
