"""Class activation maps: what each place adds to the score of a network that averages its maps.

Source: Zhou, Khosla, Lapedriza, Oliva and Torralba, *Learning Deep Features for Discriminative
Localization*, CVPR 2016 (arXiv 1512.04150), equation 2.

Promise: a map sums to the score less the bias, ``f(x) - f(no maps)``: the score that the layers
after the average give to maps of zeros.

Only a network that averages its last maps over all places, and whose scores are an affine function
of the averages, has such maps. Where it is not sure that a network is one, it is refused.

Where this differs from the paper:

- The map is divided by the number of places, as the average is, so that it sums to what it says.
- Batch normalisation and drop-out may stand between the average and the linear layer.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pellucid.attribution.functions import (
    MOVING,
    FunctionRules,
    Rule,
    depends,
    function_name,
    layer_names,
    preflight,
)
from pellucid.attribution.method import (
    AttributionMethod,
    Finding,
    UnsupportedNetwork,
    check_scores,
    completeness_error,
)

_AFTER = MOVING | {"linear", "batch_norm", "conv2d"}
_REMEDY = "use grad_cam"


class CAM(AttributionMethod):
    """Class activation maps, for (+) and against (-) the target, on the grid of the last maps."""

    name = "cam"
    label = "Class activation map"
    sign = "signed"
    promises_completeness = True

    def check(self, network: nn.Module, image: Tensor | None = None) -> None:
        """See :meth:`AttributionMethod.check`: refuses all but an average and an affine layer."""
        if image is not None:
            preflight(network, image, lambda net, one: _run(net, one)[0], self.label)

    def explain(self, network: nn.Module, image: Tensor, target: Tensor | None) -> Finding:
        """See :meth:`AttributionMethod.explain`."""
        scores, maps = _run(network, image.detach().requires_grad_())
        check_scores(scores, len(image), target)
        chosen = (scores.argmax(1) if target is None else target).unsqueeze(1)
        score = scores.gather(1, chosen)
        (weight,) = torch.autograd.grad(score.sum(), maps)
        heat = (weight * maps.detach()).sum(1)
        with torch.no_grad():
            without = _run(network, image[:1].detach().requires_grad_(), empty=True)[0]
        promised = score.detach().squeeze(1) - without[0][chosen.squeeze(1)]
        error = completeness_error(heat.double().flatten(1).sum(1), promised.double())
        return Finding(heat=heat, scores=scores, error=error)


def _run(network: nn.Module, image: Tensor, empty: bool = False) -> tuple[Tensor, Tensor]:
    """Scores (B, K), and the last maps that are averaged, a leaf on which alone they depend.

    Args:
        network: The network.
        image: (B, C, H, W), with a gradient.
        empty: Whether to put zeros in place of the maps.
    """
    found = _find(network, image[:1])
    with torch.enable_grad(), layer_names(network) as layers:
        pools = _Pools(found, empty)
        rules = FunctionRules(CAM.label, {}, None, layers, _REMEDY)
        rules.rules = dict.fromkeys(("mean", "adaptive_avg_pool2d", "avg_pool2d"), pools.rule)
        with rules:
            scores: Tensor = network(image)
    maps = pools.maps
    if maps is None or not scores.requires_grad:
        raise UnsupportedNetwork("network", "its scores do not come from averaged maps", _REMEDY)
    return scores, maps


class _Pools:
    """Counts the averages over all places, and cuts the network off below one of them."""

    def __init__(self, number: int, empty: bool) -> None:
        self.number, self.empty, self.count = number, empty, 0
        self.maps: Tensor | None = None

    def rule(self, func: Any, args: Any, kwargs: Any) -> Any:
        result = func(*args, **kwargs)
        maps = args[0] if args else kwargs["input"]
        if not averages(maps, result):
            return result
        self.count += 1
        if self.count != self.number:
            return result
        leaf = torch.zeros_like(maps) if self.empty else maps.detach().clone()
        self.maps = leaf.requires_grad_()
        if args:
            return func(self.maps, *args[1:], **kwargs)
        return func(**(kwargs | {"input": self.maps}))


def averages(maps: Any, result: Any) -> bool:
    """Whether a pooling has made one value of each map (B, U, h, w)."""
    return (
        isinstance(maps, Tensor)
        and isinstance(result, Tensor)
        and maps.ndim == 4
        and result.numel() == maps.shape[0] * maps.shape[1]
        and result.shape[:2] == maps.shape[:2]
    )


def _find(network: nn.Module, image: Tensor) -> int:
    """Number of the last average over places, from 1, after which all is affine.

    Raises:
        UnsupportedNetwork: There is none, or another function follows it.
    """
    count, after = 0, ""

    def pool(func: Any, args: Any, kwargs: Any) -> Any:
        nonlocal count, after
        result = func(*args, **kwargs)
        if averages(args[0] if args else kwargs["input"], result):
            count, after = count + 1, ""
        elif count:
            after = after or f"{_layer(layers)}: {function_name(func)}"
        return result

    class Watch(FunctionRules):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal after
            name, given = function_name(func), (args, kwargs or {})
            result = super().__torch_function__(func, types, args, kwargs)
            known = name in _AFTER or name in self.rules or not depends(result)
            if depends(given) and count and not known:
                after = after or f"{_layer(layers)}: {name}"
            return result

    one = image.detach().clone().requires_grad_()
    with torch.enable_grad(), layer_names(network) as layers:
        rules: dict[str, Rule] = dict.fromkeys(("mean", "adaptive_avg_pool2d", "avg_pool2d"), pool)
        with Watch(CAM.label, rules, None, layers, _REMEDY):
            network(one)
    if not count:
        raise UnsupportedNetwork("network", "it averages no maps over all places", _REMEDY)
    if after:
        layer, name = after.rsplit(": ", 1)
        raise UnsupportedNetwork(
            layer, f"{name}() follows the average: the score is no sum over places", _REMEDY
        )
    return count


def _layer(layers: list[str]) -> str:
    return layers[-1] if layers else "network"
