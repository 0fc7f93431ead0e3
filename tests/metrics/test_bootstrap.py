"""The bootstrap interval of a mean against a loop, and against what theory says."""

import math

import numpy as np
import pytest
import torch

from pellucid.metrics.bootstrap import bootstrap_interval


def loop(values, level, resamples, generator):
    """One resample after the other, one drawn value after the other."""
    means = []
    for _ in range(resamples):
        total = 0.0
        for _ in range(len(values)):
            total += values[generator.integers(len(values))]
        means.append(total / len(values))
    return np.quantile(means, [(1 - level) / 2, (1 + level) / 2])


def test_it_agrees_with_a_loop_within_chance():
    values = torch.rand(30, generator=torch.Generator().manual_seed(1)).square()
    found = bootstrap_interval(values, level=0.9, resamples=4000)
    low, high = loop(values.double().numpy(), 0.9, 1500, np.random.default_rng(0))
    assert found.mean == pytest.approx(float(values.double().mean()))
    assert found.count == 30
    # The ends of 1500 resamples are known to a few hundredths of the width.
    assert abs(found.low - low) < 0.08 * (high - low)
    assert abs(found.high - high) < 0.08 * (high - low)


def test_of_many_values_it_is_the_normal_interval():
    values = torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = bootstrap_interval(values)
    half = 1.96 * float(values.std()) / math.sqrt(2000)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.06)
    assert (found.high + found.low) / 2 == pytest.approx(found.mean, abs=0.1 * half)


def test_it_holds_the_mean_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(3)
    held = 0
    for _ in range(200):
        found = bootstrap_interval(torch.rand(40, generator=generator), level=0.8, resamples=300)
        held += found.low <= 0.5 <= found.high
    assert 0.7 < held / 200 < 0.88


def test_undefined_values_are_left_out_and_the_seed_decides():
    values = torch.tensor([1.0, torch.nan, 3.0, 2.0, torch.nan])
    found = bootstrap_interval(values, seed=5)
    assert found == bootstrap_interval(torch.tensor([1.0, 3.0, 2.0]), seed=5)
    assert found.count == 3
    assert found.mean == 2.0
    assert 1 <= found.low < 2 < found.high <= 3
    many = torch.rand(50)
    assert bootstrap_interval(many, seed=1) != bootstrap_interval(many, seed=2)


def test_few_values_have_no_interval():
    one = bootstrap_interval(torch.tensor([0.25]))
    assert (one.mean, one.count) == (0.25, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    none = bootstrap_interval(torch.tensor([torch.nan]))
    assert math.isnan(none.mean)
    assert none.count == 0
    alike = bootstrap_interval(torch.full((9,), 0.5))
    assert (alike.low, alike.high) == (0.5, 0.5)


def test_resampling_in_parts_changes_nothing(monkeypatch):
    values = torch.rand(20)
    whole = bootstrap_interval(values, resamples=50)
    monkeypatch.setattr("pellucid.metrics.bootstrap._AT_ONCE", 60)
    parts = bootstrap_interval(values, resamples=50)
    # Drawn from the same generator in the same order.
    assert parts == whole


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (torch.zeros(2, 3), {}, r"values must be floating point of shape \(N,\).*\(2, 3\)"),
        (torch.zeros(3, dtype=torch.int64), {}, "got .* of torch.int64"),
        (torch.zeros(3), {"level": 1.0}, "level must be between 0 and 1, got 1.0"),
        (torch.zeros(3), {"resamples": 0}, "resamples must be at least 1, got 0"),
        (torch.tensor([1.0, torch.inf]), {}, "infinite"),
    ],
)
def test_wrong_input_is_named(values, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values, **options)
