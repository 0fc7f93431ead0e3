"""How well the codes of any encoder separate the factors that images were made from."""

from pellucid.metrics.disentanglement.active_units import active_units
from pellucid.metrics.disentanglement.beta_vae_score import beta_vae_score
from pellucid.metrics.disentanglement.code_table import CodeTable
from pellucid.metrics.disentanglement.dci import DCI, dci
from pellucid.metrics.disentanglement.explicitness import explicitness
from pellucid.metrics.disentanglement.factor_vae_score import factor_vae_score
from pellucid.metrics.disentanglement.irs import irs
from pellucid.metrics.disentanglement.kl_per_latent import kl_per_latent
from pellucid.metrics.disentanglement.mig import mig
from pellucid.metrics.disentanglement.modularity import modularity
from pellucid.metrics.disentanglement.sap import sap
from pellucid.metrics.disentanglement.score_settings import ScoreSettings
from pellucid.metrics.disentanglement.scores import DisentanglementScores
from pellucid.metrics.disentanglement.suite import SCORES, Scores, score_table
from pellucid.metrics.disentanglement.total_correlation import (
    pairwise_mutual_information,
    total_correlation,
)
from pellucid.metrics.disentanglement.udr import udr, udr_of_runs, udr_spread

__all__ = [
    "DCI",
    "SCORES",
    "CodeTable",
    "DisentanglementScores",
    "ScoreSettings",
    "Scores",
    "active_units",
    "beta_vae_score",
    "dci",
    "explicitness",
    "factor_vae_score",
    "irs",
    "kl_per_latent",
    "mig",
    "modularity",
    "pairwise_mutual_information",
    "sap",
    "score_table",
    "total_correlation",
    "udr",
    "udr_of_runs",
    "udr_spread",
]
