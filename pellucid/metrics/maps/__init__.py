"""Metrics of a heat map: a pure function and a torchmetrics class each."""

from pellucid.metrics.maps.attention_correlation import AttentionCorrelation, attention_correlation
from pellucid.metrics.maps.attention_faithfulness import (
    AttentionFaithfulness,
    Faithfulness,
    attention_faithfulness,
)
from pellucid.metrics.maps.best_iou import BestIoU, best_iou
from pellucid.metrics.maps.deletion_insertion import (
    DeletionAUC,
    InsertionAUC,
    deletion_auc,
    insertion_auc,
    perturbation_curve,
)
from pellucid.metrics.maps.entropy import MapEntropy, map_entropy
from pellucid.metrics.maps.gini import MapGini, map_gini
from pellucid.metrics.maps.pointing_game import PointingGame, pointing_game
from pellucid.metrics.maps.relevance_mass import RelevanceMass, relevance_mass
from pellucid.metrics.maps.relevance_rank import RelevanceRank, relevance_rank
from pellucid.metrics.maps.suite import evaluate_maps

__all__ = [
    "AttentionCorrelation",
    "AttentionFaithfulness",
    "BestIoU",
    "DeletionAUC",
    "Faithfulness",
    "InsertionAUC",
    "MapEntropy",
    "MapGini",
    "PointingGame",
    "RelevanceMass",
    "RelevanceRank",
    "attention_correlation",
    "attention_faithfulness",
    "best_iou",
    "deletion_auc",
    "evaluate_maps",
    "insertion_auc",
    "map_entropy",
    "map_gini",
    "perturbation_curve",
    "pointing_game",
    "relevance_mass",
    "relevance_rank",
]
