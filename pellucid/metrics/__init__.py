"""Interpretability metrics: a pure function and a torchmetrics class each."""

from pellucid.metrics.location_instability import (
    LocationInstability,
    location_instability,
    peak_positions,
)
from pellucid.metrics.part_interpretability import PartInterpretability, part_interpretability

__all__ = [
    "LocationInstability",
    "PartInterpretability",
    "location_instability",
    "part_interpretability",
    "peak_positions",
]
