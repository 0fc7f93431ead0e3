r"""Layer-wise relevance propagation: the score handed back layer by layer to the input values.

Sources: Bach et al., *On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise
Relevance Propagation*, PLOS ONE 2015 (equations 56 and 60); Montavon et al., *Layer-Wise Relevance
Propagation: An Overview*, 2019, section 10.2; batch normalisation merged into its convolution, as
in Hui and Binder, *BatchNorm Decomposition for Deep Neural Network Interpretation*, IWANN 2019.

A convolution's output :math:`z_k` hands its relevance to its inputs in proportion to their positive
contributions (``epsilon_plus``), or to all of them (``epsilon``), as fully connected layers always
do:

.. math:: R_j = \sum_k \frac{(x_j w_{jk})^+}{\sum_j (x_j w_{jk})^+} R_k, \qquad
          R_j = \sum_k \frac{x_j w_{jk}}{z_k + \epsilon \operatorname{sign} z_k} R_k.

Residual sums hand it on in proportion to their terms; activations with f(0) = 0, masks and dropout
pass it on; pooling, which is linear where it is, hands it on like a layer without bias.

Promise: input relevance and what biases and :math:`\epsilon` keep for themselves sum to the score,
``sum R + absorbed = f(x)``: ``f(baseline)`` of the completeness error is what they keep. By
``epsilon_plus`` convolutions keep nothing (unless no contribution is positive), so that only biases
of fully connected layers, and of batch normalisation that follows no convolution, are left out.

Where this differs from the sources:

- All is done by the functions that run, as :mod:`~pellucid.attribution.functions` sees them, so
  that residual sums need no modules, and activations may be functional, shared or in place.
- Relevance is carried as ``relevance / activation``: sums, activations and pooling then need no
  rule but their own gradient.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd import Function

from pellucid.attribution.functions import (
    ADDING,
    AVERAGING,
    MOVING,
    MULTIPLYING,
    POOLING_MAXIMA,
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
    check_scores,
)
from pellucid.metrics.maps.completeness import completeness_error

LRPRule = Literal["epsilon_plus", "epsilon"]
Linear = Callable[[Tensor], Tensor]

_PASSING = (
    *("relu6", "hardtanh", "clamp", "gelu", "silu", "hardswish", "tanh", "elu", "celu", "selu"),
    *("leaky_relu", "mish", "softsign", "prelu"),
)
_PLAIN = MOVING | AVERAGING | POOLING_MAXIMA
_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
_REMEDY = "use integrated_gradients or deep_lift"


class _Layer(Function):
    """An affine layer's value, whose gradient hands relevance back by the rule of LRP."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        value: Tensor,
        parts: Sequence[Linear],
        epsilon: float,
        absorbed: list[Tensor],
    ) -> Tensor:
        """``parts``: the layer without bias; or for positive and for negative inputs apart."""
        ctx.save_for_backward(inputs, value)
        ctx.parts, ctx.epsilon, ctx.absorbed = parts, epsilon, absorbed
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        inputs, value = ctx.saved_tensors
        relevance = gradients[0] * value
        plus = len(ctx.parts) == 2
        with torch.enable_grad():
            given = [inputs.detach()]
            if plus:
                given = [inputs.detach().clamp(min=0), inputs.detach().clamp(max=0)]
                if not bool(given[1].any()):
                    given = given[:1]  # Nothing is below zero after a ReLU.
            given = [each.requires_grad_() for each in given]
            made = [part(each) for part, each in zip(ctx.parts, given, strict=False)]
            total = made[0] if len(made) == 1 else made[0] + made[1]
        whole = total.detach() if plus else value
        share = relevance / (whole + torch.where(whole < 0, -ctx.epsilon, ctx.epsilon))
        found = torch.autograd.grad(total, given, share)
        kept = relevance.double() - share.double() * total.detach().double()
        ctx.absorbed.append(kept.flatten(1).sum(1))
        if len(found) == 1:
            # Where inputs are zero nothing is handed on, whatever the gradient.
            return found[0], None, None, None, None
        return torch.where(inputs > 0, found[0], found[1]), None, None, None, None


class LRP(AttributionMethod):
    """Layer-wise relevance propagation.

    Args:
        rule: Of convolutions: ``epsilon_plus``, by their positive contributions, or ``epsilon``, by
            all, which comes down to input x gradient.
        epsilon: Added to the size of denominators, above 0; in the unit of activations.

    Raises:
        ValueError: An argument is outside its range.
    """

    name = "lrp"
    label = "LRP"
    sign = "signed"
    promises_completeness = True

    def __init__(self, rule: LRPRule = "epsilon_plus", epsilon: float = 1e-6) -> None:
        if rule not in get_args(LRPRule):
            raise ValueError(f"rule must be {' or '.join(get_args(LRPRule))}, got {rule!r}")
        if not 0 < epsilon < float("inf"):
            raise ValueError(f"epsilon must be above 0, got {epsilon}; 1e-6 is usual")
        self.rule, self.epsilon = rule, epsilon

    def check(self, network: nn.Module, image: Tensor | None = None) -> None:
        """See :meth:`AttributionMethod.check`: refuses functions without a rule."""
        if image is not None:
            preflight(network, image, lambda net, one: self._scores(net, one, []), self.label)

    def explain(self, network: nn.Module, image: Tensor, target: Tensor | None) -> Finding:
        """See :meth:`AttributionMethod.explain`."""
        absorbed: list[Tensor] = []
        own = image.detach().requires_grad_()
        scores = check_scores(self._scores(network, own, absorbed), len(own), target)
        chosen = (scores.argmax(1) if target is None else target).unsqueeze(1)
        score = scores.gather(1, chosen)
        (gradient,) = torch.autograd.grad(score.sum(), own)
        pixels = gradient * own.detach()
        total = pixels.double().flatten(1).sum(1)
        kept = sum(absorbed, torch.zeros_like(total))
        # What biases keep may be most of the score: the score is what the promise is measured by.
        error = completeness_error(torch.stack((total, kept), 1), score.detach().squeeze(1))
        return Finding(pixels=pixels, scores=scores, error=error)

    def _scores(self, network: nn.Module, image: Tensor, absorbed: list[Tensor]) -> Tensor:
        """Scores whose gradient, times the image, is relevance; it fills ``absorbed``."""
        with layer_names(network) as layers:
            rules = FunctionRules(self.label, {}, _PLAIN, layers, _REMEDY)
            rules.rules = _Table(rules, self.rule == "epsilon_plus", self.epsilon, absorbed).rules()
            with rules:
                scores: Tensor = network(image)
        return scores


class _Table:
    """The rules of one run of the network."""

    def __init__(
        self, rules: FunctionRules, plus: bool, epsilon: float, absorbed: list[Tensor]
    ) -> None:
        self.running, self.plus, self.epsilon, self.absorbed = rules, plus, epsilon, absorbed
        # What the last convolution was made of, for a batch normalisation that follows.
        self.last: tuple[Tensor, Tensor, Tensor, Any] | None = None

    def rules(self) -> dict[str, Rule]:
        table: dict[str, Rule] = dict.fromkeys(_CONVOLUTIONS, self.convolution)
        table |= dict.fromkeys(_PASSING, self.passing)
        table |= dict.fromkeys(MULTIPLYING, self.product)
        table |= dict.fromkeys(ADDING, self.addition)
        table |= {"linear": self.linear, "batch_norm": self.batch_norm, "pad": self.pad}
        return table | {"relu": self.relu}

    def layer(self, inputs: Tensor, value: Tensor, parts: Sequence[Linear]) -> Tensor:
        result: Tensor = _Layer.apply(inputs, value.detach(), parts, self.epsilon, self.absorbed)
        return result

    def convolution(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        given = dict(zip(names, args, strict=False)) | kwargs
        inputs, weight = given.pop("input"), given.pop("weight")
        self._check_weight(weight)
        with torch.no_grad():
            value = func(inputs, weight, **given)
        given.pop("bias", None)
        run = partial(_with_weight, func, given)
        result = self.layer(inputs, value, self._parts(run, weight))
        self.last = (result, inputs, weight, run)
        return result

    def _parts(self, run: Any, weight: Tensor) -> list[Linear]:
        if not self.plus:
            return [partial(run, weight)]
        return [partial(run, weight.clamp(min=0)), partial(run, weight.clamp(max=0))]

    def linear(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
        inputs, weight = given["input"], given["weight"]
        self._check_weight(weight)
        with torch.no_grad():
            value = func(*args, **kwargs)
        return self.layer(inputs, value, [lambda each: func(each, weight)])

    def batch_norm(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum")
        given = dict(zip((*names, "eps"), args, strict=False)) | kwargs
        inputs = given["input"]
        with torch.no_grad():
            value = func(*args, **kwargs)
            scale = (given["running_var"] + given.get("eps", 1e-5)).rsqrt()
            if given.get("weight") is not None:
                scale = scale * given["weight"]
        if self.last is not None and self.last[0] is inputs:
            _, before, weight, run = self.last
            merged = weight * scale.view(-1, *[1] * (weight.ndim - 1))
            return self.layer(before, value, self._parts(run, merged))
        shape = (1, -1, *[1] * (inputs.ndim - 2))
        return self.layer(inputs, value, [lambda each: each * scale.view(shape)])

    def relu(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        # Out of place, since values are needed on the way back; the gradient is the rule.
        return torch.relu(args[0] if args else kwargs["input"])

    def passing(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        name = function_name(func)
        options = {key: value for key, value in kwargs.items() if key not in ("input", "inplace")}
        value, rest = (args[0], args[1:]) if args else (kwargs["input"], ())
        if depends((rest, options)) or (func.__name__.endswith("_") and name != "clamp"):
            raise self.running.refusal(f"LRP has no rule for this {func.__name__}()")
        plain = torch.clamp if name == "clamp" else func
        with torch.no_grad():
            result: Tensor = plain(value, *rest, **options)
            if bool(plain(torch.zeros_like(value[:1]), *rest, **options).any()):
                raise self.running.refusal(f"LRP cannot pass {name}(), which makes something of 0")
            ratio = torch.where(value == 0, 0.0, result / value)
        # The value to the last digit, which a product with the ratio is not.
        line = value * ratio
        passed: Tensor = line + (result - line).detach()
        return passed

    def product(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = function_name(func)
        operands = args[1:] if name == "einsum" else args
        if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
            operands = operands[0]
        divides = name.startswith("div") and depends(operands[1:])
        if sum(depends(each) for each in operands) > 1 or divides:
            raise self.running.refusal("LRP is not defined for products of two activations")
        return func(*args, **kwargs)

    def addition(self, func: Any, args: Any, kwargs: Any) -> Any:
        if len([each for each in args[:2] if depends(each)]) < 2:
            raise self.running.refusal("LRP does not know whom a constant that is added belongs to")
        # Out of place, since the terms' values are needed on the way back.
        plain = torch.sub if "sub" in function_name(func) else torch.add
        return plain(*args, **kwargs)

    def pad(self, func: Any, args: Any, kwargs: Any) -> Any:
        if kwargs.get("mode", "constant") == "constant" and kwargs.get("value"):
            raise self.running.refusal("LRP does not know whom a constant that is added belongs to")
        return func(*args, **kwargs)

    def _check_weight(self, weight: Tensor) -> None:
        if weight.requires_grad:
            raise self.running.refusal("LRP is not defined for weights that depend on the image")


def _with_weight(func: Any, options: dict[str, Any], weight: Tensor, inputs: Tensor) -> Tensor:
    result: Tensor = func(inputs, weight, None, **options)
    return result
