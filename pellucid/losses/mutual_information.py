"""Variational lower bounds of mutual information: InfoGAN's, and that of an image and its copy."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.distributed import gather_with_gradient


def categorical_information(logits: Tensor, category: Tensor) -> Tensor:
    r"""Lower bound of the mutual information of a categorical code and the image drawn from it.

    :math:`H(c) + \mathrm{mean} \log q(c | x)` with a code that is uniform over its K categories.

    Args:
        logits: (B, K) of ``q``, before any soft-max.
        category: (B,) int64, the category that was drawn.

    Returns:
        Scalar, at most log K nats. Source: Chen et al., *InfoGAN*, NeurIPS 2016 (arXiv
        1606.03657), equations 4 and 5.
    """
    return math.log(logits.shape[1]) - F.cross_entropy(logits.float(), category)


def continuous_information(mean: Tensor, value: Tensor, deviation: float = 1.0) -> Tensor:
    r"""Lower bound of the mutual information of continuous codes and the image drawn from them.

    :math:`H(c) + \mathrm{mean} \log q(c | x)`, summed over codes, with codes uniform on [-1, 1],
    of log 2 nats each, and a Gaussian ``q``. With a deviation of 1, as published, it is below
    -0.22 nats a code however well they are found; its gradient is what counts.

    Args:
        mean: (B, C) of ``q``.
        value: (B, C) codes that were drawn.
        deviation: Standard deviation of ``q``, above 0.

    Returns:
        Scalar in nats, summed over codes. Source: as :func:`categorical_information`.

    Raises:
        ValueError: ``deviation`` is not above 0.
    """
    if not deviation > 0:
        raise ValueError(f"deviation must be above 0, got {deviation}; InfoGAN has 1")
    squared = ((value - mean.float()) / deviation).square().sum(1).mean() / 2
    normalising = math.log(deviation) + math.log(2 * math.pi) / 2
    return value.shape[1] * (math.log(2) - normalising) - squared


def fitted_information(squared_error: Tensor) -> Tensor:
    r"""The same bound with the deviation of ``q`` that makes it greatest.

    :math:`\log 2 - \frac{1}{2} \log(2 \pi e \, \mathrm{mse})` of a code uniform on [-1, 1]; no less
    than 0, which bounds mutual information as well.

    Args:
        squared_error: (C,) mean squared error of each code.

    Returns:
        (C,) nats.
    """
    variance = squared_error.clamp(min=torch.finfo(squared_error.dtype).tiny)
    return (math.log(2) - (2 * math.pi * math.e * variance).log() / 2).clamp(min=0)


def paired_information(first: Tensor, second: Tensor, balance: float = 1.0) -> Tensor:
    r"""Mutual information of the categories given to images and to their transformed copies.

    :math:`\sum_{ij} P_{ij} \log (P_{ij} / (P_i P_j))`, where :math:`P_{ij}`, made symmetric, is the
    mean over images of the probability of category i for the one and of j for the other. It is
    greatest, log K, where both are sure and agree and all categories are used alike. On several
    devices the batch of all of them counts.

    Args:
        first: (B, K) logits of the images.
        second: (B, K) logits of their copies.
        balance: Weight of the entropy of the categories, at least 0; above 1 it counts more that
            all are used than that the two agree, and the value is no mutual information any more.

    Returns:
        Scalar in nats; from 0 to log K where ``balance`` is 1. Source: Ji, Henriques, Vedaldi,
        *Invariant Information Clustering*, ICCV 2019 (arXiv 1807.06653), equations 2 and 3, and
        their coefficient of the entropy.
    """
    left, right = (gather_with_gradient(logits.float()).softmax(1) for logits in (first, second))
    joint = left.T @ right / len(left)
    joint = ((joint + joint.T) / 2).clamp(min=torch.finfo(joint.dtype).tiny)
    rows, columns = joint.sum(1, keepdim=True), joint.sum(0, keepdim=True)
    return (joint * (joint.log() - balance * (rows.log() + columns.log()))).sum()


class CategoricalInformationLoss(nn.Module):
    """Minus :func:`categorical_information`."""

    def forward(self, logits: Tensor, category: Tensor) -> Tensor:
        """See :func:`categorical_information`."""
        return -categorical_information(logits, category)


class ContinuousInformationLoss(nn.Module):
    """Minus :func:`continuous_information`.

    Args:
        deviation: Standard deviation of ``q``, above 0.
    """

    def __init__(self, deviation: float = 1.0) -> None:
        super().__init__()
        self.deviation = deviation

    def forward(self, mean: Tensor, value: Tensor) -> Tensor:
        """See :func:`continuous_information`."""
        return -continuous_information(mean, value, self.deviation)
