"""A network as a graph of layers, and what its nodes give for one image."""

import math
from collections.abc import Sequence
from typing import Any

import torchvision
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import NodePathTracer

from pellucid.models.backbones.positions import Shape


class Tracer(NodePathTracer):  # type: ignore[misc]  # torchvision has no types
    """Goes no deeper than layers: what has no children, or keeps statistics of its own.

    Such layers may ask whether they are training; a trace that went into them would fix the answer.
    """

    def __init__(self, leaves: Sequence[type], functions: Sequence[Any]) -> None:
        super().__init__(
            leaf_modules=list(leaves),
            autowrap_modules=(math, torchvision.ops),
            autowrap_functions=tuple(functions),
        )

    def is_leaf_module(self, m: nn.Module, module_qualname: str) -> bool:
        """Whether a module is one node of the graph."""
        own = next(m.buffers(recurse=False), None) is not None
        small = next(m.children(), None) is None
        return own or small or bool(super().is_leaf_module(m, module_qualname))


class Probe(fx.Interpreter):
    """Runs a network once, and remembers the shapes and signs of what its nodes give."""

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        super().__init__(network, graph=graph)
        self.shapes: dict[fx.Node, Shape] = {}
        self.groups: dict[fx.Node, Shape] = {}
        self.positive: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n] = tuple(value.shape)
            # A map of zeros says nothing about its sign.
            if value.ndim == 4 and bool((value >= 0).all()) and bool((value > 0).any()):
                self.positive.add(n)
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Tensor):
            self.groups[n] = tuple(value[0].shape)
        return value
