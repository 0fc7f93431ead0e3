"""The images by which a person gets to know a unit: typical ones, and ones that surprise.

A unit's strongest images are much alike, and say little of what else it fires at. Kim, Khanna,
Koyejo, *Examples are not Enough, Learn to Criticize! Criticism for Interpretability*, NIPS 2016,
show prototypes and criticisms of a data set instead; the two kinds here are the same thought for a
unit, defined by what this package has at hand. There is no published source of these definitions.
"""

from typing import NamedTuple

import torch
from einops import repeat
from torch import Tensor
from torch.nn import functional as F

STRONGEST = 10
"""Images of a unit whose mean response says what is strong for it."""
_SHARE = 0.5


class Representatives(NamedTuple):
    """Images of each unit, by their rows in the table of responses, the most telling first."""

    representative: list[list[int]]
    surprising: list[list[int]]
    """Empty as a whole where the images have no labels."""


def unit_representatives(
    responses: Tensor, labels: Tensor | None, count: int = 3, *, strongest: int = STRONGEST
) -> Representatives:
    """Representative and surprising images of each unit.

    An image is *strong* for a unit if the unit's response is above half of the mean of its
    ``strongest`` largest.

    *Representative*: of the ``strongest`` images of the unit, those whose pattern of responses of
    all units (each divided by its standard deviation) is closest to the mean pattern of all of the
    unit's strong images, by the cosine: what the unit fires at as a rule. Without the first
    condition, all units of a category would have the images that are typical of the category.

    *Surprising*: strong images of a category in which the unit is otherwise silent: the mean over
    the category's other images is not strong. They come in the order of response less that mean,
    and are none for a unit that only fires where it always does.

    Args:
        responses: (N, U) float, finite: how strongly each unit responds to each image, as the peak
            of its map; negative ones count as 0.
        labels: (N,) int64, the category of each image, from 0 on; None: not known, and so is what
            surprises.
        count: Largest number of images of each kind and unit, at least 1.
        strongest: Largest responses whose mean says what is strong, at least 1.

    Raises:
        ValueError: If a shape, a value or a number is wrong.
    """
    labels_shape = responses.shape[:1] if labels is None else labels.shape
    if responses.ndim != 2 or 0 in responses.shape or labels_shape != responses.shape[:1]:
        raise ValueError(
            f"responses must be (N, U) and labels (N,), got {tuple(responses.shape)} and "
            f"{tuple(labels_shape)}"
        )
    if not bool(responses.isfinite().all()):
        raise ValueError("responses has a value that is not finite: leave the image out")
    for name, value in (("count", count), ("strongest", strongest)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    table = responses.detach().double().cpu().clamp(min=0)
    best = table.topk(min(strongest, len(table)), 0).values
    limit = best.mean(0) * _SHARE
    strong = (table > limit) & (table > 0)
    typical = _first(_closeness(table, strong), strong & (table >= best[-1]), count)
    if labels is None:
        return Representatives(typical, [])
    others = _mean_of_others(table, labels.cpu())
    return Representatives(typical, _first(table - others, strong & (others <= limit), count))


def _closeness(table: Tensor, strong: Tensor) -> Tensor:
    """(N, U) cosine of each image's pattern with the mean pattern of the unit's strong images."""
    spread = table.std(0, correction=0)
    pattern = table / torch.where(spread > 0, spread, 1.0)
    number = strong.sum(0).clamp(min=1).unsqueeze(1)
    centre = (strong.double().T @ pattern) / number
    return F.normalize(pattern, dim=1) @ F.normalize(centre, dim=1).T


def _mean_of_others(table: Tensor, labels: Tensor) -> Tensor:
    """(N, U) mean response over the other images of the image's category; its own where alone."""
    whole = torch.zeros(int(labels.max()) + 1, table.shape[1], dtype=table.dtype)
    whole.index_add_(0, labels, table)
    number = torch.bincount(labels)[labels].unsqueeze(1) - 1
    # Of a category with one image nothing is known that could be contradicted.
    return torch.where(number > 0, (whole[labels] - table) / number.clamp(min=1), table)


def _first(value: Tensor, allowed: Tensor, count: int) -> list[list[int]]:
    """Per unit, the allowed rows with the largest values; of equals, the first."""
    order = value.where(allowed, -torch.inf).argsort(dim=0, descending=True, stable=True)[:count]
    kept = allowed.gather(0, order)
    rows = repeat(torch.arange(len(order)), "n -> n u", u=value.shape[1])
    return [order[rows[:, unit], unit][kept[:, unit]].tolist() for unit in range(value.shape[1])]
