"""Which concepts and categories count where units fire."""

from collections.abc import Sequence

import torch
from einops import rearrange, repeat
from torch import Tensor

from pellucid.metrics.bright_values import true_places
from pellucid.metrics.mask_grid import masks_on_grid
from pellucid.metrics.part_metric import check_shape


def categories_of(
    concepts: int, categories: Sequence[str] | None
) -> tuple[tuple[str, ...], Tensor]:
    """Number the categories in the order in which they appear.

    Args:
        concepts: Number of concepts, ``C``.
        categories: Category of each concept; None: all are of one, called ``concept``.

    Returns:
        Names of the ``K`` categories, and (C,) int64, the number of each concept's category.

    Raises:
        ValueError: If there is not one category for each concept.
    """
    if categories is None:
        return ("concept",), torch.zeros(concepts, dtype=torch.int64)
    if len(categories) != concepts:
        raise ValueError(
            f"categories must name one for each of {concepts} concepts, got {len(categories)}"
        )
    names = tuple(dict.fromkeys(categories))
    return names, torch.tensor([names.index(name) for name in categories], dtype=torch.int64)


def counted_masks(
    masks: Tensor,
    visible: Tensor | None,
    annotated: Tensor | None,
    category: Tensor,
    resolution: int | None,
) -> tuple[Tensor, Tensor]:
    """Masks on a grid, empty where their concept is not visible or not annotated.

    Args:
        masks: (B, C, H, W) bool.
        visible: (B, C) bool; None: all.
        annotated: (B, K) bool, for each category; None: all.
        category: (C,) int64, category of each concept.
        resolution: See :func:`~pellucid.metrics.mask_grid.masks_on_grid`.

    Returns:
        (B, C, h, w) bool, and (B, K) bool, ``annotated``.

    Raises:
        ValueError: If a shape or type is wrong.
    """
    images, concepts = len(masks), len(category)
    if visible is None:
        visible = masks.new_ones(images, concepts, dtype=torch.bool)
    if annotated is None:
        annotated = masks.new_ones(images, int(category.max()) + 1, dtype=torch.bool)
    check_shape("visible", visible, (images, concepts))
    check_shape("annotated", annotated, (images, int(category.max()) + 1))
    for name, tensor in {"masks": masks, "visible": visible, "annotated": annotated}.items():
        if tensor.dtype != torch.bool:
            raise ValueError(f"{name} must be bool, got {tensor.dtype}; give {name} > 0")
    shown = visible & annotated[:, category]
    if resolution is None or resolution >= max(masks.shape[-2:]):
        if not shown.all():
            masks = masks.clone()
            masks[~shown] = False
        return masks, annotated
    return masks_on_grid(masks, shown, resolution)[0], annotated


def concepts_by_pixel(masks: Tensor) -> tuple[Tensor, Tensor]:
    """List the concepts of each pixel.

    Args:
        masks: (B, C, h, w) bool.

    Returns:
        (N, B * h * w) int64, the numbers of the concepts in each column, then ``C`` to fill it,
        where ``N`` is the number of concepts of the pixel that has most; and (C,) int64, the
        number of pixels of each concept.
    """
    images, concepts = masks.shape[:2]
    flat = masks.flatten(2)
    pixels = flat.shape[2]
    place = true_places(flat.flatten())
    mask = place // pixels
    image, concept = mask // concepts, mask % concepts
    # How many of the pixel's concepts come before each.
    count = flat.cumsum(1, dtype=torch.uint8 if concepts < 256 else torch.int64)
    rank = count.flatten().index_select(0, place).long() - 1
    rows = int(rank.max()) + 1 if len(rank) else 0
    table = place.new_full((rows, images * pixels), concepts)
    column = place - (mask - image) * pixels
    table.view(-1).scatter_(0, rank * table.shape[1] + column, concept)
    return table, torch.bincount(concept, minlength=concepts)


class AreaCounter:
    """Counts pixels of some images by level of activation, inside and outside of their concepts.

    Args:
        inside: (C + K + 1, U, L) int64 counts, added to in place: inside each concept; for each
            category that an image is annotated for, in none of its concepts, less one for each
            further concept of a pixel that has several, so that a category's counts and those of
            its concepts add up to all pixels; and a last one, which means nothing.
        masks: (B, C, h, w) bool, empty where the category is not annotated.
        known: (B, K) bool, whether an image is annotated for each category.
        category: (C,) int64, category of each concept.

    Attributes:
        area: (C,) int64, pixels of each concept.
    """

    def __init__(self, inside: Tensor, masks: Tensor, known: Tensor, category: Tensor) -> None:
        concepts, categories = len(category), known.shape[1]
        self._inside, one = inside.view(-1), inside[0].numel()
        # Numbers of the rows of what is in no concept, of the last one where nothing is annotated.
        nothing = torch.full_like(known.T, concepts + categories, dtype=torch.int64)
        outside = torch.arange(concepts, concepts + categories, device=masks.device)
        outside = torch.where(known.T, rearrange(outside, "k -> k 1"), nothing)
        pixels = masks.shape[2] * masks.shape[3]
        place = true_places(masks.flatten())
        mask = place // pixels
        image = mask // concepts
        concept = mask - image * concepts
        self.area = torch.bincount(concept, minlength=concepts)
        # How many concepts of each category each pixel has.
        slot = category.index_select(0, concept).mul_(len(masks)).add_(image)
        slot = slot.mul_(pixels).add_(place).sub_(mask * pixels)
        count = torch.bincount(slot, minlength=outside.numel() * pixels)
        self._weighted: list[tuple[int, Tensor]] = []
        if not bool((count > 1).any()):
            rows = repeat(outside, "k b -> k (b pixels)", pixels=pixels).contiguous()
            rows.view(-1).scatter_(0, slot, concept)
        else:
            rows = concepts_by_pixel(masks)[0]
            rows = rows.masked_fill(rows == concepts, concepts + categories)
            shown = repeat(known, "b k -> k (b pixels)", pixels=pixels)
            weights = (1 - count.view_as(shown)) * shown
            starts = range(concepts * one, (concepts + categories) * one, one)
            self._weighted = list(zip(starts, weights, strict=True))
        self._first = rows * one

    def add(self, count: Tensor, pixel: Tensor) -> None:
        """Count some pixels.

        Args:
            count: (M,) int64, ``unit * L + level``.
            pixel: (M,) int64, ``(image * h + y) * w + x``.
        """
        one = torch.ones_like(count)
        for first in self._first:
            self._inside.scatter_add_(0, first.index_select(0, pixel).add_(count), one)
        for start, weight in self._weighted:
            self._inside.scatter_add_(0, count + start, weight.index_select(0, pixel))
