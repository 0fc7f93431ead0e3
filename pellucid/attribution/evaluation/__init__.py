"""Explanations of the same images by several methods, judged side by side."""

from pellucid.attribution.evaluation.own import OwnExplanation
from pellucid.attribution.evaluation.result import Evaluation, PartEffectTable, Row
from pellucid.attribution.evaluation.settings import Settings
from pellucid.attribution.evaluation.subject import Subject, make_subject
from pellucid.attribution.evaluation.table import evaluate_explanations

__all__ = [
    "Evaluation",
    "OwnExplanation",
    "PartEffectTable",
    "Row",
    "Settings",
    "Subject",
    "evaluate_explanations",
    "make_subject",
]
