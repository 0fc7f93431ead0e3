import torch
from torch.distributions import Normal, kl_divergence

from pellucid.losses.kl_divergence import GaussianKL, gaussian_kl


def posterior() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    return 2 * mean, 3 * log_variance


def test_the_closed_form_is_that_of_torch():
    mean, log_variance = posterior()
    wanted = kl_divergence(
        Normal(mean, (log_variance / 2).exp()),
        Normal(torch.zeros_like(mean), torch.ones_like(mean)),
    )
    torch.testing.assert_close(gaussian_kl(mean, log_variance), wanted)


def test_it_is_zero_for_the_prior_and_above_elsewhere():
    zeros = torch.zeros(2, 3)
    assert not gaussian_kl(zeros, zeros).any()
    assert (gaussian_kl(*posterior()) > 0).all()


def test_gradients_are_those_of_finite_differences():
    mean, log_variance = (tensor.requires_grad_() for tensor in posterior())
    assert torch.autograd.gradcheck(gaussian_kl, (mean, log_variance))


def test_the_module_works_in_single_precision():
    mean, log_variance = (tensor.bfloat16() for tensor in posterior())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = GaussianKL()(mean, log_variance)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, gaussian_kl(mean.float(), log_variance.float()))
