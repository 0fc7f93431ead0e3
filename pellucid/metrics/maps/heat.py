"""What the metrics of heat maps share: maps on the image's pixels, and masks that fit them.

The conventions of all of them:

- a map is (B, h, w), of any grid no finer than the image; it is upsampled bilinearly
  (``align_corners=False``: cells tile the image) to the masks' pixels;
- relevance is the positive part of a map; what a signed map says against the target is no
  relevance. The positive part is taken first, then the map is upsampled;
- a map with a value that is not finite, or a mask of another shape, is an error;
- a figure that is not defined for an image (an empty mask, a map of zeros) is NaN for that image,
  or what a map without any order would have by chance: each function says which. Classes leave
  images with NaN out of the mean and count them.
"""

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

ROUNDING = 1e-6
"""Pixels whose relevance is below the greatest by no more than this share are as great."""


def check_heat(maps: Tensor, name: str = "maps") -> Tensor:
    """Check heat maps.

    Args:
        maps: (B, h, w) floating point, finite.
        name: What to call them.

    Returns:
        (B, h, w) float32, detached, each map divided by its greatest magnitude, so that no sum
        overflows; metrics of a map do not depend on its scale.

    Raises:
        ValueError: If the shape is wrong or a value is not finite; names the image.
    """
    if maps.ndim != 3 or 0 in maps.shape[1:] or not maps.is_floating_point():
        raise ValueError(
            f"{name} must be floating point of shape (B, h, w), one map per image, got "
            f"{tuple(maps.shape)} of {maps.dtype}"
        )
    maps = maps.detach().float()
    if not len(maps):
        return maps
    greatest = maps.abs().amax((1, 2), keepdim=True)
    # The greatest of values with a NaN among them is NaN.
    if not bool(greatest.isfinite().all()):
        image = int((~greatest.isfinite()).flatten().nonzero()[0, 0])
        raise ValueError(
            f"{name}[{image}] has a value that is not finite; maps must be finite: look for a "
            "division by zero, or an overflow in half precision, where they are made"
        )
    return maps / greatest.clamp(min=torch.finfo(torch.float32).tiny)


def check_mask(mask: Tensor, maps: Tensor, name: str = "mask") -> None:
    """Check that masks fit maps.

    Args:
        mask: (B, H, W) bool.
        maps: (B, h, w), on a grid no finer than the masks.
        name: What to call the masks.

    Raises:
        ValueError: Names what is wrong and what it should be.
    """
    if mask.ndim != 3 or mask.dtype != torch.bool:
        raise ValueError(
            f"{name} must be bool of shape (B, H, W), got {tuple(mask.shape)} of {mask.dtype}: "
            "compare a float mask with a threshold first"
        )
    if len(mask) != len(maps):
        raise ValueError(f"{name} has {len(mask)} images, maps have {len(maps)}: give as many")
    check_size((mask.shape[-2], mask.shape[-1]), maps, name)


def check_size(size: tuple[int, int], maps: Tensor, name: str) -> None:
    """Check that maps are on a grid no finer than the pixels they are to be compared with.

    Args:
        size: Height and width in pixels.
        maps: (B, h, w).
        name: What has this size.

    Raises:
        ValueError: If the maps are finer.
    """
    rows, columns = maps.shape[-2:]
    if rows > size[0] or columns > size[1]:
        raise ValueError(
            f"{name} is {size[0]} x {size[1]}, maps are {rows} x {columns}; maps are upsampled, "
            f"never reduced: give a {name} of the size of the image"
        )


def on_pixels(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsample maps bilinearly, as cells that tile the image.

    Args:
        maps: (B, h, w).
        size: Height and width in pixels.

    Returns:
        (B, H, W).
    """
    if maps.shape[-2:] == size:
        return maps
    return rearrange(
        F.interpolate(
            rearrange(maps, "b h w -> b 1 h w"), size, mode="bilinear", align_corners=False
        ),
        "b 1 h w -> b h w",
    )


def relevance(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H, W) float32: the positive part of checked maps, upsampled, from 0 to 1.

    Args:
        maps: (B, h, w) floating point, finite.
        size: Height and width in pixels.
    """
    return on_pixels(check_heat(maps).clamp(min=0), size)


class Ranked(NamedTuple):
    """The pixels of each image from the most to the least relevant."""

    values: Tensor
    """(B, H W) float, falling."""
    order: Tensor
    """(B, H W) int64, which pixel each is."""


def rank(heat: Tensor) -> Ranked:
    """Sort the pixels of (B, H, W) by their relevance."""
    return Ranked(*rearrange(heat, "b h w -> b (h w)").sort(1, descending=True))


def prepare(maps: Tensor, mask: Tensor) -> Tensor:
    """Check maps and masks; the relevance of each of the masks' pixels.

    Args:
        maps: (B, h, w) floating point, finite.
        mask: (B, H, W) bool.

    Returns:
        (B, H, W) float32, from 0 to 1.

    Raises:
        ValueError: If a shape, a type or a value is wrong.
    """
    check_mask(mask, maps)
    return relevance(maps, (mask.shape[-2], mask.shape[-1]))
