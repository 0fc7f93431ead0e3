"""Networks by name: the hand-cut ones, torchvision's classifiers, and those of timm."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torchvision
from torch import Tensor, nn

from pellucid.errors import nearest
from pellucid.models.backbones.dilation import dilate
from pellucid.models.backbones.graph import Cut, CutError, NetworkGraph
from pellucid.models.backbones.specs import SPECS
from pellucid.models.backbones.weights import Normalisation

_TIMM = "timm/"

# Their published weights want the inputs of another framework, which the networks can make of
# inputs that are normalised as usual; asked for explicitly, since it is no part of the weights.
_OPTIONS: dict[str, dict[str, bool]] = {
    name: {"transform_input": True, "init_weights": True} for name in ("googlenet", "inception_v3")
}


@dataclass(frozen=True)
class Published:
    """Weights that a library publishes for a network.

    Attributes:
        fetch: Downloads them, unless they lie in the library's cache.
        normalisation: What the images were normalised with that they were trained on.
    """

    fetch: Callable[[], Mapping[str, Tensor]]
    normalisation: Normalisation


@dataclass(frozen=True)
class Network:
    """A network that a name stands for.

    Attributes:
        name: Its name.
        build: Makes it, without pretrained weights.
        published: Weights by name.
        normalisation: Of the weights that the name itself states, as ``timm/vgg11.tv_in1k`` does.
        leaves: Types of its modules that cannot be traced through.
        functions: Functions likewise.
    """

    name: str
    build: Callable[[], nn.Module]
    published: Mapping[str, Published] = field(default_factory=dict)
    normalisation: Normalisation | None = None
    leaves: tuple[type, ...] = ()
    functions: tuple[Any, ...] = ()

    def cut(
        self,
        network: nn.Module,
        stride: int | None = None,
        node: str | None = None,
        output_stride: int | None = None,
    ) -> Cut:
        """The part of the network below one of its feature maps.

        Args:
            network: What :attr:`build` has made.
            stride: Pixels per position of the map; None: the network's default.
            node: Name of a node in place of a stride; one with another stride is refused.
            output_stride: Pixels per position of the map, which coarser layers reach dilated, see
                :func:`~pellucid.models.backbones.dilation.dilate`; the map is then by default the
                network's last. None: strides stay.

        Raises:
            CutError: There is no such stride or node, or the network has no feature maps.
        """
        if output_stride is not None:
            if stride not in (None, output_stride):
                raise CutError(
                    f"stride must be left out (null) beside output_stride {output_stride}, which "
                    f"is the map's, got {stride}"
                )
            graph = NetworkGraph(self.name, network, self.leaves, self.functions)
            spec = SPECS.get(self.name)
            deepest = (spec.strides if spec is not None else graph.strides)[-1]
            return dilate(graph, self.cut(network, None if node else deepest, node), output_stride)
        if node is None and (spec := SPECS.get(self.name)) is not None:
            stride = spec.default_stride if stride is None else stride
            if stride not in spec.strides:
                allowed = ", ".join(map(str, spec.strides))
                raise CutError(f"stride of {self.name} must be one of {allowed}, got {stride}")
            return Cut(spec.stages(network, stride), stride, spec.offset(stride))
        graph = NetworkGraph(self.name, network, self.leaves, self.functions)
        if node is None:
            return graph.at_stride(stride)
        cut = graph.at_node(node)
        if stride not in (None, cut.stride):
            raise CutError(
                f"node {node!r} of {self.name} has a stride of {cut.stride}, got a stride of "
                f"{stride}: leave the stride out (null)"
            )
        return cut


def find_network(name: str) -> Network:
    """The network of a name.

    Args:
        name: One of :data:`~pellucid.models.backbones.specs.BACKBONES`, any classification network
            of torchvision, or ``timm/`` and any of timm's, with or without the tag of its weights.

    Raises:
        ValueError: There is none; names the nearest.
    """
    if name.startswith(_TIMM):
        return _from_timm(name)
    known: list[str] = torchvision.models.list_models(module=torchvision.models)
    if name in known:
        published = _published_by_torchvision(name)
    elif name in SPECS:
        published = {}
    else:
        raise ValueError(
            "backbone must be 'small', a classification network of torchvision, or timm/ and one "
            f"of timm's, got {name!r}; {nearest(name, [*known, *SPECS])}"
        )
    if name in SPECS:
        return Network(name, SPECS[name].build, published)
    build = partial(torchvision.models.get_model, name, weights=None, **_OPTIONS.get(name, {}))
    return Network(name, build, published)


def _published_by_torchvision(name: str) -> dict[str, Published]:
    enum = torchvision.models.get_model_weights(name)
    found = {}
    for member, weights in enum.__members__.items():
        preset = weights.transforms()
        record = Normalisation(tuple(preset.mean), tuple(preset.std))
        fetch = partial(weights.get_state_dict, progress=True, check_hash=True)
        found[member] = found[f"{enum.__name__}.{member}"] = Published(fetch, record)
    return found


def _from_timm(name: str) -> Network:
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"backbone {name!r} needs timm: pip install 'pellucid[timm]'") from error
    bare = name.removeprefix(_TIMM)
    architecture, _, tag = bare.partition(".")
    if not timm.is_model(architecture):
        near = nearest(architecture, timm.list_models()).replace("'", f"'{_TIMM}", 1)
        raise ValueError(f"backbone {name!r} is not in timm; {near}")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ValueError(
            f"backbone {name!r} has a tag that timm does not know; {nearest(tag, tags)}"
        )

    def published(tag: str) -> Published:
        config = timm.get_pretrained_cfg(f"{architecture}.{tag}")
        record = Normalisation(tuple(config.mean), tuple(config.std))

        def fetch() -> Mapping[str, Tensor]:
            network = timm.create_model(f"{architecture}.{tag}", pretrained=True)
            return dict(network.state_dict())

        return Published(fetch, record)

    found = {tag: published(tag) for tag in tags}
    if tags:
        found["DEFAULT"] = found[tag or timm.get_pretrained_cfg(architecture).tag]
    return Network(
        name,
        partial(timm.create_model, architecture, pretrained=False),
        found,
        found[tag].normalisation if tag else None,
        tuple(timm.models.get_notrace_modules()),
        tuple(timm.models.get_notrace_functions()),
    )
