"""Which few images show the most of what a model goes by: submodular pick.

Source: Ribeiro, Singh, Guestrin, *"Why Should I Trust You?": Explaining the Predictions of Any
Classifier*, KDD 2016 (arXiv 1602.04938), section 4, equations 3 and 4, algorithm 2. There the
explanations are LIME's, of ten words each; here they are any table of what each feature (a unit, a
part, a cell of a grid) has to do with each prediction, of which the largest entries are kept.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

FEATURES = 5
"""Features that an image's explanation is cut down to: what a person takes in at a glance."""


class Pick(NamedTuple):
    """The chosen images, the most telling first."""

    images: list[int]
    """Rows of the table."""
    coverage: list[float]
    """Share of all importance that the features of the images up to each one have, rising to 1."""
    new: list[list[int]]
    """Features that each image is the first to show."""


def submodular_pick(table: Tensor, budget: int, *, features: int = FEATURES) -> Pick:
    r"""Choose images whose explanations together cover the most important features.

    The importance of feature :math:`j` is :math:`I_j = \sqrt{\sum_i |W_{ij}|}` over the images
    :math:`i`; the images :math:`V` are chosen one after the other, each the one that adds most to
    :math:`\sum_j 1[\exists i \in V: W_{ij} \ne 0] I_j`. Greedy choice reaches at least
    :math:`1 - 1/e` of the best. Where no image adds a feature any more, those with the most
    important features follow; of equals, the first.

    Args:
        table: (N, D) floating point, finite: what each of D features has to do with the prediction
            of each of N images, of either sign.
        budget: Number of images to choose, at least 1; all, if there are fewer.
        features: Largest entries of each row to keep, at least 1: in a table without zeros the
            first image would cover everything.

    Raises:
        ValueError: If the shape, a value or a number is wrong.
    """
    if table.ndim != 2 or 0 in table.shape or not table.is_floating_point():
        raise ValueError(
            f"table must be floating point of shape (N, D), images by features, got "
            f"{tuple(table.shape)} of {table.dtype}"
        )
    if not bool(table.isfinite().all()):
        row = int((~table.isfinite()).any(1).nonzero()[0, 0])
        raise ValueError(f"table[{row}] has a value that is not finite: leave the image out")
    for name, value in (("budget", budget), ("features", features)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    weight = table.detach().abs().double().cpu()
    kept = torch.zeros_like(weight)
    most = weight.topk(min(features, weight.shape[1]), 1)
    kept.scatter_(1, most.indices, most.values)
    shows, importance = kept > 0, kept.sum(0).sqrt()
    return _greedy(shows, importance, min(budget, len(weight)))


def _greedy(shows: Tensor, importance: Tensor, budget: int) -> Pick:
    whole = shows.double() @ importance
    total = max(float(importance.sum()), torch.finfo(torch.float64).tiny)
    missing, free = importance.clone(), torch.ones(len(shows), dtype=torch.bool)
    pick = Pick([], [], [])
    for _ in range(budget):
        gain = (shows.double() @ missing).where(free, -1.0)
        # Sums of the same terms may differ by rounding.
        best = gain >= gain.max() * (1 - 1e-12)
        chosen = int(whole.where(best & free, -1.0).argmax())
        pick.images.append(chosen)
        pick.new.append((shows[chosen] & (missing > 0)).nonzero().flatten().tolist())
        free[chosen] = False
        missing = missing.where(~shows[chosen], 0.0)
        pick.coverage.append(min(1.0, 1 - float(missing.sum()) / total))
    return pick


def heat_features(heat: Tensor, cells: int = 7) -> Tensor:
    """Heat maps as rows of a table: the share of the relevance in each cell of a grid.

    Args:
        heat: (B, h, w) float, finite; the positive part counts.
        cells: Rows and columns of the grid, at least 1; no more than the map has.

    Returns:
        (B, D) float32, sum 1, or 0 of a map without a positive value.

    Raises:
        ValueError: ``cells`` is below 1.
    """
    if cells < 1:
        raise ValueError(f"cells must be at least 1, got {cells}")
    grid = (min(cells, heat.shape[-2]), min(cells, heat.shape[-1]))
    pooled = F.adaptive_avg_pool2d(heat.float().clamp(min=0).unsqueeze(1), grid)
    flat = rearrange(pooled, "b 1 h w -> b (h w)")
    whole = flat.sum(1, keepdim=True)
    return flat / torch.where(whole > 0, whole, 1.0)
