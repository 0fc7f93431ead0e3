"""Each method against loops written here, closed forms, and libraries where these are right."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pellucid.attribution.method import UnsupportedNetwork
from pellucid.attribution.methods import make_method
from tests.attribution.networks import Plain, Residual, calibrated, pair


def network():
    torch.manual_seed(1)
    return Plain().eval()


def gradients(net, image, target):
    """One image and one backward pass at a time."""
    found = []
    for one, wanted in zip(image, target.tolist(), strict=True):
        leaf = one.clone().requires_grad_()
        net(leaf[None])[0, wanted].backward()
        found.append(leaf.grad)
    return torch.stack(found)


def test_saliency_and_input_x_gradient():
    net, image, target = network(), torch.randn(4, 3, 12, 12), torch.tensor([0, 2, 1, 0])
    wanted = gradients(net, image, target)
    found = make_method("saliency").attribute(net, image, target)
    torch.testing.assert_close(found.pixels, wanted.abs())
    torch.testing.assert_close(found.heat, wanted.abs().sum(1))
    found = make_method("input_x_gradient").attribute(net, image, target)
    torch.testing.assert_close(found.pixels, wanted * image)


def by_hand(net, image, target, guided):
    """The backward pass of Plain, layer by layer, without autograd."""
    with torch.no_grad():
        first = net.first(image)
        pooled, places = F.max_pool2d(first.relu(), 3, 2, padding=1, return_indices=True)
        second = net.second(pooled)
        flat = second.relu().flatten(1)
        hidden = net.hidden(flat)

        def back(signal, before):
            signal = signal * (signal > 0)
            return signal * (before > 0) if guided else signal

        signal = back(net.last.weight[target], hidden) @ net.hidden.weight
        signal = back(signal.view_as(second), second)
        signal = F.conv_transpose2d(signal, net.second.weight)
        unpooled = torch.zeros_like(first).flatten(2)
        unpooled.scatter_add_(2, places.flatten(2), signal.flatten(2))
        signal = back(unpooled.view_as(first), first)
        return F.conv_transpose2d(signal, net.first.weight, padding=1)


@pytest.mark.parametrize(("name", "guided"), [("guided_backprop", True), ("deconvnet", False)])
def test_rectified_gradients(name, guided):
    image, target = torch.randn(4, 3, 12, 12), torch.tensor([0, 2, 1, 0])
    for net in pair():
        wanted = by_hand(net, image, target, guided)
        found = make_method(name).attribute(net, image, target).pixels
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)
    assert not torch.allclose(wanted, gradients(net, image, target), atol=1e-4)


def test_guided_backpropagation_of_relu6_stops_where_it_is_saturated():
    class Ceiling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU6(inplace=True)

        def forward(self, image):
            return self.act(image.flatten(1) * 1.0) @ torch.tensor([[1.0], [1], [1], [-1]])

    image = torch.tensor([-1.0, 3, 7, 3]).view(1, 1, 2, 2)
    found = make_method("guided_backprop").attribute(Ceiling(), image)
    assert found.pixels.flatten().tolist() == [0, 1, 0, 0]
    found = make_method("deconvnet").attribute(Ceiling(), image)
    assert found.pixels.flatten().tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize("name", ["guided_backprop", "deconvnet"])
def test_other_activations_are_refused_by_layer(name):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.GELU(), nn.Linear(4, 2))
    with pytest.raises(UnsupportedNetwork, match=r"layer '2': .* not for gelu"):
        make_method(name).attribute(net, torch.randn(1, 3, 2, 2))
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(UnsupportedNetwork, match="no ReLU"):
        make_method(name).attribute(net, torch.randn(1, 3, 2, 2))


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 12))

    def forward(self, image):
        return image.flatten(1) @ self.weight.T + 3.0


class Quadratic(Linear):
    def forward(self, image):
        return (image.flatten(1) ** 2) @ self.weight.T


@pytest.mark.parametrize("baseline", [0.0, 0.5])
def test_integrated_gradients_in_closed_form(baseline):
    torch.manual_seed(0)
    image, target = torch.randn(3, 3, 2, 2), torch.tensor([0, 1, 1])
    method = make_method("integrated_gradients", baseline=baseline)
    net = Linear()
    found = method.attribute(net, image, target)
    wanted = (image - baseline) * net.weight.detach()[target].view(3, 3, 2, 2)
    torch.testing.assert_close(found.pixels, wanted, atol=1e-5, rtol=1e-4)
    net = Quadratic()
    found = method.attribute(net, image, target)
    wanted = (image**2 - baseline**2) * net.weight.detach()[target].view(3, 3, 2, 2)
    torch.testing.assert_close(found.pixels, wanted, atol=1e-5, rtol=1e-4)
    assert float(found.completeness_error.max()) < 1e-5


def test_integrated_gradients_take_more_steps_where_the_promise_needs_them():
    class Steep(nn.Module):
        def forward(self, image):
            total = image.sum((1, 2, 3))
            return torch.stack([torch.sigmoid(40 * (total - 0.37)), total], 1)

    image = torch.full((1, 1, 2, 2), 0.25)
    target = torch.tensor([0])
    few = make_method("integrated_gradients", steps=2, most_steps=2)
    many = make_method("integrated_gradients", steps=2)
    assert float(few.attribute(Steep(), image, target).completeness_error) > 0.01
    found = many.attribute(Steep(), image, target)
    assert float(found.completeness_error) <= 1e-3
    assert float(found.heat.sum()) == pytest.approx(1, abs=2e-3)


def test_deep_lift_is_captums_where_captum_is_right():
    from captum.attr import DeepLift

    net, image, target = network(), torch.randn(4, 3, 12, 12), torch.tensor([0, 2, 1, 0])
    # The paper has no rule for max pooling; Captum's shares a window's difference otherwise.
    net.pool = nn.AvgPool2d(3, 2, padding=1)
    found = make_method("deep_lift", baseline=0.3).attribute(net, image, target)
    with warnings.catch_warnings(action="ignore"):
        wanted = DeepLift(net).attribute(image, torch.full_like(image, 0.3), target=target)
    torch.testing.assert_close(found.pixels, wanted.detach(), atol=1e-5, rtol=1e-3)
    assert float(found.completeness_error.max()) < 1e-4


@pytest.mark.parametrize(
    "activation", ["gelu", "silu", "hardswish", "relu6", "sigmoid", "elu", "leaky_relu", "tanh"]
)
def test_deep_lift_is_complete_for_every_activation(activation):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3)
            self.last = nn.Linear(6, 2)

        def forward(self, image):
            maps = self.conv(image)
            weight = F.softmax(maps.flatten(2), -1)
            maps = getattr(F, activation)(2 * maps).flatten(2)
            return self.last((weight * maps).sum(2) / (1 + maps.abs().mean(2)))

    torch.manual_seed(0)
    found = make_method("deep_lift").attribute(Net(), torch.randn(3, 3, 6, 6))
    assert float(found.completeness_error.max()) < 1e-3


def test_deep_lift_refuses_what_it_has_no_rule_for_by_layer():
    net = nn.Sequential(nn.Flatten(), nn.LayerNorm(12), nn.Linear(12, 2))
    with pytest.raises(UnsupportedNetwork, match=r"layer '1': DeepLIFT has no rule for layer_norm"):
        make_method("deep_lift").attribute(net, torch.randn(1, 3, 2, 2))


def test_lrp_epsilon_by_hand():
    """Equation 56 of Bach et al., unit by unit, in numpy."""
    torch.manual_seed(0)
    first, last = nn.Linear(4, 3), nn.Linear(3, 2)
    net = nn.Sequential(nn.Flatten(), first, nn.ReLU(), last)
    image = torch.randn(1, 1, 2, 2)
    found = make_method("lrp", rule="epsilon", epsilon=0.1).attribute(net, image)
    x = image.flatten().numpy().astype(float)
    weights = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in (first, last)]
    hidden = weights[0][0] @ x + weights[0][1]
    scores = weights[1][0] @ np.maximum(hidden, 0) + weights[1][1]
    relevance = np.zeros(2)
    relevance[scores.argmax()] = scores.max()
    for (weight, _), values, inputs in zip(
        weights[::-1], (scores, hidden), (np.maximum(hidden, 0), x), strict=True
    ):
        below = np.zeros(len(inputs))
        for j in range(len(inputs)):
            for k in range(len(values)):
                share = inputs[j] * weight[k, j] / (values[k] + 0.1 * (1 if values[k] >= 0 else -1))
                below[j] += share * relevance[k]
        relevance = below
    np.testing.assert_allclose(found.pixels.flatten().numpy(), relevance, rtol=1e-4)
    assert float(found.completeness_error) < 1e-5


def test_lrp_is_captums_on_a_feed_forward_network():
    from captum.attr import LRP

    image, target = torch.randn(4, 3, 12, 12), torch.tensor([0, 2, 1, 0])
    with warnings.catch_warnings(action="ignore"):
        wanted = LRP(network()).attribute(image, target=target).detach()
    found = make_method("lrp", rule="epsilon", epsilon=1e-9).attribute(network(), image, target)
    torch.testing.assert_close(found.pixels, wanted, atol=1e-5, rtol=1e-3)


def residual(classes=4):
    torch.manual_seed(3)
    return calibrated(Residual(classes), 12)


def test_lrp_is_zennits_on_a_residual_network():
    """With its sum as a module, batch normalisation merged, and biases left out as here."""
    zennit = pytest.importorskip("zennit", reason="pip install 'pellucid[lrp]'")
    from zennit.attribution import Gradient
    from zennit.composites import LayerMapComposite
    from zennit.layer import Sum
    from zennit.rules import Epsilon, Norm, Pass, ZPlus
    from zennit.types import Convolution

    assert zennit

    class Explicit(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.top, self.sum = nn.ReLU(), nn.ReLU(), Sum()
            self.pool = nn.AdaptiveAvgPool2d(1)

        def forward(self, image):
            before = self.act(self.first(image))
            after = self.sum(torch.stack([self.second(before), before], dim=-1))
            return self.last(self.pool(self.top(after)).flatten(1))

    net, other = residual(), Explicit().eval()
    other.load_state_dict(net.state_dict(), strict=True)
    other.first = nn.utils.fuse_conv_bn_eval(net.first, net.norm)
    image, target = torch.randn(3, 3, 12, 12), torch.tensor([0, 1, 3])
    torch.testing.assert_close(net(image), other(image))
    rules = [
        (Convolution, ZPlus(stabilizer=1e-6, zero_params="bias")),
        (nn.Linear, Epsilon(1e-6)),
        (nn.ReLU, Pass()),
        ((Sum, nn.AdaptiveAvgPool2d), Norm(1e-6)),
    ]
    with Gradient(other, LayerMapComposite(rules)) as attributor:
        scores = other(image).detach()
        start = torch.zeros_like(scores).scatter_(
            1, target[:, None], scores.gather(1, target[:, None])
        )
        _, wanted = attributor(image.clone(), start)
    found = make_method("lrp").attribute(net, image, target)
    torch.testing.assert_close(found.pixels, wanted, atol=1e-4, rtol=1e-2)
    assert float(found.completeness_error.max()) < 1e-4


def test_lrp_plus_hands_on_all_that_the_last_layers_bias_does_not_keep():
    net, image = residual(), torch.randn(4, 3, 12, 12)
    found = make_method("lrp").attribute(net, image)
    kept = net.last.bias.detach()[found.target]
    score = found.scores.gather(1, found.target[:, None])[:, 0]
    torch.testing.assert_close(found.heat.sum((1, 2)), score - kept, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Sigmoid(), "no rule for sigmoid"),
        (nn.LayerNorm(4), "no rule for layer_norm"),
        (nn.Softplus(), "no rule for softplus"),
    ],
)
def test_lrp_refuses_by_layer(layer, reason):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), layer, nn.Linear(4, 2))
    with pytest.raises(UnsupportedNetwork, match=f"layer '2': LRP has {reason}"):
        make_method("lrp").attribute(net, torch.randn(1, 3, 2, 2))


def test_cam_by_hand():
    net, image, target = residual(), torch.randn(3, 3, 12, 12), torch.tensor([0, 1, 3])
    found = make_method("cam").attribute(net, image, target)
    with torch.no_grad():
        before = F.relu(net.norm(net.first(image)))
        maps = F.relu(net.second(before) + before)
    weight = net.last.weight.detach()
    for i in range(3):
        for y in range(12):
            for x in range(12):
                wanted = sum(float(weight[target[i], c] * maps[i, c, y, x]) / 144 for c in range(6))
                assert float(found.heat[i, y, x]) == pytest.approx(wanted, abs=1e-6)
    score = found.scores.gather(1, target[:, None])[:, 0]
    total = found.heat.sum((1, 2)) + net.last.bias.detach()[target]
    torch.testing.assert_close(total, score, atol=1e-5, rtol=1e-4)


class Excited(nn.Module):
    """Averages maps twice: as weights of channels, and at the end; and something else besides."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)
        self.last = nn.Linear(6, 4)
        self.shift = nn.Parameter(torch.randn(1, 6, 2, 2))
        self.kept = []

    def forward(self, image):
        maps = F.relu(self.first(image))
        maps = maps * maps.mean((2, 3), keepdim=True).sigmoid() + self.shift.mean((2, 3), True)
        maps = F.relu(self.second(maps))
        self.kept.append(maps.requires_grad)
        return self.last(F.adaptive_avg_pool2d(maps, 1).flatten(1))


def test_cam_is_of_the_last_average_and_keeps_no_gradient_below_it():
    torch.manual_seed(3)
    net, image, target = Excited(), torch.randn(3, 3, 9, 9), torch.tensor([0, 1, 3])
    found = make_method("cam").attribute(net, image, target)
    # One image is looked at with gradients, to see what follows the average; all are without.
    assert net.kept == [True, False]
    with torch.no_grad():
        maps = F.relu(net.first(image))
        maps = maps * maps.mean((2, 3), keepdim=True).sigmoid()
        maps = F.relu(net.second(maps + net.shift.mean((2, 3), keepdim=True)))
        wanted = (net.last.weight[target][:, :, None, None] * maps).sum(1) / maps[0, 0].numel()
    torch.testing.assert_close(found.heat, wanted, atol=1e-6, rtol=1e-4)
    assert float(found.completeness_error.max()) < 1e-4


class Averaged(nn.Module):
    """Averages its maps once; ``before`` and ``after`` do something on either side."""

    def __init__(self, before=None, after=None):
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 6, 3), nn.BatchNorm1d(6), nn.Linear(6, 4)
        self.before, self.after, self.runs = before, after, 0

    def forward(self, image):
        self.runs += 1
        maps = F.relu(self.first(image))
        maps = maps if self.before is None else self.before(maps)
        mean = F.adaptive_avg_pool2d(maps, 1).flatten(1)
        mean = mean if self.after is None else self.after(mean, image)
        return self.last(self.norm(mean))


def _without_gradients(maps):
    with torch.no_grad():
        return maps * 1.0


def _aside(mean, image):
    image.relu()
    return mean


@pytest.mark.parametrize(
    ("before", "after", "runs"),
    [
        # One run is enough where all is plain.
        (None, None, 1),
        (None, lambda mean, image: F.dropout(mean, training=False), 1),
        # These want as many rows as there are images, or move them.
        (None, lambda mean, image: mean.view(len(image), -1), 3),
        (None, lambda mean, image: torch.cat([mean[:, :3], image.mean((2, 3))], 1), 3),
        (None, lambda mean, image: mean.flip(0), 3),
        (None, lambda mean, image: torch.cat([mean[1:], mean[:1]]), 3),
        # These are refused.
        (torch.detach, None, 2),
        (lambda maps: maps.data, None, 2),
        (_without_gradients, None, 2),
        (lambda maps: maps.round().detach(), None, 2),
        (None, lambda mean, image: mean.relu(), 2),
        (None, lambda mean, image: F.dropout(mean), 2),
        (lambda maps: F.dropout2d(maps, 0.5), None, 2),
        (None, _aside, 2),
        (None, lambda mean, image: image.mean((2, 3)).repeat(1, 2), 3),
    ],
)
def test_cam_in_one_run_says_what_two_say(monkeypatch, before, after, runs):
    torch.manual_seed(4)
    net, image = Averaged(before, after), torch.randn(5, 3, 8, 8)
    net.norm.running_mean.normal_()

    def look():
        try:
            return make_method("cam").attribute(net, image)
        except UnsupportedNetwork as error:
            return str(error)

    found = look()
    assert net.runs == runs
    monkeypatch.setattr("pellucid.attribution.cam._look_once", lambda *_: None)
    wanted = look()
    if isinstance(wanted, str):
        assert found == wanted
        return
    for name in ("heat", "scores", "completeness_error"):
        torch.testing.assert_close(
            getattr(found, name), getattr(wanted, name), atol=1e-5, rtol=1e-4
        )
    assert torch.equal(found.target, wanted.target)


def test_cam_remembers_no_more_than_where_one_run_is_not_enough():
    net, image, method = (
        Averaged(after=lambda mean, image: mean * 1.0),
        torch.randn(2, 3, 8, 8),
        None,
    )
    method = make_method("cam")
    for runs in (2, 3):
        with pytest.raises(UnsupportedNetwork, match="mul"):
            method.attribute(net, image)
        assert net.runs == runs
    # A network that has changed is looked at anew.
    net.after = None
    heat = method.attribute(net, image).heat
    torch.testing.assert_close(pickle.loads(pickle.dumps(method)).attribute(net, image).heat, heat)
    net.runs -= 1
    assert net.runs == 5
    net = Averaged()
    method.attribute(net, image)
    net.after = lambda mean, image: mean.relu()
    with pytest.raises(UnsupportedNetwork, match="relu"):
        method.attribute(net, image)


def test_cam_refuses_a_head_that_is_not_linear():
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)]
    net = nn.Sequential(nn.Conv2d(3, 4, 3), *head)
    with pytest.raises(UnsupportedNetwork, match=r"layer '4': relu\(\) follows the average"):
        make_method("cam").attribute(net, torch.randn(1, 3, 6, 6))
    with pytest.raises(UnsupportedNetwork, match="averages no maps"):
        make_method("cam").attribute(network(), torch.randn(1, 3, 12, 12))


def test_grad_cam_finds_the_last_maps():
    from pellucid.attribution.grad_cam import grad_cam

    net, image = network(), torch.randn(2, 3, 12, 12)
    found = make_method("grad_cam").attribute(net, image)
    torch.testing.assert_close(found.heat, grad_cam(net, image, layer="relu2"))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(UnsupportedNetwork, match="no layer gives maps"):
        make_method("grad_cam").attribute(flat, torch.randn(1, 3, 2, 2))


def test_occlusion_by_a_loop():
    net, image, target = network(), torch.randn(2, 3, 12, 12), torch.tensor([0, 2])
    found = make_method("occlusion", window=4, stride=2, baseline=0.1).attribute(net, image, target)
    with torch.no_grad():
        for i, wanted in enumerate(target.tolist()):
            total, count = torch.zeros(12, 12), torch.zeros(12, 12)
            for y in range(0, 9, 2):
                for x in range(0, 9, 2):
                    covered = image[i : i + 1].clone()
                    covered[..., y : y + 4, x : x + 4] = 0.1
                    fall = net(image[i : i + 1])[0, wanted] - net(covered)[0, wanted]
                    total[y : y + 4, x : x + 4] += fall
                    count[y : y + 4, x : x + 4] += 1
            torch.testing.assert_close(found.heat[i], total / count, atol=1e-5, rtol=1e-4)


def test_smooth_grad_by_a_loop():
    net, image, target = network(), torch.randn(2, 3, 12, 12), torch.tensor([0, 2])
    found = make_method("smooth_grad", samples=5, noise=0.2, seed=4).attribute(net, image, target)
    generator, total = torch.Generator().manual_seed(4), torch.zeros_like(image)
    for _ in range(5):
        drawn = torch.randn(3, 12, 12, generator=generator)
        for i in range(2):
            width = 0.2 * float(image[i].max() - image[i].min())
            noisy = (image[i] + width * drawn)[None]
            total[i] += gradients(net, noisy, target[i : i + 1])[0] / 5
    torch.testing.assert_close(found.pixels, total.abs(), atol=1e-6, rtol=1e-4)


def test_smooth_grad_draws_the_same_however_many_copies_are_run_at_once():
    # 3 x 5 x 5 values: only multiples of 16 does torch draw at once as it draws them one by one.
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3))
    image, target = torch.randn(2, 3, 5, 5), torch.tensor([0, 2])
    one, some, all_ = (
        make_method("smooth_grad", samples=7, per_run=per_run).attribute(net, image, target).pixels
        for per_run in (1, 6, 64)
    )
    torch.testing.assert_close(some, one, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(all_, one, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("smooth_grad", {"samples": 0}, "samples must be at least 1, got 0"),
        ("smooth_grad", {"noise": 0.0}, "noise must be above 0"),
        ("integrated_gradients", {"steps": 0}, "steps must be at least 1"),
        ("integrated_gradients", {"most_steps": 8}, "at least steps, 32, got 8"),
        ("integrated_gradients", {"tolerance": 0.0}, "tolerance must be above 0"),
        ("deep_lift", {"baseline": float("nan")}, "finite number"),
        ("lrp", {"rule": "gamma"}, "epsilon_plus or epsilon, got 'gamma'"),
        ("lrp", {"epsilon": 0.0}, "epsilon must be above 0"),
        ("occlusion", {"window": 0}, "window must be at least 1"),
        ("occlusion", {"window": 2, "stride": 3}, "stride must be at most the window 2, got 3"),
        ("grad_cam", {"layer": ""}, "name of a module"),
    ],
)
def test_options_are_checked(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_method(name, **options)


def test_a_mode_that_mixes_images_or_draws_is_refused():
    class Mixing(Residual):
        def forward(self, image):
            return super().forward(F.batch_norm(image, None, None, training=True))

    class Drawing(Residual):
        def forward(self, image):
            return super().forward(F.dropout(image, 0.5))

    for net, reason in ((Mixing(), "mixes images"), (Drawing(), "drop-out is on")):
        with pytest.raises(UnsupportedNetwork, match=reason):
            make_method("deep_lift").attribute(net, torch.randn(2, 3, 12, 12))


def test_functions_that_no_rule_sees_are_refused():
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clamp(min=0)

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    class Hidden(Residual):
        def forward(self, image):
            return super().forward(Own.apply(image))

    class Overwriting(Residual):
        def forward(self, image):
            before = self.first(image)
            before.relu_()
            return self.last(before.mean((2, 3)))

    for net, reason in (
        (Hidden(), "autograd function of the network's own"),
        (Overwriting(), "overw"),
    ):
        for name in ("deep_lift", "guided_backprop"):
            with pytest.raises(UnsupportedNetwork, match=reason):
                make_method(name).attribute(net, torch.randn(2, 3, 12, 12))


def test_deep_lift_shares_what_a_mask_of_detached_activations_changes():
    """Its own activations get it, by how much each differs; nothing grows without bounds."""

    class Masked(nn.Module):
        def forward(self, image):
            mask = 1 / (1 + (image.detach() - image.detach().amax((2, 3), keepdim=True)) ** 2)
            return (mask * image).flatten(1) @ torch.linspace(-1, 1, 8).view(4, 2)

    image = torch.tensor([2.0, 1.0, 1e-6, -0.5]).view(1, 1, 2, 2)
    found = make_method("deep_lift").attribute(Masked(), image, torch.tensor([1]))
    mask = 1 / (1 + (image - 2) ** 2)
    weight = torch.linspace(-1, 1, 8).view(4, 2)[:, 1].view(1, 1, 2, 2)
    moved = float((weight * image / 2 * (mask - 1)).sum())
    wanted = weight * image * (mask + 1) / 2 + moved * image.abs() / image.abs().sum()
    torch.testing.assert_close(found.pixels, wanted, atol=1e-5, rtol=1e-4)
    assert float(found.completeness_error) < 1e-5
