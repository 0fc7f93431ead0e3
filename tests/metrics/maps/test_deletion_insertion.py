"""Deletion and insertion against a loop over images and steps, and at their edges."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pellucid.metrics.maps import (
    DeletionAUC,
    InsertionAUC,
    deletion_auc,
    insertion_auc,
    perturbation_curve,
)


def network(classes=3) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, classes))
    return nn.Sequential(*layers).eval()


def images(count=100):
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(count, 3, 8, 8, generator=generator)
    return image, torch.randn(count, 8, 8, generator=generator)


def blurred(image):
    """Petsiuk's kernel, 11 x 11 with sigma 5, pixel by pixel; the edge goes on."""
    out = torch.zeros_like(image)
    weights = {
        (i, j): torch.exp(torch.tensor(-(i * i + j * j) / 50.0)).item()
        for i in range(-5, 6)
        for j in range(-5, 6)
    }
    whole = sum(weights.values())
    for y in range(8):
        for x in range(8):
            for (i, j), weight in weights.items():
                there = image[:, min(7, max(0, y + i)), min(7, max(0, x + j))]
                out[:, y, x] += weight / whole * there
    return out


def loop_curve(scores, image, heat, way, baseline, steps):
    instead = {
        "zero": torch.zeros_like,
        "mean": lambda x: x.mean((1, 2), keepdim=True).expand_as(x),
        "blur": blurred,
    }[baseline](image)
    with torch.no_grad():
        target = int(scores(image[None]).argmax())
        order = sorted(range(64), key=lambda p: -float(heat.flatten()[p]))
        curve = []
        for step in range(steps + 1):
            present = (image if way == "deletion" else instead).clone()
            source = instead if way == "deletion" else image
            for pixel in order[: round(64 * step / steps)]:
                present[:, pixel // 8, pixel % 8] = source[:, pixel // 8, pixel % 8]
            curve.append(float(scores(present[None]).softmax(1)[0, target]))
    return curve


@pytest.mark.parametrize("way", ["deletion", "insertion"])
def test_a_hundred_cases_agree_with_a_loop_over_steps(way):
    scores, (image, heat) = network(), images()
    baseline = "zero" if way == "deletion" else "mean"
    found = perturbation_curve(scores, image, heat, way=way, baseline=baseline, steps=5)
    wanted = torch.tensor(
        [loop_curve(scores, a, b, way, baseline, 5) for a, b in zip(image, heat, strict=True)]
    )
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_the_blurred_baseline_and_the_area_agree_with_a_loop():
    scores, (image, heat) = network(), images(3)
    curves = [
        loop_curve(scores, a, b, "insertion", "blur", 4) for a, b in zip(image, heat, strict=True)
    ]
    # As RISE has it: the sum without half of the ends, over the steps.
    wanted = [(sum(c) - c[0] / 2 - c[-1] / 2) / 4 for c in curves]
    found = insertion_auc(scores, image, heat, steps=4, baseline="blur")
    assert found.tolist() == pytest.approx(wanted, abs=1e-4)


def test_the_batch_size_and_other_images_do_not_matter():
    scores, (image, heat) = network(), images(7)
    whole = deletion_auc(scores, image, heat, steps=9)
    torch.testing.assert_close(deletion_auc(scores, image, heat, steps=9, batch_size=3), whole)
    torch.testing.assert_close(deletion_auc(scores, image[4:5], heat[4:5], steps=9), whole[4:5])
    calls = []
    deletion_auc(lambda x: calls.append(len(x)) or scores(x), image, heat, steps=9)
    # All steps of all images at once, after one look for the predicted class.
    assert calls == [7, 70]


def test_a_target_and_coarse_maps():
    scores, (image, heat) = network(), images(5)
    target = torch.tensor([0, 1, 2, 0, 1])
    coarse = heat[:, ::2, ::2]
    large = F.interpolate(coarse[:, None], 8, mode="bilinear")[:, 0]
    torch.testing.assert_close(
        deletion_auc(scores, image, coarse, target, steps=4),
        deletion_auc(scores, image, large, target, steps=4),
    )
    with torch.no_grad():
        whole = scores(image).softmax(1).gather(1, target[:, None])[:, 0]
    curve = perturbation_curve(scores, image, heat, target, way="deletion", baseline="zero")
    torch.testing.assert_close(curve[:, 0], whole)


def test_a_map_that_knows_the_pixel_beats_one_that_does_not():
    def scores(x):
        return torch.stack((10 * x[:, 0, 3, 3], torch.full((len(x),), 5.0)), 1)

    image = torch.ones(1, 3, 8, 8)
    good, bad = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    good[0, 3, 3], bad[0, 3, 3] = 1.0, -1.0
    assert deletion_auc(scores, image, good).item() < 0.02
    assert deletion_auc(scores, image, bad).item() > 0.97
    assert insertion_auc(scores, image, good, baseline="zero").item() > 0.97
    assert insertion_auc(scores, image, bad, baseline="zero").item() < 0.02


def test_equal_pixels_go_in_an_order_that_prefers_no_place():
    def scores(x):
        share = x[:, 0].mean((1, 2))
        return torch.stack((20 * share, torch.full((len(x),), 10.0)), 1)

    def upper(x):
        share = x[:, 0, :4].mean((1, 2))
        return torch.stack((20 * share, torch.full((len(x),), 10.0)), 1)

    image, flat = torch.ones(1, 3, 8, 8), torch.zeros(1, 8, 8)
    # At random the upper half loses pixels as fast as the whole; in reading order twice as fast.
    assert deletion_auc(upper, image, flat).item() == pytest.approx(
        deletion_auc(scores, image, flat).item(), abs=0.08
    )
    assert torch.equal(deletion_auc(scores, image, flat), deletion_auc(scores, image, flat + 1))


def test_the_classes_have_the_published_baselines_and_mean_over_images():
    scores, (image, heat) = network(), images(6)
    for make, function, baseline in (
        (DeletionAUC, deletion_auc, "zero"),
        (InsertionAUC, insertion_auc, "blur"),
    ):
        metric = make(steps=6)
        for rows in torch.arange(6).split(4):
            metric.update(scores, image[rows], heat[rows])
        wanted = function(scores, image, heat, steps=6, baseline=baseline).mean()
        torch.testing.assert_close(metric.compute(), wanted)
    assert not DeletionAUC.higher_is_better
    assert InsertionAUC.higher_is_better


def test_wrong_inputs_say_what_is_wrong():
    scores, (image, heat) = network(), images(2)
    with pytest.raises(
        ValueError, match="steps must be from 1 to 64, the pixels of an image, got 65"
    ):
        deletion_auc(scores, image, heat, steps=65)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        deletion_auc(scores, image, heat, steps=2, batch_size=0)
    with pytest.raises(ValueError, match="baseline must be one of zero, mean, blur, got 'black'"):
        deletion_auc(scores, image, heat, steps=2, baseline="black")
    with pytest.raises(ValueError, match="way must be one of deletion, insertion, got 'both'"):
        perturbation_curve(scores, image, heat, way="both", baseline="zero", steps=2)
    with pytest.raises(ValueError, match=r"maps\[0\] has a value that is not finite"):
        deletion_auc(scores, image, heat * torch.nan, steps=2)
    with pytest.raises(ValueError, match="as many images as maps"):
        deletion_auc(scores, image[:1], heat, steps=2)
    with pytest.raises(ValueError, match="image is 4 x 8, maps are 8 x 8"):
        deletion_auc(scores, image[:, :, :4], heat, steps=2)
    with pytest.raises(ValueError, match=r"two classes or more.*give a sigmoid's class 0"):
        deletion_auc(lambda x: x[:, :1, 0, 0], image, heat, steps=2)
    with pytest.raises(ValueError, match="scores has a value that is not finite"):
        deletion_auc(lambda x: x[:, :, 0, 0] * torch.nan, image, heat, steps=2)
    with pytest.raises(ValueError, match="baseline must be one of zero, mean, blur, got 'grey'"):
        DeletionAUC(baseline="grey")
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        InsertionAUC(steps=0)
