"""DeepLIFT: what each input value's difference from a baseline adds to the score's.

Source: Shrikumar, Greenside and Kundaje, *Learning Important Features Through Propagating
Activation Differences*, ICML 2017 (arXiv 1704.02685): the rescale rule, section 3.5.2.

Promise: over all input values of an image, attributions sum to ``f(x) - f(baseline)``.

Each function with a rule is replaced by a linear one that passes through its values at the image
and at the baseline (equation 11 of the paper), whatever the network writes it as: a module, shared
or in place, or a function. The gradient of that linear network is the multiplier of each value.

Where this differs from the paper:

- A product of two things that both depend on the image gives each its mean of the other, half of
  what the product changes by: the paper has no rule for products. What a mask made of detached
  activations changes is shared by the activations of its map, by how much each changed.
- Soft-max is taken apart into exponentials, their sum, and a product.
- A maximum's difference goes to the place that is largest in the image, and what the baseline's
  own largest place loses to that one, as Captum has it.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
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
)
from pellucid.attribution.rescale import (
    rescale,
    rescale_masked,
    rescale_maximum,
    rescale_product,
    twice,
)
from pellucid.metrics.maps.completeness import completeness_error

_ELEMENTWISE = (
    *("relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "gelu", "silu", "hardswish"),
    *("hardsigmoid", "sigmoid", "logsigmoid", "tanh", "elu", "celu", "selu", "leaky_relu", "mish"),
    *("softplus", "softsign", "exp", "log", "sqrt", "rsqrt", "square", "reciprocal", "abs"),
)
_PLAIN = MOVING | AVERAGING | WEIGHTED | ADDING
_MOST_LOST = 0.01
"""Share of all that attributions move by which they may miss the score's difference at most; what
rounding costs is far below it."""
_REMEDY = "use integrated_gradients, which needs no rules"


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
            rules.rules = _Table(rules, len(both)).rules()
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
        error = completeness_error(pixels, difference)
        moved = pixels.abs().flatten(1).sum(1) + difference.abs()
        if bool(((total - difference).abs() > _MOST_LOST * moved).any()):
            raise UnsupportedNetwork(
                "network",
                f"DeepLIFT's rules lose {float(error.nan_to_num(1.0).max()):.0%} of the score's "
                "difference",
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


class _Table:
    """The rules of one run of the network.

    Args:
        running: Refuses.
        batch: Number of images and baselines together.
    """

    def __init__(self, running: FunctionRules, batch: int) -> None:
        self.running, self.batch = running, batch

    def rules(self) -> dict[str, Rule]:
        table: dict[str, Rule] = dict.fromkeys(_ELEMENTWISE, self.elementwise)
        table |= dict.fromkeys(POOLING_MAXIMA, self.maximum)
        table |= dict.fromkeys(MULTIPLYING, self.product)
        return table | {"softmax": self.softmax}

    def refusal(self, func: Any, why: str = "") -> UnsupportedNetwork:
        return self.running.refusal(f"DeepLIFT has no rule for this {func.__name__}(){why}")

    def check(self, func: Any, value: Any) -> None:
        # Halves are told apart along the first axis, where tokens or heads may stand instead.
        if not isinstance(value, Tensor) or not value.ndim or value.shape[0] % self.batch:
            raise self.refusal(func, ", whose first axis is not that of images")

    def elementwise(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        options = {key: value for key, value in kwargs.items() if key not in ("input", "inplace")}
        value, rest = (args[0], args[1:]) if args else (kwargs["input"], ())
        self.check(func, value)
        plain = _OUT_OF_PLACE.get(function_name(func), func)
        if depends((rest, options)) or plain.__name__.endswith("_"):
            raise self.refusal(func)
        return rescale(value, lambda each: plain(each, *rest, **options))

    def maximum(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        if kwargs.get("return_indices") or function_name(func) != "max_pool2d":
            raise self.refusal(func)
        given = {k: v for k, v in kwargs.items() if k not in ("input", "return_indices")}
        value, rest = (args[0], args[1:]) if args else (kwargs["input"], ())
        self.check(func, value)
        pool = partial(torch.nn.functional.max_pool2d, return_indices=True)
        return rescale_maximum(value, lambda each: pool(each, *rest, **given))

    def softmax(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        value, rest = (args[0], args[1:]) if args else (kwargs["input"], ())
        dim = kwargs.get("dim", rest[0] if rest else None)
        self.check(func, value)
        if not isinstance(dim, int) or kwargs.get("dtype") is not None:
            raise self.refusal(func, ", but for one with dim and without dtype")
        # The same shift for image and baseline leaves the soft-max as it is.
        top = value.detach().amax(dim, keepdim=True)
        powers = rescale(value - twice(torch.maximum(*top.chunk(2))), torch.exp)
        total = rescale(powers.sum(dim, keepdim=True), torch.reciprocal)
        return rescale_product(powers, total, torch.mul)

    def product(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A product or quotient, of which one side or both depend on the image."""
        name = function_name(func)
        formula, operands = (args[0], args[1:]) if name == "einsum" else (None, args)
        if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
            operands = operands[0]
        if kwargs or len(operands) > 2:
            raise self.refusal(func)
        if _masked(name, operands):
            value, mask = operands if depends(operands[0]) else operands[::-1]
            self.check(func, value)
            if np.broadcast_shapes(value.shape, mask.shape) != tuple(value.shape):
                raise self.refusal(func, " with a mask that is larger than what it masks")
            return rescale_masked(value, mask)
        divides = name.startswith("div") and depends(operands[1])
        if sum(depends(each) for each in operands) == 1:
            if divides:
                return operands[0] * rescale(operands[1], torch.reciprocal)
            return func(*args, **kwargs)
        first, second = operands
        self.check(func, first)
        self.check(func, second)
        if divides:
            second = rescale(second, torch.reciprocal)
        multiply = torch.matmul if name in ("matmul", "bmm") else torch.mul
        return rescale_product(
            first, second, multiply if formula is None else partial(torch.einsum, formula)
        )


def _masked(name: str, operands: Sequence[Any]) -> bool:
    """Whether one factor is a mask of each image's own that no gradient reaches."""
    if not name.startswith("mul") or not all(isinstance(each, Tensor) for each in operands):
        return False
    first, second = operands
    return bool(
        first.requires_grad != second.requires_grad
        and first.ndim == second.ndim > 1
        and first.shape[0] == second.shape[0] > 1
    )


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
