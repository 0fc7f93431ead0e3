"""Finer maps from the deepest layers of a pretrained network: dilation in place of strides.

A layer that would make the map coarser than the output stride moves by one cell instead, and the
windows of all that follow are dilated by what it no longer skips. The weights stay as they are, and
every cell that the network had before has the value that it had (where no layer looks at the whole
map, as squeeze-and-excitation does); between them there are new ones.

Source: Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017
(arXiv 1706.05587), section 3.1.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import fx, nn

from pellucid.models.backbones.graph import PROBE_SIZE, Cut, CutError, NetworkGraph


def dilate(graph: NetworkGraph, cut: Cut, output_stride: int) -> Cut:
    """Let no map of a network be coarser than an output stride, from the image to a cut.

    Args:
        graph: The network, whose layers are changed in place.
        cut: A part of the network.
        output_stride: Pixels per position of the new maps; a stride of the network below the cut's.

    Returns:
        The same part with the new stride. Its first cell looks where it did.

    Raises:
        CutError: There is no such stride below the cut's, or a layer is in the way that cannot be
            dilated; names it.
    """
    finer = [stride for stride in graph.strides if stride < cut.stride]
    if output_stride not in finer:
        raise CutError(
            f"output_stride of {graph.name} must be one of {', '.join(map(str, finer))}, below the "
            f"stride of {cut.stride} that it has without, got {output_stride}"
        )
    inside = {module for stage in cut.stages for module in stage.modules()}
    done: dict[nn.Module | None, tuple[int, int]] = {}
    for node, before in _coarse_layers(graph, output_stride):
        layer = graph.layer(node)
        if layer is not None and layer not in inside:
            continue
        plan = max(before // output_stride, 1), max(output_stride // before, 1)
        known = layer in done
        if layer is None or not _can(layer, plan[0]) or done.setdefault(layer, plan) != plan:
            kind = node.target if layer is None else type(layer).__name__
            raise CutError(
                f"{graph.name} cannot be dilated: {graph.names.get(node, node)!s} ({kind}) is in "
                "the way; leave output_stride out (null)"
            )
        if not known:
            _set(layer, *plan)
    _check_runs(graph.name, cut)
    return replace(cut, stride=output_stride)


def _coarse_layers(graph: NetworkGraph, output_stride: int) -> Iterator[tuple[fx.Node, int]]:
    """Layers whose maps are coarser than the output stride, with the stride before.

    Those that look at one cell at a time and keep the stride are left out: nothing changes there.
    """
    for node in graph.graph.nodes:
        after = graph.stride_of(node)
        inputs = [graph.stride_of(parent) for parent in node.all_input_nodes]
        before = next((stride for stride in inputs if stride is not None), None)
        if before is None or after is None or after <= output_stride:
            continue
        if after != before or graph.is_window(node):
            yield node, before


def _can(layer: nn.Module, factor: int) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode == "zeros"
    # Average pooling has no dilation; where it alone is what lowers the resolution it needs none.
    return isinstance(layer, nn.MaxPool2d) or (isinstance(layer, nn.AvgPool2d) and factor == 1)


def _set(layer: nn.Module, factor: int, step: int) -> None:
    """Dilate a layer's window, and let it move by so many cells."""

    def times(value: int | tuple[int, ...]) -> tuple[int, int]:
        rows, columns = value if isinstance(value, tuple | list) else (value, value)
        return rows * factor, columns * factor

    assert isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)
    layer.stride = (step, step)
    if not isinstance(layer, nn.AvgPool2d):
        layer.dilation = times(layer.dilation)
        if not isinstance(layer.padding, str):
            layer.padding = times(layer.padding)


@torch.no_grad()
def _check_runs(name: str, cut: Cut) -> None:
    """Branches that are added must still be of one size."""
    training = [module for stage in cut.stages for module in stage.modules() if module.training]
    maps = torch.zeros(1, 3, *PROBE_SIZE)
    try:
        for stage in cut.stages:
            maps = stage.eval()(maps)
    except RuntimeError as error:
        raise CutError(
            f"{name} cannot be dilated: its branches come out in different sizes "
            f"({str(error).splitlines()[0][:120]}); leave output_stride out (null)"
        ) from error
    finally:
        for module in training:
            module.training = True
