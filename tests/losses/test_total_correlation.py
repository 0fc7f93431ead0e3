"""Estimators of the total correlation against loops written from Chen et al. and Kim and Mnih."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from pellucid.losses.total_correlation import (
    KLDecomposition,
    density_ratio_total_correlation,
    discriminator_loss,
    kl_decomposition,
    permute_codes,
)

ESTIMATORS = ["minibatch_weighted", "minibatch_stratified"]


def sampled(rows: int = 7, latents: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mean, log_variance, noise = torch.randn(
        3, rows, latents, generator=generator, dtype=torch.float64
    )
    return mean + (log_variance / 2).exp() * noise, mean, log_variance


def weight(estimator: str, i: int, j: int, rows: int, size: int) -> float:
    """Weight of ``q(z(i) | n_j)`` in the estimate of ``q(z(i))``, Eqs. S.4 and S.6."""
    if estimator == "minibatch_weighted":
        return 1 / (size * rows)
    m = rows - 1
    if j == i:
        return 1 / size
    return (size - m) / (size * m) if j == (i + 1) % rows else 1 / m


def by_loops(estimator: str, codes: Tensor, mean: Tensor, log_variance: Tensor, size: int):
    rows, latents = codes.shape
    std = (log_variance / 2).exp()

    def density(i: int, j: int, k: int) -> float:
        return Normal(mean[j, k], std[j, k]).log_prob(codes[i, k]).exp().item()

    information = correlation = dimension_wise = 0.0
    for i in range(rows):
        joint, marginals = 0.0, [0.0] * latents
        for j in range(rows):
            w = weight(estimator, i, j, rows, size)
            joint += w * math.prod(density(i, j, k) for k in range(latents))
            for k in range(latents):
                marginals[k] += w * density(i, j, k)
        own = math.prod(density(i, i, k) for k in range(latents))
        prior = math.prod(Normal(0.0, 1.0).log_prob(codes[i]).exp().tolist())
        information += math.log(own / joint) / rows
        correlation += math.log(joint / math.prod(marginals)) / rows
        dimension_wise += math.log(math.prod(marginals) / prior) / rows
    return information, correlation, dimension_wise


@pytest.mark.parametrize("size", [7, 100])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_decomposition_is_that_of_the_loops(estimator, size):
    rows = sampled()
    found = [part.item() for part in kl_decomposition(*rows, size, estimator)]
    assert found == pytest.approx(by_loops(estimator, *rows, size), rel=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_parts_add_up_to_the_divergence(estimator):
    codes, mean, log_variance = sampled()
    log_posterior = Normal(mean, (log_variance / 2).exp()).log_prob(codes).sum(1)
    wanted = (log_posterior - Normal(0.0, 1.0).log_prob(codes).sum(1)).mean()
    parts = kl_decomposition(codes, mean, log_variance, 50, estimator)
    torch.testing.assert_close(sum(parts), wanted)


@pytest.mark.parametrize("correlated", [0.0, 0.9])
def test_a_whole_data_set_has_the_known_total_correlation_of_gaussian_codes(correlated):
    """Means from a Gaussian, one small posterior variance: the aggregate is a Gaussian too."""
    generator = torch.Generator().manual_seed(0)
    covariance = torch.tensor([[1.0, correlated], [correlated, 1.0]], dtype=torch.float64)
    noise = torch.randn(3000, 2, generator=generator, dtype=torch.float64)
    mean = noise @ torch.linalg.cholesky(covariance).T
    log_variance = torch.full_like(mean, math.log(0.1))
    codes = mean + math.sqrt(0.1) * torch.randn(
        mean.shape, generator=generator, dtype=torch.float64
    )
    aggregate = covariance + 0.1 * torch.eye(2)
    wanted = (aggregate.diagonal().log().sum() - aggregate.logdet()) / 2
    # With the whole set in the batch every image has the weight 1 / N in the stratified estimate.
    parts = kl_decomposition(codes, mean, log_variance, 3000, "minibatch_stratified")
    assert parts.total_correlation.item() == pytest.approx(wanted.item(), abs=0.03)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_are_those_of_finite_differences(estimator):
    rows = [tensor[:4, :2].clone().requires_grad_() for tensor in sampled()]
    assert torch.autograd.gradcheck(lambda *r: tuple(kl_decomposition(*r, 9, estimator)), rows)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_small_batches_and_small_sets_are_finite(estimator):
    for rows, size in ((1, 10), (2, 10), (5, 3)):
        parts = kl_decomposition(*sampled(rows), size, estimator)
        assert all(part.isfinite() for part in parts)


def test_no_such_estimator():
    with pytest.raises(ValueError, match=r"estimator must be minibatch_weighted or .*got 'exact'"):
        KLDecomposition("exact")


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_module_works_in_single_precision(estimator):
    rows = [tensor.bfloat16() for tensor in sampled()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = KLDecomposition(estimator)(*rows, 20)
    wanted = kl_decomposition(*(row.float() for row in rows), 20, estimator)
    torch.testing.assert_close(tuple(found), tuple(wanted))


def value_and_gradient(estimator: Any, first: int | None) -> dict[str, Any]:
    """On one process (``first`` None) with all rows, else with the first rows or the others."""
    rows = sampled(8)
    if first is not None:
        own = slice(None, first) if torch.distributed.get_rank() == 0 else slice(first, None)
        rows = tuple(tensor[own] for tensor in rows)
    rows = tuple(tensor.float().requires_grad_() for tensor in rows)
    parts = KLDecomposition(estimator)(*rows, 100)
    (parts[0] + 2 * parts[1] - 3 * parts[2]).backward()
    return {"parts": torch.stack(parts).detach(), "gradient": torch.cat([r.grad for r in rows], 1)}


@pytest.mark.ddp
@pytest.mark.parametrize("first", [4, 3])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_two_processes_are_as_one(run_on_two, estimator, first):
    whole = value_and_gradient(estimator, None)
    halves = run_on_two(value_and_gradient, estimator, first)
    for half in halves:
        torch.testing.assert_close(half["parts"], whole["parts"])
    # Averaged over the processes, as DistributedDataParallel does, it is the gradient of one.
    both = torch.cat([half["gradient"] for half in halves]) / 2
    torch.testing.assert_close(both, whole["gradient"], rtol=1e-4, atol=1e-6)


def test_the_density_ratio_is_its_formula():
    logits = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    share = logits.softmax(1)[:, 0]
    wanted = (share / (1 - share)).log().mean()
    torch.testing.assert_close(density_ratio_total_correlation(logits), wanted)


def test_the_discriminator_loss_is_its_formula():
    generator = torch.Generator().manual_seed(0)
    ours, permuted = torch.randn(9, 2, generator=generator), torch.randn(4, 2, generator=generator)
    wanted = -(ours.softmax(1)[:, 0].log().mean() + permuted.softmax(1)[:, 1].log().mean()) / 2
    torch.testing.assert_close(discriminator_loss(ours, permuted), wanted)
    undecided = discriminator_loss(torch.zeros(3, 2), torch.zeros(5, 2))
    assert undecided.item() == pytest.approx(math.log(2))


def test_permuted_codes_keep_the_marginals_and_lose_the_correlation():
    torch.manual_seed(0)
    codes = torch.randn(2000, 1).repeat(1, 3)
    permuted = permute_codes(codes)
    torch.testing.assert_close(permuted.sort(0).values, codes.sort(0).values)
    correlation = torch.corrcoef(permuted.T)
    assert (correlation - torch.eye(3)).abs().max() < 0.1
