"""Networks whose cuts were chosen by hand: where each stride ends, and what its stages are."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torchvision
from torch import nn


@dataclass(frozen=True)
class BackboneSpec:
    """A network and where it may be cut.

    Attributes:
        build: Makes the whole network, without pretrained weights.
        stages: For each stride, its stages up to the last convolution (with its activation) of
            that stride.
        offsets: For each stride, the centre in pixels of the receptive field of the map's first
            cell, along either axis; pixel centres are whole numbers. None: ``(stride - 1) / 2``,
            where the layers that lower the resolution pad evenly.
    """

    build: Callable[[], nn.Module]
    stages: Callable[[Any, int], list[nn.Module]]
    strides: tuple[int, ...]
    default_stride: int = 16
    offsets: Mapping[int, float] | None = None

    def offset(self, stride: int) -> float:
        """Centre in pixels of the receptive field of the map's first cell."""
        return (stride - 1) / 2 if self.offsets is None else self.offsets[stride]


def _slices(features: nn.Sequential, ends: tuple[int, ...]) -> list[nn.Module]:
    return [features[a:b] for a, b in zip((0, *ends), ends, strict=False)]


def _small() -> nn.Module:
    """Four 3 x 3 convolutions for images of about 64 x 64, for tests and the built-in data."""

    def block(inputs: int, outputs: int, *, pool: bool) -> list[nn.Module]:
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
        return [*layers, nn.MaxPool2d(2)] if pool else layers

    blocks = (block(3, 32, pool=True), block(32, 48, pool=False))
    more = (block(48, 64, pool=True), block(64, 64, pool=False))
    return nn.Sequential(*[nn.Sequential(*layers) for layers in (*blocks, *more)])


def _alexnet(net: Any, stride: int) -> list[nn.Module]:
    return _slices(net.features, (3, 6, 8, 10, 12) if stride == 16 else (2, 5))


def _vgg16(net: Any, stride: int) -> list[nn.Module]:
    return _slices(
        net.features, {4: (5, 10, 16), 8: (5, 10, 17, 23)}.get(stride, (5, 10, 17, 24, 30))
    )


def _resnet(net: Any, stride: int) -> list[nn.Module]:
    stem = nn.Sequential(
        OrderedDict(conv1=net.conv1, bn1=net.bn1, relu=net.relu, maxpool=net.maxpool)
    )
    layers = [net.layer1, net.layer2, net.layer3, net.layer4]
    return [stem, *layers[: {4: 1, 8: 2, 16: 3, 32: 4}[stride]]]


def _densenet(net: Any, stride: int) -> list[nn.Module]:
    f = net.features
    stem = nn.Sequential(OrderedDict(conv0=f.conv0, norm0=f.norm0, relu0=f.relu0, pool0=f.pool0))
    stages: list[nn.Module] = [stem]
    last = {8: 2, 16: 3, 32: 4}[stride]
    for block in range(1, last):
        pair = getattr(f, f"denseblock{block}"), getattr(f, f"transition{block}")
        stages.append(nn.Sequential(*pair))
    norm = f.norm5 if last == 4 else getattr(f, f"transition{last}").norm
    stages.append(nn.Sequential(getattr(f, f"denseblock{last}"), norm, nn.ReLU()))
    return stages


def _mobilenet_v2(net: Any, stride: int) -> list[nn.Module]:
    if stride == 32:
        return _slices(net.features, (2, 4, 7, 11, 14, 18, 19))
    # The last layer of a stride is the expansion inside the block that lowers the resolution.
    ends = {8: (2, 4, 7), 16: (2, 4, 7, 11, 14)}[stride]
    return [*_slices(net.features, ends), net.features[ends[-1]].conv[0]]


def _convnext(net: Any, stride: int) -> list[nn.Module]:
    stages = _slices(net.features, {4: (2,), 8: (2, 4), 16: (2, 4, 6), 32: (2, 4, 6, 8)}[stride])
    # Its blocks end in a sum of either sign; a part template wants activations of one sign.
    return [*stages[:-1], nn.Sequential(stages[-1], nn.ReLU())]


# A 3 x 3 window of stride 2 that pads by one pixel, or a 7 x 7 one by three, is centred on every
# other pixel, from the first on; a 2 x 2 window without padding is centred between two.
_CENTRED: dict[int, float] = dict.fromkeys((4, 8, 16, 32), 0.0)

SPECS: dict[str, BackboneSpec] = {
    "small": BackboneSpec(_small, lambda net, _: list(net), (4,), 4),
    "alexnet": BackboneSpec(torchvision.models.alexnet, _alexnet, (16,), 16, {16: 15.0}),
    "vgg16": BackboneSpec(torchvision.models.vgg16, _vgg16, (4, 8, 16), 16),
    "resnet18": BackboneSpec(torchvision.models.resnet18, _resnet, (4, 8, 16, 32), 16, _CENTRED),
    "resnet50": BackboneSpec(torchvision.models.resnet50, _resnet, (4, 8, 16, 32), 16, _CENTRED),
    "densenet121": BackboneSpec(
        torchvision.models.densenet121,
        _densenet,
        (8, 16, 32),
        16,
        {8: 2.0, 16: 6.0, 32: 14.0},
    ),
    "mobilenet_v2": BackboneSpec(
        torchvision.models.mobilenet_v2,
        _mobilenet_v2,
        (8, 16, 32),
        16,
        _CENTRED,
    ),
    "convnext_tiny": BackboneSpec(torchvision.models.convnext_tiny, _convnext, (4, 8, 16, 32), 16),
}

BACKBONES: tuple[str, ...] = tuple(SPECS)
"""Names of the networks with cuts chosen by hand; all others are cut by
:class:`~pellucid.models.backbones.graph.NetworkGraph`."""
