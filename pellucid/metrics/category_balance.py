"""Whether every category has its share of the units.

Source: Shannon's entropy of the counts as a share of the greatest one (Pielou's evenness; Pielou,
*The Measurement of Diversity in Different Types of Biological Collections*, Journal of Theoretical
Biology 1966). The category of a unit is that of Zhang, Wu, Zhu, *Interpretable Convolutional Neural
Networks*, CVPR 2018 (arXiv 1710.00935), section 3.
"""

import math
from typing import TYPE_CHECKING

import torch
from einops import reduce
from torch import Tensor

from pellucid.metrics.part_metric import check_maps, check_shape
from pellucid.metrics.unit_category import (
    JudgedByCategory,
    check_label,
    sum_by_category,
    unit_categories,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NO_CATEGORY = -1
"""The category of a unit that responds to all categories alike, as a dead one does."""


def category_balance(maps: Tensor, label: Tensor, num_classes: int) -> Tensor:
    r"""Balance of a layer's units over categories, :math:`-\sum_c p_c \log p_c / \log K`.

    :math:`p_c` is the share of the units whose category is :math:`c`: the one on whose images the
    mean of the unit's map is greatest on average. Units that respond to all categories alike have
    none and are left out.

    Args:
        maps: (B, U, h, w) floating point, finite: the units' responses.
        label: (B,) int64, the category, from 0 to ``num_classes - 1``.
        num_classes: Number of categories, ``K``, at least 2.

    Returns:
        Scalar from 0 (all units are of one category) to 1 (each category has as many), NaN if no
        unit has a category.

    Raises:
        ValueError: If there are fewer than two categories, or a shape, a label, or an activation
            is wrong; names the unit.
    """
    _check_classes(num_classes)
    maps = check_maps(maps)
    check_label(label, len(maps), num_classes)
    means = reduce(maps, "b u h w -> b u", "mean")
    responses = sum_by_category(means, label, num_classes)
    return evenness(_counts(_assign(responses, label.bincount(minlength=num_classes)), num_classes))


def evenness(counts: Tensor) -> Tensor:
    """Entropy of counts as a share of the greatest that there can be.

    Args:
        counts: (K,) of any type, at least 0; K at least 2.

    Returns:
        Scalar from 0 to 1; NaN if all counts are 0.
    """
    entropy: Tensor = torch.special.entr(counts / counts.sum()).sum()
    return entropy / math.log(len(counts))


def _check_classes(num_classes: int) -> None:
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}: one has no balance")


def _assign(responses: Tensor, images: Tensor) -> Tensor:
    """(U,) category of each unit."""
    means = responses / images.unsqueeze(1)
    known = (images > 0).unsqueeze(1).expand_as(means)
    low = means.masked_fill(~known, torch.inf).amin(0)
    high = means.masked_fill(~known, -torch.inf).amax(0)
    category = unit_categories(responses, images, known)
    return category.masked_fill(~(high > low), NO_CATEGORY)


def _counts(categories: Tensor, num_classes: int) -> Tensor:
    return categories[categories >= 0].bincount(minlength=num_classes)


class CategoryBalance(JudgedByCategory):
    """Whether every category has as many units, from 0 to 1; higher is more even.

    See :func:`category_balance` for the definition. It holds about ``4 K U`` bytes for K categories
    (0.4 MB for 512 units, 200 categories), however many images there are. Batch sizes, order and
    the number of processes do not change the result, but where rounding decides between two
    categories of a unit; images that a distributed sampler repeats do count twice. A metric that
    has seen no image is NaN.

    Args:
        num_units: Number of units, ``U``.
        num_classes: Number of categories, ``K``, at least 2.

    Raises:
        ValueError: If an argument is out of range.
    """

    is_differentiable = False
    higher_is_better = True
    # A unit's category is that of all images, so forward() must not add up batches.
    full_state_update = True

    def __init__(self, num_units: int, num_classes: int) -> None:
        super().__init__()
        if num_units < 1:
            raise ValueError(f"num_units must be at least 1, got {num_units}")
        _check_classes(num_classes)
        self.num_units = num_units
        self._add_category_states(num_units, num_classes)
        self._categories: Tensor

    def update(self, maps: Tensor, label: Tensor) -> None:
        """Look at one batch; the arguments are those of :func:`category_balance`."""
        check_shape("maps", maps, (None, self.num_units, None, None))
        self._add_responses(check_maps(maps), label)

    def compute(self) -> Tensor:
        """The evenness of the units' categories."""
        self._categories = _assign(self.responses, self.category_images)
        return evenness(_counts(self._categories, len(self.responses)))

    def categories(self) -> Tensor:
        """The category of each unit; collective unless :meth:`compute` has been called.

        Returns:
            (U,) int64, -1 for a unit that has none.
        """
        self.compute()
        return self._categories.to(self.device)

    def counts(self) -> Tensor:
        """How many units each category has; collective likewise.

        Returns:
            (K,) int64.
        """
        return _counts(self.categories(), len(self.responses))

    def plot(self) -> tuple["Figure", "Axes"]:
        """A bar for each category: its number of units."""
        from matplotlib.figure import Figure

        counts = self.counts().tolist()
        figure = Figure(figsize=(5.0, 1.2 + 0.22 * len(counts)), layout="constrained")
        axes = figure.subplots()
        axes.barh(range(len(counts)), counts, color="#0072B2")
        axes.axvline(sum(counts) / len(counts), color="black", lw=1.0, ls=":")
        axes.set_yticks(range(len(counts)))
        axes.set_ylim(len(counts) - 0.4, -0.6)
        axes.set_ylabel("category")
        axes.set_xlabel("units (dotted: if all had as many)")
        axes.set_title(f"balance {float(self.compute()):.3f}", fontsize=9)
        return figure, axes
