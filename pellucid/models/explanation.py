"""The one result type of explanations, which the report and the metrics read."""

from dataclasses import dataclass, field, fields, replace
from typing import Literal, Self

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a model gave its scores to a batch of images.

    A field that a model does not have is None. ``B`` images, ``U`` units (filters, attention
    heads ...), ``K`` scores.
    """

    scores: Tensor
    """(B, K) class scores before the last soft-max or sigmoid (logits)."""
    target: Tensor
    """(B,) int64, the score that is explained, by default the predicted one."""
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

    def to(self, device: str) -> Self:
        """The same explanation with its tensors on another device."""
        moved = {
            f.name: getattr(self, f.name).detach().to(device)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)
