"""The columns of the table: what is measured, in which unit, and which way is better."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from pellucid.attribution.evaluation.settings import Settings
from pellucid.attribution.evaluation.subject import Subject
from pellucid.batch import Batch
from pellucid.metrics.maps.deletion_insertion import DeletionAUC, InsertionAUC
from pellucid.metrics.maps.infidelity import Infidelity, Removals, infidelity_of, square_removals
from pellucid.metrics.maps.max_sensitivity import MaxSensitivity
from pellucid.metrics.maps.suite import (
    MAP_METRICS,
    PERTURBATIONS,
    JudgedMaps,
    label_parts_of,
    make_map_suite,
)

_LAST = ("gini", "entropy")
"""Columns without a better direction stand behind the others."""
_UNITS = {"attention_correlation": "rank correlation", "gini": "", "entropy": ""}


Found = TypeVar("Found")


class Column(NamedTuple):
    """A column of the table."""

    key: str
    higher_is_better: bool | None
    """None: neither way is better of itself."""
    unit: str


LOOKS: Mapping[str, Column] = {
    column.key: column
    for column in (
        Column("deletion_auc", DeletionAUC.higher_is_better, "probability"),
        Column("insertion_auc", InsertionAUC.higher_is_better, "probability"),
        Column("infidelity", Infidelity.higher_is_better, "fraction"),
        Column("max_sensitivity", MaxSensitivity.higher_is_better, "relative change"),
        Column("completeness_error", False, "relative error"),
        Column("randomised_similarity", False, "rank correlation"),
    )
}
"""Columns beside the metrics of a map alone."""


def map_columns(data: Any) -> tuple[dict[str, Column], dict[str, str]]:
    """The metrics of a map alone that a data module allows, and why others are left out."""
    built, skipped = make_map_suite(data)
    columns = {
        key: Column(key, metric.higher_is_better, _UNITS.get(key, "fraction"))
        for key, metric in built.items()
    }
    if "part_masks" not in data.provides:
        reason = f"needs part_masks, which {type(data).__name__} does not provide"
        skipped["relevance_mass_parts"] = skipped["relevance_rank_parts"] = reason
    return columns, skipped


def in_order(columns: Mapping[str, Column]) -> list[Column]:
    """The columns as a table shows them."""
    first = [column for key, column in columns.items() if key not in _LAST]
    return first + [columns[key] for key in _LAST if key in columns]


class Judge:
    """Judges the maps of any method by what a subject and its images say.

    What depends on no map, the effects of removing squares, is found once.

    Args:
        subject: The network and its images, all of them known.
        batch: Masks and the like of the same images.
        data: The data module.
        columns: Keys of the metrics of maps to compute.
        settings: Numbers of steps and the like.
    """

    def __init__(
        self,
        subject: Subject,
        batch: Batch,
        data: Any,
        columns: Collection[str],
        settings: Settings,
    ) -> None:
        self.subject, self.batch, self.columns, self.settings = subject, batch, columns, settings
        self.label_parts = label_parts_of(data)
        self.skipped: dict[str, str] = {}
        """Why a column cannot be measured after all."""
        self.removals: Removals | None = None
        if "infidelity" in columns:
            self.removals = self._attempt("infidelity", self._remove)

    def _remove(self) -> Removals:
        subject, settings = self.subject, self.settings
        return square_removals(
            subject.call,
            subject.image,
            subject.target,
            squares=settings.squares,
            seed=settings.seed,
            batch_size=settings.batch_size,
        )

    def _attempt(self, key: str, look: Callable[[], Found]) -> Found | None:
        """What a look through the network finds; a changed image may have scores of NaN."""
        if key in self.skipped:
            return None
        try:
            return look()
        except ValueError as error:
            self.skipped[key] = str(error)
            return None

    def judge(self, heat: Tensor) -> dict[str, Tensor]:
        """Figures of maps.

        Args:
            heat: (B, h, w) float; images whose map is not finite are not judged.

        Returns:
            (B,) float32 on the CPU by column, NaN where a figure is not defined.
        """
        known = heat.flatten(1).isfinite().all(1)
        found: dict[str, list[Tensor]] = {}
        size = self.settings.batch_size
        rows = known.nonzero().flatten()
        for first in range(0, len(rows), size):
            for key, values in self._some(heat, rows[first : first + size]).items():
                found.setdefault(key, []).append(values)
        whole = {}
        for key, parts in found.items():
            whole[key] = torch.full((len(heat),), torch.nan)
            whole[key][known.cpu()] = torch.cat(parts).float().cpu()
        return whole

    def _some(self, heat: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Figures of the rows, all finite."""
        maps, image = heat[rows], self.subject.image[rows]
        fields: Any = self.batch
        batch: Any = {name: value[rows.to(value.device)] for name, value in fields.items()}
        batch["image"] = image
        judged = JudgedMaps(maps, batch, self.label_parts)
        values = {
            key: entry.judge(judged) for key, entry in MAP_METRICS.items() if key in self.columns
        }
        for key, perturb in PERTURBATIONS.items():
            if key in self.columns:
                look = partial(
                    perturb,
                    self.subject.call,
                    image,
                    maps,
                    self.subject.target[rows],
                    steps=self.settings.steps,
                    batch_size=self.settings.batch_size,
                )
                area = self._attempt(key, look)
                values[key] = maps.new_full((len(maps),), torch.nan) if area is None else area
        if self.removals is not None:
            removals = Removals(self.removals.masks, self.removals.effects[rows])
            values["infidelity"] = infidelity_of(maps, removals)
        return values
