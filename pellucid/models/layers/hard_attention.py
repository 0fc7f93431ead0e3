"""Hard attention: the network sees a few positions of the grid, and nothing of the others.

Williams, "Simple statistical gradient-following algorithms", 1992 (score-function estimator); Mnih
et al., "Recurrent Models of Visual Attention", NeurIPS 2014, and Xu et al., "Show, Attend and
Tell", ICML 2015, for glimpses; Jang, Gu and Poole, "Categorical Reparameterization with
Gumbel-Softmax", ICLR 2017 (straight-through); Xie and Ermon, "Reparameterizable Subset Sampling via
Continuous Relaxations", IJCAI 2019 (the same for several positions).
"""

import math
from typing import Literal, NamedTuple, get_args

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.batch import BatchError
from pellucid.models.layers.soft_attention import Score, SoftAttention, over_grid

Estimator = Literal["reinforce", "gumbel"]


class Glimpses(NamedTuple):
    """Where hard attention looks."""

    attention: Tensor
    """(B, 1, h, w), ``1 / k`` at the k chosen positions, 0 elsewhere."""
    policy: Tensor
    """(B, 1, h, w) soft-max of the scores, differentiable: the chance to be the first glimpse."""
    cells: Tensor
    """(B, k) int64, the chosen positions in reading order of the grid; likeliest first in tests."""
    log_probability: Tensor | None
    """(B,) nats, of the glimpses in their order; None unless drawn for the score function."""


def log_probability_of(logits: Tensor, cells: Tensor) -> Tensor:
    """Logarithm of the chance to draw positions in this order, without putting them back.

    ``sum_j (s_cj - log sum_{i not in c_1..c_j-1} exp s_i)``, the Plackett-Luce distribution.

    Args:
        logits: (B, N) scores ``s``.
        cells: (B, k) int64, different from each other.

    Returns:
        (B,) nats.
    """
    chosen = logits.gather(1, cells)
    taken = F.one_hot(cells, logits.shape[1]).cumsum(1)
    # The first glimpse has all positions to choose from, the second one fewer, and so on.
    before = F.pad(taken, (0, 0, 1, -1)).bool()
    left = rearrange(logits, "b n -> b 1 n").masked_fill(before, -math.inf)
    return (chosen - left.logsumexp(2)).sum(1)


def relaxed_subset(noisy: Tensor, count: int, temperature: float) -> Tensor:
    """How much of each position a draw of several would take, if positions could be shared.

    ``count`` soft-maxes in a row, ``a_j+1 = soft-max(s_j+1 / t)`` with ``s_j+1 = s_j + log(1 -
    a_j)``: what one has taken is not there for the next. The soft-max itself for one position; at a
    low temperature one at each of the largest.

    Args:
        noisy: (B, N) scores with Gumbel noise, ``s_1``.
        count: Number of positions, at least 1.
        temperature: ``t``, above 0.

    Returns:
        (B, N), at least 0, sum ``count``. Source: Xie and Ermon 2019, section 3.
    """
    left, total = noisy, torch.zeros_like(noisy)
    least = torch.finfo(noisy.dtype).tiny
    for _ in range(count):
        taken = (left / temperature).softmax(1)
        total = total + taken
        left = left + (1 - taken).clamp(min=least).log()
    return total


def score_function_loss(log_probability: Tensor, cost: Tensor, baseline: Tensor) -> Tensor:
    """A loss whose gradient in expectation is that of the expected cost, by the score function.

    ``mean_b (L_b - b_b) log p_b`` with cost and baseline held constant.

    Args:
        log_probability: (B,) nats, of what was drawn.
        cost: (B,) what each draw cost; to be made small.
        baseline: (B,) the cost that was to be expected, independent of the draw.

    Returns:
        Scalar; its value means nothing. Source: Williams 1992, Eq. 4, with the opposite sign as
        costs are made small.
    """
    return ((cost - baseline).detach() * log_probability).mean()


class HardAttention(nn.Module):
    """Chooses ``glimpses`` positions of a feature grid; in training by chance, in tests the best.

    Chances come from the scores of one head of :class:`SoftAttention`, in training by the Gumbel
    trick, without looking twice at a position. ``reinforce`` learns scores from
    :func:`score_function_loss`, whose gradient is exact in expectation. ``gumbel`` passes the
    gradient of the chosen positions on to :func:`relaxed_subset` of the perturbed scores: biased,
    but of less variance, and no baseline is needed.

    Args:
        channels: Channels of the grid.
        glimpses: Number of positions, ``k``.
        estimator: ``reinforce`` or ``gumbel``.
        score: Of :class:`SoftAttention`.
        hidden: Likewise.
        temperature: Likewise; also that of the relaxed draw, by which noise and divided scores
            are divided once more (Jang et al. 2017, Eq. 2).

    Raises:
        ValueError: An argument is outside its range.
    """

    def __init__(
        self,
        channels: int,
        glimpses: int = 1,
        estimator: Estimator = "reinforce",
        score: Score = "additive",
        hidden: int = 32,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if estimator not in get_args(Estimator):
            allowed = " or ".join(get_args(Estimator))
            raise ValueError(f"estimator must be {allowed}, got {estimator!r}")
        if glimpses < 1:
            raise ValueError(f"glimpses must be at least 1, got {glimpses}: 1 sees one position")
        self.glimpses, self.estimator = glimpses, estimator
        self.scorer = SoftAttention(channels, score, 1, hidden, temperature)
        # Held apart from the features, which the baseline must not bend.
        self.baseline = nn.Linear(channels, 1) if estimator == "reinforce" else None

    def forward(self, features: Tensor) -> Glimpses:
        """Choose positions of features (B, C, h, w).

        Raises:
            BatchError: The grid has fewer positions than there are glimpses.
        """
        height, width = features.shape[-2:]
        if self.glimpses > height * width:
            raise BatchError(
                f"glimpses must be at most {height * width}, the positions of a {height} x {width} "
                f"grid, got {self.glimpses}: take fewer, or larger images"
            )
        scores = self.scorer.logits(features).float()
        logits = rearrange(scores, "b 1 h w -> b (h w)")
        noisy = logits - torch.empty_like(logits).exponential_().log() if self.training else logits
        cells = noisy.topk(self.glimpses).indices
        attention = torch.zeros_like(logits).scatter(1, cells, 1 / self.glimpses)
        log_probability = None
        if self.training and self.estimator == "gumbel":
            # The scores are divided already; the relaxation divides the noise as well.
            relaxed = relaxed_subset(noisy, self.glimpses, self.scorer.temperature)
            attention = attention + (relaxed - relaxed.detach()) / self.glimpses
        elif self.training:
            log_probability = log_probability_of(logits, cells)
        attention = rearrange(attention, "b (h w) -> b 1 h w", h=height)
        return Glimpses(attention, over_grid(scores), cells, log_probability)

    def expected_cost(self, features: Tensor) -> Tensor:
        """The learned baseline: the cost (B,) to be expected of images, from their mean features.

        Raises:
            ValueError: The estimator has no baseline.
        """
        if self.baseline is None:
            raise ValueError(
                f"estimator {self.estimator!r} has no baseline: choose 'reinforce' for one"
            )
        mean = reduce(features.detach(), "b c h w -> b c", "mean")
        expected: Tensor = rearrange(self.baseline(mean), "b 1 -> b")
        return expected
