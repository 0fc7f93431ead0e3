"""Whether a method gives most relevance to the parts that really matter, by drawing without them.

Deleting pixels makes images that no network has seen. Data that can be drawn anew, as the built-in
figures, know better: the same figure, in the same place before the same background, without its
head. What the explained class loses then is the true effect of the part on the network, and a
method's relevance of the part can be held against it. Kindred tests paste objects into images: BAM,
Yang, Kim, *Benchmarking Attribution Methods with Relative Feature Importance*, 2019 (arXiv
1907.09701).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from einops import einsum
from torch import Tensor
from tqdm.auto import tqdm

from pellucid.attribution.agreement import average_ranks
from pellucid.batch import Batch
from pellucid.datamodules.base import Split
from pellucid.metrics.maps.heat import check_size, relevance

LEAST_PARTS = 3


class Redrawable(Protocol):
    """Data whose images can be drawn anew, as those of ``SyntheticParts``."""

    remove_parts: tuple[str, ...]

    @property
    def part_names(self) -> Sequence[str]:
        """Names of the parts, in the order of ``part_masks``."""

    def render(
        self, split: Split, indices: Sequence[int] | Tensor, *, remove_parts: Sequence[str] | None
    ) -> Batch:
        """Chosen images of a split, drawn anew."""


def can_redraw(data: Any) -> bool:
    """Whether a data module can draw its images anew without a part."""
    return callable(getattr(data, "render", None)) and bool(data.part_names)


@dataclass(frozen=True)
class PartEffects:
    """What removing each part does to the explained class. ``B`` images, ``P`` parts."""

    score: Tensor
    """(B, P) float32, drop of the class's score in logits, below 0 where the part spoke against the
    class; NaN where the image does not show the part."""
    probability: Tensor
    """(B, P) float32, drop of the class's probability, likewise; NaN with one class only."""


@torch.no_grad()
def true_part_effects(
    scores: Callable[[Tensor], Tensor],
    data: Redrawable,
    split: Split,
    indices: Sequence[int],
    target: Tensor,
    *,
    adapt: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 64,
    device: Any = "cpu",
    progress: bool = False,
) -> PartEffects:
    """Draw images without each of their parts, and see what the network makes of them.

    Args:
        scores: Makes class scores (N, K), logits, of images (N, C, H, W); in evaluation mode.
        data: The data module.
        split: Which images.
        indices: (B,) their positions in the split.
        target: (B,) int64, the class that is explained.
        adapt: What the network's images (N, C, H, W) are made of the data's by, as another
            normalisation; None: they are the same.
        batch_size: Images that are drawn and looked at at once, at least 1.
        device: Where to compute.
        progress: Whether to show a bar.

    Raises:
        ValueError: There are not as many targets as images, or ``batch_size`` is below 1.
    """
    if len(target) != len(indices):
        raise ValueError(f"target has {len(target)} classes for {len(indices)} images")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    names = data.part_names
    shape = (len(indices), len(names))
    effects = PartEffects(torch.full(shape, torch.nan), torch.full(shape, torch.nan))

    def look(places: Sequence[int], removed: Sequence[str]) -> tuple[Batch, Tensor]:
        batch = data.render(split, places, remove_parts=removed)
        image = batch["image"].to(device)
        return batch, scores(image if adapt is None else adapt(image)).float().cpu()

    bar = tqdm(total=len(indices) * (len(names) + 1), desc="Parts", disable=not progress)
    for first in range(0, len(indices), batch_size):
        rows = slice(first, first + batch_size)
        places, wanted = indices[rows], target[rows].cpu()
        whole, before = look(places, data.remove_parts)
        shown = whole["part_masks"].flatten(2).any(2)
        bar.update(len(places))
        for number, name in enumerate(names):
            # A part that no figure has, or that an image hides, has no effect to be told.
            if name not in data.remove_parts:
                after = look(places, (*data.remove_parts, name))[1]
                drop, lost = _drops(before, after, wanted)
                seen = shown[:, number]
                effects.score[rows, number] = drop.where(seen, torch.nan)
                effects.probability[rows, number] = lost.where(seen, torch.nan)
            bar.update(len(places))
    bar.close()
    return effects


def _drops(before: Tensor, after: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) drop of the target's score, and of its probability."""

    def of(values: Tensor) -> Tensor:
        return values.gather(1, target.unsqueeze(1)).squeeze(1)

    drop = of(before) - of(after)
    if before.shape[1] < 2:
        return drop, torch.full_like(drop, torch.nan)
    return drop, of(before.softmax(1)) - of(after.softmax(1))


def part_relevance(maps: Tensor, part_masks: Tensor) -> Tensor:
    """Share of a map's relevance that lies in each part.

    Args:
        maps: (B, h, w) floating point, finite, on a grid no finer than the masks.
        part_masks: (B, P, H, W) bool.

    Returns:
        (B, P) float32 in [0, 1]; NaN where the mask is empty or the map has no positive value.

    Raises:
        ValueError: If a shape, a type or a value is wrong.
    """
    if part_masks.ndim != 4 or part_masks.dtype != torch.bool or len(part_masks) != len(maps):
        raise ValueError(
            f"part_masks must be bool of shape (B={len(maps)}, P, H, W), got "
            f"{tuple(part_masks.shape)} of {part_masks.dtype}"
        )
    size = (part_masks.shape[-2], part_masks.shape[-1])
    check_size(size, maps, "part_masks")
    heat = relevance(maps, size)
    inside = einsum(heat, part_masks.to(heat), "b h w, b p h w -> b p")
    whole = heat.sum((1, 2)).unsqueeze(1)
    defined = (whole > 0) & part_masks.flatten(2).any(2)
    return torch.where(defined, inside / torch.where(whole > 0, whole, 1.0), torch.nan)


def part_correlation(relevance: Tensor, effects: Tensor, least: int = LEAST_PARTS) -> Tensor:
    """Spearman's rank correlation over the parts of each image.

    Equal values share the mean of their ranks. Large parts tend to have more relevance and more
    effect, so that a map without any knowledge can be above 0: compare with the random map.

    Args:
        relevance: (B, P) float, what a method gives each part; NaN: nothing is known.
        effects: (B, P) float, the true effect of removing it; NaN likewise.
        least: Parts that an image must show to be judged, at least 2.

    Returns:
        (B,) float32 from -1 to 1, higher is better; 0 is chance. NaN where fewer parts are known,
        or all are alike.

    Raises:
        ValueError: If the shapes differ or ``least`` is below 2.
    """
    if relevance.shape != effects.shape or relevance.ndim != 2:
        raise ValueError(
            f"relevance and effects must both be (B, P), got {tuple(relevance.shape)} and "
            f"{tuple(effects.shape)}"
        )
    if least < 2:
        raise ValueError(f"least must be at least 2 parts, got {least}")
    known = ~(relevance.isnan() | effects.isnan())
    first, second = (_centred_ranks(each, known) for each in (relevance, effects))
    spread = (first.square().sum(1) * second.square().sum(1)).sqrt()
    defined = (spread > 0) & (known.sum(1) >= least)
    both = (first * second).sum(1)
    return torch.where(defined, both / torch.where(defined, spread, 1.0), torch.nan).float()


def _centred_ranks(values: Tensor, known: Tensor) -> Tensor:
    """(B, P) float64, ranks less their mean; 0 where nothing is known."""
    ranks = average_ranks(torch.where(known, values, torch.nan))
    return torch.where(known, ranks - ranks.nanmean(1, keepdim=True), 0.0)
