import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from pellucid.losses.mutual_information import (
    CategoricalInformationLoss,
    ContinuousInformationLoss,
    categorical_information,
    continuous_information,
    fitted_information,
    paired_information,
)


def test_categorical_bound_against_a_loop():
    logits, category = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 3, 1])
    total = 0.0
    for row, chosen in zip(logits.double().tolist(), category.tolist(), strict=True):
        total += row[chosen] - math.log(sum(math.exp(v) for v in row))
    expected = math.log(4) + total / 6
    # The difference of two numbers of size one, at times a small one.
    assert float(categorical_information(logits, category)) == pytest.approx(expected, abs=2e-6)
    assert CategoricalInformationLoss()(logits, category) == -categorical_information(
        logits, category
    )


def test_a_code_that_is_known_carries_its_entropy_and_one_that_is_not_carries_nothing():
    category = torch.arange(8)
    sure = 100.0 * torch.eye(8)
    assert float(categorical_information(sure, category)) == pytest.approx(math.log(8))
    assert float(categorical_information(torch.zeros(8, 8), category)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("deviation", [1.0, 0.3])
def test_continuous_bound_against_the_density(deviation):
    mean, value = torch.randn(5, 3), 2 * torch.rand(5, 3) - 1
    density = Normal(mean, deviation).log_prob(value).sum(1).mean()
    expected = 3 * math.log(2) + density
    torch.testing.assert_close(continuous_information(mean, value, deviation), expected)
    loss = ContinuousInformationLoss(deviation)(mean, value)
    torch.testing.assert_close(loss, -expected)


def test_the_fitted_bound_is_the_greatest_over_deviations():
    value = 2 * torch.rand(4000, 1) - 1
    mean = value + 0.1 * torch.randn(4000, 1)
    fitted = float(fitted_information((mean - value).square().mean(0)))
    grid = [float(continuous_information(mean, value, d / 1000)) for d in range(50, 200)]
    assert fitted == pytest.approx(max(grid), abs=1e-4)
    # A Gaussian channel of this noise, a little less for the ends of the interval.
    assert fitted == pytest.approx(math.log(2 / (0.1 * math.sqrt(2 * math.pi * math.e))), abs=0.05)


def test_codes_that_are_not_found_carry_nothing():
    assert fitted_information(torch.tensor([1 / 3, 5.0])).tolist() == [0, 0]
    assert fitted_information(torch.zeros(1)).isfinite().all()


def paired_loop(first: Tensor, second: Tensor, balance: float = 1.0) -> float:
    count, categories = first.shape
    left, right = first.double().softmax(1).tolist(), second.double().softmax(1).tolist()
    joint = [[0.0] * categories for _ in range(categories)]
    for a, b in zip(left, right, strict=True):
        for i in range(categories):
            for j in range(categories):
                joint[i][j] += (a[i] * b[j] + a[j] * b[i]) / (2 * count)
    marginal = [sum(row) for row in joint]
    return sum(
        joint[i][j] * (math.log(joint[i][j]) - balance * math.log(marginal[i] * marginal[j]))
        for i in range(categories)
        for j in range(categories)
    )


@pytest.mark.parametrize("balance", [1.0, 2.0])
def test_pairs_against_a_loop(balance):
    first, second = torch.randn(9, 4), torch.randn(9, 4)
    expected = paired_loop(first, second, balance)
    found = float(paired_information(first, second, balance))
    assert found == pytest.approx(expected, rel=1e-4)


def test_pairs_at_their_ends():
    sure = 50.0 * torch.eye(5)
    assert float(paired_information(sure, sure)) == pytest.approx(math.log(5), rel=1e-5)
    # One category for all, or none preferred: nothing is shared.
    collapsed = torch.zeros(5, 5)
    collapsed[:, 0] = 50
    for logits in (collapsed, torch.zeros(5, 5)):
        assert float(paired_information(logits, logits)) == pytest.approx(0, abs=1e-5)


def test_pairs_have_the_gradient_of_finite_differences():
    first, second = torch.randn(6, 3), torch.randn(6, 3)
    first.requires_grad_()
    paired_information(first, second).backward()
    step = 1e-3
    for i, j in ((0, 0), (3, 2), (5, 1)):
        moved = first.detach().double().clone()
        moved[i, j] += step
        back = first.detach().double().clone()
        back[i, j] -= step
        slope = (paired_loop(moved, second) - paired_loop(back, second)) / (2 * step)
        assert float(first.grad[i, j]) == pytest.approx(slope, rel=1e-2, abs=1e-5)


def shared_pairs(first: Tensor, second: Tensor) -> tuple[Any, ...]:
    rank = torch.distributed.get_rank()
    rows = slice(0, 4) if rank == 0 else slice(4, 9)
    own = first[rows].clone().requires_grad_()
    value = paired_information(own, second[rows])
    value.backward()
    return value.detach(), own.grad


@pytest.mark.ddp
def test_two_processes_share_their_pairs(run_on_two):
    first, second = torch.randn(9, 4), torch.randn(9, 4)
    whole = first.clone().requires_grad_()
    expected = paired_information(whole, second)
    expected.backward()
    results = run_on_two(shared_pairs, first, second)
    for value, _ in results:
        torch.testing.assert_close(value, expected.detach())
    # Twice, as DistributedDataParallel takes the mean over the two.
    gradient = torch.cat([grad for _, grad in results])
    torch.testing.assert_close(gradient, 2 * whole.grad)


def test_a_deviation_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"deviation must be above 0, got 0"):
        continuous_information(torch.zeros(1, 1), torch.zeros(1, 1), 0)
