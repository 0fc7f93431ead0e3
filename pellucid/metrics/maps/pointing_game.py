"""Whether the most relevant pixel lies on the object.

Source: Zhang et al., *Top-down Neural Attention by Excitation Backprop*, IJCV 2018 (ECCV 2016),
section 4.1.
"""

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from pellucid.metrics.maps.heat import ROUNDING, prepare
from pellucid.metrics.maps.map_metric import MaskMetric


def pointing_game(maps: Tensor, mask: Tensor, tolerance: int = 0) -> Tensor:
    """Whether the most relevant pixel is in the mask.

    Relevance is the positive part of the map, upsampled (see :mod:`pellucid.metrics.maps.heat`).
    Where several pixels are the most relevant (to a millionth), it is the share of them that is in
    the mask: a constant map, of zeros too, has the mask's share of the image, which is chance.

    Args:
        maps: (B, h, w) floating point, finite.
        mask: (B, H, W) bool.
        tolerance: Pixels by which the peak may miss the mask, at least 0. The paper allows 15 in
            images of some 500 x 350.

    Returns:
        (B,) from 0 (miss) to 1 (hit), higher is better. NaN where the mask is empty.

    Raises:
        ValueError: If a shape, a type or a value is wrong, or the tolerance is below 0.
    """
    _check_tolerance(tolerance)
    return peak_inside(prepare(maps, mask), mask, tolerance)


def peak_inside(heat: Tensor, mask: Tensor, tolerance: int = 0) -> Tensor:
    """(B,) the same of relevance (B, H, W) that is on the mask's pixels already."""
    near = _widened(mask, tolerance) if tolerance else mask
    peaks = heat >= heat.amax((1, 2), keepdim=True) * (1 - ROUNDING)
    share = (peaks & near).sum((1, 2)) / peaks.sum((1, 2))
    return share.masked_fill(~mask.flatten(1).any(1), torch.nan)


def _widened(mask: Tensor, tolerance: int) -> Tensor:
    """The mask and all pixels whose centre is at most so far from one of its pixels'."""
    steps = torch.arange(-tolerance, tolerance + 1, device=mask.device)
    disc = (steps[:, None].square() + steps.square() <= tolerance**2).float()
    # Counts of up to a few thousand must be above a half, in mixed precision too.
    covered = F.conv2d(
        rearrange(mask.float(), "b h w -> b 1 h w"),
        rearrange(disc, "h w -> 1 1 h w"),
        padding=tolerance,
    )
    return rearrange(covered > 0.5, "b 1 h w -> b h w")


def _check_tolerance(tolerance: int) -> None:
    if tolerance < 0:
        raise ValueError(f"tolerance must be at least 0 pixels, got {tolerance}; usual are 0 or 15")


class PointingGame(MaskMetric):
    """Share of images whose most relevant pixel is in the mask; from 0 to 1, higher is better.

    See :func:`pointing_game`. Images with an empty mask are left out.

    Args:
        tolerance: Pixels by which the peak may miss the mask, at least 0.

    Raises:
        ValueError: If the tolerance is below 0.
    """

    higher_is_better = True

    def __init__(self, tolerance: int = 0) -> None:
        super().__init__()
        _check_tolerance(tolerance)
        self.tolerance = tolerance

    def judge(self, maps: Tensor, mask: Tensor) -> Tensor:
        """See :func:`pointing_game`."""
        return pointing_game(maps, mask, self.tolerance)
