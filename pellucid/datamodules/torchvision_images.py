"""What MNIST and CIFAR-10 share: small images that torchvision reads and memory holds as bytes."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from pellucid.batch import Batch
from pellucid.datamodules.base import ImageDataModule, Split
from pellucid.datamodules.errors import DataError
from pellucid.datamodules.holdout import check_share, stratified_holdout
from pellucid.datamodules.transforms import to_rgb

Channels = Literal[1, 3]
"""Greys, or red, green and blue."""


@dataclass(frozen=True)
class Prepare:
    """Brings bytes into the shape and range of ``image``."""

    channels: int
    size: int
    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, pixels: Tensor) -> Tensor:
        """(..., channels, size, size) float of (..., 1 or 3, H, W) uint8."""
        if self.channels == 1 and pixels.shape[-3] == 3:
            pixels = F.rgb_to_grayscale(pixels)
        if tuple(pixels.shape[-2:]) != (self.size, self.size):
            pixels = F.resize(pixels, [self.size, self.size], antialias=True)
        spread = torch.tensor(self.std)[:, None, None]
        # One grey channel becomes three where there are three means.
        return (pixels / 255 - torch.tensor(self.mean)[:, None, None]) / spread


class TorchvisionImages(ImageDataModule):
    """Base of data sets that torchvision publishes as one training and one test set.

    ``test`` is the published test set; ``train`` and ``val`` share the published training set, each
    class in the same proportion. ``all`` is the training set and then the test set, as published.

    Args:
        root: Folder that torchvision looks into.
        download: Whether torchvision may fetch what is missing there.
        channels: 1 for greys, 3 for colours; greys as colours are three equal channels.
        normalise: Whether images have mean 0 and standard deviation 1; else values are in [0, 1].
        val_share: Share of the training images that are for validation, in (0, 1).
        split_seed: Seed of the choice of these.
        image_size: Height and width of the images in pixels.
        batch_size: Images per batch and device.
        num_workers: Processes that load images.
        seed: Seed of shuffling.

    Raises:
        DataError: A file is missing, and ``download`` is off.
        ValueError: An argument is out of its range.
    """

    provides = frozenset({"image", "label", "index"})

    title: ClassVar[str]
    """The data set's name."""
    names: ClassVar[tuple[str, ...]]
    """Of the classes."""
    folder: ClassVar[str]
    """Where torchvision has the files, below ``root``."""
    files: ClassVar[tuple[str, ...]]
    """What must be there."""
    moments: ClassVar[dict[int, tuple[tuple[float, ...], tuple[float, ...]]]]
    """Mean and standard deviation of each channel, by the number of channels."""

    def __init__(
        self,
        root: str,
        download: bool,
        channels: Channels,
        normalise: bool,
        val_share: float,
        split_seed: int,
        image_size: int,
        batch_size: int,
        num_workers: int,
        seed: int,
    ) -> None:
        super().__init__(image_size, batch_size, num_workers, seed)
        check_share(val_share)
        if channels not in get_args(Channels):
            raise ValueError(f"channels must be 1 (greys) or 3 (colours), got {channels}")
        self.root, self.download, self.channels = Path(root).expanduser(), download, channels
        self.val_share, self.split_seed = val_share, split_seed
        self.mean, self.std = (0.0,) * channels, (1.0,) * channels
        if normalise:
            self.mean, self.std = self.moments[channels]
        self._read: dict[bool, tuple[Tensor, Tensor]] = {}
        place = self.root / self.folder
        missing = [file for file in self.files if not (place / file).is_file()]
        if missing and not download:
            raise DataError(
                f"file {place / missing[0]} is missing; unpack {self.title} to {place}, give the "
                f"folder that holds {self.folder} as root, or set download to true"
            )

    @property
    def prepare(self) -> Prepare:
        """Makes images of bytes, normalised as the data module says by now."""
        return Prepare(self.channels, self.image_size, self.mean, self.std)

    @abstractmethod
    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) uint8 images and (N,) int64 labels of the training or the test set."""

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes."""
        return self.names

    def prepare_data(self) -> None:
        """Fetch the files if that is asked for, and read them."""
        for train in (True, False):
            self._published(train)

    def make_dataset(self, split: Split) -> Dataset[Batch]:
        """The data set of a split."""
        if split == "test":
            images, labels = self._published(False)
            return _BytesDataset(self.prepare, [images], labels, torch.arange(len(labels)))
        images, labels = self._published(True)
        if split == "all":
            test_images, test_labels = self._published(False)
            both = torch.cat([labels, test_labels])
            return _BytesDataset(self.prepare, [images, test_images], both, torch.arange(len(both)))
        held = stratified_holdout(labels, self.val_share, self.split_seed)
        rows = (held if split == "val" else ~held).nonzero()[:, 0]
        return _BytesDataset(self.prepare, [images], labels[rows], rows)

    def transform_image(self, image: Image.Image) -> Tensor:
        """Prepare a user's own image as a test image is prepared."""
        pixels = F.pil_to_tensor(to_rgb(ImageOps.exif_transpose(image)))
        return self.prepare(pixels)

    def _published(self, train: bool) -> tuple[Tensor, Tensor]:
        """The training or the test set, read once and checked."""
        if train not in self._read:
            place = self.root / self.folder
            remedy = f"unpack {self.title} there again, or remove it and set download to true"
            try:
                images, labels = self.read(train)
            except Exception as error:  # Broken files fail in the readers in countless ways.
                raise DataError(f"cannot read {place} ({error}); {remedy}") from error
            if not len(images) or len(images) != len(labels) or labels.max() >= len(self.names):
                raise DataError(
                    f"{place} has {len(images)} images and {len(labels)} labels, the largest "
                    f"{max(labels.tolist(), default=None)}; {remedy}"
                )
            self._read[train] = images, labels
        return self._read[train]


class _BytesDataset(Dataset[Batch]):
    """Images that stay as torchvision has read them until they are asked for."""

    def __init__(
        self, prepare: Prepare, images: list[Tensor], labels: Tensor, rows: Tensor
    ) -> None:
        self.prepare, self.images, self.labels, self.rows = prepare, images, labels, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is not among the {len(self)} images")
        row, block = int(self.rows[index]), self.images[0]
        if row >= len(block):
            row, block = row - len(block), self.images[1]
        return {
            "image": self.prepare(block[row]),
            "label": self.labels[index],
            "index": torch.tensor(index),
        }

    def __getitems__(self, indices: list[int]) -> Batch:
        """A batch at once."""
        index = torch.tensor(indices)
        rows = self.rows[index]
        first = self.images[0]
        pixels = first[rows.clamp(max=len(first) - 1)]
        if len(self.images) > 1:
            later = rows >= len(first)
            pixels[later] = self.images[1][rows[later] - len(first)]
        return {"image": self.prepare(pixels), "label": self.labels[index], "index": index}
