"""Attacks on networks whose smallest changes are known in closed form."""

import pytest
import torch
from torch import nn

from pellucid.attribution.adversarial.attack import PixelScores, perturbation_norms
from pellucid.attribution.adversarial.attacks import ATTACKS, make_attack
from pellucid.attribution.adversarial.gradient_sign import FGSM, PGD, margin
from pellucid.attribution.adversarial.lbfgs import LBFGS
from pellucid.attribution.adversarial.one_pixel import OnePixel, painted
from pellucid.attribution.method import NonFiniteScores
from tests.attribution.known_answers import Curved, Linear, LooksAt

QUICK = {
    "fgsm": {},
    "pgd": {"steps": 3},
    "lbfgs": {"iterations": 5, "search_steps": 2},
    "one_pixel": {"population": 8, "generations": 2},
}


def pixels(count=4, seed=0):
    """Away from the ends of [0, 1], so that small steps stay inside."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 8, 8, generator=generator) * 0.6 + 0.2


def test_fgsm_is_the_sign_of_the_gradient():
    net, batch = Curved().eval(), pixels()
    found = FGSM(0.03).attack(net, batch)
    own = batch.clone().requires_grad_()
    nn.functional.cross_entropy(net(own), net(own).argmax(1), reduction="sum").backward()
    torch.testing.assert_close(found.images, batch + 0.03 * own.grad.sign())
    torch.testing.assert_close(found.linf, torch.full((4,), 0.03))
    assert torch.equal(found.l0, torch.full((4,), 64))
    wanted = 0.03 * (own.grad != 0).flatten(1).sum(1).sqrt()
    torch.testing.assert_close(found.l2, wanted)


def test_an_image_of_which_the_network_is_sure_is_changed_too():
    """The gradient of its cross-entropy is zero in single precision."""
    net, batch = LooksAt(0, 0, 8, gain=60.0, at=0.0), pixels()
    assert float(net(batch).softmax(1)[:, 0].max()) < 1e-6
    assert float(FGSM(0.03).attack(net, batch).linf.min()) == pytest.approx(0.03)
    assert float(PGD(0.03, steps=3).attack(net, batch).linf.min()) > 0.02


def test_the_margin_is_the_cross_entropy_by_other_means():
    scores, label = torch.randn(5, 4), torch.tensor([0, 3, 1, 2, 2])
    wanted = nn.functional.cross_entropy(scores, label, reduction="none")
    torch.testing.assert_close(nn.functional.softplus(margin(scores, label)), wanted)


def test_pgd_finds_what_one_step_does_not_and_stays_in_its_box():
    net, batch = Curved(), pixels(32)
    one, many = FGSM(0.05).attack(net, batch), PGD(0.05, steps=20).attack(net, batch)
    assert many.success_rate >= one.success_rate
    assert many.success_rate > 0.2
    assert float(many.linf.max()) <= 0.05 + 1e-6
    start = PGD(0.05, steps=20).attack(net, batch)
    other = PGD(0.05, steps=20, seed=1).attack(net, batch)
    assert torch.equal(many.images, start.images)
    assert not torch.equal(many.images, other.images)


def test_lbfgs_finds_the_smallest_change_of_a_linear_network():
    net, batch = Linear(classes=2, seed=4), pixels()
    net.bias.data[:] = 0
    found = LBFGS(iterations=100, search_steps=12).attack(net, batch)
    assert found.success.all()
    scores = net(batch).detach()
    gap = scores.max(1).values - scores.min(1).values
    wanted = gap / (net.weight[0] - net.weight[1]).detach().norm()
    # The way to the other class is straight, and stays inside of [0, 1].
    assert float((found.l2 / wanted).max()) < 1.02
    assert float((found.l2 / wanted).min()) > 0.999
    quick = LBFGS(iterations=100, search_steps=0).attack(net, batch)
    assert (quick.l2 >= found.l2).all()


def test_lbfgs_leaves_alone_what_it_cannot_change():
    found = LBFGS(iterations=5).attack(LooksAt(0, 0, 8, at=-1.0), pixels(1))
    assert not found.success.any()
    assert float(found.l2) == 0
    assert found.norms() is None


def test_one_pixel_finds_the_pixel_that_decides():
    net, batch = LooksAt(5, 2, 1), pixels(3)
    batch[:, :, 5, 2] = 0.9  # Class 1.
    found = OnePixel(population=60, generations=40).attack(net, batch)
    assert found.success.all()
    assert found.l0.tolist() == [1, 1, 1]
    changed = (found.images != batch).any(1)
    assert changed[:, 5, 2].all()
    assert found.before.tolist() == [1, 1, 1]
    assert found.after.tolist() == [0, 0, 0]


def test_as_many_pixels_change_as_may():
    net = Curved()
    found = OnePixel(3, population=20, generations=2).attack(net, pixels())
    assert int(found.l0.max()) <= 3
    assert int(found.l0.min()) >= 1


def test_evolution_lowers_the_probability():
    net, batch = Curved().eval(), pixels()
    chance = net(batch).softmax(1).amax(1).detach()
    early = OnePixel(population=20, generations=1).attack(net, batch)
    late = OnePixel(population=20, generations=30).attack(net, batch)

    def left(found):
        return net(found.images).softmax(1).gather(1, found.before[:, None])[:, 0].detach()

    assert (left(early) < chance).all()
    assert (left(late) <= left(early) + 1e-6).all()
    assert (left(late) < left(early) - 1e-3).any()


def test_pixels_are_painted():
    image = torch.zeros(3, 4, 6)
    candidate = torch.tensor([[[0.5, 0.99, 0.1, 0.2, 0.3], [1.0, 1.0, 1.0, 1.0, 1.0]]])
    found = painted(image, candidate)
    assert found.shape == (1, 3, 4, 6)
    assert found[0, :, 2, 5].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert found[0, :, 3, 5].tolist() == [1, 1, 1]
    assert int((found != 0).any(1).sum()) == 2
    assert float(image.abs().max()) == 0


def test_norms_by_hand():
    change = torch.zeros(2, 3, 4, 4)
    change[0, 0, 1, 1], change[0, 2, 1, 1], change[0, 1, 3, 0] = 0.3, -0.4, 0.1
    l0, l2, linf = perturbation_norms(change)
    assert l0.tolist() == [2, 0]
    assert l2.tolist() == pytest.approx([(0.09 + 0.16 + 0.01) ** 0.5, 0])
    assert linf.tolist() == pytest.approx([0.4, 0])


@pytest.mark.parametrize("name", ATTACKS)
def test_images_stay_in_their_range_and_the_network_as_it_was(name):
    net, batch = Curved(), pixels(3).sub(0.2).div(0.6)
    batch[0], batch[1] = batch[0].round(), 0.0
    kept, before = batch.clone(), torch.get_rng_state()
    with torch.inference_mode():
        found = make_attack(name, **QUICK[name]).attack(net, batch)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(batch, kept)
    assert net.training
    assert all(parameter.grad is None for parameter in net.parameters())
    assert float(found.images.min()) >= 0
    assert float(found.images.max()) <= 1
    assert found.images.shape == batch.shape
    change = found.images - batch
    for size, wanted in zip(
        (found.l0, found.l2, found.linf), perturbation_norms(change), strict=True
    ):
        torch.testing.assert_close(size, wanted)
    assert found.before.tolist() == net.eval()(batch).argmax(1).tolist()
    assert found.after.tolist() == net(found.images).argmax(1).tolist()


def test_the_network_sees_normalised_images():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    net = Curved().eval()
    wrapped, batch = PixelScores(net, mean, std), pixels()
    normalised = torch.stack([(batch[:, c] - mean[c]) / std[c] for c in range(3)], 1)
    torch.testing.assert_close(wrapped(batch), net(normalised))
    torch.testing.assert_close(wrapped.pixels(normalised), batch)
    with pytest.raises(ValueError, match="mean and std must be as many, and std above 0"):
        PixelScores(net, mean, (0.2, 0.0, 0.4))


@pytest.mark.parametrize("epsilon", [0.0, -0.1, 8.0, float("nan")])
@pytest.mark.parametrize("attack", [FGSM, PGD])
def test_wrong_epsilons_are_refused(attack, epsilon):
    with pytest.raises(ValueError, match=r"epsilon must be above 0 and at most 1.*8/255"):
        attack(epsilon)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("pgd", {"step_size": 0.0}, "step_size must be above 0 and at most 1, got 0"),
        ("pgd", {"steps": 0}, "steps must be at least 1, got 0"),
        ("lbfgs", {"iterations": 0}, "iterations must be at least 1, got 0"),
        ("lbfgs", {"search_steps": -1}, "search_steps must be at least 0, got -1"),
        ("one_pixel", {"population": 3}, "population must be at least 4, got 3"),
        ("one_pixel", {"pixels": 0}, "pixels must be at least 1, got 0"),
        ("one_pixl", {}, "no attack 'one_pixl'; did you mean 'one_pixel'"),
    ],
)
def test_wrong_options_are_named(name, options, says):
    with pytest.raises(ValueError, match=says):
        make_attack(name, **options)


def test_wrong_images_and_networks_are_refused():
    with pytest.raises(ValueError, match=r"pixels must be in \[0, 1\], got .*undo the norm"):
        FGSM().attack(Curved(), pixels() * 3)
    with pytest.raises(ValueError, match="gives 1 score"):
        FGSM().attack(Linear(classes=1), pixels())
    broken = Linear()
    broken.weight.data[:] = torch.nan
    with pytest.raises(NonFiniteScores):
        FGSM().attack(broken, pixels())
