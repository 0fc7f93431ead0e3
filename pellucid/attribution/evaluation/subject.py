"""A network whose predictions are explained, and the images as it sees them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.attribution.method import evaluating


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One network and what it says of ``B`` images."""

    network: nn.Module
    """Maps images (B, C, H, W) to logits (B, K)."""
    image: Tensor
    """(B, C, H, W) float, normalised as the network wants."""
    scores: Tensor
    """(B, K) logits."""
    name: str = ""
    """What tells its rows from those of other networks; empty: the one that the table is about."""
    adapt: Callable[[Tensor], Tensor] | None = None
    """Makes its images (N, C, H, W) of those of the data; None: they are the same."""

    @property
    def target(self) -> Tensor:
        """(B,) int64, the predicted classes, which all methods explain."""
        return self.scores.argmax(1)

    @property
    def known(self) -> Tensor:
        """(B,) bool, whether an image and its scores are finite, so that they can be explained."""
        return self.scores.isfinite().all(1) & self.image.flatten(1).isfinite().all(1)

    def call(self, image: Tensor) -> Tensor:
        """(N, K) logits of images (N, C, H, W), in evaluation mode, without gradients."""
        with evaluating(self.network), torch.no_grad():
            scores: Tensor = self.network(image)
        return scores

    def at(self, rows: Tensor) -> "Subject":
        """The same network with some of the images.

        Args:
            rows: (B,) bool, or int64 positions.
        """
        return Subject(
            network=self.network,
            image=self.image[rows],
            scores=self.scores[rows],
            name=self.name,
            adapt=self.adapt,
        )


def make_subject(
    network: nn.Module,
    image: Tensor,
    *,
    name: str = "",
    adapt: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 64,
) -> Subject:
    """Let a network look at images.

    Args:
        network: Maps images (B, C, H, W) to logits (B, K).
        image: (B, C, H, W) float, as the data give them, on the network's device.
        name: What tells its rows from those of other networks.
        adapt: Makes the network's images of those of the data; None: they are the same.
        batch_size: Images at once, at least 1.

    Raises:
        ValueError: The network gives no scores (B, K), or there is no class or no image.
    """
    if image.ndim != 4 or not len(image):
        raise ValueError(f"image must be (B, C, H, W) of one image or more, got {image.shape}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    own = image if adapt is None else adapt(image)
    found = []
    with evaluating(network), torch.no_grad():
        for first in range(0, len(own), batch_size):
            found.append(network(own[first : first + batch_size]))
    for each in found:
        if not isinstance(each, Tensor) or each.ndim != 2 or not each.shape[1]:
            given = tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__
            raise ValueError(
                f"the network must give scores (B, K) of one class or more, got {given}"
            )
    return Subject(network=network, image=own, scores=torch.cat(found), name=name, adapt=adapt)
