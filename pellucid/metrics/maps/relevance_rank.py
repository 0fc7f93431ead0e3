"""How many of the most relevant pixels lie where they should.

Source: relevance rank accuracy, Arras, Osman, Samek, *CLEVR-XAI: A Benchmark Dataset for the Ground
Truth Evaluation of Neural Network Explanations*, Information Fusion 2022 (arXiv 2003.07258, 2020),
section 3.3.
"""

import torch
from einops import rearrange
from torch import Tensor

from pellucid.metrics.maps.heat import Ranked, prepare, rank
from pellucid.metrics.maps.map_metric import MaskMetric


def relevance_rank(maps: Tensor, mask: Tensor) -> Tensor:
    r"""Share of the :math:`K` most relevant pixels that are in the mask of :math:`K` pixels.

    Relevance is the positive part of the map, upsampled (see :mod:`pellucid.metrics.maps.heat`).
    Where several pixels are as relevant as the :math:`K`-th, it is the mean over all choices among
    them: no order of pixels is preferred, and a constant map, of zeros too, has the mask's share of
    the image, which is chance.

    Args:
        maps: (B, h, w) floating point, finite.
        mask: (B, H, W) bool.

    Returns:
        (B,) from 0 to 1, higher is better. NaN where the mask is empty.

    Raises:
        ValueError: If a shape, a type or a value is wrong.
    """
    heat = prepare(maps, mask)
    return share_of_first(heat, rank(heat), mask)


def share_of_first(heat: Tensor, ranked: Ranked, mask: Tensor) -> Tensor:
    """(B,) the same of relevance (B, H, W) whose pixels are sorted already."""
    flat, wanted = rearrange(heat, "b h w -> b (h w)"), rearrange(mask, "b h w -> b (h w)")
    size = wanted.sum(1)
    least = ranked.values.gather(1, (size - 1).clamp(min=0).unsqueeze(1))
    above, equal = flat > least, flat == least
    free = size - above.sum(1)
    drawn = (equal & wanted).sum(1) * free / equal.sum(1)
    share = ((above & wanted).sum(1) + drawn) / size.clamp(min=1)
    return torch.where(size > 0, share, torch.nan)


class RelevanceRank(MaskMetric):
    """Share of the most relevant pixels inside masks, mean over images; from 0 to 1, higher better.

    See :func:`relevance_rank`. Images with an empty mask are left out.
    """

    higher_is_better = True

    def judge(self, maps: Tensor, mask: Tensor) -> Tensor:
        """See :func:`relevance_rank`."""
        return relevance_rank(maps, mask)
