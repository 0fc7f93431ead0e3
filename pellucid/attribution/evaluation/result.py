"""The table, and how it is written: figures with intervals, and reasons for what is missing."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from pellucid.attribution.agreement import Agreement
from pellucid.attribution.evaluation.columns import Column
from pellucid.attribution.evaluation.settings import Settings
from pellucid.metrics.bootstrap import Interval, bootstrap_interval

Kind = Literal["own", "post_hoc", "baseline"]


@dataclass(kw_only=True)
class Row:
    """What one method reaches; tensors are (B,) on the CPU, NaN where a figure is not defined."""

    method: str
    label: str
    kind: Kind
    values: dict[str, Tensor] = field(default_factory=dict)
    """By column."""
    randomised: dict[str, Tensor] | None = None
    """The same of its maps of a network that knows nothing, judged as if they were of this one;
    None: it does not look at the network, or it was not asked for."""
    seconds_per_image: float | None = None
    heat: Tensor | None = None
    """(B, h, w) float32 on the CPU."""
    part_correlation: Tensor | None = None
    note: str = ""


@dataclass(kw_only=True)
class PartEffectTable:
    """True effects of parts, mean over the images that show them."""

    parts: tuple[str, ...]
    score: dict[str, float]
    """Mean drop of the explained class's score in logits, by part."""
    probability: dict[str, float]
    """Mean drop of its probability."""


@dataclass(kw_only=True)
class Evaluation:
    """The table of all methods on the same images."""

    columns: list[Column]
    rows: list[Row]
    agreement: Agreement
    part_effects: PartEffectTable | None
    skipped: dict[str, str]
    """Why a column, a part of the table or some images were left out."""
    settings: Settings
    images: int
    """Number of images that were judged."""

    def interval(self, values: Tensor | None) -> Interval | None:
        """Mean and interval of a cell; None: it is defined for no image."""
        if values is None or not bool((~values.isnan()).any()):
            return None
        return bootstrap_interval(
            values.float(), resamples=self.settings.resamples, seed=self.settings.seed
        )

    def as_dict(self) -> dict[str, Any]:
        """The table in plain values, without NaN, as ``explanations.json`` has it."""
        keys = [column.key for column in self.columns]
        names, correlation = self.agreement
        found: dict[str, Any] = {
            "columns": [column._asdict() for column in self.columns],
            "rows": [self._row(row, keys) for row in self.rows],
            "agreement": {
                "methods": list(names),
                "rank_correlation": [[_plain(v) for v in row] for row in correlation.tolist()],
            },
            "part_effects": None,
            "skipped": self.skipped,
        }
        if self.part_effects is not None:
            effects = self.part_effects
            found["part_effects"] = {
                "parts": list(effects.parts),
                "rows": [
                    {
                        "method": row.method,
                        "correlation": self._cell(row.part_correlation),
                    }
                    for row in self.rows
                ],
                "true_effect": {part: _plain(v) for part, v in effects.probability.items()},
                "true_effect_unit": "probability",
                "true_effect_score": {part: _plain(v) for part, v in effects.score.items()},
            }
        return found

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        # Drawing is the report's business, and of no use outside of notebooks.
        from pellucid.report.notebook import evaluation_html

        return evaluation_html(self)

    def _row(self, row: Row, keys: list[str]) -> dict[str, Any]:
        def cells(values: dict[str, Tensor]) -> dict[str, Any]:
            return {key: self._cell(values.get(key)) for key in keys}

        return {
            "method": row.method,
            "label": row.label,
            "kind": row.kind,
            "cells": cells(row.values),
            "seconds_per_image": row.seconds_per_image,
            "randomised": None if row.randomised is None else cells(row.randomised),
            "note": row.note,
        }

    def _cell(self, values: Tensor | None) -> dict[str, Any] | None:
        found = self.interval(values)
        if found is None:
            return None
        return {
            name: value if name == "count" else _plain(value)
            for name, value in asdict(found).items()
        }


def _plain(value: float) -> float | None:
    """A number that JSON has; None: there is none."""
    return float(value) if math.isfinite(value) else None


def no_agreement() -> Agreement:
    """That of no maps."""
    return Agreement((), torch.zeros(0, 0, dtype=torch.float64))
