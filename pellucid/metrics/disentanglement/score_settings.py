"""How the disentanglement scores are computed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

from pellucid.arguments import check_at_least, check_positive, check_whole
from pellucid.metrics.disentanglement.active_units import LEAST_VARIANCE
from pellucid.metrics.disentanglement.beta_vae_score import BATCH_SIZE
from pellucid.metrics.disentanglement.boosting import NUM_STAGES
from pellucid.metrics.disentanglement.code_table import NUM_BINS, NUM_TEST, NUM_TRAIN
from pellucid.metrics.disentanglement.dci import Booster
from pellucid.metrics.disentanglement.factor_vae_score import LEAST_STD
from pellucid.metrics.disentanglement.irs import QUANTILE
from pellucid.metrics.disentanglement.logistic_regression import LOGISTIC_PENALTY
from pellucid.metrics.disentanglement.sap import PENALTY
from pellucid.metrics.resampling import RESAMPLINGS, check_resamplings


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """How scores are computed; the defaults are those of the published protocols.

    Args:
        num_train: Points that a score looks at, or that its classifier is trained on.
        num_test: Points that its classifier is judged on.
        num_bins: Bins of codes, and of continuous factors.
        batch_size: Images, or pairs, of a point of the FactorVAE and beta-VAE metrics.
        booster: Classifier of DCI; see :func:`dci`.
        dci_stages: Its trees for each class.
        logistic_penalty: Weight of the squared norm in the logistic regression of the beta-VAE
            metric and of explicitness.
        factor_vae_rows: Rows by which the FactorVAE metric knows the variance of each code.
        factor_vae_least_std: Codes with a smaller standard deviation are dead in it.
        sap_penalty: Of SAP's classifier; see :func:`sap`.
        irs_quantile: Of the deviations in IRS.
        active_variance: Variance above which a unit is active.
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
    dci_stages: int = NUM_STAGES
    logistic_penalty: float = LOGISTIC_PENALTY
    factor_vae_rows: int = NUM_TRAIN
    factor_vae_least_std: float = LEAST_STD
    sap_penalty: float = PENALTY
    irs_quantile: float = QUANTILE
    active_variance: float = LEAST_VARIANCE
    seed: int = 0
    resamplings: int = RESAMPLINGS

    def __post_init__(self) -> None:
        given = self.as_dict()
        counts = "num_train", "num_test", "dci_stages"
        pairs = "num_bins", "batch_size", "factor_vae_rows"
        zeros = "factor_vae_least_std", "active_variance", "seed"
        for least, names in ((1, counts), (2, pairs), (0, zeros)):
            check_at_least(least, **{name: given[name] for name in names})
        check_whole(**{name: given[name] for name in (*counts, *pairs, "seed", "resamplings")})
        check_positive(sap_penalty=self.sap_penalty, logistic_penalty=self.logistic_penalty)
        if not 0 < self.irs_quantile <= 1:
            raise ValueError(f"irs_quantile must be in (0, 1], got {self.irs_quantile}")
        check_resamplings(self.resamplings)
        if self.booster not in get_args(Booster):
            raise ValueError(f"booster must be histogram or exact, got {self.booster!r}")

    def as_dict(self) -> dict[str, Any]:
        """For ``results.json``."""
        return asdict(self)


SETTINGS_HELP: Mapping[str, str] = {
    "num_train": "Points that a score looks at, or that its classifier is trained on.",
    "num_test": "Points that a score's classifier is judged on.",
    "num_bins": "Bins of codes and of continuous factors.",
    "batch_size": "Images of a point of the FactorVAE and beta-VAE metrics.",
    "booster": "Classifier of DCI: exact, as published, or histogram, faster and a little lower.",
    "dci_stages": "Trees of DCI's classifier for each class.",
    "logistic_penalty": "Weight of the norm in the classifier of the beta-VAE metric and of "
    "explicitness.",
    "factor_vae_rows": "Rows by which the FactorVAE metric knows the variance of each code.",
    "factor_vae_least_std": "Codes with a smaller standard deviation are dead in that metric.",
    "sap_penalty": "Weight of the hinge loss of SAP's classifier against its norm.",
    "irs_quantile": "Quantile of the deviations in IRS, above 0 and up to 1.",
    "active_variance": "Variance above which a unit is active.",
    "seed": "Seed of the rows and batches that scores draw.",
    "resamplings": "Resampled tables that the spread of each score is taken over; 0: none.",
}
"""What each setting is, for the command line."""
