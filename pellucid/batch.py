"""The one shape of data that every data module makes and every model reads."""

from collections.abc import Iterable
from typing import NotRequired, Required, TypedDict

import torch
from torch import Tensor


class Batch(TypedDict):
    """A batch of images and what is known about them.

    A plain dictionary, so that ``DataLoader`` and Lightning pass it through untouched. Only
    ``image`` is always there; a data module's ``provides`` says which of the others it fills.
    A single data set item is the same dictionary without the leading ``B``.

    Positions are in pixels of the transformed image, ``x`` to the right and ``y`` down, with the
    centre of the top left pixel at (0, 0).
    """

    image: Required[Tensor]
    """(B, C, H, W) float, normalised with the data module's ``mean`` and ``std``."""
    label: NotRequired[Tensor]
    """(B,) int64, the category."""
    parts: NotRequired[Tensor]
    """(B, P, 2) float, centres of the landmarks as (x, y)."""
    part_visible: NotRequired[Tensor]
    """(B, P) bool, whether the landmark is annotated and in the image."""
    part_masks: NotRequired[Tensor]
    """(B, P, H, W) bool, one mask per part."""
    mask: NotRequired[Tensor]
    """(B, H, W) bool, the object."""
    factors: NotRequired[Tensor]
    """(B, F) int64 or float, the generative factors."""
    index: NotRequired[Tensor]
    """(B,) int64, position in the split; of an image that is repeated there, its first."""


FLOAT = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

# name: (axes, allowed types). An axis is checked against the size its letter had before.
_FIELDS: dict[str, tuple[str, tuple[torch.dtype, ...]]] = {
    "image": ("BCHW", FLOAT),
    "label": ("B", (torch.int64,)),
    "parts": ("BP2", FLOAT),
    "part_visible": ("BP", (torch.bool,)),
    "part_masks": ("BPHW", (torch.bool,)),
    "mask": ("BHW", (torch.bool,)),
    "factors": ("BF", (torch.int64, *FLOAT)),
    "index": ("B", (torch.int64,)),
}

FIELDS = frozenset(_FIELDS)


class BatchError(ValueError):
    """A batch that does not have the fields, shapes or types that it must have."""


def check_batch(batch: Batch, requires: Iterable[str] = ("image",)) -> None:
    """Check the fields, shapes and types of a batch.

    Args:
        batch: The batch; fields that this package does not know are left alone.
        requires: Fields that must be there.

    Raises:
        BatchError: Names the first field that is missing or wrong, what it is and what it should
            be.
    """
    if missing := sorted({"image", *requires} - batch.keys()):
        raise BatchError(
            f"the batch has no field {missing[0]!r}; it has {', '.join(sorted(batch))}"
        )
    sizes: dict[str, int] = {"2": 2}
    for name, (axes, types) in _FIELDS.items():
        value = batch.get(name)
        if value is None:
            continue
        wanted = (
            "("
            + ", ".join(f"{axis}={sizes[axis]}" if axis in sizes else axis for axis in axes)
            + ")"
        )
        if not isinstance(value, Tensor):
            raise BatchError(
                f"batch[{name!r}] must be a tensor {wanted}, got {type(value).__name__}"
            )
        shape = tuple(value.shape)
        if len(shape) != len(axes) or any(
            sizes.setdefault(axis, size) != size for axis, size in zip(axes, shape, strict=True)
        ):
            raise BatchError(f"batch[{name!r}] must have shape {wanted}, got {shape}")
        if value.dtype not in types:
            allowed = " or ".join(str(t).removeprefix("torch.") for t in types)
            got = str(value.dtype).removeprefix("torch.")
            raise BatchError(f"batch[{name!r}] must be of type {allowed}, got {got}")
