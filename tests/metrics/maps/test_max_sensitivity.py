"""Max-sensitivity and completeness against loops and known answers."""

import pytest
import torch

from pellucid.metrics.maps import (
    CompletenessError,
    MaxSensitivity,
    completeness_error,
    max_sensitivity,
)


def explain(image, target):
    """Something that depends on the image and on the class."""
    return (image.square().sum(1) + image[:, 0]) * (target + 1.0)[:, None, None]


def case(count=5):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(count, 3, 6, 7, generator=generator)
    return image, torch.arange(count) % 3


def loop(image, target, radius, samples, seed):
    noise = torch.rand(samples, 3, 6, 7, generator=torch.Generator().manual_seed(seed))
    noise = (2 * noise - 1) * radius
    assert float(noise.abs().max()) <= radius
    found = []
    for one, wanted in zip(image, target, strict=True):
        before = explain(one[None], wanted[None])[0]
        most = 0.0
        for each in noise:
            after = explain((one + each)[None], wanted[None])[0]
            change = sum(
                (a - b) ** 2
                for a, b in zip(after.flatten().tolist(), before.flatten().tolist(), strict=True)
            )
            most = max(most, change**0.5)
        found.append(most / sum(v * v for v in before.flatten().tolist()) ** 0.5)
    return torch.tensor(found)


@pytest.mark.parametrize("batch_size", [3, 64])
def test_it_agrees_with_a_loop_whatever_the_batch(batch_size):
    image, target = case()
    found = max_sensitivity(
        explain, image, target, radius=0.2, samples=6, seed=4, batch_size=batch_size
    )
    wanted = loop(image, target, 0.2, 6, 4)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    alone = max_sensitivity(explain, image[3:4], target[3:4], radius=0.2, samples=6, seed=4)
    torch.testing.assert_close(found[3:4], alone, atol=1e-6, rtol=1e-5)


def test_known_answers():
    image, target = case()
    still = max_sensitivity(lambda x, t: torch.ones(len(x), 4, 4), image, target)
    assert torch.equal(still, torch.zeros(5))
    # Scale of the map does not matter; more samples and a wider cube find more.
    small = max_sensitivity(explain, image, target)
    torch.testing.assert_close(
        small, max_sensitivity(lambda x, t: -9 * explain(x, t), image, target)
    )
    assert (max_sensitivity(explain, image, target, samples=12) >= small).all()
    assert (max_sensitivity(explain, image, target, radius=0.4) > small).all()
    assert max_sensitivity(lambda x, t: torch.zeros(len(x), 4, 4), image, target).isnan().all()


def test_the_metric_is_the_mean():
    image, target = case()
    metric = MaxSensitivity(samples=3)
    metric.update(explain, image[:2], target[:2])
    metric.update(explain, image[2:], target[2:])
    wanted = max_sensitivity(explain, image, target, samples=3).mean()
    assert float(metric.compute()) == pytest.approx(float(wanted))


def test_wrong_input_is_named():
    image, target = case()
    for options, message in (
        ({"radius": 0.0}, "radius must be above 0, got 0.0"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            max_sensitivity(explain, image, target, **options)
    with pytest.raises(ValueError, match=r"target \(B,\), got \(5, 3, 6, 7\) and \(2,\)"):
        max_sensitivity(explain, image, target[:2])
    with pytest.raises(ValueError, match="not finite"):
        max_sensitivity(lambda x, t: explain(x, t) / 0, image, target)
    with pytest.raises(ValueError, match="explain gave 2 maps of 5 images"):
        max_sensitivity(lambda x, t: torch.ones(2, 3, 3), image, target)


def test_completeness_agrees_with_a_loop():
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(6, 3, 4, 4, generator=generator)
    difference = torch.randn(6, generator=generator)
    wanted = [
        abs(sum(one.flatten().tolist()) - float(d)) / abs(float(d))
        for one, d in zip(given, difference, strict=True)
    ]
    torch.testing.assert_close(
        completeness_error(given, difference), torch.tensor(wanted), atol=1e-4, rtol=1e-4
    )
    metric = CompletenessError()
    metric.update(given, difference)
    assert float(metric.compute()) == pytest.approx(sum(wanted) / 6, rel=1e-4)


def test_completeness_at_its_edges():
    given = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [torch.inf, 0.0]])
    found = completeness_error(given, torch.tensor([3.0, -3.0, 0.0, 1.0]))
    assert found[:2].tolist() == [0.0, 2.0]
    assert found[2:].isnan().all()
    metric = CompletenessError()
    metric.update(given, torch.tensor([3.0, -3.0, 0.0, 1.0]))
    assert float(metric.compute()) == 1.0
    assert int(metric.left_out) == 2
    with pytest.raises(ValueError, match=r"difference \(B,\), got \(4, 2\) and \(2,\)"):
        completeness_error(given, torch.zeros(2))
