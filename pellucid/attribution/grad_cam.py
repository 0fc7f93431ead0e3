"""Grad-CAM: where the maps of a layer speak for a class.

Source: Selvaraju et al., *Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization*, ICCV 2017 (arXiv 1610.02391), equations 1 and 2.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pellucid.attribution.functions import function_name
from pellucid.attribution.method import (
    AttributionMethod,
    Finding,
    UnsupportedNetwork,
    check_scores,
    evaluating,
)
from pellucid.models.backbones import Backbone, TransformerBackbone

_ATTENTION = ("scaled_dot_product_attention", "multi_head_attention_forward")


def grad_cam(
    network: nn.Module,
    image: Tensor,
    target: Tensor | None = None,
    layer: str | None = None,
    scores: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    r"""Grad-CAM of a batch, :math:`\max(0, \sum_c \alpha_c A_c)`.

    :math:`A_c` are the layer's maps and :math:`\alpha_c` the mean over places of the gradient of
    the target's score (a logit) with respect to :math:`A_c`. The network is put in evaluation mode
    for the call, so that images do not act on each other; its parameters may be frozen, and their
    gradients are left alone.

    Args:
        network: The network.
        image: (B, C, H, W) float.
        target: (B,) int64; None: the predicted class.
        layer: Name of a layer whose output is maps (B, U, h, w), as ``network.named_modules()``
            has it; None: the network's :class:`~pellucid.models.backbones.Backbone`.
        scores: Makes class scores (B, K), logits, of images by way of the layer; None: the network
            itself.

    Returns:
        (B, h, w) float32, at least 0, on the layer's grid.

    Raises:
        ValueError: There is no such layer, or no backbone; the layer does not run or gives no maps,
            or the scores do not depend on it.
    """
    module = _find(network, layer)
    training = {each: each.training for each in network.modules()}
    network.eval()
    try:
        # Gradients are needed even where the caller, as a test does, has turned them off.
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            _maps_as_leaves(module) as seen,
        ):
            found = (scores or network)(image.clone())
            if not seen:
                raise ValueError(f"layer {layer!r} does not run when the scores are computed")
            maps = seen[-1]
            chosen = found.argmax(1) if target is None else target.clone()
            total = found.gather(1, chosen.unsqueeze(1)).sum()
            if not total.requires_grad:
                raise ValueError(
                    "scores do not depend on the layer by a gradient: give scores=, a function "
                    "that computes them without torch.no_grad"
                )
            gradient = torch.autograd.grad(total, maps)[0].float()
    finally:
        for each, mode in training.items():
            each.training = mode
    weight = rearrange(gradient.mean((2, 3)), "b c -> b c 1 1")
    return (weight * maps.detach().float()).sum(1).clamp(min=0)


def _find(network: nn.Module, layer: str | None) -> nn.Module:
    if layer is not None:
        if not layer or layer not in dict(network.named_modules()):
            raise ValueError(f"layer must be the name of a module of the network, got {layer!r}")
        return network.get_submodule(layer)
    backbone = next((each for each in network.modules() if isinstance(each, Backbone)), None)
    if backbone is None:
        raise ValueError(
            f"{type(network).__name__} has no backbone: name the layer whose maps are to be used"
        )
    return backbone


@contextmanager
def _maps_as_leaves(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect a module's maps, cut off from what is below, which need not be differentiated."""
    seen: list[Tensor] = []

    def cut(module: nn.Module, inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4:
            given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"the layer gives no maps (B, U, h, w) but {given}; name another one")
        seen.append(output.detach().requires_grad_())
        # An operation in place, as some ReLUs are, must not change the maps themselves.
        return seen[-1].clone()

    handle = module.register_forward_hook(cut)
    try:
        yield seen
    finally:
        handle.remove()


class GradCAM(AttributionMethod):
    """Grad-CAM of a layer, at least 0, on the layer's grid.

    Args:
        layer: Name of the layer; None: the network's backbone, else the last module that gives maps
            and is no pooling, which is what the paper recommends.

    Raises:
        ValueError: The name is empty.
    """

    name = "grad_cam"
    label = "Grad-CAM"
    sign = "positive"
    checks_itself = True

    def __init__(self, layer: str | None = None) -> None:
        if layer == "":
            raise ValueError("layer must be the name of a module of the network, got ''")
        self.layer = layer

    def check(self, network: nn.Module, image: Tensor | None = None) -> None:
        """See :meth:`AttributionMethod.check`: refuses networks without maps."""
        if image is not None and self._given(network) is None:
            last_maps(network, image[:1])

    def _given(self, network: nn.Module) -> str | None:
        """The name of the layer where no run is needed to know it."""
        if self.layer is not None:
            return self.layer
        for name, module in network.named_modules():
            if (
                name
                and isinstance(module, Backbone)
                and not isinstance(module, TransformerBackbone)
            ):
                return name
        return None

    def explain(self, network: nn.Module, image: Tensor, target: Tensor | None) -> Finding:
        """See :meth:`AttributionMethod.explain`."""
        layer = self._given(network) or last_maps(network, image[:1])
        seen: list[Tensor] = []

        def scores(image: Tensor) -> Tensor:
            seen.append(check_scores(network(image), len(image), target))
            return seen[-1]

        heat = grad_cam(network, image, target, layer, scores)
        return Finding(heat=heat, scores=seen[-1])


def last_maps(network: nn.Module, image: Tensor) -> str:
    """Name of the last module that gives maps (B, U, h, w) of more than one place, no pooling.

    Args:
        network: The network.
        image: (1, C, H, W).

    Raises:
        UnsupportedNetwork: There is none, or the maps are read as tokens by attention.
    """
    found: list[str] = []
    watch = _Attention()
    handles = []

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def see(module: nn.Module, inputs: Any, output: Any) -> None:
            maps = isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1
            if maps and "Pool" not in type(module).__name__:
                found.append(name)
                watch.since = False

        return see

    for name, module in network.named_modules():
        if name:
            handles.append(module.register_forward_hook(hook(name)))
    try:
        with evaluating(network), torch.no_grad(), watch:
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    if not found or watch.since:
        reason = "attention reads its maps as tokens" if found else "no layer gives maps"
        raise UnsupportedNetwork(
            found[-1] if found else "network",
            reason,
            "use integrated_gradients, or the model's own attention maps",
        )
    return found[-1]


class _Attention(TorchFunctionMode):
    """Whether attention ran since :attr:`since` was set to False."""

    since = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.since = self.since or function_name(func) in _ATTENTION
        return func(*args, **(kwargs or {}))
