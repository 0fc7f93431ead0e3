import math
import pickle

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from pellucid.metrics.classifier_fid import ClassifierFID, frechet_distance


def features(count=300, width=4, seed=0):
    source = torch.Generator().manual_seed(seed)
    mixed = torch.randn(width, width, generator=source)
    shift = torch.randn(width, generator=source)
    return torch.randn(count, width, generator=source) @ mixed + shift


def reference(real, generated):
    """The printed formula, with scipy's square root of the product that is not symmetric."""
    real, generated = real.double().numpy(), generated.double().numpy()
    c, c2 = np.cov(real, rowvar=False), np.cov(generated, rowvar=False)
    gap = real.mean(0) - generated.mean(0)
    return gap @ gap + np.trace(c + c2 - 2 * sqrtm(c @ c2).real)


def test_against_the_formula_in_batches():
    real, generated = features(), features(200, seed=1)
    metric = ClassifierFID(4)
    for r, g in zip(real.split(60), generated.split(40), strict=True):
        metric.update(r, g)
    assert float(metric.compute()) == pytest.approx(reference(real, generated), rel=1e-8)


def test_known_values():
    eye, zero = torch.eye(3), torch.zeros(3)
    assert float(frechet_distance(zero, eye, zero, eye)) == pytest.approx(0, abs=1e-6)
    assert float(frechet_distance(zero, eye, zero + 2, eye)) == pytest.approx(12)
    # One-dimensional Gaussians: the square of the difference of the deviations.
    assert float(frechet_distance(zero, 9 * eye, zero, 4 * eye)) == pytest.approx(3)


def test_features_without_spread_are_no_trouble():
    metric = ClassifierFID(3)
    metric.update(torch.ones(5, 3), torch.zeros(5, 3))
    assert float(metric.compute()) == pytest.approx(3)


def test_large_features_lose_nothing_to_rounding():
    real, generated = features(), features(seed=1)
    metric = ClassifierFID(4)
    metric.update(real.double() + 1e4, generated.double() + 1e4)
    assert float(metric.compute()) == pytest.approx(reference(real, generated), rel=1e-4)


def test_fewer_than_two_images_are_nan():
    metric = ClassifierFID(2)
    metric.update(torch.zeros(5, 2), torch.zeros(1, 2))
    assert metric.compute().isnan()


def test_features_that_are_not_finite_are_nan():
    metric = ClassifierFID(2)
    metric.update(torch.randn(9, 2), torch.full((9, 2), math.inf))
    assert metric.compute().isnan()
    assert math.isnan(metric.spread())


def test_states_do_not_grow():
    metric = ClassifierFID(4)
    metric.update(features(10), features(10))
    size = len(pickle.dumps(metric))
    metric.update(features(500), features(500))
    assert len(pickle.dumps(metric)) == size


def test_the_spread_is_that_of_images_drawn_anew():
    real, generated = features(), features(200, seed=1)
    metric = ClassifierFID(4, resamplings=400)
    for r, g in zip(real.split(60), generated.split(40), strict=True):
        metric.update(r, g)
    assert float(metric.compute()) == pytest.approx(reference(real, generated), rel=1e-8)
    source = np.random.default_rng(0)
    drawn = [
        reference(real[source.integers(300, size=300)], generated[source.integers(200, size=200)])
        for _ in range(400)
    ]
    assert metric.spread() == pytest.approx(np.std(drawn, ddof=1), rel=0.15)
    assert metric.sample_sizes() == {"real_images": 300, "generated_images": 200}


def test_the_spread_has_its_seed_and_can_be_left_out():
    found = []
    for options in ({}, {}, {"seed": 1}, {"resamplings": 0}):
        metric = ClassifierFID(4, **options)
        assert math.isnan(metric.spread())
        metric.update(features(), features(200, seed=1))
        found.append(metric.spread())
    assert found[0] == found[1] > 0
    assert found[0] != found[2] > 0
    assert math.isnan(found[3])


def test_wrong_input():
    with pytest.raises(ValueError, match="resamplings must be 0 or at least 2, got 1"):
        ClassifierFID(2, resamplings=1)
    with pytest.raises(ValueError, match=r"num_features must be at least 1, got 0"):
        ClassifierFID(0)
    with pytest.raises(
        ValueError, match=r"generated features must have shape \(B, 4\), got \(2, 3"
    ):
        ClassifierFID(4).update(torch.zeros(2, 4), torch.zeros(2, 3))


def half():
    metric = ClassifierFID(4)
    rows = slice(torch.distributed.get_rank(), None, 2)
    metric.update(features()[rows], features(seed=1)[rows])
    return float(metric.compute()), metric.spread(), metric.sample_sizes()


@pytest.mark.ddp
def test_two_processes_are_one(run_on_two):
    whole = reference(features(), features(seed=1))
    # Each draws by what it sees, and both know the sum.
    one = ClassifierFID(4)
    for rows in (slice(0, None, 2), slice(1, None, 2)):
        one.update(features()[rows], features(seed=1)[rows])
    for value, spread, sizes in run_on_two(half):
        assert math.isclose(value, whole, rel_tol=1e-8)
        assert math.isclose(spread, one.spread(), rel_tol=1e-8)
        assert sizes == {"real_images": 300, "generated_images": 300}
