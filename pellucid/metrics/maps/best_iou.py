"""How well a map outlines an object, cut off at its best threshold.

Source: intersection over union of the thresholded map and the mask; over all thresholds as in
Choe et al., *Evaluating Weakly Supervised Object Localization Methods Right*, CVPR 2020, section
3.2, but with a threshold for each image.
"""

import torch
from einops import rearrange
from torch import Tensor

from pellucid.metrics.maps.heat import Ranked, prepare, rank
from pellucid.metrics.maps.map_metric import MaskMetric


def best_iou(maps: Tensor, mask: Tensor) -> Tensor:
    r"""Greatest IoU of the mask with :math:`\{p : r_p \ge t\}` over all thresholds :math:`t`.

    Relevance is the positive part of the map, upsampled (see :mod:`pellucid.metrics.maps.heat`).
    The threshold is chosen with the mask in sight, so this is what the map could do, not what
    somebody without the mask would get from it.

    Args:
        maps: (B, h, w) floating point, finite.
        mask: (B, H, W) bool.

    Returns:
        (B,) from the mask's share of the image, which a constant map has, of zeros too, to 1;
        higher is better. NaN where the mask is empty.

    Raises:
        ValueError: If a shape, a type or a value is wrong.
    """
    return iou_over_thresholds(rank(prepare(maps, mask)), mask)


def iou_over_thresholds(ranked: Ranked, mask: Tensor) -> Tensor:
    """(B,) the same of sorted pixels."""
    wanted = rearrange(mask, "b h w -> b (h w)")
    size = wanted.sum(1, keepdim=True)
    hits = wanted.gather(1, ranked.order).cumsum(1)
    taken = torch.arange(1, wanted.shape[1] + 1, device=mask.device)
    iou = hits / (taken + size - hits)
    # No threshold parts pixels that are equal.
    within = ranked.values[:, :-1] == ranked.values[:, 1:]
    iou[:, :-1].masked_fill_(within, 0.0)
    return iou.amax(1).masked_fill(size.squeeze(1) == 0, torch.nan)


class BestIoU(MaskMetric):
    """IoU of maps and masks at the best threshold, mean over images; to 1, higher is better.

    See :func:`best_iou`. Images with an empty mask are left out.
    """

    higher_is_better = True

    def judge(self, maps: Tensor, mask: Tensor) -> Tensor:
        """See :func:`best_iou`."""
        return best_iou(maps, mask)
