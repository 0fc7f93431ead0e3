import math
import pickle

import numpy as np
import pytest
import torch

from pellucid.metrics.reconstruction_error import ReconstructionError
from pellucid.metrics.resampled_accuracy import ResampledAccuracy
from pellucid.metrics.resampling import resampling_weights


def errors(count=300):
    return torch.rand(count, generator=torch.Generator().manual_seed(0)) ** 2


def test_weights_are_poisson_beside_the_sample_itself():
    weights = resampling_weights(errors(), 400)
    assert weights.shape == (401, 300)
    assert weights.dtype == torch.float64
    assert bool((weights[0] == 1).all())
    drawn = weights[1:]
    assert float(drawn.mean()) == pytest.approx(1, abs=0.01)
    assert float(drawn.var()) == pytest.approx(1, abs=0.02)
    # Neither images nor sets go together.
    for table in (drawn, drawn.T):
        together = np.corrcoef(table)
        assert abs(together[~np.eye(len(together), dtype=bool)].mean()) < 0.01


def test_weights_are_of_seed_and_content_alone():
    weights = resampling_weights(errors(), 3)
    assert weights.equal(resampling_weights(errors(), 3))
    assert not weights.equal(resampling_weights(errors(), 3, seed=1))
    assert not weights.equal(resampling_weights(errors() + 1, 3))
    assert resampling_weights(errors(), 0).shape == (1, 300)
    assert resampling_weights(torch.zeros(0, 4), 2).shape == (3, 0)


def test_reconstruction_error_and_its_spread():
    metric = ReconstructionError(resamplings=2000)
    for part in errors().split(70):
        metric.update(part)
    values = errors().numpy()
    assert float(metric.compute()) == pytest.approx(values.mean())
    # The textbook's standard error of a mean.
    assert metric.spread() == pytest.approx(values.std() / 300**0.5, rel=0.06)
    assert metric.sample_sizes() == {"images": 300}
    again = pickle.loads(pickle.dumps(metric))
    assert again.spread() == metric.spread()
    metric.reset()
    assert math.isnan(metric.spread())
    # Of two images one set in seven is empty, and has no error.
    few = ReconstructionError(resamplings=60)
    few.update(torch.tensor([1.0, 2.0]))
    assert float(few.count[1:].min()) == 0
    assert 0.2 < few.spread() < 0.5
    without = ReconstructionError(resamplings=0)
    without.update(errors())
    assert math.isnan(without.spread())
    with pytest.raises(ValueError, match=r"errors must have shape \(any\), got \(2, 2\)"):
        metric.update(torch.zeros(2, 2))


def test_accuracy_and_its_spread():
    label = torch.arange(400) % 4
    said = torch.where(torch.arange(400) % 10 < 1, (label + 1) % 4, label)
    logits = torch.nn.functional.one_hot(said, 4).float()
    metric = ResampledAccuracy(4, resamplings=3000, seed=2)
    assert math.isnan(metric.spread())
    for part in (slice(0, 150), slice(150, None)):
        metric.update(logits[part], label[part])
    assert float(metric.compute()) == pytest.approx(0.9)
    assert metric.spread() == pytest.approx((0.9 * 0.1 / 400) ** 0.5, rel=0.06)
    assert metric.sample_sizes() == {"images": 400}
    with pytest.raises(ValueError, match="resamplings must be 0 or at least 2, got -1"):
        ResampledAccuracy(4, resamplings=-1)


def half(kind):
    rank = torch.distributed.get_rank()
    metric = make(kind)
    show(kind, metric, slice(rank, None, 2))
    return float(metric.compute()), metric.spread(), metric.sample_sizes()


def make(kind):
    return ReconstructionError() if kind == "reconstruction" else ResampledAccuracy(2)


def show(kind, metric, rows):
    if kind == "reconstruction":
        metric.update(errors()[rows])
    else:
        right = (errors() > 0.2).long()[rows]
        metric.update(torch.nn.functional.one_hot(right, 2).float(), torch.ones_like(right))


@pytest.mark.ddp
@pytest.mark.parametrize("kind", ["reconstruction", "accuracy"])
def test_two_processes_are_one(run_on_two, kind):
    metric = make(kind)
    for rows in (slice(0, None, 2), slice(1, None, 2)):
        show(kind, metric, rows)
    expected = pytest.approx(float(metric.compute())), pytest.approx(metric.spread())
    assert run_on_two(half, kind) == [(*expected, {"images": 300})] * 2
