import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal

from pellucid.losses.reconstruction import ReconstructionLoss, bernoulli_nll, gaussian_nll


def images(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = 3 * torch.randn(4, 3, 5, 6, generator=generator, dtype=torch.float64)
    return drawn, torch.rand(4, 3, 5, 6, generator=generator, dtype=torch.float64)


def test_bernoulli_is_the_log_probability_of_black_and_white_images():
    logits, target = images()
    target = target.round()
    wanted = -Bernoulli(logits=logits).log_prob(target).sum((1, 2, 3))
    torch.testing.assert_close(bernoulli_nll(logits, target), wanted)


def test_bernoulli_of_greys_is_a_cross_entropy_that_the_target_itself_minimises():
    _, target = images()
    entropy = -(target * target.log() + (1 - target) * (1 - target).log()).sum((1, 2, 3))
    torch.testing.assert_close(bernoulli_nll(target.logit(), target), entropy)
    assert (bernoulli_nll(target.logit() + 0.1, target) > entropy).all()


def test_bernoulli_is_finite_for_certain_pixels():
    logits = torch.full((1, 1, 2, 2), 1e4)
    assert bernoulli_nll(logits, torch.ones_like(logits)).item() == 0
    assert bernoulli_nll(logits, torch.zeros_like(logits)).item() == 4e4


@pytest.mark.parametrize("std", [1.0, 0.1])
def test_gaussian_is_the_log_density_constants_included(std):
    mean, target = images()
    wanted = -Normal(mean, std).log_prob(target).sum((1, 2, 3))
    torch.testing.assert_close(gaussian_nll(mean, target, std), wanted)


def test_a_perfect_gaussian_reconstruction_costs_its_normaliser():
    target = images()[1]
    pixels = 3 * 5 * 6
    wanted = torch.full((4,), pixels * math.log(2 * math.pi) / 2, dtype=torch.float64)
    torch.testing.assert_close(gaussian_nll(target, target), wanted)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_gradients_are_those_of_finite_differences(likelihood):
    mean, target = (tensor[:, :1, :2, :2] for tensor in images())
    function = bernoulli_nll if likelihood == "bernoulli" else gaussian_nll
    assert torch.autograd.gradcheck(function, (mean.clone().requires_grad_(), target))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_module_sums_in_single_precision(likelihood):
    drawn, target = (tensor.float() for tensor in images())
    loss = ReconstructionLoss(likelihood, 0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = loss(drawn.bfloat16(), target)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, loss(drawn.bfloat16().float(), target))


def test_pictures_are_means_of_pixels():
    drawn, _ = images()
    torch.testing.assert_close(ReconstructionLoss().picture(drawn), drawn.float().sigmoid())
    gaussian = ReconstructionLoss("gaussian").picture(drawn)
    assert (gaussian.min().item(), gaussian.max().item()) == (0, 1)
    inside = (drawn > 0) & (drawn < 1)
    torch.testing.assert_close(gaussian[inside], drawn[inside])


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="likelihood must be bernoulli or gaussian, got 'poisson'"):
        ReconstructionLoss("poisson")
    with pytest.raises(ValueError, match="decoder_std must be greater than 0, got 0"):
        ReconstructionLoss("gaussian", 0)
