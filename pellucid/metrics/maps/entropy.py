"""How widely a map's relevance is spread: Shannon entropy.

Source: complexity of an explanation, Bhatt, Weller, Moura, *Evaluating and Aggregating
Feature-based Model Explanations*, IJCAI 2020, definition 3; divided by that of an even map.
"""

import math

import torch
from einops import rearrange
from torch import Tensor

from pellucid.metrics.maps.heat import check_heat
from pellucid.metrics.maps.map_metric import MapMetric


def map_entropy(maps: Tensor, normalise: bool = True) -> Tensor:
    r"""Entropy of a map's relevance, :math:`-\sum_k q_k \log q_k` with :math:`q = r / \sum r`.

    :math:`r` are the positive parts of the map's :math:`n` cells. The map is judged on its own
    grid, as upsampled cells would say nothing new.

    Args:
        maps: (B, h, w) floating point, finite.
        normalise: Whether to divide by :math:`\log n`, so that grids compare.

    Returns:
        (B,) from 0 (one cell holds all) to 1 (all cells alike), or in nats to log n. NaN where no
        cell is positive; a map of a single cell has 0.

    Raises:
        ValueError: If the shape or a value is wrong.
    """
    cells = rearrange(check_heat(maps).clamp(min=0), "b h w -> b (h w)")
    whole = cells.sum(1, keepdim=True)
    share = cells / torch.where(whole > 0, whole, 1.0)
    entropy: Tensor = torch.special.entr(share).sum(1)
    if normalise and cells.shape[1] > 1:
        entropy = entropy / math.log(cells.shape[1])
    return entropy.masked_fill(whole.squeeze(1) <= 0, torch.nan)


class MapEntropy(MapMetric):
    """Entropy of maps as a share of the greatest, mean over images; from 0 (one cell) to 1 (even).

    See :func:`map_entropy`. Maps of zeros are left out. Whether less is better depends on the task.

    Args:
        normalise: Whether to divide by the entropy of an even map; otherwise in nats.
    """

    def __init__(self, normalise: bool = True) -> None:
        super().__init__()
        self.normalise = normalise

    def update(self, maps: Tensor) -> None:
        """Look at one batch; the argument is that of :func:`map_entropy`."""
        self.add(map_entropy(maps, self.normalise))
