"""Backbones by name, cut into stages, with pretrained weights from an enum or a file."""

import logging
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import torch
import torchvision
from torch import Tensor, nn

from pellucid.batch import BatchError

log = logging.getLogger(__name__)


class WeightsError(ValueError):
    """Weights that do not exist, cannot be read, or belong to another network."""


@dataclass(frozen=True)
class BackboneSpec:
    """A network and where it may be cut.

    Attributes:
        build: Makes the whole network, without pretrained weights.
        stages: For each stride, its stages up to the last convolution (with its activation) of
            that stride.
        weights: Gives the torchvision weights of a name; None: it has none.
        offsets: For each stride, the centre in pixels of the receptive field of the map's first
            cell, along either axis; pixel centres are whole numbers. None: ``(stride - 1) / 2``,
            where the layers that lower the resolution pad evenly.
    """

    build: Callable[[], nn.Module]
    stages: Callable[[Any, int], list[nn.Module]]
    strides: tuple[int, ...]
    default_stride: int = 16
    weights: str | None = None
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

_SPECS: dict[str, BackboneSpec] = {
    "small": BackboneSpec(_small, lambda net, _: list(net), (4,), 4),
    "alexnet": BackboneSpec(
        torchvision.models.alexnet, _alexnet, (16,), 16, "AlexNet_Weights", {16: 15.0}
    ),
    "vgg16": BackboneSpec(torchvision.models.vgg16, _vgg16, (4, 8, 16), 16, "VGG16_Weights"),
    "resnet18": BackboneSpec(
        torchvision.models.resnet18, _resnet, (4, 8, 16, 32), 16, "ResNet18_Weights", _CENTRED
    ),
    "resnet50": BackboneSpec(
        torchvision.models.resnet50, _resnet, (4, 8, 16, 32), 16, "ResNet50_Weights", _CENTRED
    ),
    "densenet121": BackboneSpec(
        torchvision.models.densenet121,
        _densenet,
        (8, 16, 32),
        16,
        "DenseNet121_Weights",
        {8: 2.0, 16: 6.0, 32: 14.0},
    ),
    "mobilenet_v2": BackboneSpec(
        torchvision.models.mobilenet_v2,
        _mobilenet_v2,
        (8, 16, 32),
        16,
        "MobileNet_V2_Weights",
        _CENTRED,
    ),
    "convnext_tiny": BackboneSpec(
        torchvision.models.convnext_tiny, _convnext, (4, 8, 16, 32), 16, "ConvNeXt_Tiny_Weights"
    ),
}

BACKBONES: tuple[str, ...] = tuple(_SPECS)


class Backbone(nn.Module):
    """The lower stages of a network, up to the last convolution of a stride.

    Args:
        name: One of :data:`BACKBONES`.
        weights: ``none``, the name of torchvision weights of this network
            (``IMAGENET1K_V1``; downloaded by torchvision), or the path of a file.
        stride: Pixels per position of the feature map; None: the network's default.

    Attributes:
        stride: Pixels per position of the feature map.
        offset: Centre in pixels of the receptive field of the first position, along either axis:
            position ``j`` looks at ``offset + stride j``, pixel centres being whole numbers.
        channels: Channels of the feature map.

    Raises:
        ValueError: For a name or a stride that there is not.
        WeightsError: For weights that do not exist or do not fit.
    """

    def __init__(self, name: str, weights: str = "none", stride: int | None = None) -> None:
        super().__init__()
        if name not in _SPECS:
            near = get_close_matches(name, BACKBONES, 1)
            raise ValueError(
                f"backbone must be one of {', '.join(BACKBONES)}, got {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
        spec = _SPECS[name]
        self.stride = spec.default_stride if stride is None else stride
        if self.stride not in spec.strides:
            raise ValueError(
                f"stride of {name} must be one of {', '.join(map(str, spec.strides))}, got {stride}"
            )
        self.offset = spec.offset(self.stride)
        network = spec.build()
        for module in network.modules():
            # In-place activations would overwrite what templates, hooks and attribution read.
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]
        self.stages = nn.ModuleList(spec.stages(network, self.stride))
        if weights.lower() != "none":
            self._load(network, spec, name, weights)
        with torch.no_grad():
            probe = self.eval()(torch.zeros(1, 3, 64, 64))
        self.train()
        self.channels: int = probe.shape[1]

    @property
    def grid(self) -> tuple[float, float]:
        """Stride and offset, as :func:`pellucid.metrics.peak_positions` wants them."""
        return self.stride, self.offset

    def forward(self, image: Tensor) -> Tensor:
        """Feature map (B, channels, H / stride, W / stride) of images (B, 3, H, W)."""
        return self.run(image)

    def run(self, features: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """Run the stages from ``first`` up to, and without, ``last``.

        Raises:
            BatchError: The images have not three channels.
        """
        if first == 0 and features.shape[1] != 3:
            raise BatchError(
                f"batch['image'] must have 3 channels (B, 3, H, W), got {tuple(features.shape)}; "
                "data.channels 3 makes colours of greys where a data set has it"
            )
        for stage in list(self.stages)[first:last]:
            features = stage(features)
        return features

    def _load(self, network: nn.Module, spec: BackboneSpec, name: str, weights: str) -> None:
        used = {id(t) for t in [*self.parameters(), *self.buffers()]}
        target = network.state_dict(keep_vars=True)
        # A counter that files from before PyTorch 0.4.1 do not have, and nothing here reads.
        counters = {key for key in target if key.endswith("num_batches_tracked")}
        needed = {key for key, tensor in target.items() if id(tensor) in used} - counters
        state = read_weights(weights, spec.weights)
        missing = sorted(needed - state.keys())
        misshapen = sorted(
            key for key in needed & state.keys() if state[key].shape != target[key].shape
        )
        if missing or misshapen:
            raise WeightsError(_misfit(weights, name, state, target, missing, misshapen))
        with torch.no_grad():
            for key in needed:
                target[key].copy_(state[key])
        log.info("loaded %d of %d tensors of %s", len(needed), len(state), weights)


def _misfit(
    weights: str,
    name: str,
    state: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    missing: list[str],
    misshapen: list[str],
) -> str:
    unexpected = sorted(state.keys() - target.keys())

    def few(keys: list[str]) -> str:
        return ", ".join(keys[:3]) + (" ..." if len(keys) > 3 else "")

    parts = []
    if missing:
        parts.append(f"{len(missing)} tensors missing ({few(missing)})")
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected ({few(unexpected)})")
    if misshapen:
        key = misshapen[0]
        parts.append(
            f"{len(misshapen)} of another shape ({key}: {tuple(state[key].shape)} in the file, "
            f"{tuple(target[key].shape)} wanted)"
        )
    return f"weights {weights!r} are not of a {name}: " + "; ".join(parts)


def read_weights(weights: str, enum: str | None = None) -> dict[str, Tensor]:
    """Read pretrained weights.

    Args:
        weights: A member of the torchvision enum, or the path of a file that ``torch.save`` wrote:
            a state dict, or a dictionary that holds one as ``state_dict``. Prefixes ``module.``
            and ``model.`` are taken off.
        enum: Name of the network's enum in ``torchvision.models``; None: it has none.

    Returns:
        Tensors by name.

    Raises:
        WeightsError: The name or the file does not exist, or the file is not one of weights. Files
            are read without running any code in them.
    """
    known = getattr(torchvision.models, enum) if enum else None
    owner, _, member = weights.rpartition(".")
    if known is not None and member in known.__members__ and owner in ("", enum):
        try:
            state = known[member].get_state_dict(progress=True, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise WeightsError(
                f"weights {weights!r} could not be downloaded ({error}); give the path of a file"
            ) from error
        return cast("dict[str, Tensor]", state)
    path = Path(weights).expanduser()
    if not path.is_file():
        names = ", ".join(("none", *(known.__members__ if known is not None else ())))
        raise WeightsError(
            f"weights must be one of {names}, or a file; there is no file {weights!r}"
        )
    try:
        with warnings.catch_warnings():
            # Whatever the pickle protocol, what cannot be read ends below.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError) as error:
        raise WeightsError(
            f"weights file {weights!r} cannot be read: it is truncated, was not written by "
            "torch.save, or holds more than tensors (code in it is never run)"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    ):
        raise WeightsError(f"weights file {weights!r} holds no state dict (names and tensors)")
    state = dict(content)
    for prefix in ("module.", "model."):
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state
