"""The Kullback-Leibler divergence of a diagonal Gaussian posterior from the standard normal."""

import torch
from torch import Tensor, nn


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """``(mean^2 + exp(log_variance) - log_variance - 1) / 2`` of each latent.

    Args:
        mean: (B, L) posterior means.
        log_variance: (B, L) logarithms of the posterior variances.

    Returns:
        (B, L) nats, at least 0; their sum over latents is the divergence of the whole posterior.
        Source: Kingma and Welling, Auto-Encoding Variational Bayes, ICLR 2014, appendix B.
    """
    return (mean.square() + log_variance.exp() - log_variance - 1) / 2


class GaussianKL(nn.Module):
    """The divergence of each latent's posterior from the standard normal, in single precision."""

    def forward(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """(B, L) nats of posterior means and logarithms of variances, (B, L) both."""
        with torch.autocast(mean.device.type, enabled=False):
            return gaussian_kl(mean.float(), log_variance.float())
