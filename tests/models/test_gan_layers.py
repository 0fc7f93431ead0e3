"""Networks, codes, the running mean and random copies that the adversarial models share."""

import pytest
import torch
from torch import nn

from pellucid.models.layers.codes import CodeSpace
from pellucid.models.layers.ema import EMA
from pellucid.models.layers.gan_networks import NETWORKS, make_generator, make_head, make_trunk
from pellucid.models.layers.image_range import ImageRange
from pellucid.models.layers.random_affine import random_affine


def weights(module):
    return sum(p.numel() for p in module.parameters())


def test_infogan_networks_have_the_weights_of_the_papers_table():
    # Fully connected and transposed convolutions without bias, as batch normalisation has one.
    generator = 74 * 1024 + 2 * 1024 + 1024 * 6272 + 2 * 6272
    generator += 128 * 64 * 16 + 2 * 64 + 64 * 16 + 1
    assert weights(make_generator("infogan_mnist", 74, 1)) == generator == 6_645_121
    trunk = 64 * 16 + 64 + 64 * 128 * 16 + 2 * 128 + 6272 * 1024 + 2 * 1024
    assert weights(make_trunk("infogan_mnist", 1)) == trunk == 6_556_992
    assert weights(make_head("infogan_mnist", 1)) == 1025
    assert weights(make_head("infogan_mnist", 12, 128)) == 1024 * 128 + 2 * 128 + 128 * 12 + 12
    # SVHN: 4 categorical codes of 10, 4 continuous ones and 124 noise variables.
    generator = 168 * 1792 + 2 * 1792 + 16 * (448 * 256 + 256 * 128 + 128 * 64 + 64 * 3) + 3
    assert weights(make_generator("infogan_svhn", 168, 3)) == generator + 2 * (256 + 128 + 64)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_and_range(name, channels):
    size, features = NETWORKS[name].image_size, NETWORKS[name].num_features
    image = make_generator(name, 5, channels)(torch.randn(3, 5))
    assert image.shape == (3, channels, size, size)
    assert 0 <= image.min() <= image.max() <= 1
    found = make_trunk(name, channels)(image)
    assert found.shape == (3, features)
    assert make_head(name, 7, 16)(found).shape == (3, 7)


@torch.no_grad()
def test_weights_begin_as_published():
    generator = make_generator("infogan_mnist", 74, 1)
    fully = generator[3]
    assert isinstance(fully, nn.Linear)
    assert float(fully.weight.detach().mean()) == pytest.approx(0, abs=1e-4)
    assert float(fully.weight.detach().std()) == pytest.approx(0.02, rel=0.01)
    norm = generator[4]
    assert float(norm.weight.detach().mean()) == pytest.approx(1, abs=1e-2)
    assert float(norm.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert norm.bias.abs().max() == 0


def test_there_is_no_such_network():
    with pytest.raises(
        ValueError, match=r"network 'infogan_minst' .* did you mean 'infogan_mnist'"
    ):
        make_trunk("infogan_minst", 1)


def test_codes_are_drawn_as_they_should_be():
    space = CodeSpace(3, 2, (4, 2))
    assert (space.num_codes, space.num_latents) == (8, 11)
    codes = space.sample(4000, torch.device("cpu"), torch.Generator().manual_seed(0))
    uniform = torch.cat([codes.noise, codes.continuous], 1)
    assert uniform.shape == (4000, 5)
    assert -1 <= uniform.min() < -0.99
    assert 0.99 < uniform.max() <= 1
    assert uniform.mean(0).abs().max() < 0.05
    assert (uniform.var(0) - 1 / 3).abs().max() < 0.02
    for column, size in enumerate((4, 2)):
        shares = codes.categories[:, column].bincount(minlength=size) / 4000
        assert (shares - 1 / size).abs().max() < 0.03


def test_the_generators_input():
    space = CodeSpace(1, 2, (3, 2))
    codes = space.sample(5, torch.device("cpu"))
    joined = space.join(codes)
    for i in range(5):
        row = [*codes.noise[i].tolist(), *codes.continuous[i].tolist()]
        for size, category in zip((3, 2), codes.categories[i].tolist(), strict=True):
            row += [float(category == k) for k in range(size)]
        assert joined[i].tolist() == row
    repeated = codes.repeated(2)
    assert torch.equal(repeated.categories[2], codes.categories[1])
    assert torch.equal(repeated.noise[3], codes.noise[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1,), "num_noise must be at least 0, got -1"),
        ((0,), "num_noise must be above 0 where there are no codes"),
        ((3, -2), "num_continuous must be at least 0, got -2"),
        ((3, 0, (1,)), r"categorical must have at least 2 categories in each code, got \[1\]"),
    ],
)
def test_wrong_codes(arguments, message):
    with pytest.raises(ValueError, match=message):
        CodeSpace(*arguments)


def test_the_running_mean_against_a_loop():
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    average = EMA(network, 0.5)
    expected = network[0].weight.item()
    for step in range(1, 20):
        with torch.no_grad():
            network[0].weight.fill_(step**2)
            network[1].running_mean.fill_(step)
        average.update(network)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step**2
        assert float(average.network[0].weight.detach()) == pytest.approx(expected, rel=1e-5)
        assert average.network[1].running_mean == step
    assert not any(p.requires_grad for p in average.parameters())


def test_the_running_mean_is_another_network():
    network = nn.Linear(2, 2)
    average = EMA(network, 0.9)
    network.weight.data.zero_()
    assert average.network.weight.abs().sum() > 0
    for decay in (0.0, 1.0):
        with pytest.raises(ValueError, match=r"ema_decay must be in \(0, 1\), got"):
            EMA(network, decay)


def test_image_range_is_undone_and_done():
    values = ImageRange(3)
    pixels = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(values(pixels), pixels)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    values.use(mean, std)
    normalised = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(values.normalise(pixels), normalised)
    torch.testing.assert_close(values(normalised), pixels)
    assert values(normalised + 100).max() == 1
    with pytest.raises(ValueError, match=r"channels is 3, but the data's images have 1"):
        values.use((0.1,), (0.2,))


def test_copies_are_near_and_each_is_another():
    torch.manual_seed(0)
    # A smooth blob, which a small map moves a little.
    axis = torch.linspace(-1, 1, 28)
    blob = torch.exp(-((axis[:, None] ** 2 + axis**2) / 0.1)).expand(6, 1, 28, 28)
    assert torch.allclose(random_affine(blob, 0.0), blob, atol=1e-5)
    copies = random_affine(blob, 0.05)
    assert copies.shape == blob.shape
    assert not torch.allclose(copies[0], copies[1], atol=1e-2)
    similarity = torch.nn.functional.cosine_similarity(copies.flatten(1), blob.flatten(1))
    assert similarity.min() > 0.8
    with pytest.raises(ValueError, match="strength must be at least 0, got -1"):
        random_affine(blob, -1)
