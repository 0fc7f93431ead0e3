"""DeepLIFT: what each input value's difference from a baseline adds to the score's.

Source: Shrikumar, Greenside and Kundaje, *Learning Important Features Through Propagating
Activation Differences*, ICML 2017 (arXiv 1704.02685): the rescale rule, section 3.5.2.

Promise: over all input values of an image, attributions sum to ``f(x) - f(baseline)``.

Each function with a rule is replaced by a linear one that passes through its values at the image
and at the baseline (equation 11 of the paper), whatever the network writes it as: a module, shared
or in place, or a function. The gradient of that linear network is the multiplier of each value.

Where this differs from the paper:

- A product of two things that both depend on the image gives each its mean of the other, half of
  what the product changes by: the paper has no rule for products. A factor that the gradient does
  not reach, as a mask made of detached activations, counts as part of an activation.
- Soft-max is taken apart into exponentials, their sum, and a product.
- A maximum's difference goes to the place that is largest in the image, and what the baseline's
  own largest place loses to that one, as Captum has it.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.attribution.functions import (
    ADDING,
    AVERAGING,
    MOVING,
    MULTIPLYING,
    POOLING_MAXIMA,
    WEIGHTED,
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

_ELEMENTWISE = (
    *("relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "gelu", "silu", "hardswish"),
    *("hardsigmoid", "sigmoid", "logsigmoid", "tanh", "elu", "celu", "selu", "leaky_relu", "mish"),
    *("softplus", "softsign", "exp", "log", "sqrt", "rsqrt", "square", "reciprocal", "abs"),
)
_PLAIN = MOVING | AVERAGING | WEIGHTED | ADDING
_LEAST = 1e-8
"""Difference of an activation's inputs below which its slope is its derivative."""
_MOST_LOST = 0.01
"""Share of all that attributions move by which they may miss the score's difference at most; what
rounding costs is far below it."""
_REMEDY = "use integrated_gradients, which needs no rules"


def rescale(value: Tensor, function: Any) -> Tensor:
    """An elementwise function as the line through its values at the image and at the baseline.

    Args:
        value: (2 B, ...), images first, then their baselines.
        function: Maps a tensor to one of the same shape.
    """
    with torch.no_grad():
        result = function(value)
        change, rise = _difference(value), _difference(result)
        far = change.abs() > _LEAST
        slope = torch.where(far, rise / torch.where(far, change, 1.0), 0.0)
    if not far.all():
        with torch.enable_grad():
            here = value.detach()[: len(value) // 2].requires_grad_()
            (derivative,) = torch.autograd.grad(function(here).sum(), here)
        slope = torch.where(far, slope, derivative)
    return _through(result, value * _twice(slope))


def rescale_maximum(value: Tensor, pool: Any) -> Tensor:
    """Max pooling as a line through its values at the image and at the baseline.

    Args:
        value: (2 B, C, H, W), images first.
        pool: Gives maxima and their places in the flattened plane, (2 B, C, h, w) each.
    """
    with torch.no_grad():
        result, places = pool(value)
        own, reference = result.chunk(2)
        highest = torch.maximum(own, reference)
        own_place, reference_place = (each.flatten(2) for each in places.chunk(2))
        change = _difference(value).flatten(2)
        gained = _ratio((highest - reference).flatten(2), change.gather(2, own_place))
        lost = _ratio((own - highest).flatten(2), change.gather(2, reference_place))
    flat = value.flatten(2)
    line = flat.gather(2, _twice(own_place)) * _twice(gained)
    line = line + flat.gather(2, _twice(reference_place)) * _twice(lost)
    return _through(result, line.view_as(result))


def rescale_product(first: Tensor, second: Tensor, product: Any) -> Tensor:
    """A product, linear in each factor, as a line through its values at image and baseline.

    Args:
        first: (2 B, ...), or without the batch where it does not depend on the image.
        second: Likewise.
        product: Multiplies the two.
    """
    result = product(first, second).detach()
    line = torch.zeros_like(result)
    if first.requires_grad:
        line = line + product(first, _mean(second))
    if second.requires_grad:
        line = line + product(_mean(first), second)
    return _through(result, line)


def _difference(value: Tensor) -> Tensor:
    own, reference = value.chunk(2)
    return own - reference


def _mean(value: Tensor) -> Tensor:
    """The mean of image and baseline, for both; a factor without them is its own."""
    if not value.requires_grad:
        return value
    own, reference = value.detach().chunk(2)
    return _twice((own + reference) / 2)


def _twice(value: Tensor) -> Tensor:
    return torch.cat((value, value))


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    far = whole.abs() > _LEAST
    return torch.where(far, part / torch.where(far, whole, 1.0), 0.0)


def _through(result: Tensor, line: Tensor) -> Tensor:
    """``result`` in value, ``line`` in gradient."""
    return line + (result - line).detach()


class DeepLift(AttributionMethod):
    """DeepLIFT by the rescale rule.

    Args:
        baseline: Value of every pixel of the baseline, in the network's (normalised) units; 0 is
            the data's mean colour.

    Raises:
        ValueError: The baseline is not finite.
    """

    name = "deep_lift"
    label = "DeepLIFT"
    sign = "signed"
    promises_completeness = True

    def __init__(self, baseline: float = 0.0) -> None:
        self.baseline = checked_baseline(baseline)

    def check(self, network: nn.Module, image: Tensor | None = None) -> None:
        """See :meth:`AttributionMethod.check`: refuses functions without a rule."""
        if image is not None:
            preflight(network, image, self._first_score, self.label)

    def _first_score(self, network: nn.Module, image: Tensor) -> Tensor:
        return self._scores(network, torch.cat((image, self._reference(image))))[:1]

    def _reference(self, image: Tensor) -> Tensor:
        return torch.full_like(image, self.baseline)

    def _scores(self, network: nn.Module, both: Tensor) -> Tensor:
        """Scores (2 B, K) of images and baselines, as the linear network has them."""
        with layer_names(network) as layers:
            rules = FunctionRules(self.label, {}, _PLAIN, layers, _REMEDY)
            rules.rules = _table(rules, len(both))
            with rules:
                scores: Tensor = network(both)
        return scores

    def explain(self, network: nn.Module, image: Tensor, target: Tensor | None) -> Finding:
        """See :meth:`AttributionMethod.explain`."""
        reference = self._reference(image)
        both = torch.cat((image, reference)).requires_grad_()
        own, zero = self._scores(network, both).chunk(2)
        check_scores(own, len(image), target)
        check_scores(zero, len(image))
        chosen = (own.argmax(1) if target is None else target).unsqueeze(1)
        (multiplier,) = torch.autograd.grad(own.gather(1, chosen).sum(), both)
        pixels = multiplier.chunk(2)[0] * (image - reference)
        difference = (own - zero).detach().gather(1, chosen).squeeze(1)
        total = pixels.double().flatten(1).sum(1)
        error = completeness_error(total, difference.double())
        moved = pixels.abs().flatten(1).sum(1) + difference.abs()
        if bool(((total - difference).abs() > _MOST_LOST * moved).any()):
            raise UnsupportedNetwork(
                "network",
                f"DeepLIFT's rules lose {float(error.max()):.0%} of the score's difference",
                _REMEDY,
            )
        return Finding(pixels=pixels, scores=own, error=error)


def checked_baseline(baseline: float) -> float:
    """A baseline's pixel value.

    Raises:
        ValueError: It is not finite.
    """
    if not -float("inf") < baseline < float("inf"):
        raise ValueError(f"baseline must be a finite number in normalised units, got {baseline}")
    return float(baseline)


def _table(rules: FunctionRules, batch: int) -> dict[str, Rule]:
    """Rules for a batch of that many images and baselines."""

    def check(func: Any, value: Any) -> None:
        # Halves are told apart along the first axis, where tokens or heads may stand instead.
        if not isinstance(value, Tensor) or not value.ndim or value.shape[0] % batch:
            raise rules.refusal(
                f"{rules.label} has no rule for {function_name(func)}() with images along another "
                "axis than the first"
            )

    def elementwise(func: Any, args: Any, kwargs: Any) -> Tensor:
        name = function_name(func)
        options = {key: value for key, value in kwargs.items() if key not in ("input", "inplace")}
        value, rest = (args[0], args[1:]) if args else (kwargs["input"], ())
        check(func, value)
        plain = _OUT_OF_PLACE.get(name, func)
        if depends(rest) or depends(options) or plain.__name__.endswith("_"):
            raise rules.refusal(f"{rules.label} has no rule for this {func.__name__}()")
        return rescale(value, lambda each: plain(each, *rest, **options))

    def maximum(func: Any, args: Any, kwargs: Any) -> Tensor:
        if kwargs.get("return_indices") or function_name(func) != "max_pool2d":
            raise rules.refusal(f"{rules.label} has no rule for this {function_name(func)}()")
        options = {key: value for key, value in kwargs.items() if key != "input"}
        value, rest = (args[0], args[1:]) if args else (kwargs["input"], ())
        check(func, value)
        pool = partial(torch.nn.functional.max_pool2d, return_indices=True)
        options.pop("return_indices", None)
        return rescale_maximum(value, lambda each: pool(each, *rest, **options))

    def softmax(func: Any, args: Any, kwargs: Any) -> Tensor:
        value, rest = (args[0], args[1:]) if args else (kwargs["input"], ())
        dim = kwargs.get("dim", rest[0] if rest else None)
        check(func, value)
        if not isinstance(dim, int) or kwargs.get("dtype") is not None:
            raise rules.refusal(f"{rules.label} needs a soft-max with its dim and no dtype")
        top = value.detach().amax(dim, keepdim=True)
        powers = rescale(value - _twice(torch.maximum(*top.chunk(2))), torch.exp)
        total = rescale(powers.sum(dim, keepdim=True), torch.reciprocal)
        return rescale_product(powers, total, torch.mul)

    def product(func: Any, args: Any, kwargs: Any) -> Any:
        name = function_name(func)
        formula, operands = (args[0], args[1:]) if name == "einsum" else (None, args)
        if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
            operands = operands[0]
        if sum(depends(each) for each in operands) == 1 and not _masked(name, operands):
            if name.startswith("div") and depends(operands[1]):
                return torch.mul(operands[0], rescale(operands[1], torch.reciprocal))
            return func(*args, **kwargs)
        if kwargs or len(operands) != 2:
            raise rules.refusal(f"{rules.label} has no rule for this {name}()")
        first, second = operands
        if _masked(name, operands):
            return rescale_masked(*(operands if depends(first) else (second, first)))
        check(func, first)
        check(func, second)
        if name.startswith("div"):
            return rescale_product(first, rescale(second, torch.reciprocal), torch.mul)
        multiply = torch.mul if name.startswith("mul") else torch.matmul
        return rescale_product(
            first, second, multiply if formula is None else partial(torch.einsum, formula)
        )

    table: dict[str, Rule] = dict.fromkeys(_ELEMENTWISE, elementwise)
    table |= dict.fromkeys(POOLING_MAXIMA, maximum)
    table |= dict.fromkeys(MULTIPLYING, product)
    table["softmax"] = softmax
    return table


def _masked(name: str, operands: Sequence[Any]) -> bool:
    """Whether one factor is a mask of each image's own that no gradient reaches."""
    if not name.startswith("mul") or not all(isinstance(each, Tensor) for each in operands):
        return False
    first, second = operands
    return bool(
        first.requires_grad != second.requires_grad
        and first.ndim == second.ndim > 0
        and first.shape[0] == second.shape[0] > 1
    )


def rescale_masked(value: Tensor, factor: Tensor) -> Tensor:
    """A product with a factor of each image's own that no gradient reaches.

    Args:
        value: (2 B, ...), images first.
        factor: (2 B, ...), which may differ between image and baseline.
    """
    with torch.no_grad():
        result = value * factor
        own, reference = (value.expand_as(result)).chunk(2)
        change, rise = own - reference, _difference(result)
        far = change.abs() > _LEAST
        slope = torch.where(far, rise / torch.where(far, change, 1.0), 0.0)
        slope = torch.where(far, slope, factor.expand_as(result).chunk(2)[0])
    return _through(result, value * _twice(slope))


_OUT_OF_PLACE: dict[str, Any] = {
    "relu": torch.relu,
    "clamp": torch.clamp,
    "clamp_min": torch.clamp_min,
    "clamp_max": torch.clamp_max,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "square": torch.square,
    "reciprocal": torch.reciprocal,
    "abs": torch.abs,
}
"""Functions whose methods in place (``relu_``) share their name with them."""
