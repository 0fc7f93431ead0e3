"""Figures as a data set."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from pellucid.batch import Batch
from pellucid.datamodules.figures.render import part_masks, render_figures
from pellucid.datamodules.figures.specs import FigureSpecs

# Splits that need more memory than this are drawn item by item, each time anew.
_BYTES_KEPT = 2**30


class FigureDataset(Dataset[Batch]):
    """Figures as batch items; drawn at once and kept as bytes where memory allows.

    Args:
        specs: The figures.
        labels: (N,) int64, their classes.
        size: Height and width in pixels.
        removed: Parts to leave out.
        mean: Mean of each channel that images are normalised with.
        std: Standard deviation of each channel, likewise.
    """

    def __init__(
        self,
        specs: FigureSpecs,
        labels: NDArray[np.int64],
        size: int,
        removed: tuple[str, ...],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.specs, self.size, self.removed = specs, size, removed
        # Tensors, not arrays: worker processes share their memory.
        self.labels, self.factors = torch.from_numpy(labels), torch.from_numpy(specs.factors)
        spread = torch.tensor(std)[:, None, None]
        self.scale, self.shift = 1 / (255 * spread), -torch.tensor(mean)[:, None, None] / spread
        fits = 4 * len(specs) * size**2 <= _BYTES_KEPT
        self.rendered = render_figures(specs, size, removed) if fits else None

    def __len__(self) -> int:
        return len(self.specs)

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is not among the {len(self)} images")
        rendered, row = self.rendered, index
        if rendered is None:
            one = self.specs[slice(index, index + 1)]
            rendered, row = render_figures(one, self.size, self.removed), 0
        front = rendered.front[row]
        return {
            "image": (rendered.images[row] * self.scale).add_(self.shift),
            "label": self.labels[index],
            "parts": rendered.landmarks[row],
            "part_visible": rendered.visible[row],
            "part_masks": part_masks(front),
            "mask": front > 0,
            "factors": self.factors[index],
            "index": torch.tensor(index),
        }
