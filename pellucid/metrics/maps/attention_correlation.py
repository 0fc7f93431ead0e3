"""Whether a map ranks the places of an image as people do.

Source: Das, Agrawal, Zitnick, Parikh, Batra, *Human Attention in Visual Question Answering: Do
Humans and Deep Networks Look at the Same Regions?*, CVIU 2017 (arXiv 1606.05589), section 4.
"""

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from pellucid.metrics.maps.heat import check_heat, check_size, on_pixels
from pellucid.metrics.maps.map_metric import MapMetric

CELLS = 14


def attention_correlation(maps: Tensor, attention: Tensor, cells: int = CELLS) -> Tensor:
    """Spearman's rank correlation of maps with human attention, both averaged over 14 x 14 cells.

    The positive part of the map is upsampled to the size of the human map first. Equal values share
    the mean of their ranks.

    Args:
        maps: (B, h, w) floating point, finite.
        attention: (B, H, W) floating point, finite, at least 0: where people looked.
        cells: Rows and columns of the grid that is compared, from 2 to the lesser of H and W.

    Returns:
        (B,) from -1 to 1, higher is better; 0 is chance. NaN where all cells of one of the two are
        alike, as in an image without annotation (zeros).

    Raises:
        ValueError: If a shape or a value is wrong.
    """
    seen = check_heat(attention, "attention")
    if len(maps) != len(seen):
        raise ValueError(f"attention has {len(seen)} images, maps have {len(maps)}: give as many")
    if bool((seen < 0).any()):
        raise ValueError("attention has a value below 0; it must be 0 where nobody looked")
    height, width = seen.shape[-2:]
    _check_cells(cells, min(height, width))
    heat = check_heat(maps)
    check_size((height, width), heat, "attention")
    ours, theirs = (
        rearrange(F.adaptive_avg_pool2d(each.unsqueeze(1), cells), "b 1 h w -> b (h w)")
        for each in (on_pixels(heat.clamp(min=0), (height, width)), seen)
    )
    first, second = _centred_ranks(ours), _centred_ranks(theirs)
    spread = (first.square().sum(1) * second.square().sum(1)).sqrt()
    both = (first * second).sum(1)
    return torch.where(spread > 0, both / torch.where(spread > 0, spread, 1.0), torch.nan)


def _centred_ranks(values: Tensor) -> Tensor:
    """(B, N) ranks less their mean; equal values have the mean of their ranks."""
    one, other = rearrange(values, "b n -> b n 1"), rearrange(values, "b n -> b 1 n")
    # Rounding in upsampled and averaged values must not order cells that are alike.
    near = (one - other).abs() <= 1e-6
    below = ((other < one) & ~near).sum(2)
    above = ((other > one) & ~near).sum(2)
    return (below - above) / 2


def _check_cells(cells: int, most: int | None = None) -> None:
    if cells < 2 or (most is not None and cells > most):
        end = "" if most is None else f" and at most {most}, the side of the attention map"
        raise ValueError(f"cells must be at least 2{end}, got {cells}; the paper has {CELLS}")


class AttentionCorrelation(MapMetric):
    """Rank correlation of maps with human attention, mean over images; to 1, higher is better.

    See :func:`attention_correlation`. Images without annotation and constant maps are left out.

    Args:
        cells: Rows and columns of the grid that is compared, at least 2.

    Raises:
        ValueError: If ``cells`` is out of range.
    """

    higher_is_better = True

    def __init__(self, cells: int = CELLS) -> None:
        super().__init__()
        _check_cells(cells)
        self.cells = cells

    def update(self, maps: Tensor, attention: Tensor) -> None:
        """Look at one batch; the arguments are those of :func:`attention_correlation`."""
        self.add(attention_correlation(maps, attention, self.cells))
