"""The lower part of a network, up to one of its feature maps."""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pellucid.batch import BatchError
from pellucid.models.backbones.loading import Loaded, load
from pellucid.models.backbones.networks import Network, find_network
from pellucid.models.backbones.weights import Normalisation, Weights, WeightsError, read_weights

log = logging.getLogger(__name__)


class Backbone(nn.Module):
    """The lower stages of a network, up to the last layer of a stride or up to a node.

    Residual sums are complete where a stride ends: no skip connection carries activations past
    the feature map. Maps are at least 0: where the network's own are not, a ReLU is added.

    Args:
        name: One of :data:`BACKBONES`, any classification network of torchvision
            (``efficientnet_b0``), or any of timm's as ``timm/NAME``. Networks without feature maps,
            as most transformers, are refused.
        weights: ``none``, the name of weights that torchvision or timm publish for this network
            (``IMAGENET1K_V1``, ``a1_in1k``, ``DEFAULT``; downloaded by them), or the path of a
            file, see :func:`read_weights`.
        stride: Pixels per position of the feature map; None: the network's default, 16 for most.
        node: Name of a layer or block after which the network is cut in place of where a stride
            ends, as in torchvision's ``create_feature_extractor`` (``layer3.1``).
        output_stride: Pixels per position of the feature map in place of ``stride``: the network
            goes on to its last map, or to ``node``, and layers that would make it coarser are
            dilated (module :mod:`pellucid.models.backbones.dilation`). None: no layer is.

    Attributes:
        name: Its name.
        stride: Pixels per position of the feature map.
        offset: Centre in pixels of the receptive field of the first position, along either axis:
            position ``j`` looks at ``offset + stride j``, pixel centres being whole numbers. None:
            not known.
        channels: Channels of the feature map.
        normalisation: What images are to be normalised with as the weights' record says; None:
            there is none.
        loaded: What was taken from the weights; None: no weights.

    Raises:
        ValueError: For a name, a stride or a node that there is not.
        WeightsError: For weights that do not exist or do not fit.
    """

    def __init__(
        self,
        name: str,
        weights: str = "none",
        stride: int | None = None,
        node: str | None = None,
        output_stride: int | None = None,
    ) -> None:
        super().__init__()
        source = find_network(name)
        self.name, network = name, source.build()
        for module in network.modules():
            # In-place activations would overwrite what templates, hooks and attribution read.
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]
        cut = source.cut(network, stride, node, output_stride)
        self.stages = nn.ModuleList(cut.stages)
        self.stride, self.offset = cut.stride, cut.offset
        self.normalisation: Normalisation | None = None
        self.loaded: Loaded | None = None
        if weights.lower() != "none":
            self._load(source, network, weights)
        self.channels = self._count_channels() if cut.channels is None else cut.channels

    @property
    def grid(self) -> tuple[float, float] | None:
        """Stride and offset, as :func:`pellucid.metrics.peak_positions` wants them.

        None where the offset is not known: positions are then taken to tile the image.
        """
        return None if self.offset is None else (self.stride, self.offset)

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

    @torch.no_grad()
    def _count_channels(self) -> int:
        channels: int = self.eval()(torch.zeros(1, 3, 64, 64)).shape[1]
        self.train()
        return channels

    def _load(self, source: Network, network: nn.Module, weights: str) -> None:
        found = find_weights(source, weights)
        target = network.state_dict(keep_vars=True)
        used = set(names_in(target, self.stages).values())
        state = _as_in_network(found, source, network, weights)
        self.loaded = load(state, target, used, weights, source.name, found.others)
        self.normalisation = found.normalisation
        log.info("%s", self.loaded)


def find_weights(source: Network, weights: str) -> Weights:
    """Published weights of a name, or those of a file.

    Args:
        source: The network.
        weights: Name, or path of a file.

    Raises:
        WeightsError: There is neither, or it cannot be fetched or read.
    """
    published = source.published.get(weights)
    if published is not None:
        try:
            return Weights(dict(published.fetch()), published.normalisation)
        # Each library has errors of its own for what comes down to the same.
        except Exception as error:
            raise WeightsError(
                f"weights {weights!r} could not be downloaded ({error}); give the path of a file"
            ) from error
    if not Path(weights).expanduser().is_file():
        names = ", ".join(("none", *(name for name in source.published if "." not in name)))
        raise WeightsError(
            f"weights must be one of {names}, or a file; there is no file {weights!r}"
        )
    found = read_weights(weights)
    record = found.normalisation or source.normalisation
    return Weights(found.state, record, found.origin, found.others)


def names_in(target: Mapping[str, Tensor], stages: nn.ModuleList) -> dict[str, str]:
    """What a tensor of the stages is called in the whole network.

    Args:
        target: Tensors of the whole network by name, ``state_dict(keep_vars=True)``.
        stages: Some of its modules, in pieces.
    """
    by_identity = {id(tensor): name for name, tensor in target.items()}
    own = nn.ModuleDict({"stages": stages}).state_dict(keep_vars=True)
    # Constants of a traced network are no part of its weights.
    return {name: by_identity[id(t)] for name, t in own.items() if id(t) in by_identity}


def _as_in_network(
    found: Weights, source: Network, network: nn.Module, weights: str
) -> dict[str, Tensor]:
    """Tensors of one of our checkpoints under the names of the whole network."""
    if (origin := found.origin) is None:
        return found.state
    if origin.backbone != source.name:
        raise WeightsError(
            f"weights {weights!r} are of a model with the backbone {origin.backbone!r}, not of a "
            f"{source.name}; give that backbone, or other weights"
        )
    cut = source.cut(network, origin.stride, origin.node, origin.output_stride)
    names = names_in(network.state_dict(keep_vars=True), nn.ModuleList(cut.stages))
    # What the cut does not have keeps its name, and is refused with it.
    return {names.get(name, name): tensor for name, tensor in found.state.items()}
