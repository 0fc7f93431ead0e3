"""How unlikely an image is under what a decoder draws: Bernoulli or Gaussian pixels."""

import math
from typing import Literal, get_args

import torch
from einops import reduce
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.arguments import check_positive

Likelihood = Literal["bernoulli", "gaussian"]


def bernoulli_nll(logits: Tensor, target: Tensor) -> Tensor:
    """Minus the log-likelihood of images under independent Bernoulli pixels.

    ``-sum_p [x_p log s_p + (1 - x_p) log(1 - s_p)]`` with ``s = sigmoid(logits)``. For black and
    white images it is a probability's logarithm. For greys it is the cross-entropy of two Bernoulli
    distributions and no density: its least value is the entropy of the target and not 0, and it is
    not comparable with :func:`gaussian_nll`.

    Args:
        logits: (B, C, H, W) log-odds of each pixel.
        target: (B, C, H, W) in [0, 1].

    Returns:
        (B,) nats per image, summed over pixels. Source: Kingma and Welling, Auto-Encoding
        Variational Bayes, ICLR 2014, Eq. 11.
    """
    nats = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return reduce(nats, "b c h w -> b", "sum")


def gaussian_nll(mean: Tensor, target: Tensor, std: float = 1.0) -> Tensor:
    """Minus the log-density of images under independent Gaussian pixels of one deviation.

    ``sum_p [(x_p - m_p)^2 / (2 std^2) + log(2 pi std^2) / 2]``, constants included, so that
    deviations can be compared. A density: it can be below 0.

    Args:
        mean: (B, C, H, W) mean of each pixel.
        target: (B, C, H, W).
        std: Standard deviation of every pixel, above 0, in units of the target.

    Returns:
        (B,) nats per image, summed over pixels. Source: Kingma and Welling 2014, Eq. 12.
    """
    squares = reduce((mean - target).square(), "b c h w -> b", "sum")
    pixels = target[0].numel()
    return squares / (2 * std**2) + pixels * math.log(2 * math.pi * std**2) / 2


class ReconstructionLoss(nn.Module):
    """Minus the log-likelihood of images under a decoder's output, in single precision.

    Args:
        likelihood: ``bernoulli`` or ``gaussian``.
        std: Standard deviation of a Gaussian pixel, above 0.

    Raises:
        ValueError: An argument is outside its range.
    """

    def __init__(self, likelihood: Likelihood = "bernoulli", std: float = 1.0) -> None:
        super().__init__()
        if likelihood not in get_args(Likelihood):
            raise ValueError(f"likelihood must be bernoulli or gaussian, got {likelihood!r}")
        check_positive(decoder_std=std)
        self.likelihood, self.std = likelihood, std

    def forward(self, drawn: Tensor, target: Tensor) -> Tensor:
        """(B,) nats per image of what the decoder drew and the images, both (B, C, H, W)."""
        # Thousands of pixels are summed up: not for half precision.
        with torch.autocast(drawn.device.type, enabled=False):
            drawn, target = drawn.float(), target.float()
            if self.likelihood == "bernoulli":
                return bernoulli_nll(drawn, target)
            return gaussian_nll(drawn, target, self.std)

    def picture(self, drawn: Tensor) -> Tensor:
        """The mean of the pixels in [0, 1], (B, C, H, W), of what the decoder drew."""
        return drawn.float().sigmoid() if self.likelihood == "bernoulli" else drawn.clamp(0, 1)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        std = f", std={self.std}" if self.likelihood == "gaussian" else ""
        return self.likelihood + std
