"""Backbones: the lower part of any pretrained network, cut where a stride ends or after a node."""

from pellucid.models.backbones.backbone import Backbone
from pellucid.models.backbones.graph import CutError
from pellucid.models.backbones.loading import Loaded
from pellucid.models.backbones.specs import BACKBONES
from pellucid.models.backbones.transformer import TRANSFORMERS, TransformerBackbone
from pellucid.models.backbones.weights import (
    NORMALISATION,
    Normalisation,
    Weights,
    WeightsError,
    normalisation_of,
    read_weights,
)

__all__ = [
    "BACKBONES",
    "NORMALISATION",
    "TRANSFORMERS",
    "Backbone",
    "CutError",
    "Loaded",
    "Normalisation",
    "TransformerBackbone",
    "Weights",
    "WeightsError",
    "normalisation_of",
    "read_weights",
]
