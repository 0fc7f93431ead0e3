"""Whether the attention matters for the prediction: it is changed, all else stays.

Sources: permutation, with the total variation distance of the predictions, Jain, Wallace,
*Attention is not Explanation*, NAACL 2019, section 4.2.1; even attention, Wiegreffe, Pinter,
*Attention is not not Explanation*, EMNLP 2019, section 3.2; removal of the greatest weight,
Serrano, Smith, *Is Attention Interpretable?*, ACL 2019, section 4.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from einops import rearrange, repeat
from torch import Tensor

from pellucid.metrics.maps.heat import check_heat
from pellucid.metrics.maps.map_metric import MapMetric
from pellucid.metrics.maps.probabilities import class_probabilities

Change = Literal["permute", "even", "remove_strongest"]
"""Weights in random order; the same weight everywhere; or without the greatest weight, the others
scaled to the same sum."""
REPEATS = 10


class Faithfulness(NamedTuple):
    """What a change of the attention does to the predictions."""

    distance: Tensor
    """(B,) total variation distance of the class probabilities, from 0 to 1: mean over repeats."""
    agreement: Tensor
    """(B,) share of repeats in which the predicted class stays, from 0 to 1."""


@torch.no_grad()
def attention_faithfulness(
    scores: Callable[[Tensor, Tensor], Tensor],
    image: Tensor,
    attention: Tensor,
    change: Change = "permute",
    repeats: int = REPEATS,
    seed: int = 0,
) -> Faithfulness:
    r"""How far predictions move when the attention is changed, :math:`\frac12 \sum_k |p_k - q_k|`.

    A model whose predictions stay did not need its attention, which then explains nothing. Each
    head's weights are changed on their own; heads whose weights are all alike cannot change.

    Args:
        scores: Makes class scores (N, K), logits, of images (N, C, H, W) and attention (N, U, h, w)
            that takes the place of the model's own; in evaluation mode.
        image: (B, C, H, W) float.
        attention: (B, U, h, w) float, at least 0: the model's own attention of U heads.
        change: What is done to it.
        repeats: Random orders of ``permute``, at least 1; they pass through the network together.
            The other changes leave nothing to chance.
        seed: Seed of the orders.

    Returns:
        Distance (higher: the attention matters) and agreement (lower: it matters).

    Raises:
        ValueError: If an argument is out of range, or a shape or a value is wrong.
    """
    _check_change(change, repeats)
    _check_attention(image, attention)
    count = repeats if change == "permute" else 1
    before = class_probabilities(scores(image, attention), len(image))
    changed = torch.cat([_changed(attention, change, seed + number) for number in range(count)])
    images = repeat(image, "b ... -> (r b) ...", r=count)
    after = class_probabilities(scores(images, changed), len(images))
    after = rearrange(after, "(r b) k -> r b k", r=count)
    distance = (after - before).abs().sum(2) / 2
    agreement = (after.argmax(2) == before.argmax(1)).float()
    return Faithfulness(distance.mean(0), agreement.mean(0))


def _check_change(change: Change, repeats: int) -> None:
    if change not in get_args(Change):
        raise ValueError(f"change must be one of {', '.join(get_args(Change))}, got {change!r}")
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}; usual is {REPEATS}")


def _check_attention(image: Tensor, attention: Tensor) -> None:
    if attention.ndim != 4 or len(attention) != len(image):
        raise ValueError(
            f"attention must have shape (B={len(image)}, U, h, w), one map per head, got "
            f"{tuple(attention.shape)}"
        )
    check_heat(rearrange(attention, "b u h w -> (b u) h w"), "attention")
    if bool((attention < 0).any()):
        raise ValueError("attention has a weight below 0; weights of attention are at least 0")


def _changed(attention: Tensor, change: Change, seed: int) -> Tensor:
    """(B, U, h, w) attention of the same sums."""
    weights = rearrange(attention, "b u h w -> b u (h w)")
    if change == "permute":
        noise = torch.rand(weights.shape, generator=torch.Generator().manual_seed(seed))
        weights = weights.gather(2, noise.argsort(2).to(weights.device))
    elif change == "even":
        weights = weights.mean(2, keepdim=True).expand_as(weights)
    else:
        whole = weights.sum(2, keepdim=True)
        others = weights.scatter(2, weights.argmax(2, keepdim=True), 0.0)
        rest = others.sum(2, keepdim=True)
        # Where one place had all the weight, nothing is left to be scaled.
        weights = others * torch.where(rest > 0, whole / torch.where(rest > 0, rest, 1.0), 0.0)
    return weights.reshape(attention.shape)


class AttentionFaithfulness(MapMetric):
    """How far predictions move when the attention is changed, mean over images; from 0 to 1.

    See :func:`attention_faithfulness`; :meth:`agreement` is the share of predictions that stay.

    Args:
        change: What is done to the attention.
        repeats: Random orders of ``permute``, at least 1.

    Raises:
        ValueError: If an argument is out of range.
    """

    higher_is_better = True
    agreed: Tensor

    def __init__(self, change: Change = "permute", repeats: int = REPEATS) -> None:
        super().__init__()
        _check_change(change, repeats)
        self.change, self.repeats = change, repeats
        self.add_state("agreed", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self._agreement: Tensor

    def update(
        self, scores: Callable[[Tensor, Tensor], Tensor], image: Tensor, attention: Tensor
    ) -> None:
        """Look at one batch; the arguments are those of :func:`attention_faithfulness`."""
        found = attention_faithfulness(scores, image, attention, self.change, self.repeats)
        self.add(found.distance)
        self.agreed = self.agreed + found.agreement.double().sum()

    def compute(self) -> Tensor:
        """The mean distance over images."""
        self._agreement = (self.agreed / self.judged).float()
        return super().compute()

    def agreement(self) -> Tensor:
        """Share of predictions that stay; collective over processes as :meth:`compute` is."""
        self.compute()
        return self._agreement
