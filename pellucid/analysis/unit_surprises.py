"""The images on which a unit surprises, with its maps of them, found beside its strongest ones."""

from dataclasses import dataclass
from typing import Any

import torch
from einops import reduce
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from pellucid.analysis.overview import LIMIT, spread
from pellucid.analysis.representatives import unit_representatives
from pellucid.batch import Batch
from pellucid.models.base import InterpretableModel

SHOWN = 3
"""Largest number of surprising images of a unit."""


@dataclass(frozen=True, kw_only=True)
class Surprises:
    """The surprising images of one unit, the most surprising first; often there are none.

    What makes an image surprising is said in :mod:`pellucid.analysis.representatives`.
    """

    indices: tuple[int, ...]
    """Positions in the data set."""
    labels: tuple[int, ...]
    """Their categories."""
    peaks: tuple[float, ...]
    """Largest value of the unit's map."""
    maps: tuple[Tensor, ...]
    """(h, w) float each, on the CPU."""


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
        if labels is None:
            return
        here = self._places[(self._places >= first) & (self._places < self._seen)] - first
        self._peaks.append(reduce(maps, "u b h w -> b u", "max").cpu()[here])
        self._labels.append(labels.cpu()[here])

    def find(self, model: InterpretableModel, loader: DataLoader[Batch]) -> tuple[Surprises, ...]:
        """The surprising images of each unit; none of any unit where the data has no labels.

        Args:
            model: In evaluation mode; looks again at the images that surprise.
            loader: The one whose batches were taken in.
        """
        if not self._labels:
            return ()
        peaks, labels = torch.cat(self._peaks), torch.cat(self._labels)
        rows = unit_representatives(peaks, labels, SHOWN).surprising
        maps = self._maps(model, loader, rows)
        return tuple(
            Surprises(
                indices=tuple(self._places[chosen].tolist()),
                labels=tuple(labels[chosen].tolist()),
                peaks=tuple(peaks[chosen, unit].tolist()),
                maps=tuple(maps[row][unit].clone() for row in chosen),
            )
            for unit, chosen in enumerate(rows)
        )

    def _maps(
        self, model: InterpretableModel, loader: DataLoader[Batch], rows: list[list[int]]
    ) -> dict[int, dict[int, Tensor]]:
        """By row and unit the map, of those that are wanted alone."""
        wanted: dict[int, list[int]] = {}
        for unit, chosen in enumerate(rows):
            for row in chosen:
                wanted.setdefault(row, []).append(unit)
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
                found[row] = {unit: maps[unit] for unit in wanted[row]}
        return found
