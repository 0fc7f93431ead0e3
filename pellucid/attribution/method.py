"""What all post-hoc methods share: one interface, one result, and what they may not touch.

A method asks a network (B, C, H, W) -> (B, K) why it gave a score. It never trains and never
changes it: modes and gradients are as they were, hooks are gone, also after an error.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pellucid.metrics.maps.probabilities import NonFiniteScores

TOLERANCE = 1e-3
"""Largest completeness error of a method that promises completeness, a fraction."""

Sign = Literal["positive", "signed"]


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """What one method says about a batch of images. ``B`` images, ``K`` scores."""

    heat: Tensor
    """(B, h, w) float32 on the method's own grid, spanning the image."""
    sign: Sign
    """Whether ``heat`` is never below zero, or speaks for (+) and against (-) the target."""
    target: Tensor
    """(B,) int64, the score that is explained."""
    scores: Tensor
    """(B, K) logits."""
    pixels: Tensor | None = None
    """(B, C, H, W) float32, what each input value is given; ``heat`` sums it over channels."""
    completeness_error: Tensor | None = None
    """(B,) ``|sum - (f(x) - f(baseline))| / |f(x) - f(baseline)|``, NaN where the difference is 0;
    None: nothing is promised."""

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        # Drawing is the report's business, and of no use outside of notebooks.
        from pellucid.report.notebook import attribution_html

        return attribution_html(self)


class Finding(NamedTuple):
    """What a method's own part hands back; ``heat`` or ``pixels``, the rest where it has it."""

    pixels: Tensor | None = None
    """(B, C, H, W) what each input value is given."""
    heat: Tensor | None = None
    """(B, h, w); None: the sum of ``pixels`` over channels."""
    scores: Tensor | None = None
    """(B, K) logits, where the method has computed them on its way."""
    error: Tensor | None = None
    """(B,) completeness error."""


class UnsupportedNetwork(ValueError):  # noqa: N818 - what it is about, as the report names it
    """A network for which a method would be wrong, and how to go on.

    Args:
        layer: Name of the layer or of the operation, as ``network.named_modules()`` has it.
        reason: What it does to the method.
        remedy: What to do instead.
    """

    def __init__(self, layer: str, reason: str, remedy: str) -> None:
        super().__init__(f"layer {layer!r}: {reason}; {remedy}")
        self.layer, self.reason, self.remedy = layer, reason, remedy


class ClassScores(nn.Module):
    """A model of the house as a network from images to class scores.

    Args:
        model: A :class:`~pellucid.models.base.InterpretableModel` that has classes.

    Raises:
        ValueError: The module has no ``class_scores``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not callable(getattr(model, "class_scores", None)):
            raise ValueError(
                f"{type(model).__name__} has no method class_scores(image); a network whose call "
                "gives logits needs no ClassScores around it"
            )
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """(B, K) logits of images (B, C, H, W)."""
        # With the channels last, convolutions and pooling on processors take half to two thirds of
        # the time, and a method looks at each image tens or hundreds of times.
        laid_out = image.contiguous(memory_format=torch.channels_last)
        scores: Tensor = self.model.class_scores(laid_out)  # type: ignore[operator]
        return scores


class AttributionMethod(ABC):
    """Base of the methods.

    A subclass implements :meth:`explain`, and :meth:`check` where there are networks on which it
    would be wrong. Its constructor takes plain values only, and checks them.
    """

    name: ClassVar[str]
    """Key of the method, as ``--methods`` takes it."""
    label: ClassVar[str]
    """Name that people read."""
    sign: ClassVar[Sign]
    promises_completeness: ClassVar[bool] = False
    """Whether the values sum to what the method's file says, to :data:`TOLERANCE`."""
    checks_itself: ClassVar[bool] = False
    """Whether :meth:`explain` refuses by itself all that :meth:`check` would."""

    def check(self, network: nn.Module, image: Tensor | None = None) -> None:  # noqa: B027
        """Say whether the method would be right on a network; the default is right on all.

        Args:
            network: Maps images (B, C, H, W) to logits (B, K).
            image: (B, C, H, W), for what only a run of the network shows, of which one is enough;
                None: what its modules alone show is checked.

        Raises:
            UnsupportedNetwork: It would be wrong, or could not run.
        """

    @abstractmethod
    def explain(self, network: nn.Module, image: Tensor, target: Tensor | None) -> Finding:
        """The method itself. Gradients are on, and the network is in evaluation mode.

        Args:
            network: As for :meth:`attribute`.
            image: (B, C, H, W) float, a leaf that nobody else has.
            target: (B,) int64; None: the predicted class.
        """

    def attribute(
        self, network: nn.Module, image: Tensor, target: Tensor | None = None
    ) -> Attribution:
        """Attribute the target's score of each image.

        Works under ``torch.no_grad`` and ``torch.inference_mode``, as in Lightning's tests. The
        network runs in evaluation mode and is left as it was.

        Args:
            network: Maps images (B, C, H, W) to logits (B, K); a model of the house is wrapped in
                :class:`ClassScores`.
            image: (B, C, H, W) float, finite.
            target: (B,) int64 in [0, K); None: the predicted class.

        Raises:
            ValueError: An image, a target or the scores are not what they must be.
            UnsupportedNetwork: The method would be wrong on this network.
            NonFiniteScores: A score is NaN or infinite.
        """
        check_images(image)
        with evaluating(network), torch.inference_mode(False), torch.enable_grad():
            own = image.detach().clone()
            wanted = None if target is None else _checked(target, own)
            if not self.checks_itself:
                self.check(network, own[:1])
            found = self.explain(network, own, wanted)
            scores = found.scores
            if scores is None:
                with torch.no_grad():
                    scores = network(own)
            scores = check_scores(scores.detach(), len(own), wanted)
        pixels = None if found.pixels is None else found.pixels.detach().float()
        if found.heat is None and pixels is None:
            raise TypeError(f"{type(self).__name__}.explain gave neither heat nor pixels")
        heat = pixels.sum(1) if found.heat is None and pixels is not None else found.heat
        assert heat is not None
        return Attribution(
            heat=heat.detach().float(),
            sign=self.sign,
            target=scores.argmax(1) if wanted is None else wanted,
            scores=scores,
            pixels=pixels,
            completeness_error=None if found.error is None else found.error.detach().float(),
        )


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode, so that images do not act on each other, and back.

    Its parameters need no gradient meanwhile: what needs one then depends on the image.
    """
    modes = {module: module.training for module in network.modules()}
    trained = [each for each in network.parameters() if each.requires_grad]
    network.eval()
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for module, mode in modes.items():
            module.training = mode


def check_images(image: Tensor) -> None:
    """Raise a ValueError unless images are (B, C, H, W) float and finite."""
    if not isinstance(image, Tensor) or image.ndim != 4 or not image.is_floating_point():
        given = (
            f"{image.dtype} {tuple(image.shape)}"
            if isinstance(image, Tensor)
            else type(image).__name__
        )
        raise ValueError(f"image must be a float tensor (B, C, H, W), got {given}")
    if not len(image):
        raise ValueError("image must hold at least one image, got a batch of none")
    # Ten times as fast as a look at each value; a sum may also overflow.
    if image.sum().isfinite():
        return
    bad = (~image.isfinite()).flatten(1).any(1)
    if bad.any():
        which = bad.nonzero().flatten().tolist()[:5]
        raise ValueError(f"images {which} hold NaN or infinite values: mend or leave them out")


def check_scores(scores: Tensor, count: int, target: Tensor | None = None) -> Tensor:
    """Scores that can be explained.

    Args:
        scores: What the network gave.
        count: Number of images, B.
        target: (B,) int64, if one is given.

    Returns:
        The same, (B, K) logits.

    Raises:
        ValueError: They are not (B, K), or have no score of a target's number.
        NonFiniteScores: One is NaN or infinite.
    """
    if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != count:
        given = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(
            f"the network must give scores ({count}, K) for {count} images, got {given}; wrap it "
            "in a module that returns the logits alone"
        )
    if not scores.shape[1]:
        raise ValueError("the network has no classes, so there is no score to attribute")
    bad = (~scores.isfinite()).any(1)
    if bad.any():
        which = bad.nonzero().flatten().tolist()[:5]
        raise NonFiniteScores(
            f"the network's scores of images {which} are NaN or infinite: there is nothing to "
            "explain; look at its weights and at how images are normalised"
        )
    if target is not None and int(target.max()) >= scores.shape[1]:
        raise ValueError(
            f"target must be in [0, {scores.shape[1]}), the network's classes, got "
            f"{int(target.max())}"
        )
    return scores


def _checked(target: Tensor, image: Tensor) -> Tensor:
    if target.shape != (len(image),) or target.is_floating_point() or target.dtype == torch.bool:
        raise ValueError(
            f"target must be int64 ({len(image)},), one class per image, got {target.dtype} "
            f"{tuple(target.shape)}"
        )
    if int(target.min()) < 0:
        raise ValueError(f"target must be at least 0, got {int(target.min())}")
    return target.detach().clone().to(image.device, torch.int64)
