"""Meaningful perturbation: of networks that look at one square, and its terms by hand."""

import math

import pytest
import torch
from torch import nn

from pellucid.attribution.meaningful_perturbation import (
    BLUR,
    CIRCLE_SUPPRESSION,
    MASK_BLUR,
    MeaningfulPerturbation,
    gaussian_blur,
    probability,
)
from pellucid.attribution.methods import make_method
from tests.attribution.known_answers import Curved, LooksAt, images


def bright_square(top, left, size=8):
    """Grey with two bright squares, of which a network is to look at one."""
    image = torch.full((1, 3, 32, 32), -1.0)
    image[..., 4:12, 4:12] = 1.0
    image[..., top : top + size, left : left + size] = 1.0
    return image


@pytest.mark.parametrize("reference", ["constant", "noise"])
def test_it_finds_the_square_that_decides(reference):
    net = LooksAt(18, 20, 8)
    method = MeaningfulPerturbation(
        reference, iterations=60, mask_size=16, l1_weight=2e-3, tv_weight=1e-3
    )
    found = method.attribute(net, bright_square(18, 20), torch.tensor([1]))
    heat = found.heat[0]
    assert found.heat.shape == (1, 16, 16)
    assert float(heat.min()) >= 0
    assert float(heat.max()) <= 1
    inside = heat[9:13, 10:14].sum() / heat.sum()
    assert float(inside) > 0.6
    # The other square, as bright, does not count.
    assert float(heat[2:6, 2:6].mean()) < 0.1 * float(heat[9:13, 10:14].mean())


def test_the_class_is_lost_where_the_mask_hides():
    net, image = LooksAt(12, 12, 8, gain=10.0), bright_square(12, 12)
    method = MeaningfulPerturbation("constant", iterations=60, mask_size=16, jitter=0)
    heat = method.attribute(net, image, torch.tensor([1])).heat
    mask = nn.functional.interpolate(1 - heat[:, None], (32, 32), mode="bilinear")
    before = float(probability(net(image), torch.tensor([1]))[0])
    after = float(probability(net(image * mask), torch.tensor([1]))[0])
    assert before > 0.9
    assert after < 0.3


def test_images_of_a_batch_do_not_act_on_each_other():
    net, batch = Curved(), images(3)
    method = MeaningfulPerturbation(iterations=8, mask_size=6)
    before = torch.get_rng_state()
    with torch.inference_mode():
        found = method.attribute(net, batch).heat
    assert torch.equal(torch.get_rng_state(), before)
    for place in range(3):
        alone = method.attribute(net, batch[place : place + 1]).heat[0]
        torch.testing.assert_close(alone, found[place], atol=1e-4, rtol=1e-4)
    assert net.training
    assert all(parameter.grad is None for parameter in net.parameters())


def test_what_a_mask_costs():
    method = MeaningfulPerturbation(l1_weight=0.5, tv_weight=2.0, tv_beta=3.0)
    mask = torch.tensor([[[[1.0, 0.5], [0.0, 1.0]]]])
    edges = 1.0**3 + 0.5**3 + 0.5**3 + 1.0**3
    assert float(method._cost(mask)[0]) == pytest.approx(0.5 * 1.5 + 2.0 * edges)


def test_the_first_mask_is_the_smallest_circle_that_hides_the_class():
    image = torch.ones(1, 3, 32, 32)
    method = MeaningfulPerturbation("constant", mask_size=16)
    hidden, target = torch.zeros_like(image), torch.tensor([1])
    middle = method._circle(LooksAt(14, 14, 4), image, hidden, target)[0, 0]
    whole = method._circle(LooksAt(0, 0, 32), image, hidden, target)[0, 0]
    assert float(middle[8, 8]) == 0
    assert float(middle[0, 0]) == 1
    assert 0 < float((1 - middle).sum()) < 0.5 * float((1 - whole).sum())


def test_blur_is_a_gaussian():
    image = torch.zeros(1, 2, 41, 41)
    image[0, 1, 20, 20] = 1.0
    blurred = gaussian_blur(image, 2.0)
    wanted = [
        [math.exp(-((y - 20) ** 2 + (x - 20) ** 2) / 8) / (8 * math.pi) for x in range(41)]
        for y in range(41)
    ]
    torch.testing.assert_close(blurred[0, 1], torch.tensor(wanted), atol=3e-4, rtol=0)
    assert float(blurred[0, 0].abs().max()) == 0
    flat = torch.full((1, 1, 8, 8), 0.7)
    torch.testing.assert_close(gaussian_blur(flat, 3.0), flat)


def test_the_defaults_are_those_of_the_authors():
    method = MeaningfulPerturbation()
    # defaults.py and optimize_mask.py of the authors' code: num_iters, lr, l1_lambda, tv_lambda,
    # tv_beta, 224 pixels at a mask_scale of 8, jitter; null_type, its radius and blur_mask.
    assert (method.iterations, method.lr, method.mask_size) == (300, 0.1, 224 // 8)
    assert (method.l1_weight, method.tv_weight, method.tv_beta) == (1e-4, 1e-2, 3)
    assert (method.jitter, method.reference) == (4, "blur")
    assert (BLUR, MASK_BLUR, CIRCLE_SUPPRESSION) == (10, 5, 1 - 1e-2)


def test_one_score_is_one_category_against_the_rest():
    found = probability(torch.tensor([[0.0], [2.0]]), torch.tensor([0, 0]))
    assert found.tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-2))])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"reference": "black"}, "reference must be one of blur, constant, noise, got 'black'"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"mask_size": 1}, "mask_size must be at least 2, got 1"),
        ({"l1_weight": -1.0}, "l1_weight must be at least 0, got -1"),
        ({"tv_weight": float("nan")}, "tv_weight must be at least 0, got nan"),
        ({"tv_beta": 0.5}, "tv_beta must be at least 1, got 0.5"),
        ({"jitter": -1}, "jitter must be at least 0, got -1"),
        ({"lr": 0.0}, "lr must be above 0, got 0.0"),
    ],
)
def test_wrong_options_are_named(options, says):
    with pytest.raises(ValueError, match=says):
        make_method("meaningful_perturbation", **options)
