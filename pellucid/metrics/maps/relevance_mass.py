"""How much of a map's relevance lies where it should.

Source: relevance mass accuracy, Arras, Osman, Samek, *CLEVR-XAI: A Benchmark Dataset for the Ground
Truth Evaluation of Neural Network Explanations*, Information Fusion 2022 (arXiv 2003.07258, 2020),
section 3.3. The energy-based pointing game (Wang et al., *Score-CAM*, CVPR workshops 2020, section
4.3) is the same figure, with boxes for masks.
"""

import torch
from torch import Tensor

from pellucid.metrics.maps.heat import prepare
from pellucid.metrics.maps.map_metric import MaskMetric


def relevance_mass(maps: Tensor, mask: Tensor) -> Tensor:
    r"""Share of the relevance inside the mask, :math:`\sum_{p \in M} r_p / \sum_p r_p`.

    Relevance is the positive part of the map, upsampled (see :mod:`pellucid.metrics.maps.heat`).

    Args:
        maps: (B, h, w) floating point, finite.
        mask: (B, H, W) bool.

    Returns:
        (B,) from 0 to 1, higher is better; a constant map has the mask's share of the image. NaN
        where the map has no positive value or the mask is empty.

    Raises:
        ValueError: If a shape, a type or a value is wrong.
    """
    return mass_inside(prepare(maps, mask), mask)


def mass_inside(heat: Tensor, mask: Tensor) -> Tensor:
    """(B,) the same of relevance (B, H, W) that is on the mask's pixels already."""
    whole, inside = heat.sum((1, 2)), (heat * mask).sum((1, 2))
    defined = (whole > 0) & mask.flatten(1).any(1)
    return torch.where(defined, inside / torch.where(defined, whole, 1.0), torch.nan)


class RelevanceMass(MaskMetric):
    """Share of the relevance inside masks, mean over images; from 0 to 1, higher is better.

    See :func:`relevance_mass`. Images with an empty mask, or a map of zeros, are left out.
    """

    higher_is_better = True

    def judge(self, maps: Tensor, mask: Tensor) -> Tensor:
        """See :func:`relevance_mass`."""
        return relevance_mass(maps, mask)
