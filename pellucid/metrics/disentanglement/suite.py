"""The scores that a test reports: which there are, with which settings, and how much they vary."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, get_args

import numpy as np

from pellucid.errors import nearest
from pellucid.metrics.disentanglement.active_units import active_units
from pellucid.metrics.disentanglement.beta_vae_score import BATCH_SIZE, beta_vae_score
from pellucid.metrics.disentanglement.code_table import (
    NUM_BINS,
    NUM_TEST,
    NUM_TRAIN,
    CodeTable,
    check_counts,
)
from pellucid.metrics.disentanglement.dci import Booster, dci
from pellucid.metrics.disentanglement.explicitness import explicitness
from pellucid.metrics.disentanglement.factor_vae_score import factor_vae_score
from pellucid.metrics.disentanglement.irs import irs
from pellucid.metrics.disentanglement.mig import mig
from pellucid.metrics.disentanglement.modularity import modularity
from pellucid.metrics.disentanglement.sap import sap
from pellucid.metrics.disentanglement.total_correlation import (
    pairwise_mutual_information,
    total_correlation,
)

RESAMPLINGS = 5


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """How scores are computed; the defaults are those of the published protocols.

    Args:
        num_train: Points that a score looks at, or that its classifier is trained on.
        num_test: Points that its classifier is judged on.
        num_bins: Bins of codes, and of continuous factors.
        batch_size: Images, or pairs, of a point of the FactorVAE and beta-VAE metrics.
        booster: Classifier of DCI; see :func:`dci`.
        seed: Chooses rows, factors and batches.
        resamplings: Resampled tables that the spread of each score is taken over; 0: none.

    Raises:
        ValueError: If a value is out of range.
    """

    num_train: int = NUM_TRAIN
    num_test: int = NUM_TEST
    num_bins: int = NUM_BINS
    batch_size: int = BATCH_SIZE
    booster: Booster = "exact"
    seed: int = 0
    resamplings: int = RESAMPLINGS

    def __post_init__(self) -> None:
        check_counts(num_train=self.num_train, num_test=self.num_test)
        for name, value, least in (
            ("num_bins", self.num_bins, 2),
            ("batch_size", self.batch_size, 2),
            ("seed", self.seed, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.resamplings < 0 or self.resamplings == 1:
            raise ValueError(
                f"resamplings must be 0 or at least 2, got {self.resamplings}: the spread of one "
                "is not known"
            )
        if self.booster not in get_args(Booster):
            raise ValueError(f"booster must be histogram or exact, got {self.booster!r}")

    def as_dict(self) -> dict[str, Any]:
        """For ``results.json``."""
        return asdict(self)


class _Entry(NamedTuple):
    keys: tuple[str, ...]
    needs_factors: bool
    compute: Callable[[CodeTable, ScoreSettings, int], tuple[float, ...]]
    each_epoch: bool = False
    """Whether it is quick enough for the validation after each epoch."""


def _of_codes(key: str, score: Callable[[Any], float]) -> _Entry:
    return _Entry((key,), False, lambda table, s, seed: (score(table.codes),), each_epoch=True)


def _of_factors(
    key: str, score: Callable[..., float], *options: str, each_epoch: bool = False
) -> _Entry:
    def compute(table: CodeTable, settings: ScoreSettings, seed: int) -> tuple[float, ...]:
        chosen = {name: getattr(settings, name) for name in ("num_train", *options)}
        return (score(table, seed=seed, **chosen),)

    return _Entry((key,), True, compute, each_epoch)


def _dci(table: CodeTable, settings: ScoreSettings, seed: int) -> tuple[float, ...]:
    found = dci(
        table,
        num_train=settings.num_train,
        num_test=settings.num_test,
        booster=settings.booster,
        seed=seed,
    )
    return found[:3]


SCORES: Mapping[str, _Entry] = {
    "mig": _of_factors("mig", mig, "num_bins", each_epoch=True),
    "dci": _Entry(("dci_disentanglement", "dci_completeness", "dci_informativeness"), True, _dci),
    "factor_vae_score": _of_factors("factor_vae_score", factor_vae_score, "num_test", "batch_size"),
    "beta_vae_score": _of_factors("beta_vae_score", beta_vae_score, "num_test", "batch_size"),
    "sap": _of_factors("sap", sap, "num_test"),
    "modularity": _of_factors("modularity", modularity, "num_bins"),
    "explicitness": _of_factors("explicitness", explicitness, "num_test"),
    "irs": _of_factors("irs", irs, "num_bins"),
    "active_units": _of_codes("active_units", active_units),
    "total_correlation": _of_codes("total_correlation", total_correlation),
    "pairwise_mutual_information": _Entry(
        ("pairwise_mutual_information",),
        False,
        lambda table, settings, seed: (
            pairwise_mutual_information(table.codes, settings.num_bins),
        ),
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
    for entry in entries.values():
        try:
            values |= zip(entry.keys, entry.compute(table, settings, settings.seed), strict=True)
        except ValueError as error:
            skipped |= dict.fromkeys(entry.keys, str(error))
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
    return Scores({key: float(value) for key, value in values.items()}, spread, skipped)
