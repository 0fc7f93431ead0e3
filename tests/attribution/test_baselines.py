"""What explanations must beat: noise, edges, and a network that knows nothing."""

import copy

import pytest
import torch
from torch import nn

from pellucid.attribution.baselines import BASELINES, EdgeDetector, RandomMap, randomised_copy
from pellucid.models.interpretable_cnn import InterpretableCNN


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 3)
    ).eval()


def test_noise_depends_on_image_and_seed_alone():
    image = torch.randn(4, 3, 8, 8)
    found = RandomMap().attribute(network(), image).heat
    assert found.shape == (4, 8, 8)
    assert 0 <= float(found.min()) < 0.1
    assert 0.9 < float(found.max()) < 1
    torch.testing.assert_close(RandomMap().attribute(network(), image[2:3]).heat, found[2:3])
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(RandomMap(seed=1).attribute(network(), image).heat, found)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        RandomMap(seed=-1)


def test_edges_agree_with_a_loop():
    image = torch.randn(2, 3, 8, 8)
    found = EdgeDetector().attribute(network(), image).heat
    kernel = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
    for number in range(2):
        grey = image[number].mean(0)
        for y in range(8):
            for x in range(8):
                across = down = 0.0
                for dy in (-1, 0, 1):
                    for dx in (-1, 0, 1):
                        value = float(grey[min(7, max(0, y + dy)), min(7, max(0, x + dx))])
                        across += kernel[dy + 1][dx + 1] * value
                        down += kernel[dx + 1][dy + 1] * value
                wanted = (across**2 + down**2) ** 0.5
                assert float(found[number, y, x]) == pytest.approx(wanted, abs=1e-4)


def test_an_even_image_has_no_edge():
    found = EdgeDetector().attribute(network(), torch.full((1, 3, 8, 8), 0.7)).heat
    assert float(found.abs().max()) < 1e-5


def test_they_are_registered_by_their_names():
    assert {name: make().name for name, make in BASELINES.items()} == {
        "random_map": "random_map",
        "edge_detector": "edge_detector",
    }


def test_a_randomised_copy_knows_nothing_and_leaves_the_network_alone():
    net = network()
    net[1].running_mean.fill_(3.0)
    before, state = copy.deepcopy(net.state_dict()), torch.random.get_rng_state()
    found = randomised_copy(net, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    assert not torch.equal(found[0].weight, net[0].weight)
    assert not torch.equal(found[4].bias, net[4].bias)
    assert float(found[1].running_mean.abs().max()) == 0
    assert not found.training
    again = randomised_copy(net, seed=1)
    assert torch.equal(again[0].weight, found[0].weight)
    assert not torch.equal(randomised_copy(net, seed=2)[0].weight, found[0].weight)


class Token(nn.Module):
    """A parameter of its own beside a layer, as a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(5 + 0.1 * torch.randn(1000))
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.layer = nn.Linear(3, 2)


def test_parameters_without_a_layer_are_drawn_with_their_own_mean_and_spread():
    net = Token()
    found = randomised_copy(net)
    assert not torch.equal(found.token, net.token)
    assert float(found.token.mean()) == pytest.approx(5, abs=0.02)
    assert float(found.token.std()) == pytest.approx(0.1, rel=0.1)
    assert float(found.scale) != 2.0
    with pytest.raises(ValueError, match="ReLU has no parameter"):
        randomised_copy(nn.ReLU())


def test_every_parameter_of_a_model_of_the_house_is_drawn_anew():
    model = InterpretableCNN(3, backbone="small")
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    found = dict(randomised_copy(model).named_parameters())
    same = [n for n, value in model.named_parameters() if torch.equal(value, found[n])]
    assert same == []
