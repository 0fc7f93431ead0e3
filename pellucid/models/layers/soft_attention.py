"""Soft attention over a feature grid: how much of each position every head takes.

Scores after Bahdanau, Cho and Bengio, ICLR 2015 (additive), Luong, Pham and Manning, EMNLP 2015
(multiplicative, their "general"; dot, scaled as in Vaswani et al. 2017). Both have a decoder's
state as the query; a classifier has none, so the query of the first two is the mean of the grid,
and that of ``dot`` is a learned vector per head, without which it would have no parameters.
"""

import math
from typing import Literal, get_args

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

Score = Literal["additive", "multiplicative", "dot"]


class SoftAttention(nn.Module):
    """A distribution over the positions of a feature grid for each head.

    ``additive``: ``v_n . tanh(W_n f_i + U_n q)``; ``multiplicative``: ``q . W_n f_i``; ``dot``:
    ``q_n . f_i / sqrt(C)``; with ``q`` the mean of ``f`` over the grid, and ``q_n`` learned.

    Args:
        channels: Channels of the grid, ``C``.
        score: ``additive``, ``multiplicative`` or ``dot``.
        heads: Number of distributions.
        hidden: Units of the additive score's hidden layer, per head.
        temperature: By which scores are divided before the soft-max; below 1: sharper.

    Raises:
        ValueError: An argument is outside its range.
    """

    def __init__(
        self,
        channels: int,
        score: Score = "additive",
        heads: int = 1,
        hidden: int = 32,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if score not in get_args(Score):
            raise ValueError(f"score must be one of {', '.join(get_args(Score))}, got {score!r}")
        for name, value in (("channels", channels), ("heads", heads), ("hidden", hidden)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}: one is the simplest")
        if not 0 < temperature < math.inf:
            raise ValueError(
                f"temperature must be greater than 0 and finite, got {temperature}: 1 leaves the "
                "scores as they are"
            )
        self.score, self.heads, self.temperature = score, heads, temperature
        if score == "additive":
            self.keys = nn.Conv2d(channels, heads * hidden, 1, bias=False)
            self.query = nn.Linear(channels, heads * hidden)
            self.direction = nn.Parameter(torch.randn(heads, hidden) / math.sqrt(hidden))
        elif score == "multiplicative":
            self.form = nn.Parameter(torch.randn(heads, channels, channels) / channels)
        else:
            self.queries = nn.Parameter(torch.randn(heads, channels))

    def logits(self, features: Tensor) -> Tensor:
        """Scores of the positions, divided by the temperature.

        Args:
            features: (B, C, h, w).

        Returns:
            (B, heads, h, w).
        """
        if self.score == "dot":
            scores = torch.einsum("n c, b c h w -> b n h w", self.queries, features)
            return scores / (math.sqrt(features.shape[1]) * self.temperature)
        mean = reduce(features, "b c h w -> b c", "mean")
        if self.score == "multiplicative":
            query = torch.einsum("b d, n d c -> b n c", mean, self.form)
            return torch.einsum("b n c, b c h w -> b n h w", query, features) / self.temperature
        hidden = torch.tanh(self.keys(features) + rearrange(self.query(mean), "b d -> b d 1 1"))
        hidden = rearrange(hidden, "b (n d) h w -> b n d h w", n=self.heads)
        return torch.einsum("n d, b n d h w -> b n h w", self.direction, hidden) / self.temperature

    def forward(self, features: Tensor) -> Tensor:
        """Attention (B, heads, h, w) of features (B, C, h, w), in [0, 1], sum 1 for each head."""
        return over_grid(self.logits(features))


def over_grid(logits: Tensor) -> Tensor:
    """Soft-max over the positions, (B, U, h, w) of the same, in single precision."""
    height = logits.shape[-2]
    flat = rearrange(logits, "b u h w -> b u (h w)").float().softmax(-1)
    return rearrange(flat, "b u (h w) -> b u h w", h=height)


def attend(features: Tensor, attention: Tensor) -> Tensor:
    """Attention-weighted means of features.

    Args:
        features: (B, C, h, w).
        attention: (B, U, h, w), sum 1 over the grid.

    Returns:
        (B, U, C).
    """
    return torch.einsum("b u h w, b c h w -> b u c", attention.to(features.dtype), features)


def attention_entropy(attention: Tensor) -> Tensor:
    """Entropy of each distribution, from 0 (one position) to ``log(h w)`` (all alike).

    Args:
        attention: (B, U, h, w), sum 1 over the grid.

    Returns:
        (B, U) nats.
    """
    # The gradient of x log x is infinite at 0, which a sharp soft-max reaches.
    tiny = torch.finfo(torch.float32).tiny
    attention = attention.float()
    return -reduce(attention * attention.clamp(min=tiny).log(), "b u h w -> b u", "sum")
