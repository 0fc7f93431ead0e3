"""Interpretability metrics: a pure function and a torchmetrics class each."""

from pellucid.metrics.location_instability import (
    LocationInstability,
    location_instability,
    peak_positions,
)
from pellucid.metrics.network_dissection import NetworkDissection, network_dissection
from pellucid.metrics.part_interpretability import PartInterpretability, part_interpretability

__all__ = [
    "LocationInstability",
    "NetworkDissection",
    "PartInterpretability",
    "location_instability",
    "network_dissection",
    "part_interpretability",
    "peak_positions",
]
