"""The category that a unit stands for, and counts of images by category.

Source: Zhang, Wu, Zhu, *Interpretable Convolutional Neural Networks*, CVPR 2018
(arXiv 1710.00935), section 3: the category whose images activate a filter most.
"""

import torch
from einops import reduce
from torch import Tensor

from pellucid.metrics.part_metric import check_shape
from pellucid.metrics.unit_metric import QuietMetric


def check_label(label: Tensor, count: int, num_classes: int) -> None:
    """Check the categories of a batch.

    Args:
        label: Should be (B,), from 0 to ``num_classes - 1``.
        count: Images in the batch, ``B``.
        num_classes: Number of categories.

    Raises:
        ValueError: If the shape or a label is wrong.
    """
    check_shape("label", label, (count,))
    low, high = (int(i) for i in label.aminmax()) if count else (0, 0)
    if low < 0 or high >= num_classes:
        raise ValueError(f"label must be from 0 to {num_classes - 1}, got {low} to {high}")


def sum_by_category(values: Tensor, label: Tensor | None, num_classes: int) -> Tensor:
    """Sum what is known of each image over the images of each category.

    Args:
        values: (B, ...) bool, to be counted, or float.
        label: (B,) int64; None: all are of category 0.
        num_classes: Number of categories, ``K``.

    Returns:
        (K, ...) int32 or float32.
    """
    values = values.int() if values.dtype == torch.bool else values.float()
    if label is None:
        label = torch.zeros(len(values), dtype=torch.int64, device=values.device)
    return values.new_zeros(num_classes, *values.shape[1:]).index_add(0, label.long(), values)


def unit_categories(responses: Tensor, images: Tensor, known: Tensor) -> Tensor:
    """The category on whose images each unit responds most on average, of equal ones the first.

    Args:
        responses: (K, U) sum over the images of a category of the mean of the unit's map.
        images: (K,) images of each category.
        known: (K, U) bool, whether the category can be the unit's.

    Returns:
        (U,) int64; 0 for a unit that can have none.
    """
    means = responses / images.unsqueeze(1)
    return means.masked_fill(~known, -torch.inf).argmax(0)


def of_own_category(maps: Tensor, label: Tensor, shows: Tensor) -> Tensor:
    """Which images of a set are of each unit's category.

    Args:
        maps: (B, U, h, w) float.
        label: (B,) int64, from 0.
        shows: (B, U) bool, whether the image can count for the unit.

    Returns:
        (B, U) bool.

    Raises:
        ValueError: If the labels have a wrong shape, or one is below 0.
    """
    num_classes = max(1, int(label.max()) + 1) if label.numel() else 1
    check_label(label, len(maps), num_classes)
    means = reduce(maps.float(), "b u h w -> b u", "mean")
    category = unit_categories(
        sum_by_category(means, label, num_classes),
        label.bincount(minlength=num_classes),
        sum_by_category(shows, label, num_classes) > 0,
    )
    return label.unsqueeze(1) == category


class JudgedByCategory(QuietMetric):
    """The states of a metric that judges each unit on images of its own category."""

    responses: Tensor
    category_images: Tensor

    def _add_category_states(self, units: int, num_classes: int | None) -> int:
        """Make room for what tells the units' categories; returns how many there are."""
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes must be at least 1 or null, got {num_classes}")
        self.num_classes = num_classes
        count = num_classes or 1
        self.add_state("responses", torch.zeros(count, units), dist_reduce_fx="sum")
        images = torch.zeros(count, dtype=torch.int64)
        self.add_state("category_images", images, dist_reduce_fx="sum")
        return count

    def _add_responses(self, maps: Tensor, label: Tensor | None) -> None:
        """Add a batch, after a check that it has labels just where they are wanted."""
        if (label is None) != (self.num_classes is None):
            raise ValueError(
                "label must be given because num_classes is: leave both out to count all images"
                if label is None
                else f"label needs num_classes: give it to {type(self).__name__}"
            )
        count = self.num_classes or 1
        if label is not None:
            check_label(label, len(maps), count)
        means = reduce(maps.detach().float(), "b u h w -> b u", "mean")
        images = torch.ones(len(maps), dtype=torch.bool, device=maps.device)
        # Not in place: a state that was reset in inference mode could not be changed outside it.
        self.responses = self.responses + sum_by_category(means, label, count)
        self.category_images = self.category_images + sum_by_category(images, label, count)

    def _unit_categories(self, known: Tensor) -> Tensor:
        return unit_categories(self.responses, self.category_images, known)
