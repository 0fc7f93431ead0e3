"""The one result type of explanations, which the report and the metrics read."""

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self, TypeVar

from einops import rearrange
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Traversals:
    """What a generator draws when one latent or code at a time takes other values.

    ``B`` images, ``U`` latents in the order in which they are shown, ``S`` values of each.
    """

    images: Tensor
    """(B, U, S, C, H, W) float in [0, 1], not normalised."""
    values: Tensor
    """(B, U, S) the values of the latent that varies, in its own unit."""
    names: tuple[str, ...]
    """Of the U latents."""
    kinds: tuple[Literal["continuous", "categorical"], ...]
    """Of the U latents; the values of a categorical code are the numbers of its categories."""
    importance: Tensor
    """(U,) by which latents are sorted, the largest first, as their KL or mutual information."""
    importance_name: str
    """What ``importance`` is, as "KL"."""
    importance_unit: str = "nats"
    codes: Tensor | None = None
    """(B, U) the value that each of the U latents has in each image; the number of the likeliest
    category of a categorical code. None: images have no codes."""

    def to(self, device: str) -> Self:
        """The same traversals with their tensors on another device."""
        return _moved(self, device)


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a model gave its scores to a batch of images.

    A field that a model does not have is None. ``B`` images, ``U`` units (filters, attention
    heads ...), ``K`` scores.
    """

    scores: Tensor
    """(B, K) class scores before the last soft-max or sigmoid (logits); K is 0 where a model has
    no classes."""
    target: Tensor
    """(B,) int64, the score that is explained, by default the predicted one; 0 without classes."""
    maps: Tensor | None = None
    """(B, U, h, w) one heat map per unit on the model's own grid, spanning the image."""
    map_sign: Literal["positive", "signed"] = "positive"
    """Whether maps are never below zero, or speak for (+) and against (-) the target."""
    map_range: tuple[float, float] | None = None
    """Least and largest value that maps can have; None: unbounded above."""
    positions: Tensor | None = None
    """(B, U, 2) float, where each unit fires most: (x, y) in pixels of the transformed image."""
    contributions: Tensor | None = None
    """(B, U) what each unit adds to the target's score; ``contributions.sum(1) + bias`` is it."""
    bias: Tensor | None = None
    """(B,) what the target's score is without any unit."""
    contribution_unit: str = "logits"
    unit_names: tuple[str, ...] = field(default=())
    codes: Tensor | None = None
    """(B, L) latents or codes that the model infers from each image."""
    reconstruction: Tensor | None = None
    """(B, C, H, W) float in [0, 1], not normalised: what the model draws from ``codes``."""
    traversals: Traversals | None = None
    """What the model draws when one latent or code varies."""
    heat: Tensor | None = None
    """(B, h, w) the map that metrics are to judge, where it is not the one that
    :func:`heat_of` makes of ``maps`` and ``contributions``."""

    def heat_map(self) -> Tensor | None:
        """The one map of each image that metrics judge, on the model's own grid.

        It is ``heat`` where a model gives it, else what :func:`heat_of` makes of ``maps`` and
        ``contributions``. Metrics judge the positive part of it.

        Returns:
            (B, h, w) float; None: the model explains by no map.
        """
        if self.heat is not None or self.maps is None:
            return self.heat
        return heat_of(self.maps, self.contributions)

    def to(self, device: str) -> Self:
        """The same explanation with its tensors on another device."""
        return _moved(self, device)

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        # Drawing is the report's business, and of no use outside of notebooks.
        from pellucid.report.notebook import explanation_html

        return explanation_html(self)


def heat_of(maps: Tensor, contributions: Tensor | None = None) -> Tensor:
    """One map of each image: what speaks for the target, where it does so.

    What each unit adds to the target's score is spread over its map,
    ``sum_u max(c_u, 0) * map_u / sum(map_u)``; of signed maps the positive part counts. A unit that
    speaks against the target, or whose map has no positive value, adds nothing; a map of zeros says
    that nothing speaks for the target. Without contributions it is the mean of the units' maps.

    Args:
        maps: (B, U, h, w) float.
        contributions: (B, U) float; None: not known.

    Returns:
        (B, h, w) float32, at least 0.
    """
    positive = maps.float().clamp(min=0)
    if contributions is None:
        return positive.mean(1)
    whole = positive.sum((2, 3))
    share = contributions.float().clamp(min=0) / whole.masked_fill(whole == 0, 1.0)
    return (rearrange(share, "b u -> b u 1 1") * positive).sum(1)


Moved = TypeVar("Moved", bound="Explanation | Traversals")


def _moved(whole: Moved, device: str) -> Moved:
    """The same dataclass with its tensors, also those of parts, on another device."""
    moved: dict[str, Any] = {}
    for each in fields(whole):
        value = getattr(whole, each.name)
        if isinstance(value, Tensor):
            moved[each.name] = value.detach().to(device)
        elif isinstance(value, Traversals):
            moved[each.name] = value.to(device)
    return replace(whole, **moved)
