"""Masks on a coarser grid, where areas are counted quickly."""

import math
from collections.abc import Iterator
from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor


def masks_on_grid(
    part_masks: Tensor, part_visible: Tensor, resolution: int | None
) -> tuple[Tensor, Tensor]:
    """Sample masks on a grid of square cells (as nearly as whole numbers allow).

    A cell belongs to a mask that covers at least half of it. A mask too small to cover half of any
    cell gets the cells that it covers most, so that no mask vanishes.

    Args:
        part_masks: (B, P, H, W) bool.
        part_visible: (B, P) bool.
        resolution: Cells along the longer side; None, or more than the image has pixels: the
            image's own pixels.

    Returns:
        (B, P, h, w) bool, all False where the part is not shown, and (B, P) bool, whether the
        image shows it: it is visible and its mask is not empty.
    """
    shown = part_visible & part_masks.flatten(2).any(-1)
    height, width = part_masks.shape[-2:]
    scale = min(1.0, (resolution or math.inf) / max(height, width))
    if scale < 1:
        across = _pooling(width, max(1, round(width * scale))).to(part_masks.device)
        down = _pooling(height, max(1, round(height * scale))).to(part_masks.device)
        # Mixed precision would count pixels to three digits.
        with torch.autocast(part_masks.device.type, enabled=False):
            cover = down @ (part_masks.float() @ across.T)
        # Rounding must not decide about cells that are half covered.
        part_masks = cover >= cover.amax((2, 3), keepdim=True).clamp(max=0.5) - 1e-5
    return part_masks & rearrange(shown, "b p -> b p 1 1"), shown


def chunks(maps: Tensor, masks: Tensor) -> Iterator[slice]:
    """Cut a batch so that its upsampled maps stay in a core's cache, or fill a GPU.

    Args:
        maps: (B, U, ...).
        masks: (B, P, h, w), to whose size the maps will be upsampled.

    Returns:
        Slices of the batch, each of one image at least.
    """
    budget = 2**19 if maps.device.type == "cpu" else 2**25
    step = max(1, budget // (maps.shape[1] * masks.shape[-2] * masks.shape[-1]))
    return (slice(start, start + step) for start in range(0, len(maps), step))


@lru_cache(maxsize=16)
def _pooling(size: int, cells: int) -> Tensor:
    """(cells, size) share of each cell that each pixel covers; rows sum to 1."""
    edges = torch.linspace(0, size, cells + 1, dtype=torch.float64)
    pixels = torch.arange(size, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return (overlap.clamp(min=0) * cells / size).float()
