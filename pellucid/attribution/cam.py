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
from torch.overrides import TorchFunctionMode

from pellucid.attribution.functions import (
    MOVING,
    Function,
    FunctionRules,
    Rule,
    depends,
    function_name,
    layer_names,
)
from pellucid.attribution.method import (
    AttributionMethod,
    Finding,
    UnsupportedNetwork,
    check_scores,
    evaluating,
)
from pellucid.metrics.maps.completeness import completeness_error

_AFTER = MOVING | {"linear", "batch_norm", "conv2d"}
_AVERAGES = ("mean", "adaptive_avg_pool2d", "avg_pool2d")
_REMEDY = "use grad_cam"


class CAM(AttributionMethod):
    """Class activation maps, for (+) and against (-) the target, on the grid of the last maps."""

    name = "cam"
    label = "Class activation map"
    sign = "signed"
    promises_completeness = True

    checks_itself = True

    def check(self, network: nn.Module, image: Tensor | None = None) -> None:
        """See :meth:`AttributionMethod.check`: refuses all but an average and an affine layer."""
        if image is not None:
            with evaluating(network), torch.inference_mode(False), torch.enable_grad():
                _without_maps(network, image[:1].detach().clone())

    def explain(self, network: nn.Module, image: Tensor, target: Tensor | None) -> Finding:
        """See :meth:`AttributionMethod.explain`."""
        without, number = _without_maps(network, image[:1])
        with _Cut(number) as cut:
            scores = check_scores(network(image.detach()), len(image), target)
        chosen = (scores.argmax(1) if target is None else target).unsqueeze(1)
        score = scores.gather(1, chosen)
        if cut.maps is None:
            raise UnsupportedNetwork("network", "it averages other maps of some images", _REMEDY)
        (weight,) = torch.autograd.grad(score.sum(), cut.maps)
        heat = (weight * cut.maps.detach()).sum(1)
        promised = (score.squeeze(1) - without[0][chosen.squeeze(1)]).detach()
        error = completeness_error(heat, promised)
        return Finding(heat=heat, scores=scores, error=error)


class _Averages(FunctionRules):
    """Puts zeros in place of the maps of each average, and watches what follows the last.

    Args:
        layers: Names of the running layers.
    """

    def __init__(self, layers: list[str]) -> None:
        rules: dict[str, Rule] = dict.fromkeys(_AVERAGES, self.average)
        super().__init__(CAM.label, rules, None, layers, _REMEDY)
        self.calls, self.last = 0, 0
        """Functions that may average so far, and which of them, from 1, was the last average."""
        self.after: UnsupportedNetwork | None = None

    def __torch_function__(
        self, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = function_name(func)
        self.calls += name in _AVERAGES
        result = super().__torch_function__(func, types, args, kwargs)
        known = name in _AFTER or name in _AVERAGES or not depends(result)
        if self.last and not known and self.after is None:
            self.after = self.refusal(f"{name}() follows the average: no sum over places")
        return result

    def average(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Rule of functions that may be the average; others of them follow it like any function."""
        result = func(*args, **kwargs)
        maps = args[0] if args else kwargs["input"]
        if not _is_average(maps, result):
            if self.last and self.after is None:
                self.after = self.refusal(f"{function_name(func)}() follows the average")
            return result
        self.last, self.after = self.calls, None
        return _average(func, torch.zeros_like(maps).requires_grad_(), args, kwargs)


class _Cut(TorchFunctionMode):
    """Cuts a network off below an average, so that gradients are kept of what follows alone.

    Args:
        number: Of the average among the functions that may average, from 1.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.calls = number, 0
        self.maps: Tensor | None = None

    def __torch_function__(
        self, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        self.calls += function_name(func) in _AVERAGES
        if self.maps is not None or self.calls < self.number:
            return func(*args, **kwargs)
        maps: Tensor = args[0] if args else kwargs["input"]
        self.maps = maps.detach().clone().requires_grad_()
        return _average(func, self.maps, args, kwargs)


def _average(func: Function, maps: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The average of other maps than those of the call."""
    return func(maps, *args[1:], **kwargs) if args else func(**(kwargs | {"input": maps}))


def _is_average(maps: Any, result: Any) -> bool:
    """Whether a pooling has made one value of each map (B, U, h, w)."""
    return (
        isinstance(maps, Tensor)
        and isinstance(result, Tensor)
        and maps.ndim == 4
        and result.shape[:2] == maps.shape[:2]
        and result.numel() == maps.shape[0] * maps.shape[1]
    )


def _without_maps(network: nn.Module, image: Tensor) -> tuple[Tensor, int]:
    """Scores (1, K) of no maps, and which function that may average is the last average, from 1.

    Args:
        network: The network.
        image: (1, C, H, W).

    Raises:
        UnsupportedNetwork: No maps are averaged, or the scores are no affine function of averages.
    """
    with layer_names(network) as layers, _Averages(layers) as averages:
        scores: Tensor = network(image.detach().requires_grad_())
    if averages.after is not None:
        raise averages.after
    if not averages.last or not depends(scores):
        raise UnsupportedNetwork("network", "it averages no maps over all places", _REMEDY)
    return scores.detach(), averages.last
