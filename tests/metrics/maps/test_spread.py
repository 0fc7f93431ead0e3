"""Metrics of a map alone: Gini index and entropy; and its correlation with human attention."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy, spearmanr
from torch.nn import functional as F

from pellucid.metrics.maps import (
    AttentionCorrelation,
    MapEntropy,
    MapGini,
    attention_correlation,
    map_entropy,
    map_gini,
)


def maps(count=100, size=(6, 7)):
    torch.manual_seed(0)
    values = torch.randn(count, *size)
    values[::3] = (2 * values[::3]).round()
    values[:, 0, 0] = 1.0
    return values


def loop_gini(cells):
    """Chalasani et al., as they write it."""
    cells = sorted(max(0.0, float(v)) for v in cells.flatten())
    whole, d = sum(cells), len(cells)
    return 1 - 2 * sum(v / whole * (d - k + 0.5) / d for k, v in enumerate(cells, 1))


def test_gini_agrees_with_a_loop():
    wanted = torch.tensor([loop_gini(one) for one in maps()])
    torch.testing.assert_close(map_gini(maps()), wanted, atol=1e-4, rtol=0)


def test_entropy_agrees_with_scipy():
    wanted = torch.tensor([entropy(one.clamp(min=0).flatten().numpy()) for one in maps()])
    torch.testing.assert_close(map_entropy(maps(), normalise=False), wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(map_entropy(maps()), wanted / math.log(42), atol=1e-4, rtol=0)


def test_known_answers():
    even, one = torch.full((1, 4, 4), 3.0), torch.zeros(1, 4, 4)
    one[0, 1, 2] = 5.0
    assert map_gini(even).item() == pytest.approx(0, abs=1e-6)
    assert map_gini(one).item() == pytest.approx(15 / 16)
    assert map_entropy(even).item() == pytest.approx(1)
    assert map_entropy(one).item() == 0
    assert map_entropy(torch.ones(1, 1, 1)).item() == 0


@pytest.mark.parametrize("make", [MapGini, MapEntropy])
def test_maps_of_zeros_are_left_out_and_counted(make):
    some = maps(5)
    some[1], some[3] = 0.0, -1.0
    metric, without = make(), make()
    metric.update(some)
    without.update(some[[0, 2, 4]])
    assert float(metric.compute()) == pytest.approx(float(without.compute()))
    assert (int(metric.judged), int(metric.left_out)) == (3, 2)
    with pytest.raises(ValueError, match=r"maps\[0\] has a value that is not finite"):
        metric.update(some * torch.nan)


def human(count=100, size=(28, 28)):
    torch.manual_seed(1)
    seen = torch.rand(count, *size)
    seen[::2] = (seen[::2] - 0.7).clamp(min=0).round(decimals=1)
    return seen


@pytest.mark.parametrize("grid", [(7, 7), (28, 28)])
def test_correlation_agrees_with_scipy(grid):
    heat, seen = maps(100, grid), human()
    large = F.interpolate(heat.clamp(min=0)[:, None], (28, 28), mode="bilinear")
    ours = F.avg_pool2d(large, 2)[:, 0].double().numpy().round(5)
    theirs = F.avg_pool2d(seen, 2).double().numpy().round(5)
    wanted = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(ours, theirs, strict=True)]
    found = attention_correlation(heat, seen)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-3)


def test_correlation_on_cells_without_rounding_agrees_to_a_ten_thousandth():
    torch.manual_seed(2)
    heat = torch.rand(100, 14, 14).round(decimals=2)
    seen = torch.rand(100, 14, 14).round(decimals=1)
    wanted = [
        spearmanr(a.ravel(), b.ravel()).statistic
        for a, b in zip(heat.numpy(), seen.numpy(), strict=True)
    ]
    np.testing.assert_allclose(attention_correlation(heat, seen).numpy(), wanted, atol=1e-4)


def test_a_map_correlates_with_itself_and_not_with_a_constant():
    seen = human(3)
    assert attention_correlation(seen.square(), seen)[1].item() > 0.9
    assert attention_correlation(seen, seen).tolist() == pytest.approx([1.0] * 3)
    assert attention_correlation(1 - seen, seen).tolist() == pytest.approx([-1.0] * 3, abs=2e-2)
    assert attention_correlation(torch.ones(3, 7, 7), seen).isnan().all()
    metric = AttentionCorrelation()
    seen[0] = 0
    metric.update(maps(3, (7, 7)), seen)
    assert (int(metric.judged), int(metric.left_out)) == (2, 1)


def test_wrong_attention_is_refused():
    seen = human(2)
    with pytest.raises(ValueError, match="attention has a value below 0"):
        attention_correlation(maps(2), -seen)
    with pytest.raises(ValueError, match=r"attention\[0\] has a value that is not finite"):
        attention_correlation(maps(2), seen * torch.inf)
    with pytest.raises(ValueError, match="attention has 2 images, maps have 3"):
        attention_correlation(maps(3), seen)
    with pytest.raises(ValueError, match="attention is 28 x 28, maps are 30 x 30"):
        attention_correlation(maps(2, (30, 30)), seen)
    with pytest.raises(ValueError, match="at most 28, the side of the attention map, got 29"):
        attention_correlation(maps(2), seen, cells=29)
    with pytest.raises(ValueError, match="cells must be at least 2, got 1"):
        AttentionCorrelation(cells=1)
