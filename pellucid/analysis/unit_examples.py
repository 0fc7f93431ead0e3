"""The representative and the surprising images of each unit, with the unit's maps of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import reduce
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from pellucid.analysis.overview import LIMIT, spread
from pellucid.analysis.representatives import unit_representatives
from pellucid.batch import Batch
from pellucid.models.base import InterpretableModel

SHOWN = 3
"""Largest number of images of each kind and unit."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Images of one kind of one unit, the most telling first; there may be none.

    The two kinds are defined in :mod:`pellucid.analysis.representatives`.
    """

    indices: tuple[int, ...]
    """Positions in the data set."""
    labels: tuple[int, ...]
    """Their categories; -1 where the data has no labels."""
    peaks: tuple[float, ...]
    """Largest value of the unit's map."""
    maps: tuple[Tensor, ...]
    """(h, w) float each, on the CPU."""


class UnitExamples(NamedTuple):
    """The images of both kinds, of each unit."""

    representative: tuple[Examples, ...]
    surprising: tuple[Examples, ...]
    """Empty where the data has no labels: what surprises is not known."""


class Responses:
    """The peaks of all units on images that are spread evenly over a data set.

    Args:
        length: Number of images of the data set, of which at most :data:`LIMIT` are kept.
    """

    def __init__(self, length: int) -> None:
        self._places = torch.tensor(spread(length, LIMIT), dtype=torch.int64)
        self._peaks: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._seen = 0

    def update(self, maps: Tensor, labels: Tensor | None) -> None:
        """Take in one batch, in the order of the data set: maps (U, B, h, w), labels (B,)."""
        first, self._seen = self._seen, self._seen + maps.shape[1]
        here = self._places[(self._places >= first) & (self._places < self._seen)] - first
        self._peaks.append(reduce(maps, "u b h w -> b u", "max").cpu()[here])
        if labels is not None:
            self._labels.append(labels.cpu()[here])

    def find(self, model: InterpretableModel, loader: DataLoader[Batch]) -> UnitExamples:
        """The images that represent each unit, and those that surprise.

        Args:
            model: In evaluation mode; looks again at the images that are chosen.
            loader: The one whose batches were taken in.
        """
        peaks = torch.cat(self._peaks)
        labels = torch.cat(self._labels) if self._labels else None
        found = unit_representatives(peaks, labels, SHOWN)
        known = torch.full((len(peaks),), -1) if labels is None else labels
        maps = self._maps(model, loader, found)

        def examples(kind: list[list[int]]) -> Iterable[Examples]:
            for unit, rows in enumerate(kind):
                yield Examples(
                    indices=tuple(self._places[rows].tolist()),
                    labels=tuple(known[rows].tolist()),
                    peaks=tuple(peaks[rows, unit].tolist()),
                    maps=tuple(maps[row][unit] for row in rows),
                )

        return UnitExamples(*(tuple(examples(kind)) for kind in found))

    def _maps(
        self,
        model: InterpretableModel,
        loader: DataLoader[Batch],
        kinds: Iterable[list[list[int]]],
    ) -> dict[int, dict[int, Tensor]]:
        """By row and unit the map, of those that are wanted alone."""
        wanted: dict[int, set[int]] = {}
        for kind in kinds:
            for unit, rows in enumerate(kind):
                for row in rows:
                    wanted.setdefault(row, set()).add(unit)
        order = sorted(wanted)
        subset: Any = Subset(loader.dataset, self._places[order].tolist())
        again: DataLoader[Batch] = DataLoader(
            subset, loader.batch_size or 32, collate_fn=loader.collate_fn
        )
        found: dict[int, dict[int, Tensor]] = {}
        for batch in again:
            explanation = model.unit_metrics.explain(model, batch["image"].to(model.device))
            assert explanation.maps is not None
            for maps in explanation.maps.float().cpu():
                row = order[len(found)]
                found[row] = {unit: maps[unit].clone() for unit in wanted[row]}
        return found
