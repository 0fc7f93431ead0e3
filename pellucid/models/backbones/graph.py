"""Any network cut into stages: where its feature maps are, and what runs up to one of them."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from pellucid.errors import nearest
from pellucid.models.backbones.positions import Cells, cells_of, slides
from pellucid.models.backbones.tracing import Probe, Tracer

# Not square, so that rows, columns and channels are told apart; multiples of 32, so that sizes
# are halved without remainders.
PROBE_SIZE = (96, 160)

_DEFAULT_STRIDE = 16


class CutError(ValueError):
    """A network that cannot be cut, or not there."""


@dataclass(frozen=True)
class Cut:
    """The part of a network below one of its feature maps.

    Attributes:
        stages: The part, in pieces that run one after another.
        stride: Pixels per position of the feature map.
        offset: Centre in pixels of the receptive field of the map's first cell; None: not known.
        channels: Of the feature map; None: not looked at.
    """

    stages: list[nn.Module]
    stride: int
    offset: float | None
    channels: int | None = None


@dataclass(frozen=True)
class _Map:
    """A feature map inside a network."""

    node: fx.Node
    stride: int
    offset: float | None
    channels_last: bool
    signed: bool


class ToChannelsFirst(nn.Module):
    """Turns maps (B, H, W, C), as some transformers have them, into (B, C, H, W)."""

    def forward(self, maps: Tensor) -> Tensor:
        """The same maps, channels first."""
        return maps.movedim(-1, 1)


class NetworkGraph:
    """What a network computes, as a graph, and where it can be cut.

    Args:
        name: Name of the network, for errors.
        network: Any image classifier that takes images (B, 3, H, W) of any size.
        leaves: Types of modules that cannot be traced through.
        functions: Functions likewise.

    Raises:
        CutError: The network cannot be traced, takes images of one size only, or has no feature
            maps to speak of, as transformers that turn the image into tokens.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        leaves: Sequence[type] = (),
        functions: Sequence[Any] = (),
    ) -> None:
        self.name, self.network = name, network
        training = [module for module in network.modules() if module.training]
        network.eval()
        tracer = Tracer(leaves, functions)
        try:
            self.graph = tracer.trace(network)
            probe = Probe(network, self.graph)
            image = torch.randn(1, 3, *PROBE_SIZE, generator=torch.Generator().manual_seed(0))
            weight = next(network.parameters(), image)
            with torch.no_grad():
                probe.run(image.to(weight.device))
        # Whatever a network cannot do with such an image, it comes down to the same.
        except Exception as error:
            reason = str(error).split("While executing")[0].strip() or type(error).__name__
            reason = reason.splitlines()[0][:120]
            reason = re.sub(r"\(?Proxy\(\w+\)\)?", "another", reason)
            raise CutError(
                f"backbone {name!r} cannot be cut: it takes images of one size alone, as most "
                f"transformers, or cannot be traced ({reason}); choose a convolutional network"
            ) from error
        finally:
            # One by one: frozen parts of a network in training are in evaluation.
            for module in training:
                module.training = True
        self.names: dict[fx.Node, str] = dict(tracer.node_to_qualname)
        self.shapes, self._groups, self._positive = probe.shapes, probe.groups, probe.positive
        for node in self.graph.nodes:
            if node.kwargs.get("inplace") is True:
                # In-place activations would overwrite what hooks and attribution read.
                node.update_kwarg("inplace", False)
        self._refuse_tokens()

    @cached_property
    def _cells(self) -> Mapping[fx.Node, Cells]:
        return cells_of(self.graph, self.network, {**self.shapes, **self._groups})

    def _map(self, node: fx.Node) -> _Map | None:
        """A node as a feature map; None if it is none."""
        shape = self.shapes.get(node)
        if shape is None or len(shape) != 4 or node.op == "placeholder":
            return None
        known = self._cells.get(node)
        if known is not None:
            stride, other = known.y.stride, known.x.stride
            offset = known.y.offset if known.y == known.x else None
            size = known.size
        else:
            # Channels are second, or last.
            pairs = [(shape[2], shape[3]), (shape[1], shape[2])]
            ways = [tuple(p / s for p, s in zip(PROBE_SIZE, pair, strict=True)) for pair in pairs]
            fits = [number for number, (y, x) in enumerate(ways) if x == y]
            if not fits:
                return None
            (stride, other), offset, size = ways[fits[0]], None, pairs[fits[0]]
        if stride != other or not float(stride).is_integer() or max(size) == 1:
            return None
        last = size != (shape[2], shape[3])
        return _Map(node, int(stride), offset, last, node not in self._positive)

    def _line(self, end: fx.Node) -> list[fx.Node]:
        """Nodes up to ``end`` through which everything passes that reaches it.

        After such a node no skip connection carries anything past it.
        """
        order = self._needed(end)
        position = {node: i for i, node in enumerate(order)}
        line, furthest = [], 0
        for i, node in enumerate(order):
            if furthest <= i:
                line.append(node)
            users = [position[user] for user in node.users if user in position]
            furthest = max([furthest, *users])
        return line

    def _needed(self, end: fx.Node, start: fx.Node | None = None) -> list[fx.Node]:
        """What ``end`` is computed from, after ``start``, that depends on the image; in order."""
        wanted, stack = {end}, [end]
        while stack:
            for parent in stack.pop().all_input_nodes:
                if parent not in wanted and parent is not start:
                    wanted.add(parent)
                    stack.append(parent)
        moving: set[fx.Node] = set()
        for node in self.graph.nodes:
            depends = any(parent in moving or parent is start for parent in node.all_input_nodes)
            if node in wanted and (node.op == "placeholder" or depends):
                moving.add(node)
        return [node for node in self.graph.nodes if node in moving]

    @cached_property
    def _maps(self) -> list[_Map]:
        """Feature maps that nothing passes by on its way to the network's answer, in order."""
        (output,) = (node for node in self.graph.nodes if node.op == "output")
        line = self._line(output.all_input_nodes[0])
        maps = [found for node in line if (found := self._map(node)) is not None]
        # The classifier itself, a convolution in some networks, is not a layer of features.
        classifier = [node for node in self.graph.nodes if self._convolves(node)][-1:]
        order = list(self.graph.nodes)
        before = set(order[: order.index(classifier[0])]) if classifier else set(order)
        return [found for found in maps if found.node in before]

    def _refuse_tokens(self) -> None:
        """Refuse networks that make the image a set of tokens before they have looked at it."""
        maps = self._maps
        below = self._needed(maps[-1].node) if maps else []
        after = set(self.graph.nodes) - set(below)
        count = math.prod(PROBE_SIZE) // maps[-1].stride ** 2 if maps else 2
        tokens = any(len(s) == 3 and s[1] >= count for n in after if (s := self.shapes.get(n)))
        total = sum(parameter.numel() for parameter in self.network.parameters())
        if not maps or (tokens and self._size(below) < total / 2):
            raise CutError(
                f"backbone {self.name!r} turns the image into tokens and keeps no feature map; "
                "choose a convolutional network"
            )

    def _size(self, nodes: Sequence[fx.Node]) -> int:
        """Number of parameters of some nodes."""
        modules = [
            self.network.get_submodule(str(node.target))
            for node in nodes
            if node.op == "call_module"
        ]
        return sum(p.numel() for p in {p for module in modules for p in module.parameters()})

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the feature maps, rising."""
        return tuple(sorted({found.stride for found in self._maps if found.stride > 1}))

    def at_stride(self, stride: int | None = None) -> Cut:
        """Cut at the deepest feature map of a stride.

        Only maps count that no skip connection passes by. Where one convolution alone follows the
        last activation of the stride, as in the transitions of a DenseNet, the activation is it.

        Args:
            stride: Pixels per position; None: 16 where there is such a map, else the largest.

        Raises:
            CutError: There is no such stride.
        """
        if stride is None:
            stride = _DEFAULT_STRIDE if _DEFAULT_STRIDE in self.strides else self.strides[-1]
        maps = [found for found in self._maps if found.stride == stride]
        if not maps or stride not in self.strides:
            raise CutError(
                f"stride of {self.name} must be one of {', '.join(map(str, self.strides))}, "
                f"got {stride}"
            )
        deepest = maps[-1]
        active = [found for found in maps if not found.signed]
        if deepest.signed and active:
            between = self._needed(deepest.node, active[-1].node)
            weighty = [node for node in between if self._convolves(node)]
            deepest = active[-1] if len(weighty) <= 1 else deepest
        return self._cut(deepest)

    def _convolves(self, node: fx.Node) -> bool:
        if node.op != "call_module":
            return False
        module = self.network.get_submodule(str(node.target))
        return any(parameter.ndim > 1 for parameter in module.parameters())

    def stride_of(self, node: fx.Node) -> int | None:
        """Pixels per position of what a node gives; None: it is no feature map."""
        if node.op == "placeholder":
            return 1 if node in self.shapes else None
        found = self._map(node)
        return None if found is None else found.stride

    def layer(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls; None: a function."""
        return self.network.get_submodule(str(node.target)) if node.op == "call_module" else None

    def is_window(self, node: fx.Node) -> bool:
        """Whether a node slides a window of several cells over a map."""
        return slides(node, self.network)

    def at_node(self, name: str) -> Cut:
        """Cut after a node, named as in torchvision's ``create_feature_extractor``.

        Args:
            name: Name of a layer, or of a block, which stands for its last node.

        Raises:
            CutError: There is no such node, or it gives no feature map.
        """
        depth = name.count(".") + 1
        for node in reversed(self.graph.nodes):
            if ".".join(self.names.get(node, "").split(".")[:depth]) == name:
                break
        else:
            known = {
                ".".join(full.split(".")[:i])
                for full in self.names.values()
                for i in range(1, full.count(".") + 2)
            }
            raise CutError(f"node {name!r} is not in {self.name}; {nearest(name, known)}")
        found = self._map(node)
        if found is None:
            shape = self.shapes.get(node)
            what = "no tensor" if shape is None else f"shape {shape}"
            last = [self.names[m.node] for m in self._maps if m.node in self.names][-1]
            raise CutError(
                f"node {name!r} of {self.name} gives no feature map ({what} for an image of "
                f"{PROBE_SIZE[0]} x {PROBE_SIZE[1]}); the last that does is {last!r}"
            )
        return self._cut(found)

    def _cut(self, end: _Map) -> Cut:
        """The stages up to a map: a new one where the stride changes."""
        last: dict[int, fx.Node] = {}
        for node in self._line(end.node)[:-1]:
            found = self._map(node)
            if found is not None and found.stride < end.stride:
                last[found.stride] = node
        # A stage without parameters would be nothing to freeze: it goes with another one.
        ends = [next(node for node in self.graph.nodes if node.op == "placeholder")]
        for node in sorted(last.values(), key=list(self.graph.nodes).index):
            if self._size(self._needed(node, ends[-1])):
                ends.append(node)
        if len(ends) > 1 and not self._size(self._needed(end.node, ends[-1])):
            ends.pop()
        pairs = zip(ends, [*ends[1:], end.node], strict=True)
        stages = [self._stage(start, stop) for start, stop in pairs]
        tail: list[nn.Module] = [ToChannelsFirst()] if end.channels_last else []
        # A part template wants activations of one sign.
        tail += [nn.ReLU()] if end.signed else []
        if tail:
            stages[-1] = nn.Sequential(stages[-1], *tail)
        channels = self.shapes[end.node][-1 if end.channels_last else 1]
        return Cut(stages, end.stride, end.offset, channels)

    def _stage(self, start: fx.Node, end: fx.Node) -> nn.Module:
        """What runs from one node to another."""
        graph = fx.Graph()
        copies = {start: graph.placeholder("features")}

        def copy(node: fx.Node) -> fx.Node:
            if node not in copies:  # a constant, which has no place in the order
                copies[node] = graph.node_copy(node, copy)
            return copies[node]

        for node in self._needed(end, start):
            copies[node] = graph.node_copy(node, copy)
        graph.output(copies[end])
        return fx.GraphModule(self.network, graph, "Stage")
