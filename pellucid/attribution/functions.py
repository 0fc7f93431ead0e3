"""Sees every torch function that a network calls, and runs some of them by another rule.

Libraries find activations by the type of their modules, and miss functional ones, mistake shared
ones, and fail on those in place. What is seen here is what runs, whatever it is written as, and no
copy of the network is needed.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pellucid.attribution.method import ClassScores, UnsupportedNetwork, evaluating

Function = Callable[..., Any]
Rule = Callable[[Function, tuple[Any, ...], dict[str, Any]], Any]
"""Computes a function of its arguments in another way, with the same value."""

MOVING = frozenset(
    {
        *("flatten", "unflatten", "reshape", "view", "view_as", "permute", "transpose", "movedim"),
        *("swapaxes", "moveaxis", "t", "contiguous", "clone", "squeeze", "unsqueeze", "select"),
        *("__getitem__", "chunk", "split", "unbind", "narrow", "index_select", "cat", "concat"),
        *("stack", "expand", "expand_as", "repeat", "flip", "roll", "pixel_shuffle", "pad"),
        *("pixel_unshuffle", "channel_shuffle", "to", "float", "type", "type_as", "double"),
        *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "requires_grad"),
        *("feature_alpha_dropout", "stochastic_depth", "tile", "unfold", "fold"),
    }
)
"""Functions that put values elsewhere, by name."""

AVERAGING = frozenset(
    {
        *("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"),
        *("adaptive_avg_pool3d", "mean", "sum", "interpolate", "upsample", "neg", "negative"),
    }
)
"""Linear functions without weights."""

WEIGHTED = frozenset(
    {
        *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "linear"),
        *("conv_transpose3d", "batch_norm"),
    }
)
"""Affine functions of one tensor, with weights."""

ADDING = frozenset({"add", "sub", "subtract", "rsub"})
MULTIPLYING = frozenset({"mul", "multiply", "matmul", "bmm", "einsum", "div", "divide"})
POOLING_MAXIMA = frozenset({"max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d"})

JUMPING = frozenset(
    {
        *("argmax", "argmin", "argsort", "topk", "sort", "round", "floor", "ceil", "trunc", "sign"),
        *("bernoulli", "multinomial", "one_hot", "detach", "frac", "bucketize", "searchsorted"),
    }
)
"""Functions whose value jumps where their gradient is zero, or whose gradient is cut off."""


class FunctionRules(TorchFunctionMode):
    """While it is on, functions of what depends on the image run by their rule.

    Args:
        label: Name of the method, for errors.
        rules: Rules by function name, without the ``_`` of functions in place. They give a new
            tensor; where a network relies on the old one being overwritten, :func:`preflight` says
            so.
        plain: Names of functions that run as they are. None: all others do; otherwise a function
            that is in neither is refused.
        layers: Names of the layers that are running, the innermost last, see :func:`layer_names`.
        remedy: What to do where a function is refused.
    """

    def __init__(
        self,
        label: str,
        rules: Mapping[str, Rule],
        plain: Collection[str] | None,
        layers: list[str],
        remedy: str,
    ) -> None:
        super().__init__()
        self.label, self.rules, self.plain = label, rules, plain
        self.layers, self.remedy = layers, remedy

    def __torch_function__(
        self,
        func: Function,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not depends((args, kwargs)):
            return func(*args, **kwargs)
        name = function_name(func)
        self._check_chance(name, args, kwargs)
        rule = self.rules.get(name)
        if rule is not None:
            return rule(func, args, kwargs)
        result = func(*args, **kwargs)
        if self.plain is None or name in self.plain or not depends(result):
            return result
        raise self.refusal(f"{self.label} has no rule for {name}()")

    def refusal(self, reason: str) -> UnsupportedNetwork:
        """The error that refuses the network for what the running layer does."""
        return UnsupportedNetwork(
            self.layers[-1] if self.layers else "network", reason, self.remedy
        )

    def _check_chance(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse what makes images act on each other, or two runs differ."""
        if name == "batch_norm" and bool(kwargs.get("training", args[5] if args[5:] else False)):
            raise self.refusal("batch normalisation by the batch's own statistics mixes images")
        # Evaluation turns the modules off, not what is called with its default of training=True.
        if "dropout" in name and kwargs.get("training", args[2] if args[2:] else True):
            rate = kwargs.get("p", args[1] if args[1:] else 0.5)
            if rate:
                raise self.refusal("drop-out is on although the network is in evaluation mode")


def function_name(func: Function) -> str:
    """The bare name of a torch function or method: ``relu_`` and ``Tensor.relu`` are ``relu``."""
    name = str(getattr(func, "__name__", func))
    return name if name.startswith("__") else name.rstrip("_")


def bounds(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, float | None, float | None]:
    """What is clamped, and to which least and largest value; None: unbounded.

    Args:
        name: ``clamp``, ``clamp_min``, ``hardtanh`` or ``relu6``.
        args: Of the call.
        kwargs: Of the call.
    """
    value = args[0] if args else kwargs["input"]
    if name == "relu6":
        return value, 0.0, 6.0
    low_name, high_name = ("min_val", "max_val") if name == "hardtanh" else ("min", "max")
    low, high = (-1.0, 1.0) if name == "hardtanh" else (None, None)
    low = kwargs.get(low_name, args[1] if args[1:] else low)
    high = kwargs.get(high_name, args[2] if args[2:] else high)
    return value, low, high


def depends(value: Any) -> bool:
    """Whether a tensor, or one inside tuples, lists and dictionaries, depends on the image."""
    if isinstance(value, Tensor):
        return value.requires_grad
    if isinstance(value, dict):
        return any(depends(each) for each in value.values())
    return isinstance(value, (tuple, list)) and any(depends(each) for each in value)


@contextmanager
def layer_names(network: nn.Module) -> Iterator[list[str]]:
    """Keep a list of the names of the modules that are running, the innermost last."""
    running: list[str] = []
    handles = []
    inside = isinstance(network, ClassScores)

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: running.append(name)

    def leave(*_: Any) -> None:
        running.pop()

    try:
        for name, module in network.named_modules():
            # People know the model's layers, not the wrapper's.
            shown = name.removeprefix("model").removeprefix(".") if inside else name
            pre = enter(shown or "network")
            handles.append(module.register_forward_pre_hook(pre))
            handles.append(module.register_forward_hook(leave, always_call=True))
        yield running
    finally:
        for handle in handles:
            handle.remove()


def preflight(
    network: nn.Module, image: Tensor, run: Callable[[nn.Module, Tensor], Tensor], label: str
) -> bool:
    """Run one image by a method's rules, which refuse what they do not know, and compare scores.

    Args:
        network: The network.
        image: (B, C, H, W); the first is run.
        run: Gives scores (1, K) of one image by the rules.
        label: Name of the method, for errors.

    Returns:
        Whether the rules were run: scores that cannot be explained at all are left to the method.

    Raises:
        UnsupportedNetwork: A rule is missing, the scores do not depend on the image by a gradient,
            or the rules give other scores than the network: it runs on the old value of a tensor
            that it overwrites, or differs from run to run.
    """
    with evaluating(network), torch.inference_mode(False), torch.enable_grad():
        one = image[:1].detach().clone().requires_grad_()
        _refuse_hidden(network, label)
        scores = network(one)
        if not isinstance(scores, Tensor) or scores.ndim != 2 or not scores.isfinite().all():
            return False
        if not depends(scores):
            raise without_gradient()
        _refuse_own_functions(scores, label)
        found = run(network, one).detach()
        scale = float(scores.detach().abs().max().clamp(min=1e-6))
        if float((found - scores.detach()).abs().max()) > 1e-3 * scale:
            raise UnsupportedNetwork(
                "network",
                f"{label} computes other scores than the network: a tensor that is overwritten in "
                "place is used again, or two runs differ",
                "write the operation out of place, or use integrated_gradients or occlusion",
            )
    return True


def without_gradient() -> UnsupportedNetwork:
    """The error that refuses scores without a gradient."""
    return UnsupportedNetwork(
        "network",
        "the scores do not depend on the image by a gradient",
        "compute them without torch.no_grad, or use occlusion",
    )


def _refuse_hidden(network: nn.Module, label: str) -> None:
    for name, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or type(module).__name__ == "OptimizedModule":
            raise UnsupportedNetwork(
                name or "network",
                f"{label} cannot see what a compiled or scripted module calls",
                "give the network as it was before it was compiled",
            )


def _refuse_own_functions(scores: Tensor, label: str) -> None:
    """Refuse autograd functions that the network brings along: no rule sees them."""
    stack, seen = [scores.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            raise UnsupportedNetwork(
                type(node).__name__.removesuffix("Backward"),
                f"an autograd function of the network's own, for which {label} has no rule",
                "use integrated_gradients or occlusion",
            )
        stack += [parent for parent, _ in node.next_functions]
