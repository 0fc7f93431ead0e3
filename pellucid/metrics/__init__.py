"""Interpretability metrics: a pure function and a torchmetrics class each."""

from pellucid.metrics.category_balance import CategoryBalance, category_balance
from pellucid.metrics.category_purity import CategoryPurity, category_purity
from pellucid.metrics.decision_sparsity import DecisionSparsity, decision_sparsity
from pellucid.metrics.location_instability import (
    LocationInstability,
    location_instability,
    peak_positions,
)
from pellucid.metrics.network_dissection import NetworkDissection, network_dissection
from pellucid.metrics.part_consistency import PartConsistency, part_consistency
from pellucid.metrics.part_interpretability import PartInterpretability, part_interpretability
from pellucid.metrics.part_purity import PartPurity, part_purity
from pellucid.metrics.part_stability import PartStability, part_stability, perturb

__all__ = [
    "CategoryBalance",
    "CategoryPurity",
    "DecisionSparsity",
    "LocationInstability",
    "NetworkDissection",
    "PartConsistency",
    "PartInterpretability",
    "PartPurity",
    "PartStability",
    "category_balance",
    "category_purity",
    "decision_sparsity",
    "location_instability",
    "network_dissection",
    "part_consistency",
    "part_interpretability",
    "part_purity",
    "part_stability",
    "peak_positions",
    "perturb",
]
