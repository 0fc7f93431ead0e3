"""How sure a mean over images is: the bootstrap.

Source: Efron, Tibshirani, *An Introduction to the Bootstrap*, Chapman & Hall 1993, section 13.3:
the percentile interval.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LEVEL = 0.95
RESAMPLES = 2000
_AT_ONCE = 2**22


@dataclass(frozen=True)
class Interval:
    """A mean and the interval that holds it."""

    mean: float
    low: float
    high: float
    """NaN, as ``low``, where there are fewer than two values."""
    count: int
    """Number of values; those that are NaN are left out and not counted."""


def bootstrap_interval(
    values: Tensor, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    r"""Percentile bootstrap interval of a mean.

    ``resamples`` samples of as many values are drawn with replacement; the interval spans the
    quantiles :math:`(1 \mp \text{level}) / 2` of their means. It says how the mean would change
    with other images of the same kind, not with another training of the model.

    Args:
        values: (N,) floating point, a figure of each image; NaN: not defined.
        level: Share of resampled means inside, above 0 and below 1.
        resamples: Number of resampled means, at least 1.
        seed: Seed of the resampling: equal values have equal intervals.

    Returns:
        Mean and interval in the unit of ``values``; NaN of none.

    Raises:
        ValueError: A shape, a value or an argument is wrong.
    """
    if values.ndim != 1 or not values.is_floating_point():
        raise ValueError(
            f"values must be floating point of shape (N,), one per image, got "
            f"{tuple(values.shape)} of {values.dtype}"
        )
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}; usual is {LEVEL}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}; usual is {RESAMPLES}")
    known = values.detach().double().cpu()
    known = known[~known.isnan()]
    if bool(known.isinf().any()):
        raise ValueError("values has an infinite value, so its mean is none: leave it out as NaN")
    count = len(known)
    mean = float(known.mean())
    if count < 2:
        return Interval(mean, float("nan"), float("nan"), count)
    generator = torch.Generator().manual_seed(seed)
    rows, means = max(1, _AT_ONCE // count), []
    for first in range(0, resamples, rows):
        drawn = torch.randint(count, (min(rows, resamples - first), count), generator=generator)
        means.append(known[drawn].mean(1))
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.cat(means).quantile(ends).tolist()
    return Interval(mean, low, high, count)
