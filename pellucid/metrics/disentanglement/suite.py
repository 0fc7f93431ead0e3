"""The scores that a test reports: which there are, of how many rows, and how much they vary."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np

from pellucid.errors import nearest
from pellucid.metrics.disentanglement.active_units import active_units
from pellucid.metrics.disentanglement.beta_vae_score import beta_vae_score
from pellucid.metrics.disentanglement.code_table import CodeTable
from pellucid.metrics.disentanglement.dci import dci
from pellucid.metrics.disentanglement.explicitness import explicitness
from pellucid.metrics.disentanglement.factor_vae_score import factor_vae_score
from pellucid.metrics.disentanglement.irs import irs
from pellucid.metrics.disentanglement.mig import mig
from pellucid.metrics.disentanglement.modularity import modularity
from pellucid.metrics.disentanglement.sap import sap
from pellucid.metrics.disentanglement.score_settings import ScoreSettings
from pellucid.metrics.disentanglement.total_correlation import (
    pairwise_mutual_information,
    total_correlation,
)

Samples = Callable[[CodeTable, ScoreSettings], dict[str, int]]


class _Entry(NamedTuple):
    keys: tuple[str, ...]
    needs_factors: bool
    compute: Callable[[CodeTable, ScoreSettings, int], tuple[float, ...]]
    samples: Samples
    """Of how many rows or batches of a table it is."""
    each_epoch: bool = False
    """Whether it is quick enough for the validation after each epoch."""


def _all_rows(table: CodeTable, settings: ScoreSettings) -> dict[str, int]:
    return {"rows": len(table)}


def _some_rows(table: CodeTable, settings: ScoreSettings) -> dict[str, int]:
    return {"rows": min(len(table), settings.num_train)}


def _two_parts(table: CodeTable, settings: ScoreSettings) -> dict[str, int]:
    train, test = table.part_sizes(settings.num_train, settings.num_test)
    return {"train_rows": train, "test_rows": test}


def _votes(table: CodeTable, settings: ScoreSettings) -> dict[str, int]:
    variance_rows = min(len(table), settings.factor_vae_rows)
    return _batches(table, settings) | {"variance_rows": variance_rows}


def _batches(table: CodeTable, settings: ScoreSettings) -> dict[str, int]:
    return {
        "rows": len(table),
        "train_batches": settings.num_train,
        "test_batches": settings.num_test,
    }


def _of_factors(
    key: str,
    score: Callable[..., float],
    samples: Samples,
    *options: str,
    each_epoch: bool = False,
    **renamed: str,
) -> _Entry:
    """A score with the settings that it takes, some of them by another name."""

    def compute(table: CodeTable, settings: ScoreSettings, seed: int) -> tuple[float, ...]:
        names = {name: name for name in ("num_train", *options)} | renamed
        chosen = {name: getattr(settings, source) for name, source in names.items()}
        return (score(table, seed=seed, **chosen),)

    return _Entry((key,), True, compute, samples, each_epoch)


def _of_codes(
    key: str, score: Callable[[CodeTable, ScoreSettings], float], *, each_epoch: bool = False
) -> _Entry:
    def compute(table: CodeTable, settings: ScoreSettings, seed: int) -> tuple[float, ...]:
        return (score(table, settings),)

    return _Entry((key,), False, compute, _all_rows, each_epoch)


def _dci(table: CodeTable, settings: ScoreSettings, seed: int) -> tuple[float, ...]:
    found = dci(
        table,
        num_train=settings.num_train,
        num_test=settings.num_test,
        booster=settings.booster,
        num_stages=settings.dci_stages,
        seed=seed,
    )
    return found[:3]


_DCI_KEYS = ("dci_disentanglement", "dci_completeness", "dci_informativeness")
SCORES: Mapping[str, _Entry] = {
    "mig": _of_factors("mig", mig, _some_rows, "num_bins", each_epoch=True),
    "dci": _Entry(_DCI_KEYS, True, _dci, _two_parts),
    "factor_vae_score": _of_factors(
        "factor_vae_score",
        factor_vae_score,
        _votes,
        "num_test",
        "batch_size",
        num_rows="factor_vae_rows",
        least_std="factor_vae_least_std",
    ),
    "beta_vae_score": _of_factors(
        "beta_vae_score",
        beta_vae_score,
        _batches,
        "num_test",
        "batch_size",
        penalty="logistic_penalty",
    ),
    "sap": _of_factors("sap", sap, _two_parts, "num_test", penalty="sap_penalty"),
    "modularity": _of_factors("modularity", modularity, _some_rows, "num_bins"),
    "explicitness": _of_factors(
        "explicitness", explicitness, _two_parts, "num_test", penalty="logistic_penalty"
    ),
    "irs": _of_factors("irs", irs, _some_rows, "num_bins", quantile="irs_quantile"),
    "active_units": _of_codes(
        "active_units",
        lambda table, settings: active_units(table.codes, settings.active_variance),
        each_epoch=True,
    ),
    "total_correlation": _of_codes(
        "total_correlation",
        lambda table, settings: total_correlation(table.codes),
        each_epoch=True,
    ),
    "pairwise_mutual_information": _of_codes(
        "pairwise_mutual_information",
        lambda table, settings: pairwise_mutual_information(table.codes, settings.num_bins),
    ),
}
"""The scores by name, in the order of a report."""


def check_names(names: Collection[str] | None) -> None:
    """Raise a ``ValueError`` that names the nearest score where one is not known."""
    for name in names or ():
        if name not in SCORES:
            raise ValueError(f"there is no score {name!r}; {nearest(name, SCORES)}")


def chosen_scores(
    names: Collection[str] | None, *, factors: bool, each_epoch: bool = False
) -> dict[str, _Entry]:
    """Entries of :data:`SCORES`.

    Args:
        names: Those that are wanted; None: all.
        factors: Whether factors are known.
        each_epoch: Whether to leave out what takes too long for a validation after each epoch.
    """
    return {
        name: entry
        for name, entry in SCORES.items()
        if (names is None or name in names)
        and (factors or not entry.needs_factors)
        and (entry.each_epoch or not each_epoch)
    }


class Scores(NamedTuple):
    """What the suite has found."""

    values: dict[str, float]
    """By key."""
    spread: dict[str, float]
    """By key, the standard deviation over resampled tables."""
    skipped: dict[str, str]
    """By key, why a score could not be computed."""
    samples: dict[str, dict[str, int]]
    """By key, of how many rows of the table, or batches of them, a score is."""


def score_table(
    table: CodeTable,
    settings: ScoreSettings | None = None,
    *,
    names: Collection[str] | None = None,
    each_epoch: bool = False,
) -> Scores:
    """Compute all scores, and how much each varies.

    The spread is the standard deviation over tables whose rows are drawn anew with replacement,
    each with a seed of its own; test rows are never copies of training rows.

    Args:
        table: Codes, and factors where they are known; without them the scores that need some are
            left out.
        settings: None: the published ones.
        names: Keys of :data:`SCORES`; None: all.
        each_epoch: Whether to compute only what is quick, without its spread.

    Raises:
        ValueError: If there is no such score. What a single score cannot do with the table is told
            in ``skipped``.
    """
    settings = settings or ScoreSettings()
    check_names(names)
    entries = chosen_scores(names, factors=table.num_factors > 0, each_epoch=each_epoch)
    values: dict[str, float] = {}
    skipped: dict[str, str] = {}
    samples: dict[str, dict[str, int]] = {}
    for entry in entries.values():
        try:
            values |= zip(entry.keys, entry.compute(table, settings, settings.seed), strict=True)
        except ValueError as error:
            skipped |= dict.fromkeys(entry.keys, str(error))
        else:
            samples |= dict.fromkeys(entry.keys, entry.samples(table, settings))
    draws: dict[str, list[float]] = {key: [] for key in values}
    for number in range(0 if each_epoch else settings.resamplings):
        seed = settings.seed + 1 + number
        other = table.resampled(np.random.default_rng(seed))
        for entry in entries.values():
            if entry.keys[0] not in values:
                continue
            try:
                found = entry.compute(other, settings, seed)
            except ValueError:  # What only just could be computed of all rows.
                continue
            for key, value in zip(entry.keys, found, strict=True):
                draws[key].append(value)
    spread = {key: float(np.std(v, ddof=1)) for key, v in draws.items() if len(v) > 1}
    return Scores({key: float(value) for key, value in values.items()}, spread, skipped, samples)
