"""Where in the image the cells of a network's feature maps look: stride and offset, layer by layer.

The stride of a map is the distance in pixels of neighbouring cells, its offset the centre of the
first cell's receptive field. A window of ``k`` cells, dilated by ``d``, moving by ``t`` and
starting ``p`` cells before the map, turns a stride ``s`` and an offset ``o`` into

    ``s' = s t``,    ``o' = o + s (d (k - 1) / 2 - p)``.

Source: Araujo, Norris, Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill
2019, section "Alignment issues".
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional as F

Shape = tuple[int, ...]

_POOLS = {
    F.max_pool2d: nn.MaxPool2d,
    torch.max_pool2d: nn.MaxPool2d,
    F.avg_pool2d: nn.AvgPool2d,
}
_WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
_MERGES = (operator.add, operator.mul, torch.add, torch.mul, torch.cat, torch.concat)


class Axis(NamedTuple):
    """Positions of the cells along one axis, in pixels: ``offset + stride j``."""

    stride: float
    offset: float


class Cells(NamedTuple):
    """Positions of a map's cells along its rows and columns, and how many there are."""

    y: Axis
    x: Axis
    size: tuple[int, int]


def cells_of(
    graph: fx.Graph, network: nn.Module, shapes: Mapping[fx.Node, Shape]
) -> dict[fx.Node, Cells]:
    """Positions of the cells of every map whose way from the image is understood.

    Args:
        graph: The traced network.
        network: Holds the graph's modules.
        shapes: Shapes of the tensors that the nodes gave for one image; of several, the first's.

    Returns:
        Positions by node. What follows an unknown layer that changes the size of its map is left
        out; unknown layers that keep the size are taken to look straight ahead.
    """
    found: dict[fx.Node, Cells] = {}
    for node in graph.nodes:
        if node.op == "placeholder" and node in shapes:  # others are options
            height, width = shapes[node][2:]
            found[node] = Cells(Axis(1, 0), Axis(1, 0), (height, width))
        elif (cells := _step(node, network, shapes.get(node), found)) is not None:
            found[node] = cells
    return found


def _step(
    node: fx.Node, network: nn.Module, shape: Shape | None, found: Mapping[fx.Node, Cells]
) -> Cells | None:
    inputs = [found[parent] for parent in node.all_input_nodes if parent in found]
    if node.target not in _MERGES:
        inputs = inputs[:1]
    # A gate has one cell, which stands for the whole map.
    inputs = [cells for cells in inputs if cells.size != (1, 1)] or inputs
    before = _mean(inputs)
    if before is None or shape is None or len(shape) < 3:
        return None
    size = (shape[-2], shape[-1])
    if (shape[-3], shape[-2]) == before.size != size:
        return before  # channels last from here on
    if node.target is F.pad:
        return _pad(node, before, size)
    window = _window(node, network)
    if window is None:
        return before if size == before.size else None
    y, x = (
        _slide(axis, window, number, before.size[number], size[number])
        for number, axis in enumerate((before.y, before.x))
    )
    return Cells(y, x, size)


def _mean(branches: Sequence[Cells]) -> Cells | None:
    """Where the sum of branches looks: between them, where they look at places apart."""
    if len({(cells.y.stride, cells.x.stride, cells.size) for cells in branches}) != 1:
        return None
    y, x = (
        Axis(axes[0].stride, sum(axis.offset for axis in axes) / len(axes))
        for axes in ([cells.y for cells in branches], [cells.x for cells in branches])
    )
    return Cells(y, x, branches[0].size)


def _pad(node: fx.Node, before: Cells, size: tuple[int, int]) -> Cells | None:
    # (left, right, top, bottom), whichever mode.
    ends: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("pad")
    if not isinstance(ends, list | tuple) or not all(isinstance(end, int) for end in ends):
        return None
    top = ends[2] if len(ends) > 2 else 0
    y, x = (
        Axis(axis.stride, axis.offset - axis.stride * start)
        for axis, start in ((before.y, top), (before.x, ends[0]))
    )
    return Cells(y, x, size)


def _window(node: fx.Node, network: nn.Module) -> nn.Module | None:
    """The layer of a sliding window; None for everything else."""
    if node.op == "call_module":
        module = network.get_submodule(str(node.target))
        return module if isinstance(module, _WINDOWS) else None
    pool: Any = _POOLS.get(node.target) if node.op == "call_function" else None  # type: ignore[arg-type]
    if pool is None:
        return None
    try:
        made: nn.Module = pool(*node.args[1:], **node.kwargs)
    except TypeError:
        return None
    return made


def slides(node: fx.Node, network: nn.Module) -> bool:
    """Whether a node slides a window of several cells over a map.

    Args:
        node: A node of the traced network.
        network: Holds the graph's modules.
    """
    window: Any = _window(node, network)
    if window is None:
        return False
    size = window.kernel_size
    return bool(max(size if isinstance(size, list | tuple) else (size,)) > 1)


def _slide(axis: Axis, window: Any, number: int, size: int, after: int) -> Axis:
    def one(value: Any) -> int:
        return int(value[number] if isinstance(value, list | tuple) else value)

    kernel, step = one(window.kernel_size), one(window.stride)
    reach = one(getattr(window, "dilation", 1)) * (kernel - 1)
    named = isinstance(window.padding, str)
    start = 0 if named else one(window.padding)
    plain = (size + 2 * start - reach - 1) // step + 1
    if named or (after != plain and not getattr(window, "ceil_mode", False)):
        # Padded to ceil(size / step) cells, the odd one at the far end.
        start = max((after - 1) * step + reach + 1 - size, 0) // 2
    return Axis(axis.stride * step, axis.offset + axis.stride * (reach / 2 - start))
