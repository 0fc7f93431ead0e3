"""Transforms that move an image, its landmarks and its masks together.

Everything geometric goes through ``torchvision.transforms.v2``. Its landmarks (``KeyPoints``) are
mirrored as pixel centres (``x -> W - 1 - x``) but scaled as distances from the image's corner
(``x -> x * scale``); the two agree only if half a pixel is added before an image is resampled and
taken away after it. :func:`resample` does that, so a landmark stays on the spot it marks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from pellucid.batch import Batch
from pellucid.datamodules.errors import DataError
from pellucid.part_names import mirrored_order

CENTRE_TO_EDGE = 0.5
"""Position of a pixel's centre, measured from its corner."""

CROP_MARGIN = 1.25
"""Side of the image that random crops are taken from, relative to ``image_size``: the smallest
crop then has about as many pixels as it is shown with."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image and what is marked in it, before normalisation."""

    image: Tensor
    """(3, H, W) uint8."""
    parts: Tensor | None = None
    """(P, 2) float, (x, y) with the centre of the top left pixel at (0, 0)."""
    part_visible: Tensor | None = None
    """(P,) bool."""
    part_masks: Tensor | None = None
    """(P, H, W) bool."""
    mask: Tensor | None = None
    """(H, W) bool."""
    attention: Tensor | None = None
    """(H, W) float, at least 0; resampled to the nearest pixel, as masks are."""

    def _wrapped(self) -> dict[str, Any]:
        height, width = self.image.shape[-2:]
        fields: dict[str, Any] = {"image": tv_tensors.Image(self.image)}
        if self.parts is not None:
            fields["parts"] = tv_tensors.KeyPoints(self.parts, canvas_size=(height, width))
        if self.part_masks is not None:
            fields["part_masks"] = tv_tensors.Mask(self.part_masks.to(torch.uint8))
        if self.mask is not None:
            fields["mask"] = tv_tensors.Mask(self.mask.to(torch.uint8))
        if self.attention is not None:
            # Not an image, whose colours an augmentation changes.
            fields["attention"] = tv_tensors.Mask(self.attention)
        return fields

    def _with(self, fields: dict[str, Any]) -> "Sample":
        plain = {name: value.as_subclass(Tensor) for name, value in fields.items()}
        for name in ("part_masks", "mask"):
            if name in plain:
                plain[name] = plain[name].bool()
        return replace(self, **plain)


def resample(sample: Sample, transform: Callable[[dict[str, Any]], dict[str, Any]]) -> Sample:
    """Apply a crop, a padding, a change of size or of colour from ``torchvision.transforms.v2``.

    Args:
        sample: The image and its marks.
        transform: Takes and returns a dictionary of tv_tensors. It must not mirror or rotate: for
            these torchvision counts from pixel centres, see :func:`mirror`.
    """
    fields = sample._wrapped()
    if "parts" in fields:
        fields["parts"] = tv_tensors.wrap(fields["parts"] + CENTRE_TO_EDGE, like=fields["parts"])
    moved = sample._with(transform(fields))
    return moved if moved.parts is None else replace(moved, parts=moved.parts - CENTRE_TO_EDGE)


def resize(sample: Sample, size: int) -> Sample:
    """Scale to ``size`` x ``size`` pixels, whatever the aspect ratio was."""
    return resample(sample, v2.Resize([size, size], antialias=True))


def letterbox(sample: Sample, size: int, fill: Sequence[float]) -> Sample:
    """Fit the whole image into ``size`` x ``size`` pixels, keeping its aspect ratio.

    Args:
        sample: The image and its marks.
        size: Side of the square in pixels.
        fill: Colour of the bars, one value in [0, 1] per channel.
    """
    height, width = sample.image.shape[-2:]
    scale = size / max(height, width)
    new_height, new_width = (min(size, max(1, round(n * scale))) for n in (height, width))
    top, left = (size - new_height) // 2, (size - new_width) // 2
    padding = [left, top, size - new_width - left, size - new_height - top]
    colour = {tv_tensors.Image: [round(255 * value) for value in fill], "others": 0}
    scaled = resample(sample, v2.Resize([new_height, new_width], antialias=True))
    return resample(scaled, v2.Pad(padding, fill=colour))


def mirror(sample: Sample, part_order: Sequence[int] | None = None) -> Sample:
    """Mirror left to right.

    Args:
        sample: The image and its marks.
        part_order: Which part stands at each place afterwards, see
            :func:`~pellucid.part_names.mirrored_order`; None leaves the parts in their order.
    """
    flipped = {name: F.horizontal_flip(value) for name, value in sample._wrapped().items()}
    mirrored = sample._with(flipped)
    if part_order is None or mirrored.parts is None:
        return mirrored
    order = list(part_order)
    return replace(
        mirrored,
        parts=mirrored.parts[order],
        part_visible=None if mirrored.part_visible is None else mirrored.part_visible[order],
        part_masks=None if mirrored.part_masks is None else mirrored.part_masks[order],
    )


def upright(sample: Sample, orientation: int) -> Sample:
    """Turn a stored image and its marks the way its EXIF orientation says.

    Args:
        sample: The image and its marks on the stored pixel grid.
        orientation: EXIF tag 0x0112, 1 to 8; other values leave the sample as it is.
    """
    transposes, flips_x, flips_y = (
        orientation in (5, 6, 7, 8),
        orientation in (2, 3, 6, 7),
        orientation in (3, 4, 7, 8),
    )
    if transposes:
        sample = Sample(
            image=sample.image.mT,
            parts=None if sample.parts is None else sample.parts.flip(-1),
            part_visible=sample.part_visible,
            part_masks=None if sample.part_masks is None else sample.part_masks.mT,
            mask=None if sample.mask is None else sample.mask.mT,
            attention=None if sample.attention is None else sample.attention.mT,
        )
    if flips_x:
        sample = mirror(sample)
    if flips_y:
        fields = {name: F.vertical_flip(value) for name, value in sample._wrapped().items()}
        sample = sample._with(fields)
    return sample


class Augment:
    """Random crop, colour jitter and mirroring, of an image and its marks.

    All choices come from torch's global generator.

    Args:
        size: Height and width of the result in pixels.
        part_names: Names of the landmarks, for left and right in a mirror.
        crop_area: Least share of the image's area that a crop keeps, in (0, 1].
        jitter: Largest relative change of brightness, contrast and saturation, in [0, 1).
        mirror_probability: How often the image is mirrored, in [0, 1].

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        size: int,
        part_names: Sequence[str] = (),
        crop_area: float = 0.6,
        jitter: float = 0.2,
        mirror_probability: float = 0.5,
    ) -> None:
        if not 0 < crop_area <= 1:
            raise ValueError(f"crop_area must be in (0, 1], got {crop_area}; 1 keeps the image")
        if not 0 <= jitter < 1:
            raise ValueError(f"jitter must be in [0, 1), got {jitter}; 0 leaves colours alone")
        if not 0 <= mirror_probability <= 1:
            raise ValueError(f"mirror_probability must be in [0, 1], got {mirror_probability}")
        crop = v2.RandomResizedCrop(
            [size, size], scale=(crop_area, 1.0), ratio=(0.85, 1 / 0.85), antialias=True
        )
        self.transform = v2.Compose([crop, v2.ColorJitter(jitter, jitter, jitter)])
        self.mirror_probability = mirror_probability
        self.part_order = mirrored_order(part_names)

    def __call__(self, sample: Sample) -> Sample:
        """A random version of the sample."""
        sample = resample(sample, self.transform)
        if torch.rand(()).item() < self.mirror_probability:
            sample = mirror(sample, self.part_order)
        return sample


def box_masks(boxes: Tensor, visible: Tensor, size: int) -> Tensor:
    """Masks of the visible parts' boxes: the pixels whose centres are inside.

    Args:
        boxes: (P, 4) float, (left, top, right, bottom), with the centre of the top left pixel at
            (0, 0).
        visible: (P,) bool; the masks of other parts are empty.
        size: Height and width of the image in pixels.

    Returns:
        (P, H, W) bool.
    """
    places = torch.arange(size)
    left, top, right, bottom = boxes[:, :, None].unbind(dim=1)
    columns = (places >= left) & (places <= right)
    rows = (places >= top) & (places <= bottom)
    return rows[:, :, None] & columns[:, None, :] & visible[:, None, None]


def batch_item(
    sample: Sample, label: int, index: int, mean: Sequence[float], std: Sequence[float]
) -> Batch:
    """The batch entry of a transformed sample.

    A landmark that a crop has left outside becomes invisible; invisible landmarks stand at (0, 0).

    Args:
        sample: The image and its marks.
        label: Category.
        index: Position in the split.
        mean: Mean of each channel, of values in [0, 1].
        std: Standard deviation of each channel, likewise.
    """
    image = F.to_dtype(sample.image, torch.float32, scale=True)
    item: dict[str, Tensor] = {
        "image": F.normalize(image, list(mean), list(std)),
        "label": torch.tensor(label),
        "index": torch.tensor(index),
    }
    if sample.parts is not None and sample.part_visible is not None:
        height, width = sample.image.shape[-2:]
        last = torch.tensor([width, height]) - CENTRE_TO_EDGE
        inside = ((sample.parts >= -CENTRE_TO_EDGE) & (sample.parts < last)).all(dim=-1)
        visible = sample.part_visible & inside
        item["parts"] = torch.where(visible[:, None], sample.parts, 0.0)
        item["part_visible"] = visible
    if sample.part_masks is not None:
        item["part_masks"] = sample.part_masks
    if sample.mask is not None:
        item["mask"] = sample.mask
    if sample.attention is not None:
        item["attention"] = sample.attention
    return cast(Batch, item)


def read_rgb(path: Path) -> Image.Image:
    """Decode an image file to RGB on its stored pixel grid (EXIF orientation not applied).

    Grey-scale (8 and 16 bits), palette and CMYK images are converted; transparent pixels become
    white.

    Raises:
        DataError: The file is missing, broken, or not an image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return to_rgb(image)
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to.
        raise DataError(f"cannot read image {path} ({error}); replace or remove it") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any PIL image to RGB, see :func:`read_rgb`."""
    if image.mode.startswith("I"):
        # Pillow would clip sixteen bits to eight, and leave nothing but white.
        values = np.clip(np.asarray(image).astype(np.int64) // 256, 0, 255)
        image = Image.fromarray(values.astype(np.uint8))
    if image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
