"""Pooling of a feature grid by soft attention, hard attention, or none."""

from typing import Literal, NamedTuple, get_args

import torch
from einops import reduce
from torch import Tensor, nn

from pellucid.models.layers.hard_attention import Estimator, Glimpses, HardAttention
from pellucid.models.layers.soft_attention import Score, SoftAttention, attend

Attention = Literal["soft", "hard", "cam", "none"]


class Pooled(NamedTuple):
    """What was pooled of a batch."""

    weights: Tensor
    """(B, heads, h, w), sum 1: how much of each position was taken."""
    vectors: Tensor
    """(B, heads, C)."""
    glimpses: Glimpses | None
    """Of hard attention."""

    @property
    def policy(self) -> Tensor:
        """(B, heads, h, w) the distributions that were learned, sum 1 and differentiable."""
        return self.weights if self.glimpses is None else self.glimpses.policy


class AttentionPooling(nn.Module):
    """Weighted means of the positions of a feature grid.

    Args:
        channels: Channels of the grid.
        attention: ``soft``, ``hard``; ``cam`` and ``none``: the plain mean.
        score: How ``soft`` and ``hard`` score a position.
        heads: Distributions of ``soft``; 1 for all others.
        temperature: By which scores are divided before the soft-max.
        glimpses: Positions that ``hard`` sees.
        estimator: How ``hard`` learns where to look.

    Raises:
        ValueError: An argument is outside its range.
    """

    def __init__(
        self,
        channels: int,
        attention: Attention = "soft",
        score: Score = "additive",
        heads: int = 1,
        temperature: float = 1.0,
        glimpses: int = 4,
        estimator: Estimator = "reinforce",
    ) -> None:
        super().__init__()
        if attention not in get_args(Attention):
            allowed = ", ".join(get_args(Attention))
            raise ValueError(f"attention must be one of {allowed}, got {attention!r}")
        if heads != 1 and attention != "soft":
            more = "; more glimpses see more" if attention == "hard" else ""
            raise ValueError(f"heads must be 1 for attention {attention!r}, got {heads}{more}")
        self.soft, self.hard = None, None
        if attention == "soft":
            self.soft = SoftAttention(channels, score, heads, temperature=temperature)
        elif attention == "hard":
            self.hard = HardAttention(channels, glimpses, estimator, score, temperature=temperature)

    def forward(self, features: Tensor) -> Pooled:
        """Pool features (B, C, h, w)."""
        if self.soft is not None:
            weights = self.soft(features)
            return Pooled(weights, attend(features, weights), None)
        if self.hard is not None:
            glimpses: Glimpses = self.hard(features)
            return Pooled(glimpses.attention, attend(features, glimpses.attention), glimpses)
        positions = features.shape[-2] * features.shape[-1]
        weights = torch.full_like(features[:, :1], 1 / positions)
        return Pooled(weights, reduce(features, "b c h w -> b 1 c", "mean"), None)
