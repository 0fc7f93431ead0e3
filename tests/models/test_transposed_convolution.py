"""The transposed convolution by patches against PyTorch's."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pellucid.models.layers import transposed_convolution
from pellucid.models.layers.decoders import make_decoder
from pellucid.models.layers.transposed_convolution import TransposedConvolution


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 4, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "bias": False},
        {"kernel_size": (2, 3), "stride": (1, 3), "padding": (0, 1), "dilation": (2, 1)},
    ],
)
def test_value_and_gradients_are_those_of_torch(channels: int, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    ours = TransposedConvolution(5, channels, **options).double()
    theirs = nn.ConvTranspose2d(5, channels, **options).double()
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    images = [image.clone().requires_grad_() for _ in range(2)]
    drawn = [layer(x) for layer, x in zip((ours, theirs), images, strict=True)]
    torch.testing.assert_close(drawn[0], drawn[1])
    weight = torch.randn_like(drawn[0])
    for each in drawn:
        (each * weight).sum().backward()
    torch.testing.assert_close(images[0].grad, images[1].grad)
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)
    # Also in the memory layout in which the models train, and of second order.
    last = ours.to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(image.to(memory_format=torch.channels_last)), drawn[1])
    assert torch.autograd.gradgradcheck(ours, image[:1, :, :2, :2].clone().requires_grad_())


def test_many_channels_and_half_precision_are_left_to_torch(monkeypatch: Any) -> None:
    monkeypatch.setattr(transposed_convolution, "_Patches", None)
    image = torch.randn(1, 5, 4, 4)
    many = TransposedConvolution(5, 4, 4, 2, 1)
    torch.testing.assert_close(many(image), F.conv_transpose2d(image, many.weight, many.bias, 2, 1))
    few = TransposedConvolution(5, 1, 4, 2, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert few(image).dtype == torch.bfloat16
    assert few.bfloat16()(image.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "size"), [("locatello", 64), ("burgess", 32), ("infogan_mnist", 28)]
)
def test_decoders_end_with_it(name: Any, size: int) -> None:
    network = make_decoder(name, size, 1, 4)
    assert isinstance(network[-1], TransposedConvolution)
    plain = nn.Sequential(*network[:-1], nn.ConvTranspose2d(network[-1].in_channels, 1, 4, 2, 1))
    plain.load_state_dict(network.state_dict())
    codes = torch.randn(3, 4)
    torch.testing.assert_close(network(codes), plain(codes))
