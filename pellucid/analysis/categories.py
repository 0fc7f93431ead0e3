"""Which category each unit stands for, and for which class it votes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.metrics.category_balance import evenness
from pellucid.models.base import InterpretableModel


@dataclass(frozen=True, kw_only=True)
class UnitCategories:
    """The categories and votes of one layer's units, on the CPU; ``U`` units, ``K`` classes.

    Args:
        categories: (U,) int64, the category of each unit; -1: it has none.
        votes: (U, K) float, what one standard deviation of the unit's pooled activation adds to the
            score of each class, in logits.
        assigned: Whether training assigned the categories; else a unit's category is the class on
            whose images its mean activation is greatest.
        class_names: Names of the K classes.

    Raises:
        ValueError: If the shapes do not fit, or a category is out of range.
    """

    categories: Tensor
    votes: Tensor
    assigned: bool
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        units, classes = len(self.categories), len(self.class_names)
        if self.categories.ndim != 1 or self.votes.shape != (units, classes):
            raise ValueError(
                f"votes must have shape ({units}, {classes}), one row for each of the categories "
                f"and one column for each of class_names, got {tuple(self.votes.shape)}"
            )
        if units and not -1 <= int(self.categories.min()) <= int(self.categories.max()) < classes:
            low, high = (int(i) for i in self.categories.aminmax())
            raise ValueError(f"categories must be from -1 to {classes - 1}, got {low} to {high}")

    @property
    def counts(self) -> Tensor:
        """(K,) int64, how many units each category has."""
        known = self.categories[self.categories >= 0]
        return known.bincount(minlength=len(self.class_names))

    @property
    def balance(self) -> float:
        """Entropy of the counts as a share of the greatest: 1 where all categories have as many.

        NaN where no unit has a category.
        """
        return float(evenness(self.counts))

    @property
    def agreement(self) -> float:
        """Share of the units with a category whose greatest vote is for it; NaN without any."""
        known = self.categories >= 0
        return float((self.votes.argmax(1) == self.categories)[known].float().mean())

    def order(self) -> Tensor:
        """(U,) int64, the units by category, in each by falling vote for it; those without last."""
        own = self.votes.gather(1, self.categories.clamp(min=0).unsqueeze(1)).squeeze(1)
        by_vote = own.argsort(descending=True, stable=True)
        last = torch.where(self.categories < 0, len(self.class_names), self.categories)
        return by_vote[last[by_vote].argsort(stable=True)]


def unit_categories(
    model: InterpretableModel, class_activation: Tensor, class_names: Sequence[str]
) -> UnitCategories | None:
    """The categories and votes of a model's own units.

    Args:
        model: The model.
        class_activation: (U, K) mean activation of each unit on the images of each class, as
            :class:`~pellucid.analysis.units.UnitSummary` has it; NaN for a class without images.
            Decides where training assigned no category.
        class_names: Names of the classes.

    Returns:
        None where the units do not vote for several classes, or another layer is measured.
    """
    votes = model.votes()
    if votes is None or model.unit_metrics.layer is not None or len(class_names) < 2:
        return None
    assigned = model.assigned_categories()
    categories = assigned
    if categories is None:
        known = class_activation.nan_to_num(-torch.inf)
        best, categories = known.max(1)
        categories = categories.masked_fill(~(best > 0), -1)
    return UnitCategories(
        categories=categories.detach().long().cpu(),
        votes=votes.detach().float().cpu(),
        assigned=assigned is not None,
        class_names=tuple(class_names),
    )
