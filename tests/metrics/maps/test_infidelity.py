"""Infidelity against a loop over images and squares, and against captum."""

import pytest
import torch
from torch import nn

from pellucid.metrics.maps import Infidelity, infidelity, infidelity_of, square_removals
from pellucid.metrics.maps.infidelity import Removals, square_masks


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, 3)
    ).eval()


def case(count=5):
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(count, 3, 16, 16, generator=generator)
    return image, torch.randn(count, 16, 16, generator=generator)


def linear(weight):
    """A network whose score is a weighted sum of pixels, so that removal is known."""

    def scores(image):
        return torch.stack(((image * weight).sum((1, 2, 3)), torch.zeros(len(image))), 1)

    return scores


def loop(net, image, heat, target, masks):
    """Definition 2.1 with the best factor, one square after the other."""
    found = []
    for one, said, wanted in zip(image, heat, target.tolist(), strict=True):
        before = net(one[None])[0, wanted].item()
        rows = []
        for mask in masks:
            changed = one.clone()
            total = 0.0
            for y in range(16):
                for x in range(16):
                    if mask[y, x]:
                        changed[:, y, x] = 0
                        total += said[y, x].item()
            rows.append((total, before - net(changed[None])[0, wanted].item()))
        both = sum(a * b for a, b in rows)
        factor = max(0.0, both / sum(a * a for a, _ in rows))
        error = sum((factor * a - b) ** 2 for a, b in rows)
        found.append(error / sum(b * b for _, b in rows))
    return torch.tensor(found)


def test_it_agrees_with_a_loop():
    net, (image, heat) = network(), case()
    target = torch.tensor([0, 1, 2, 0, 1])
    masks = square_masks((16, 16), 12, seed=3)
    with torch.no_grad():
        wanted = loop(net, image, heat, target, masks)
    found = infidelity(net, image, heat, target, squares=12, seed=3, batch_size=7)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert 0 < float(found.min())
    assert float(found.max()) <= 1


def test_it_agrees_with_captum_where_its_factor_is_positive():
    from captum.metrics import infidelity as captum_infidelity

    net, (image, _) = network(), case(4)
    masks = square_masks((16, 16), 30)
    target = net(image).argmax(1)
    pixels = image.clone().requires_grad_()
    net(pixels).gather(1, target[:, None]).sum().backward()
    attribution = image * pixels.grad

    def perturb(inputs, baselines):
        # Captum repeats each image for all squares, image by image.
        mask = masks.repeat(len(inputs) // len(masks), 1, 1)[:, None].expand_as(inputs)
        return mask.float(), inputs * ~mask

    wanted = captum_infidelity(
        net,
        perturb,
        image,
        attribution,
        baselines=0,
        target=target,
        n_perturb_samples=30,
        normalize=True,
    )
    found = infidelity(net, image, attribution.sum(1), target, squares=30, relative=False)
    torch.testing.assert_close(found, wanted.detach().float(), atol=1e-4, rtol=1e-3)


def test_known_answers():
    image, weight = torch.randn(3, 3, 16, 16), torch.randn(3, 16, 16)
    target = torch.zeros(3, dtype=torch.int64)
    exact = (image * weight).sum(1)
    scores = linear(weight)
    assert float(infidelity(scores, image, exact, target).abs().max()) < 1e-6
    # Scale does not matter; the opposite, and no map, tell nothing.
    assert float(infidelity(scores, image, 1e-3 * exact, target).abs().max()) < 1e-6
    ones = torch.ones(3)
    torch.testing.assert_close(infidelity(scores, image, -exact, target), ones)
    torch.testing.assert_close(infidelity(scores, image, 0 * exact, target), ones)
    # A score that nothing changes.
    assert infidelity(linear(0 * weight), image, exact, target).isnan().all()


def test_coarse_maps_are_upsampled_and_squares_are_as_stated():
    image = torch.randn(2, 3, 16, 16)
    removals = square_removals(linear(torch.ones(3, 16, 16)), image, squares=40)
    coarse = torch.rand(2, 4, 4)
    large = nn.functional.interpolate(coarse[:, None], (16, 16), mode="bilinear")[:, 0]
    torch.testing.assert_close(
        infidelity_of(coarse, removals), infidelity_of(large, removals), atol=1e-5, rtol=1e-4
    )
    masks = square_masks((16, 24), 500)
    high, wide = masks.any(2).sum(1), masks.any(1).sum(1)
    assert torch.equal(high, wide)
    assert torch.equal(masks.sum((1, 2)), high * wide)
    assert set(high.tolist()) == set(range(2, 9))
    assert masks.any(0).all()
    assert not torch.equal(masks, square_masks((16, 24), 500, seed=1))


def test_effects_are_found_once_and_for_the_predicted_class_by_default():
    net, (image, heat) = network(), case()
    target = net(image).argmax(1)
    removals = square_removals(net, image)
    torch.testing.assert_close(removals.effects, square_removals(net, image, target).effects)
    torch.testing.assert_close(infidelity_of(heat, removals), infidelity(net, image, heat))
    metric = Infidelity()
    for half in (slice(0, 2), slice(2, 5)):
        metric.update(net, image[half], heat[half])
    assert float(metric.compute()) == pytest.approx(float(infidelity(net, image, heat).mean()))
    empty = square_removals(net, image[:0])
    assert empty.effects.shape == (0, 64)
    assert infidelity_of(heat[:0], empty).shape == (0,)


def test_wrong_input_is_named():
    net, (image, heat) = network(), case(2)
    with pytest.raises(ValueError, match="squares must be at least 2, got 1"):
        Infidelity(squares=1)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        infidelity(net, image, heat, batch_size=0)
    with pytest.raises(ValueError, match="values that are not finite"):
        infidelity(lambda x: net(x) * torch.nan, image, heat)
    with pytest.raises(ValueError, match="removals are of 2 images, there are 1 maps"):
        infidelity_of(heat[:1], square_removals(net, image))
    with pytest.raises(ValueError, match=r"maps\[1\] has a value that is not finite"):
        infidelity_of(
            torch.stack((heat[0], heat[1] * torch.nan)),
            Removals(square_masks((16, 16)), torch.ones(2, 64)),
        )
    with pytest.raises(ValueError, match="image must be floating point"):
        square_removals(net, image[0])
