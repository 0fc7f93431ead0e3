"""Whether what an explanation gives to the parts of an image adds up to what is to be explained.

Source: the axiom of completeness, Sundararajan, Taly, Yan, *Axiomatic Attribution for Deep
Networks*, ICML 2017 (arXiv 1703.01365), section 3; "local accuracy" in Lundberg, Lee, *A Unified
Approach to Interpreting Model Predictions*, NeurIPS 2017, property 1.
"""

import torch
from torch import Tensor

from pellucid.metrics.maps.map_metric import MapMetric


def completeness_error(attributions: Tensor, difference: Tensor) -> Tensor:
    r"""Relative error of a sum, :math:`|\sum_i \phi_i - \Delta| / |\Delta|`.

    Args:
        attributions: (B, ...) floating point, what each value, pixel or unit is given.
        difference: (B,) what they promise to add up to, as the score of the image less that of the
            baseline, in the same unit.

    Returns:
        (B,) float32 from 0 on, lower is better; 0.001 is a thousandth. NaN where an attribution or
        the difference is not finite, and where the difference is 0, which nothing is relative to.

    Raises:
        ValueError: If the shapes do not fit.
    """
    if attributions.ndim < 2 or difference.shape != attributions.shape[:1]:
        raise ValueError(
            f"attributions must be (B, ...) and difference (B,), got {tuple(attributions.shape)} "
            f"and {tuple(difference.shape)}"
        )
    # Thousands of terms of both signs: single precision would add an error of its own.
    total, wanted = attributions.detach().flatten(1).double().sum(1), difference.detach().double()
    error = (total - wanted).abs() / wanted.abs()
    return torch.where(error.isfinite(), error, torch.nan).float()


class CompletenessError(MapMetric):
    """Relative error of the sum of attributions, mean over images; from 0 on, lower is better.

    See :func:`completeness_error`. Images for which it is not defined are left out.
    """

    higher_is_better = False

    def update(self, attributions: Tensor, difference: Tensor) -> None:
        """Look at one batch; the arguments are those of :func:`completeness_error`."""
        self.add(completeness_error(attributions, difference))
