"""What all attacks share: images in [0, 1], success, and the size of a perturbation."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from pellucid.attribution.method import check_images, check_scores, evaluating

_ROUNDING = 1e-4


class PixelScores(nn.Module):
    """A network that takes images in [0, 1]: they are normalised first.

    Args:
        network: Maps normalised images (B, C, H, W) to logits (B, K).
        mean: Mean of each channel, of values in [0, 1].
        std: Standard deviation of each channel, likewise, above 0.

    Raises:
        ValueError: ``mean`` and ``std`` differ in length, or one of ``std`` is not above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(
                f"mean and std must be as many, and std above 0, got {tuple(mean)}, {tuple(std)}"
            )
        self.network = network
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, rearrange(torch.tensor(list(values)), "c -> c 1 1"))

    def pixels(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] of normalised images; what rounding left outside is cut."""
        return (image * self.std + self.mean).clamp(0, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, K) logits of images (B, C, H, W) in [0, 1]."""
        scores: Tensor = self.network((pixels - self.mean) / self.std)
        return scores


@dataclass(frozen=True, kw_only=True)
class AdversarialExamples:
    """What an attack made of a batch. ``B`` images."""

    images: Tensor
    """(B, C, H, W) float32 in [0, 1], not normalised and not rounded to 256 levels."""
    before: Tensor
    """(B,) int64, the predicted class of each image."""
    after: Tensor
    """(B,) int64, that of its adversarial image."""
    l0: Tensor
    """(B,) number of pixels that changed, in whichever channel."""
    l2: Tensor
    """(B,) Euclidean norm of the change over all values, in units of the image range [0, 1]."""
    linf: Tensor
    """(B,) largest change of a value, in the same unit."""

    @property
    def success(self) -> Tensor:
        """(B,) bool, whether the predicted class changed."""
        return self.before != self.after

    @property
    def success_rate(self) -> float:
        """Share of images whose predicted class changed."""
        return float(self.success.float().mean())

    def norms(self) -> dict[str, float] | None:
        """Mean ``l0``, ``l2`` and ``linf`` over the successes; None: there is none."""
        if not self.success.any():
            return None
        sizes = {"l0": self.l0, "l2": self.l2, "linf": self.linf}
        return {name: float(size[self.success].float().mean()) for name, size in sizes.items()}


class Attack(ABC):
    """Base of the attacks, none of which is told the true class: they change the prediction.

    A subclass implements :meth:`perturb`. Its constructor takes plain values only, and checks them.
    """

    name: ClassVar[str]
    """Key of the attack, as ``--attacks`` takes it."""
    label: ClassVar[str]
    """Name that people read."""

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, float | int | str]:
        """What the attack was told, by name; lengths in units of the image range [0, 1]."""

    @abstractmethod
    def perturb(self, network: nn.Module, pixels: Tensor, predicted: Tensor) -> Tensor:
        """The attack itself. Gradients are on, and the network is in evaluation mode.

        Args:
            network: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
            pixels: (B, C, H, W) in [0, 1], a leaf that nobody else has.
            predicted: (B,) int64, the predicted classes.

        Returns:
            (B, C, H, W) in [0, 1].
        """

    def attack(self, network: nn.Module, pixels: Tensor) -> AdversarialExamples:
        """Attack a batch. The network is left as it was.

        Args:
            network: Maps images (B, C, H, W) in [0, 1] to logits (B, K), as
                :class:`PixelScores` does.
            pixels: (B, C, H, W) float in [0, 1].

        Raises:
            ValueError: The images are outside [0, 1], or the network has a single score.
            pellucid.attribution.method.NonFiniteScores: A score is NaN or infinite.
        """
        check_images(pixels)
        low, high = float(pixels.min()), float(pixels.max())
        if low < -_ROUNDING or high > 1 + _ROUNDING:
            raise ValueError(
                f"pixels must be in [0, 1], got {low:.3g} to {high:.3g}; undo the normalisation, "
                "as PixelScores.pixels does"
            )
        with evaluating(network), torch.inference_mode(False), torch.enable_grad():
            own = pixels.detach().float().clone().clamp_(0, 1)
            with torch.no_grad():
                scores = check_scores(network(own), len(own))
            if scores.shape[1] < 2:
                raise ValueError("the network gives 1 score, so its prediction cannot change")
            before = scores.argmax(1)
            found = self.perturb(network, own.clone(), before).detach()
            with torch.no_grad():
                after = check_scores(network(found), len(own)).argmax(1)
        l0, l2, linf = perturbation_norms(found - own)
        return AdversarialExamples(
            images=found, before=before, after=after, l0=l0, l2=l2, linf=linf
        )


def perturbation_norms(change: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sizes of changes of images.

    Args:
        change: (B, C, H, W) in units of the image range [0, 1].

    Returns:
        (B,) number of pixels that changed, (B,) Euclidean norm, and (B,) largest change.
    """
    size = change.abs()
    pixels = reduce(reduce(size, "b c h w -> b h w", "max") > 0, "b h w -> b", "sum")
    return pixels, size.square().sum((1, 2, 3)).sqrt(), size.amax((1, 2, 3))


def check_epsilon(epsilon: float) -> float:
    """Check the largest change that an attack may make to a value.

    Raises:
        ValueError: It is not above 0 and at most 1.
    """
    if not 0 < epsilon <= 1:
        raise ValueError(
            f"epsilon must be above 0 and at most 1, the range of pixels, got {epsilon}; the "
            "usual value is 8/255 (0.0314)"
        )
    return epsilon
