"""The total correlation of sampled codes, by minibatch estimators or by a density ratio."""

import math
from typing import Literal, NamedTuple, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.distributed import gather_with_gradient

Estimator = Literal["minibatch_weighted", "minibatch_stratified"]


class Decomposition(NamedTuple):
    """The three parts of the mean KL divergence from the prior, scalars in nats per image."""

    mutual_information: Tensor
    """Index-code mutual information ``E[log q(z|n) - log q(z)]``."""
    total_correlation: Tensor
    """``E[log q(z) - sum_l log q(z_l)]``."""
    dimension_wise_kl: Tensor
    """``E[sum_l log q(z_l) - log p(z)]``."""


def pairwise_log_densities(codes: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """``log q(z_l(i) | n_j)`` of every code under the posterior of every image.

    Args:
        codes: (M, L) codes.
        mean: (N, L) posterior means.
        log_variance: (N, L) logarithms of the posterior variances.

    Returns:
        (M, N, L) nats.
    """
    away = rearrange(codes, "m l -> m 1 l") - mean
    return -(away.square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi)) / 2


def log_weights(rows: int, dataset_size: int, estimator: Estimator, like: Tensor) -> Tensor:
    """Logarithm of the weight of each image of a batch in the estimate of ``q(z)`` for each code.

    ``minibatch_weighted``: ``1 / (N M)`` for all, with ``M`` the size of the batch (Eq. S.4); the
    estimate is too small, by up to ``log N`` nats. ``minibatch_stratified``: the batch of ``M + 1``
    counts as the code's own image, of weight ``1 / N``, and ``M`` others, of which one has
    ``(N - M) / (N M)`` and the rest ``1 / M`` (Eq. S.6); here this one is the next in the batch.

    Args:
        rows: Images in the batch, at least 1.
        dataset_size: ``N``, images in the training set; a batch that is larger counts as the set.
        estimator: Which.
        like: A tensor of the type and on the device to use.

    Returns:
        (rows, rows), or a scalar where all are equal. Source: Chen et al., Isolating Sources of
        Disentanglement in VAEs, NeurIPS 2018, appendix C.
    """
    size = max(dataset_size, rows)
    if estimator == "minibatch_weighted":
        return like.new_full((), -math.log(size * rows))
    others = rows - 1
    if others == 0:
        return like.new_zeros(1, 1)
    weights = like.new_full((rows, rows), 1 / others)
    weights.fill_diagonal_(1 / size)
    following = torch.eye(rows, dtype=torch.bool, device=like.device).roll(1, 1)
    weights.masked_fill_(following, (size - others) / (size * others))
    return weights.log()


def kl_decomposition(
    codes: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    dataset_size: int,
    estimator: Estimator = "minibatch_weighted",
) -> Decomposition:
    """Divides the KL divergence of a batch's posteriors into three parts (Chen et al., Eq. 2).

    Args:
        codes: (B, L) one code sampled from the posterior of each image.
        mean: (B, L) posterior means.
        log_variance: (B, L) logarithms of the posterior variances.
        dataset_size: Images in the training set.
        estimator: How ``q(z)`` is estimated, see :func:`log_weights`.

    Returns:
        Means over the batch; they add up to that of ``log q(z|n) - log p(z)``.
    """
    densities = pairwise_log_densities(codes, mean, log_variance)
    weights = log_weights(len(codes), dataset_size, estimator, densities)
    log_posterior = torch.einsum("iil->i", densities)
    log_joint = (densities.sum(2) + weights).logsumexp(1)
    log_marginals = (densities + rearrange(weights, "... -> ... 1")).logsumexp(1).sum(1)
    log_prior = -(codes.square() + math.log(2 * math.pi)).sum(1) / 2
    return Decomposition(
        (log_posterior - log_joint).mean(),
        (log_joint - log_marginals).mean(),
        (log_marginals - log_prior).mean(),
    )


class KLDecomposition(nn.Module):
    """The three parts of the KL divergence over the batch of all devices, in single precision.

    Args:
        estimator: ``minibatch_weighted`` or ``minibatch_stratified``.
        gather: Whether the batch is that of all devices, with exact gradients.

    Raises:
        ValueError: There is no such estimator.
    """

    def __init__(self, estimator: Estimator = "minibatch_weighted", gather: bool = True) -> None:
        super().__init__()
        if estimator not in get_args(Estimator):
            allowed = " or ".join(get_args(Estimator))
            raise ValueError(f"estimator must be {allowed}, got {estimator!r}")
        self.estimator, self.gather = estimator, gather

    def forward(
        self, codes: Tensor, mean: Tensor, log_variance: Tensor, dataset_size: int
    ) -> Decomposition:
        """See :func:`kl_decomposition`; with ``gather`` every device gets the same figures."""
        with torch.autocast(codes.device.type, enabled=False):
            rows = torch.stack((codes.float(), mean.float(), log_variance.float()), dim=1)
            if self.gather:
                rows = gather_with_gradient(rows)
            codes, mean, log_variance = rows.unbind(1)
            return kl_decomposition(codes, mean, log_variance, dataset_size, self.estimator)


def permute_codes(codes: Tensor) -> Tensor:
    """Shuffle each latent over the batch by itself: samples of the product of the marginals.

    Args:
        codes: (B, L).

    Returns:
        (B, L). Source: Kim and Mnih, Disentangling by Factorising, ICML 2018, algorithm 1.
    """
    order = torch.rand(codes.shape, device=codes.device).argsort(0)
    return codes.gather(0, order)


def density_ratio_total_correlation(logits: Tensor) -> Tensor:
    """The total correlation that a discriminator sees, ``E[log D(z) - log(1 - D(z))]``.

    Args:
        logits: (B, 2) of codes as they are; the first stands for "sampled", ``D``, the second for
            "permuted".

    Returns:
        Scalar, nats. Source: Kim and Mnih 2018, Eq. 3.
    """
    # The soft-max's normaliser cancels in the difference.
    return (logits[:, 0] - logits[:, 1]).float().mean()


def discriminator_loss(sampled: Tensor, permuted: Tensor) -> Tensor:
    """Cross-entropy of the discriminator that tells codes from permuted ones.

    ``-(E[log D(z)] + E[log(1 - D(permuted z))]) / 2``.

    Args:
        sampled: (B, 2) logits of codes as they are.
        permuted: (B', 2) logits of permuted codes.

    Returns:
        Scalar, nats per code; ``log 2`` where it cannot tell. Source: Kim and Mnih 2018,
        algorithm 2.
    """
    kinds = [
        logits.new_full((len(logits),), kind, dtype=torch.int64)
        for kind, logits in enumerate((sampled, permuted))
    ]
    return (
        F.cross_entropy(sampled.float(), kinds[0]) + F.cross_entropy(permuted.float(), kinds[1])
    ) / 2
