"""Which activations matter, and which concepts and categories count where they are."""

from collections.abc import Iterator, Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from pellucid.metrics.mask_grid import masks_on_grid
from pellucid.metrics.part_metric import check_shape

# Values looked at together, which bounds the memory of one update.
_BLOCK = 2**19


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


def upsampled(planes: Tensor, size: Sequence[int], peak: Tensor) -> Tensor:
    """Interpolate maps bilinearly.

    Args:
        planes: (N, h, w) float32.
        size: Height and width.
        peak: (N,) greatest value of each.
    """
    if planes.shape[1:] == torch.Size(size):
        return planes
    large = F.interpolate(planes.unsqueeze(1), size=tuple(size), mode="bilinear").squeeze(1)
    # Rounding can lift a plateau by one float, above a threshold that equals it.
    return torch.minimum(large, rearrange(peak, "n -> n 1 1"))


def values_above(
    planes: Tensor, peak: Tensor, floor: Tensor, size: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Find the values of upsampled planes that are above the floor of their plane.

    Args:
        planes: (N, h, w) float32.
        peak: (N,) greatest value of each.
        floor: (N,) float32.
        size: Height and width to upsample to.

    Yields:
        (M,) int64 plane, (M,) int64 pixel ``y * w + x`` and (M,) value of some of them.
    """
    pixels = size[0] * size[1]
    # Nothing between the values of a plane is above the greatest of them. Here and below, selecting
    # is ten times as fast as indexing.
    bright = (peak > floor).nonzero().squeeze(1)
    for block in torch.split(bright, max(1, _BLOCK // pixels)):
        limit = rearrange(floor.index_select(0, block), "n -> n 1 1")
        large = upsampled(planes.index_select(0, block), size, peak.index_select(0, block))
        place = true_places((large > limit).flatten())
        row = place // pixels
        value = large.flatten().index_select(0, place)
        yield block.index_select(0, row), place - row * pixels, value


def true_places(flags: Tensor) -> Tensor:
    """Where flags of which few are set are set; three times as fast as ``nonzero``.

    Args:
        flags: (N,) bool.

    Returns:
        (M,) int64, rising.
    """
    words = F.pad(flags, (0, -len(flags) % 8)).view(torch.int64)
    word = words.nonzero().squeeze(1)
    byte = words.index_select(0, word).view(torch.bool).nonzero().squeeze(1)
    return word.index_select(0, byte >> 3).mul_(8).add_(byte & 7)


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
    """Counts pixels of one image by level of activation, inside each concept and all together.

    Args:
        inside: (C + 1, U, L) int64 counts of each concept, added to in place; the last one is for
            what is in none.
        fired: (U, L) int64 counts of each category that the image is annotated for, likewise.
        concepts: (N, h * w) int64, what :func:`concepts_by_pixel` lists.
    """

    def __init__(self, inside: Tensor, fired: Sequence[Tensor], concepts: Tensor) -> None:
        self._inside = inside.view(-1)
        self._fired = [counts.view(-1) for counts in fired]
        self._first = concepts * inside[0].numel()

    def add(self, count: Tensor, pixel: Tensor) -> None:
        """Count some pixels.

        Args:
            count: (M,) int64, ``unit * L + level``.
            pixel: (M,) int64, ``y * w + x``.
        """
        one = torch.ones_like(count)
        for first in self._first:
            self._inside.scatter_add_(0, first.index_select(0, pixel).add_(count), one)
        for counts in self._fired:
            counts.scatter_add_(0, count, one)
