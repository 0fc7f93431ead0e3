"""Metrics of a heat map: a pure function and a torchmetrics class each."""

from pellucid.metrics.maps.attention_correlation import AttentionCorrelation, attention_correlation
from pellucid.metrics.maps.attention_faithfulness import (
    AttentionFaithfulness,
    Faithfulness,
    attention_faithfulness,
)
from pellucid.metrics.maps.best_iou import BestIoU, best_iou
from pellucid.metrics.maps.completeness import CompletenessError, completeness_error
from pellucid.metrics.maps.deletion_insertion import (
    DeletionAUC,
    InsertionAUC,
    deletion_auc,
    insertion_auc,
    perturbation_curve,
)
from pellucid.metrics.maps.entropy import MapEntropy, map_entropy
from pellucid.metrics.maps.gini import MapGini, map_gini
from pellucid.metrics.maps.infidelity import (
    Infidelity,
    Removals,
    infidelity,
    infidelity_of,
    square_removals,
)
from pellucid.metrics.maps.max_sensitivity import MaxSensitivity, max_sensitivity
from pellucid.metrics.maps.pointing_game import PointingGame, pointing_game
from pellucid.metrics.maps.relevance_mass import RelevanceMass, relevance_mass
from pellucid.metrics.maps.relevance_rank import RelevanceRank, relevance_rank
from pellucid.metrics.maps.suite import evaluate_maps

__all__ = [
    "AttentionCorrelation",
    "AttentionFaithfulness",
    "BestIoU",
    "CompletenessError",
    "DeletionAUC",
    "Faithfulness",
    "Infidelity",
    "InsertionAUC",
    "MapEntropy",
    "MapGini",
    "MaxSensitivity",
    "PointingGame",
    "RelevanceMass",
    "RelevanceRank",
    "Removals",
    "attention_correlation",
    "attention_faithfulness",
    "best_iou",
    "completeness_error",
    "deletion_auc",
    "evaluate_maps",
    "infidelity",
    "infidelity_of",
    "insertion_auc",
    "map_entropy",
    "map_gini",
    "max_sensitivity",
    "perturbation_curve",
    "pointing_game",
    "relevance_mass",
    "relevance_rank",
    "square_removals",
]
