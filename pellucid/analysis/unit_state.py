"""What one pass over a data set keeps of each unit: its strongest images and a few sums."""

from dataclasses import dataclass

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor
from torch.nn import functional as F

# Peaks are counted in bins of 1/32 octave from 2**-40 to 2**24, whatever a unit's scale.
BINS_PER_OCTAVE = 32
LEAST_OCTAVE, _OCTAVES = -40, 64
BINS = BINS_PER_OCTAVE * _OCTAVES


class NonFiniteMaps(ValueError):  # noqa: N818 - what it is about
    """Maps that are NaN or infinite: which images are the strongest cannot be said."""


@dataclass(kw_only=True)
class UnitState:
    """What the pass keeps; ``positions`` has T columns, of which the first N have their map."""

    peaks: Tensor
    indices: Tensor
    labels: Tensor
    positions: Tensor
    maps: Tensor
    class_sum: Tensor
    class_count: Tensor
    histogram: Tensor
    seen: int = 0

    @classmethod
    def empty(cls, maps: Tensor, num_images: int, num_positions: int, classes: int) -> "UnitState":
        """That of no images; maps (U, B, h, w) say sizes and device."""
        units, _, *size = maps.shape
        device = maps.device
        kept = (units, num_positions)
        return cls(
            peaks=torch.full(kept, -torch.inf, device=device),
            indices=torch.full(kept, -1, device=device),
            labels=torch.full(kept, -1, device=device),
            positions=torch.full((*kept, 2), torch.nan, device=device),
            maps=torch.zeros(units, num_images, *size, device=device),
            class_sum=torch.zeros(units, classes, dtype=torch.float64),
            class_count=torch.zeros(classes, dtype=torch.int64),
            histogram=torch.zeros(units, BINS, dtype=torch.int64),
        )

    def update(self, maps: Tensor, positions: Tensor, labels: Tensor | None) -> None:
        """Take in one batch: maps (U, B, h, w), positions (U, B, 2), labels (B,)."""
        units, size = maps.shape[:2]
        peaks = reduce(maps, "u b h w -> u b", "max")
        if not torch.isfinite(peaks).all():
            unit, image = (~torch.isfinite(peaks)).nonzero()[0].tolist()
            raise NonFiniteMaps(
                f"the map of unit {unit} is not finite on image {self.seen + image}; "
                "the model has diverged: choose an earlier checkpoint"
            )
        indices = torch.arange(self.seen, self.seen + size, device=maps.device)
        known = labels if labels is not None else torch.full_like(indices, -1)
        # A stable sort keeps the earlier image of two that are equal, whatever the batch size.
        order = torch.cat([self.peaks, peaks], 1).argsort(dim=1, descending=True, stable=True)
        order = order[:, : self.peaks.shape[1]]
        self._keep_maps(maps, order)

        def best(kept: Tensor, new: Tensor) -> Tensor:
            where = order if kept.ndim == 2 else order.unsqueeze(-1)
            return torch.cat([kept, new], 1).take_along_dim(where, 1)

        self.peaks = best(self.peaks, peaks)
        self.indices = best(self.indices, repeat(indices, "b -> u b", u=units))
        self.labels = best(self.labels, repeat(known, "b -> u b", u=units))
        self.positions = best(self.positions, positions)
        self._count(reduce(maps, "u b h w -> u b", "mean").cpu(), peaks.cpu(), labels)
        self.seen += size

    def _keep_maps(self, maps: Tensor, order: Tensor) -> None:
        """Keep the maps of the N strongest; what stays among them was among them before."""
        kept, shown = order.shape[1], self.maps.shape[1]
        order = order[:, :shown]
        unit = torch.arange(len(maps), device=maps.device).unsqueeze(1)
        old = self.maps[unit, order.clamp(max=shown - 1)]
        new = maps[unit, (order - kept).clamp(min=0)]
        self.maps = torch.where(rearrange(order < kept, "u n -> u n 1 1"), old, new)

    def _count(self, means: Tensor, peaks: Tensor, labels: Tensor | None) -> None:
        """Add to the sums: means and peaks (U, B), on the CPU, where float64 always exists."""
        bins = ((peaks.clamp(min=1e-30).log2() - LEAST_OCTAVE) * BINS_PER_OCTAVE).floor()
        fired = (peaks > 0).long()
        self.histogram.scatter_add_(1, bins.long().clamp(0, BINS - 1), fired)
        if labels is None:
            return
        labels = labels.cpu()
        if (missing := int(labels.max()) + 1 - len(self.class_count)) > 0:
            self.class_sum = F.pad(self.class_sum, (0, missing))
            self.class_count = F.pad(self.class_count, (0, missing))
        self.class_sum.index_add_(1, labels, means.double())
        self.class_count += torch.bincount(labels, minlength=len(self.class_count))
