"""Guided backpropagation and the deconvnet: gradients that ReLUs let through by another rule.

Sources: Springenberg et al., *Striving for Simplicity: The All Convolutional Net*, ICLR Workshop
2015 (arXiv 1412.6806), section 3.4; Zeiler and Fergus, *Visualizing and Understanding Convolutional
Networks*, ECCV 2014 (arXiv 1311.2901), section 2.1.

Where this differs from the papers:

- The signal starts at the target's score, not at a unit of a convolutional layer.
- The deconvnet's max unpooling is the gradient of max pooling, whose switches are the same.
- ReLU6 counts as a ReLU: guided backpropagation lets nothing through where it is saturated.
"""

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.autograd import Function

from pellucid.attribution.functions import (
    FunctionRules,
    Rule,
    bounds,
    function_name,
    layer_names,
    preflight,
)
from pellucid.attribution.gradients import score_gradient
from pellucid.attribution.method import AttributionMethod, Finding, UnsupportedNetwork

_OTHER_ACTIVATIONS = (
    *("gelu", "silu", "hardswish", "elu", "celu", "selu", "leaky_relu", "prelu", "rrelu", "mish"),
    *("softplus", "relu6", "hardshrink", "softshrink", "threshold", "where", "abs"),
)
_REMEDY = "use integrated_gradients, smooth_grad or saliency"


class _Rectified(Function):
    """A ReLU whose gradient keeps what speaks for the target alone."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, ceiling: float | None, guided: bool) -> Tensor:
        ctx.guided = guided
        if guided:
            passes = value > 0 if ceiling is None else (value > 0) & (value < ceiling)
            ctx.save_for_backward(passes)
        return value.clamp(min=0, max=ceiling)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradients[0].clamp(min=0)
        return gradient * ctx.saved_tensors[0] if ctx.guided else gradient, None, None


class _RectifiedGradient(AttributionMethod):
    sign = "signed"

    guided: ClassVar[bool]
    """Whether ReLUs that did not fire let nothing through."""

    def check(self, network: nn.Module, image: Tensor | None = None) -> None:
        """See :meth:`AttributionMethod.check`: refuses other activations, and a lack of ReLUs."""
        if image is None:
            return
        count = [0]

        def run(network: nn.Module, one: Tensor) -> Tensor:
            with layer_names(network) as layers, self._rules(layers, count):
                scores: Tensor = network(one)
            return scores

        ran = preflight(network, image, run, self.label)
        if ran and not count[0]:
            reason = f"it has no ReLU, so {self.label} would be the plain gradient"
            raise UnsupportedNetwork("network", reason, _REMEDY)

    def explain(self, network: nn.Module, image: Tensor, target: Tensor | None) -> Finding:
        """See :meth:`AttributionMethod.explain`."""

        def ruled(image: Tensor) -> Tensor:
            with layer_names(network) as layers, self._rules(layers, [0]):
                scores: Tensor = network(image)
            return scores

        gradient, scores = score_gradient(_Called(ruled), image, target)
        return Finding(pixels=gradient, scores=scores)

    def _rules(self, layers: list[str], count: list[int]) -> FunctionRules:
        """The rules; ``count`` counts the ReLUs."""

        def rectify(value: Tensor, ceiling: float | None = None) -> Any:
            count[0] += 1
            return _Rectified.apply(value, ceiling, self.guided)  # type: ignore[no-untyped-call]

        def relu(func: Any, args: Any, kwargs: Any) -> Any:
            return rectify(args[0] if args else kwargs["input"])

        def clamp(func: Any, args: Any, kwargs: Any) -> Any:
            value, low, high = bounds(function_name(func), args, kwargs)
            if low == 0 and (high is None or high > 0):
                return rectify(value, high)
            raise rules.refusal(f"{self.label} is not defined for a clamp to [{low}, {high}]")

        def refuse(func: Any, args: Any, kwargs: Any) -> Any:
            name = function_name(func)
            raise rules.refusal(f"{self.label} is defined for ReLU, not for {name}()")

        def product(func: Any, args: Any, kwargs: Any) -> Any:
            if any(isinstance(each, Tensor) and not each.is_floating_point() for each in args):
                raise rules.refusal(f"{self.label} cannot tell whether a mask stands for a ReLU")
            return func(*args, **kwargs)

        table: dict[str, Rule] = dict.fromkeys(_OTHER_ACTIVATIONS, refuse)
        table |= {"relu": relu, "clamp": clamp, "clamp_min": clamp, "hardtanh": clamp}
        table |= {"relu6": clamp, "maximum": refuse, "mul": product}
        rules = FunctionRules(self.label, table, None, layers, _REMEDY)
        return rules


class _Called(nn.Module):
    """A function as a network."""

    def __init__(self, run: Any) -> None:
        super().__init__()
        self.run = run

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.run(image)
        return scores


class GuidedBackprop(_RectifiedGradient):
    """The gradient that passes a ReLU where it fired, and where the gradient is positive."""

    name = "guided_backprop"
    label = "Guided backpropagation"
    guided = True


class Deconvnet(_RectifiedGradient):
    """The gradient that passes a ReLU where the gradient is positive, fired or not."""

    name = "deconvnet"
    label = "Deconvnet"
    guided = False
