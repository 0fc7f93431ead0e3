"""Whether two methods call the same places relevant: the rank correlation of their maps.

Source: Spearman's rank correlation, by which Adebayo et al., *Sanity Checks for Saliency Maps*,
NeurIPS 2018, compare maps (section 3), and Krishna et al., *The Disagreement Problem in Explainable
Machine Learning*, TMLR 2024 (arXiv 2202.01602), methods (section 3.2).
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from einops import einsum, rearrange
from torch import Tensor
from torch.nn import functional as F

from pellucid.metrics.maps.heat import check_size, relevance

CELLS = 14
_STEPS = 2**20
"""Values that are alike to a millionth of the greatest have the same rank: rounding of upsampled
and averaged values orders nothing."""


class Agreement(NamedTuple):
    """How alike the maps of several methods are."""

    methods: tuple[str, ...]
    rank_correlation: Tensor
    """(M, M) float64, mean over images; NaN where it is defined for none."""


def rank_correlation(
    first: Tensor, second: Tensor, size: tuple[int, int], cells: int = CELLS
) -> Tensor:
    """Spearman's rank correlation of two maps of each image, on a common grid.

    The positive part of each map, which the other metrics judge as well, is upsampled to the image
    and averaged over ``cells`` x ``cells`` cells. Equal values share the mean of their ranks.

    Args:
        first: (B, h, w) floating point, finite.
        second: (B, h', w') floating point, finite, of the same images.
        size: Height and width of the images in pixels.
        cells: Rows and columns of the common grid, from 2 to the lesser of height and width.

    Returns:
        (B,) float64 from -1 to 1; 0 is chance. NaN where all cells of one map are alike.

    Raises:
        ValueError: If a shape or a value is wrong.
    """
    return (_ranks(first, size, cells) * _ranks(second, size, cells)).sum(1)


def agreement(maps: Mapping[str, Tensor], size: tuple[int, int], cells: int = CELLS) -> Agreement:
    """Rank correlation between the maps of all pairs of methods.

    Args:
        maps: (B, h, w) by method, each on its own grid, of the same images; rows with NaN are
            images for which the method has no map, and are left out.
        size: Height and width of the images in pixels.
        cells: Rows and columns of the common grid.

    Raises:
        ValueError: If a shape is wrong.
    """
    ranks = []
    for found in maps.values():
        known = found.flatten(1).isfinite().all(1)
        rows = _ranks(torch.where(known[:, None, None], found, 0.0), size, cells)
        ranks.append(torch.where(known[:, None], rows, torch.nan))
    if not ranks:
        return Agreement((), torch.zeros(0, 0, dtype=torch.float64))
    stacked = torch.stack(ranks)
    each = einsum(stacked, stacked, "m b n, k b n -> m k b")
    return Agreement(tuple(maps), each.nanmean(2))


def average_ranks(values: Tensor) -> Tensor:
    """(B, N) float64, ranks from 0; equal values have the mean of their ranks, NaN has none."""
    known = ~values.isnan()
    filled = torch.where(known, values.double(), torch.inf)
    ordered = filled.sort(1).values
    below = torch.searchsorted(ordered, filled)
    upto = torch.searchsorted(ordered, filled, right=True)
    return torch.where(known, (below + upto - 1) / 2.0, torch.nan).double()


def _ranks(maps: Tensor, size: tuple[int, int], cells: int) -> Tensor:
    """(B, N) float64, ranks less their mean, of length 1; NaN where all cells are alike."""
    if not 2 <= cells <= min(size):
        raise ValueError(
            f"cells must be from 2 to {min(size)}, the side of the image, got {cells}; usual is "
            f"{CELLS}"
        )
    check_size(size, maps, "image")
    heat = rearrange(relevance(maps, size), "b h w -> b 1 h w")
    grid = rearrange(F.adaptive_avg_pool2d(heat, cells), "b 1 h w -> b (h w)")
    ranks = average_ranks((grid * _STEPS).round())
    ranks = ranks - ranks.mean(1, keepdim=True)
    length = ranks.norm(dim=1, keepdim=True)
    return torch.where(length > 0, ranks / torch.where(length > 0, length, 1.0), torch.nan)
