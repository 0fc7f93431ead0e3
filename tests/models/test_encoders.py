"""Encoders and decoders against numbers counted by hand in the tables of their papers."""

import math

import pytest
import torch
from torch import nn

from pellucid.models.factor_vae import make_discriminator
from pellucid.models.layers.decoders import DECODERS, make_decoder
from pellucid.models.layers.encoders import ENCODERS, IMAGE_SIZES, make_encoder


def conv(inputs: int, outputs: int, side: int) -> int:
    return inputs * outputs * side * side + outputs


def full(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


CONV_32 = conv(32, 32, 4)
# name, size, channels: parameters of the encoder (20 outputs) and of the decoder (10 inputs).
COUNTS = {
    ("burgess", 64, 1): (
        conv(1, 32, 4) + 3 * CONV_32 + full(512, 256) + full(256, 256) + full(256, 20),
        full(10, 256) + full(256, 256) + full(256, 512) + 3 * CONV_32 + conv(32, 1, 4),
    ),
    ("burgess", 32, 3): (
        conv(3, 32, 4) + 2 * CONV_32 + full(512, 256) + full(256, 256) + full(256, 20),
        full(10, 256) + full(256, 256) + full(256, 512) + 2 * CONV_32 + conv(32, 3, 4),
    ),
    ("locatello", 64, 1): (
        conv(1, 32, 4) + CONV_32 + conv(32, 64, 2) + conv(64, 64, 2) + full(1024, 256)
        + full(256, 20),
        full(10, 256) + full(256, 1024) + conv(64, 64, 4) + conv(64, 32, 4) + CONV_32
        + conv(32, 1, 4),
    ),
    ("locatello", 64, 3): (
        conv(3, 32, 4) + CONV_32 + conv(32, 64, 2) + conv(64, 64, 2) + full(1024, 256)
        + full(256, 20),
        full(10, 256) + full(256, 1024) + conv(64, 64, 4) + conv(64, 32, 4) + CONV_32
        + conv(32, 3, 4),
    ),
    ("infogan_mnist", 28, 1): (
        conv(1, 64, 4) + conv(64, 128, 4) + full(6272, 1024) + full(1024, 20),
        full(10, 1024) + full(1024, 6272) + conv(128, 64, 4) + conv(64, 1, 4),
    ),
    ("infogan_mnist", 32, 3): (
        conv(3, 64, 4) + conv(64, 128, 4) + full(8192, 1024) + full(1024, 20),
        full(10, 1024) + full(1024, 8192) + conv(128, 64, 4) + conv(64, 3, 4),
    ),
    ("mlp", 64, 1): (
        full(4096, 1200) + full(1200, 1200) + full(1200, 20),
        full(10, 1200) + 2 * full(1200, 1200) + full(1200, 4096),
    ),
    ("mlp", 28, 3): (
        full(2352, 1200) + full(1200, 1200) + full(1200, 20),
        full(10, 1200) + 2 * full(1200, 1200) + full(1200, 2352),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "size", "channels"), COUNTS)
def test_parameters_and_shapes_are_those_of_the_tables(name, size, channels):
    encoder = make_encoder(name, size, channels, 20)
    decoder = make_decoder(name, size, channels, 10)
    counts = tuple(sum(p.numel() for p in m.parameters()) for m in (encoder, decoder))
    assert counts == COUNTS[name, size, channels]
    with torch.no_grad():
        assert encoder(torch.rand(2, channels, size, size)).shape == (2, 20)
        assert decoder(torch.randn(2, 10)).shape == (2, channels, size, size)


def test_burgess_has_half_a_million_weights():
    """252,052 and 249,953, added up on paper once."""
    assert COUNTS["burgess", 64, 1] == (252_052, 249_953)


def test_every_network_is_counted():
    assert {name for name, _, _ in COUNTS} == ENCODERS.keys() == DECODERS.keys()
    sizes = {(name, size) for name, listed in IMAGE_SIZES.items() for size in listed}
    assert {(n, s) for n, s, _ in COUNTS} >= sizes - {("infogan_mnist", 28)} | {("mlp", 28)}


@pytest.mark.parametrize(("make", "kind"), [(make_encoder, "encoder"), (make_decoder, "decoder")])
def test_wrong_arguments_are_named_with_what_fits(make, kind):
    with pytest.raises(ValueError, match=rf"{kind} must be one of burgess.*got 'resnet'"):
        make("resnet", 64, 1, 10)
    fits = rf"{kind} 'locatello' is for images of 64 pixels, got image_size 28; .* infogan_mnist"
    with pytest.raises(ValueError, match=fits):
        make("locatello", 28, 1, 10)
    with pytest.raises(ValueError, match="channels must be at least 1, got 0"):
        make("mlp", 28, 0, 10)
    with pytest.raises(ValueError, match="image_size must be at least 1, got 0"):
        make("mlp", 0, 1, 10)


@pytest.mark.parametrize("name", ENCODERS)
def test_weights_start_as_glorots(name: str) -> None:
    size = IMAGE_SIZES.get(name, (28,))[-1]
    torch.manual_seed(0)
    check_start(make_encoder(name, size, 1, 20))
    check_start(make_decoder(name, size, 1, 10))


def test_a_discriminator_starts_as_glorots() -> None:
    torch.manual_seed(0)
    check_start(make_discriminator(10, width=50, layers=3))


def check_start(network: nn.Sequential) -> None:
    for layer in network.modules():
        if not isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            continue
        assert not layer.bias.any()
        weight = layer.weight.detach()
        # Channels in and out, each times the pixels of a kernel.
        fans = sum(weight.shape[:2]) * weight[0, 0].numel()
        bound = math.sqrt(6 / fans)
        assert weight.abs().max() <= bound
        assert weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.15)


def test_an_encoder_tells_images_apart_from_the_start() -> None:
    """By .0003 under PyTorch's own start, and a KL term can silence the encoder then."""
    torch.manual_seed(0)
    encoder = make_encoder("burgess", 64, 1, 20)
    images = (torch.rand(64, 1, 64, 64) > 0.95).float()
    with torch.no_grad():
        assert encoder(images).std(0).mean() > 0.003
