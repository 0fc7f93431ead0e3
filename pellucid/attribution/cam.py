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
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from pellucid.attribution.functions import (
    JUMPING,
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
_STOPPING = JUMPING | {"numpy", "tolist", "item", "__array__"}
_DATA = Tensor.data.__get__  # type: ignore[attr-defined]
_REMEDY = "use grad_cam"


class CAM(AttributionMethod):
    """Class activation maps, for (+) and against (-) the target, on the grid of the last maps."""

    name = "cam"
    label = "Class activation map"
    sign = "signed"
    promises_completeness = True

    checks_itself = True

    def __init__(self) -> None:
        # For speed alone: networks on which one look was not enough.
        self._longer: WeakSet[nn.Module] = WeakSet()

    def __reduce__(self) -> tuple[type["CAM"], tuple[()]]:
        # Weak references cannot be pickled, and mean nothing elsewhere.
        return CAM, ()

    def check(self, network: nn.Module, image: Tensor | None = None) -> None:
        """See :meth:`AttributionMethod.check`: refuses all but an average and an affine layer."""
        if image is not None:
            with evaluating(network), torch.inference_mode(False), torch.enable_grad():
                _without_maps(network, image[:1].detach().clone())

    def explain(self, network: nn.Module, image: Tensor, target: Tensor | None) -> Finding:
        """See :meth:`AttributionMethod.explain`."""
        found = None if network in self._longer else _look_once(network, image, target)
        if found is not None:
            return found
        self._longer.add(network)
        return _look_twice(network, image, target)


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


class _Unsure(Exception):  # noqa: N818 - what it says
    """One look does not show that the network is one on which the method is right."""


class _Once(FunctionRules):
    """Cuts a network off below its first average, and adds maps of zeros to those of the images.

    Whatever may be otherwise than in a plain network raises :class:`_Unsure`: a second average, a
    function after the first that is not surely affine, one that gradients would not pass.

    Args:
        image: What the network is run on. What depends on it is followed without gradients.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__(CAM.label, {}, None, [], _REMEDY)
        self.maps: Tensor | None = None
        self._marked: Any = WeakIdKeyDictionary()
        self._marked[image] = True

    def __torch_function__(
        self, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs, name = kwargs or {}, function_name(func)
        # More than is needed: also what does not depend on the image.
        self._check_chance(name, args, kwargs)
        result = func(*args, **kwargs)
        touched = self._is_marked([*args, *kwargs.values()])
        if self.maps is not None:
            followed = touched or depends((args, kwargs))
            if name in _AVERAGES or (followed and name not in _AFTER and _has_tensor(result)):
                raise _Unsure
            self._mark(result, touched)
            return result
        if touched and (not torch.is_grad_enabled() or name in _STOPPING or func == _DATA):
            raise _Unsure
        maps = args[0] if args else kwargs.get("input")
        if name not in _AVERAGES or not touched or not _is_average(maps, result):
            self._mark(result, touched)
            return result
        zeros = torch.zeros_like(maps[:1])
        self.maps = torch.cat([maps.detach(), zeros]).requires_grad_()
        return _average(func, self.maps, args, kwargs)

    def _is_marked(self, found: Any) -> bool:
        if isinstance(found, Tensor):
            return found in self._marked
        return isinstance(found, list | tuple) and any(self._is_marked(each) for each in found)

    def _mark(self, result: Any, touched: bool) -> None:
        if isinstance(result, Tensor) and touched and result.is_floating_point():
            self._marked[result] = True
        elif isinstance(result, list | tuple):
            for each in result:
                self._mark(each, touched)


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


def _has_tensor(result: Any) -> bool:
    if isinstance(result, list | tuple):
        return any(_has_tensor(each) for each in result)
    return isinstance(result, Tensor)


def _is_average(maps: Any, result: Any) -> bool:
    """Whether a pooling has made one value of each map (B, U, h, w)."""
    return (
        isinstance(maps, Tensor)
        and isinstance(result, Tensor)
        and maps.ndim == 4
        and result.shape[:2] == maps.shape[:2]
        and result.numel() == maps.shape[0] * maps.shape[1]
    )


def _look_once(network: nn.Module, image: Tensor, target: Tensor | None) -> Finding | None:
    """What :func:`_look_twice` finds, in one run; None where that does not show it to be right.

    A run on one image takes a tenth of the time of a run on 64. Here maps of zeros go the last
    steps beside those of the images instead.
    """
    seen = image.detach()
    try:
        with _Once(seen) as once:
            scores = network(seen)
        if once.maps is None or not depends(scores) or len(scores) != len(once.maps):
            return None
        return _finding(scores[:-1], once.maps, scores[-1], target)
    # Layers that want as many rows as there are images fail in ways of their own; what fails for
    # another reason fails again in the longer way.
    except Exception:
        return None


def _look_twice(network: nn.Module, image: Tensor, target: Tensor | None) -> Finding:
    """Runs the network on one image, to see what follows its averages, and then on all."""
    without, number = _without_maps(network, image[:1])
    with _Cut(number) as cut:
        scores = check_scores(network(image.detach()), len(image), target)
    if cut.maps is None:
        raise UnsupportedNetwork("network", "it averages other maps of some images", _REMEDY)
    return _finding(scores, cut.maps, without[0], target)


def _finding(scores: Tensor, maps: Tensor, without: Tensor, target: Tensor | None) -> Finding:
    """Heat maps and their completeness error.

    Args:
        scores: (B, K).
        maps: (B, U, h, w), or one more, of zeros.
        without: (K,) scores of no maps.
        target: (B,), or None: the predicted class.
    """
    count = len(scores)
    check_scores(scores, count, target)
    chosen = (scores.argmax(1) if target is None else target).unsqueeze(1)
    score = scores.gather(1, chosen)
    (weight,) = torch.autograd.grad(score.sum(), maps)
    if bool(weight[count:].any()):
        # A layer has moved rows or mixed them.
        raise _Unsure
    heat = (weight * maps.detach())[:count].sum(1)
    promised = (score.squeeze(1) - without[chosen.squeeze(1)]).detach()
    return Finding(heat=heat, scores=scores, error=completeness_error(heat, promised))


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
