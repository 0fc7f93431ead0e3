"""What every method keeps: the network as it was, Lightning's tests, and errors that say why."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from pellucid.attribution.method import (
    ClassScores,
    NonFiniteScores,
    UnsupportedNetwork,
    check_images,
)
from pellucid.attribution.methods import METHODS, make_method
from tests.attribution.networks import Residual, own_models, pair

NAMES = [
    *("saliency", "input_x_gradient", "guided_backprop", "deconvnet", "smooth_grad"),
    *("integrated_gradients", "deep_lift", "lrp", "cam", "grad_cam", "occlusion"),
]
QUICK = {"smooth_grad": {"samples": 2}, "occlusion": {"window": 4}}


def method(name):
    return make_method(name, **QUICK.get(name, {}))


def network():
    torch.manual_seed(0)
    return Residual()


def hooks(net):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


@pytest.mark.parametrize("name", NAMES)
def test_a_network_is_left_as_it_was(name):
    net, image = network(), torch.randn(3, 3, 12, 12)
    net.norm.eval()
    net.second.requires_grad_(False)
    net.last.weight.grad = torch.ones_like(net.last.weight)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state, kept = torch.get_rng_state(), image.clone()
    with torch.inference_mode():
        found = method(name).attribute(net, image)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in (net, net.first, net.norm)] == [True, True, False]
    assert [p.requires_grad for p in (net.first.weight, net.second.weight)] == [True, False]
    assert torch.equal(net.last.weight.grad, torch.ones_like(net.last.weight))
    assert net.first.weight.grad is None
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert hooks(net) == 0
    assert torch.equal(image, kept)
    assert found.heat.dtype == torch.float32
    assert len(found.heat) == 3
    assert not found.heat.requires_grad
    net.eval()
    assert torch.allclose(found.scores, net(image), atol=1e-5)
    assert torch.equal(found.target, net(image).argmax(1))
    if found.pixels is not None:
        assert torch.allclose(found.pixels.sum(1), found.heat)
    assert (found.completeness_error is not None) == method(name).promises_completeness
    if found.completeness_error is not None:
        assert float(found.completeness_error.max()) < 1e-3
    if found.sign == "positive":
        assert float(found.heat.min()) >= 0


@pytest.mark.parametrize("name", NAMES)
def test_images_do_not_act_on_each_other_and_the_target_counts(name):
    net, image = network().eval(), torch.randn(3, 3, 12, 12)
    target = torch.tensor([2, 0, 3])
    whole = method(name).attribute(net, image, target)
    alone = method(name).attribute(net, image[1:2], target[1:2])
    assert torch.allclose(whole.heat[1:2], alone.heat, atol=1e-6, rtol=1e-4)
    other = method(name).attribute(net, image, torch.tensor([1, 1, 1]))
    assert not torch.allclose(whole.heat, other.heat, atol=1e-6)


class Broken(Residual):
    def forward(self, image):
        super().forward(image)
        raise RuntimeError("the network fails")


@pytest.mark.parametrize("name", NAMES)
def test_hooks_are_gone_after_a_failure(name):
    net = Broken()
    with pytest.raises(RuntimeError, match="the network fails"):
        method(name).attribute(net, torch.randn(2, 3, 12, 12))
    assert hooks(net) == 0
    assert net.training
    assert net.norm.training
    assert net.first.weight.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_scores_that_are_no_numbers_are_said_so(name):
    net = network()
    net.last.bias.data[1] = float("nan")
    with pytest.raises(NonFiniteScores, match=r"scores of images \[0, 1\] are NaN or infinite"):
        method(name).attribute(net, torch.randn(2, 3, 12, 12))


def test_wrong_input_names_what_is_wrong():
    net, saliency = network(), method("saliency")
    image = torch.randn(2, 3, 12, 12)
    with pytest.raises(ValueError, match=r"float tensor \(B, C, H, W\), got torch.int64"):
        saliency.attribute(net, image.long())
    with pytest.raises(ValueError, match="at least one image"):
        saliency.attribute(net, image[:0])
    broken = image.clone()
    broken[1, 0, 0, 0] = float("inf")
    with pytest.raises(ValueError, match=r"images \[1\] hold NaN"):
        saliency.attribute(net, broken)
    # Two that cancel each other, one that is no number, and a sum too great for the type.
    broken[0, 0, 0, 0] = -float("inf")
    with pytest.raises(ValueError, match=r"images \[0, 1\] hold NaN"):
        check_images(broken)
    with pytest.raises(ValueError, match=r"images \[0\] hold NaN"):
        check_images(torch.full((1, 1, 2, 2), torch.nan))
    check_images(torch.full((1, 1, 2, 2), 3e38))
    with pytest.raises(ValueError, match=r"target must be in \[0, 4\).*got 4"):
        saliency.attribute(net, image, torch.tensor([0, 4]))
    with pytest.raises(ValueError, match="at least 0, got -1"):
        saliency.attribute(net, image, torch.tensor([0, -1]))
    with pytest.raises(ValueError, match="one class per image"):
        saliency.attribute(net, image, torch.tensor([0]))
    with pytest.raises(ValueError, match=r"scores \(2, K\)"):
        saliency.attribute(nn.Conv2d(3, 4, 3), image)
    with pytest.raises(ValueError, match="no method class_scores"):
        ClassScores(net)
    with pytest.raises(ValueError, match="did you mean 'grad_cam'"):
        make_method("gradcam")
    assert set(NAMES) <= set(METHODS)


@pytest.mark.parametrize("name", ["saliency", "integrated_gradients", "guided_backprop", "lrp"])
def test_scores_without_a_gradient_are_refused(name):
    class Cut(Residual):
        def forward(self, image):
            with torch.no_grad():
                return super().forward(image)

    with pytest.raises(UnsupportedNetwork, match="use"):
        method(name).attribute(Cut(), torch.randn(2, 3, 12, 12))


class Attributing(pl.LightningModule):
    """Attributes what it tests."""

    def __init__(self, net) -> None:
        super().__init__()
        self.net, self.found = net, {}

    def test_step(self, batch, batch_idx):
        assert torch.is_inference_mode_enabled()
        image = batch * 1
        assert image.is_inference()
        for name in NAMES:
            self.found[name] = method(name).attribute(self.net, image).heat


def test_attribution_inside_a_test_of_lightning(tmp_path):
    net, image = network(), torch.randn(4, 3, 12, 12)
    module = Attributing(net)
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=True,
    )
    trainer.test(module, DataLoader(image, batch_size=4), verbose=False)
    for name in NAMES:
        outside = method(name).attribute(net, image).heat
        assert torch.allclose(module.found[name], outside, atol=1e-6), name


@pytest.mark.parametrize("kind", ["templates", "sigmoid", "soft", "cam"])
def test_models_of_the_house(kind):
    net, image = own_models()[kind], torch.randn(2, 3, 32, 32)
    target = torch.tensor([1, 1])
    refused = set()
    for name in NAMES:
        try:
            found = method(name).attribute(net, image, target)
        except UnsupportedNetwork:
            refused.add(name)
            continue
        if found.completeness_error is not None:
            assert float(found.completeness_error.max()) < 1e-3, name
    # Templates move in jumps; attention is a product, and its maps are not averaged.
    wanted = {
        "templates": {"integrated_gradients"},
        "sigmoid": {"integrated_gradients"},
        "soft": {"lrp", "cam"},
        "cam": set(),
    }
    assert refused == wanted[kind]


def test_a_network_written_carelessly_gets_the_same_maps():
    plain, careless = pair()
    image = torch.randn(3, 3, 12, 12)
    for name in NAMES:
        if name in ("cam", "grad_cam"):
            continue
        wanted = method(name).attribute(plain, image).heat
        assert torch.allclose(method(name).attribute(careless, image).heat, wanted, atol=1e-6), name


@pytest.mark.parametrize("name", ["integrated_gradients", "deep_lift"])
def test_of_an_image_that_is_its_own_baseline_no_error_is_known(name):
    net, batch = network(), torch.randn(2, 3, 12, 12)
    batch[1] = 0.0
    found = make_method(name).attribute(net, batch)
    assert float(found.heat[1].abs().max()) == 0
    # Relative to nothing: neither right nor a billion times wrong.
    assert found.completeness_error.isnan().tolist() == [False, True]
    assert float(found.completeness_error[0]) < 1e-3
