"""How few cells of a map hold its relevance: the Gini index.

Source: Hurley, Rickard, *Comparing Measures of Sparsity*, IEEE Transactions on Information Theory
2009, table I; of explanations: Chalasani et al., *Concise Explanations of Neural Networks using
Adversarial Training*, ICML 2020, section 5.
"""

import torch
from einops import rearrange
from torch import Tensor

from pellucid.metrics.maps.heat import check_heat
from pellucid.metrics.maps.map_metric import MapMetric


def map_gini(maps: Tensor) -> Tensor:
    r"""Gini index of a map's relevance, :math:`\sum_k (2k - n - 1) r_{(k)} / (n \sum_k r_k)`.

    :math:`r_{(1)} \le \dots \le r_{(n)}` are the positive parts of the map's :math:`n` cells. The
    map is judged on its own grid: upsampled cells would say nothing new.

    Args:
        maps: (B, h, w) floating point, finite.

    Returns:
        (B,) from 0 (all cells alike) to 1 - 1 / n (one cell holds all). NaN where no cell is
        positive.

    Raises:
        ValueError: If the shape or a value is wrong.
    """
    cells = rearrange(check_heat(maps).clamp(min=0), "b h w -> b (h w)").sort(1).values
    count = cells.shape[1]
    place = torch.arange(1, count + 1, device=cells.device)
    weight = (2 * place - count - 1) / count
    whole = cells.sum(1)
    return torch.where(
        whole > 0, (weight * cells).sum(1) / torch.where(whole > 0, whole, 1.0), torch.nan
    )


class MapGini(MapMetric):
    """Gini index of maps, mean over images; from 0 (spread evenly) to 1 (one cell).

    See :func:`map_gini`. Maps of zeros are left out. Whether more is better depends on the task.
    """

    def update(self, maps: Tensor) -> None:
        """Look at one batch; the argument is that of :func:`map_gini`."""
        self.add(map_gini(maps))
