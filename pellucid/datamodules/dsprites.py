"""dSprites: white squares, ellipses and hearts of every size, angle and place.

Matthey, Higgins, Hassabis, Lerchner, *dSprites: Disentanglement testing Sprites dataset*, 2017
(https://github.com/google-deepmind/dsprites-dataset). Departures: without the published file the
pictures are drawn here (how alike they are: :mod:`pellucid.datamodules.dsprites_rendering`), and
the published factor colour, which has one value, is left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast, get_args

import torch
from einops import reduce, repeat
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F
from tqdm import tqdm

from pellucid.batch import Batch
from pellucid.datamodules.base import ImageDataModule, Split
from pellucid.datamodules.dsprites_file import PublishedPictures
from pellucid.datamodules.dsprites_rendering import (
    COUNT,
    FACTOR_NAMES,
    FACTOR_SIZES,
    SHAPES,
    SIZE,
    crossing_table,
    factors_of,
    index_of,
    render,
    unpack,
)
from pellucid.datamodules.torchvision_images import Channels
from pellucid.datamodules.torchvision_images import Prepare as PrepareBytes
from pellucid.datamodules.transforms import to_rgb

Pictures = Callable[[Tensor], Tensor]
"""(N, 64, 8) uint8 packed pictures of (N,) int64 numbers."""

_BLOCK = 4096  # Pictures drawn at a time when all are.
_CHOSEN: tuple[Split, ...] = ("val", "test", "train")  # At random, one after the other.


class DSprites(ImageDataModule):
    """All 737,280 pictures of three shapes, six scales, 40 orientations and 32 x 32 places.

    ``factors`` are shape, scale, orientation, x and y, (B, 5) int64, each from 0 up to its size in
    :attr:`factor_sizes`. ``label`` is the shape. The first and the last orientation are the same
    angle, as published. Images are 0 (black) or 1 (white).

    Pictures are drawn as batches ask for them, from tables of 5 MB, unless ``root`` names the
    published file. That is packed once, eight pixels a byte, into a cache of 377 MB, which runs
    share by mapping it to memory. ``all`` is every picture in the published order.

    Args:
        root: The published file, or the folder that holds it; None: draw the pictures.
        image_size: Height and width of the images in pixels: 64, or 32, where each pixel is the
            mean of four.
        channels: 1 for greys; 3 repeats them as red, green and blue, for models that want colours.
        train_size: Number of training images, of which none is for validation or test; None: all
            737,280, those for validation and test among them, as published protocols have it.
        val_size: Number of validation images.
        test_size: Number of test images.
        split_seed: Seed of the choice of images; apart from ``seed``, so that runs with several
            seeds are measured on the same images.
        on_device: Whether all pictures are kept, packed, on the accelerator (377 MB), where
            batches are made. Needs ``num_workers`` 0.
        batch_size: Images per batch and device.
        num_workers: Processes that load images; 0, which loads in the training process, is fast.
        seed: Seed of shuffling.
        cache_dir: Folder of the cache; None: beside the file or, if that must not be written to, in
            the user's cache directory.

    Raises:
        DataError: ``root`` has no file; :meth:`prepare_data` raises it for one that is broken.
        ValueError: An argument is out of its range.
    """

    provides = frozenset({"image", "label", "factors", "index"})

    def __init__(
        self,
        root: str | None = None,
        image_size: int = SIZE,
        channels: Channels = 1,
        train_size: int | None = None,
        val_size: int = 2000,
        test_size: int = 10000,
        split_seed: int = 0,
        on_device: bool = False,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(image_size, batch_size, num_workers, seed)
        if image_size not in (SIZE, SIZE // 2):
            raise ValueError(f"image_size must be {SIZE} or {SIZE // 2}, got {image_size}")
        if channels not in get_args(Channels):
            raise ValueError(f"channels must be 1 (greys) or 3 (colours), got {channels}")
        if on_device and num_workers:
            raise ValueError(
                f"num_workers must be 0 with on_device, got {num_workers}: the training process "
                "alone makes images on the accelerator"
            )
        self.sizes = _check_sizes(train_size, val_size, test_size)
        self.channels, self.split_seed, self.on_device = channels, split_seed, on_device
        self.mean, self.std = (0.0,) * channels, (1.0,) * channels
        self.published = PublishedPictures(root, cache_dir) if root is not None else None
        self._kept: tuple[torch.device, Tensor] | None = None

    @property
    def class_names(self) -> Sequence[str]:
        """The shapes."""
        return SHAPES

    @property
    def factor_names(self) -> Sequence[str]:
        """Shape, scale, orientation, x and y."""
        return FACTOR_NAMES

    @property
    def factor_sizes(self) -> Sequence[int]:
        """3, 6, 40, 32 and 32."""
        return FACTOR_SIZES

    @property
    def prepare(self) -> "Prepare":
        """Makes images of packed pictures, normalised as the data module says by now."""
        return Prepare(self.channels, self.image_size, tuple(self.mean), tuple(self.std))

    def images_of(self, factors: Tensor) -> Tensor:
        """The images of given factors, in a time that does not depend on which.

        Args:
            factors: (N, 5) int64, in the order of :attr:`factor_names`.

        Returns:
            (N, channels, image_size, image_size) float, as in batches; with ``on_device`` on the
            accelerator.

        Raises:
            ValueError: There are not five columns of whole numbers, or one is out of range.
        """
        return self.prepare(self._batch_pictures(index_of(factors.cpu())))

    def factors_of(self, index: Tensor) -> Tensor:
        """(N, 5) int64, the factors of pictures by their positions in split ``all``, (N,) int64.

        Raises:
            ValueError: A position is out of range.
        """
        return factors_of(index)

    def index_of(self, factors: Tensor) -> Tensor:
        """(N,) int64, positions in split ``all`` of pictures by their factors, (N, 5) int64.

        Raises:
            ValueError: There are not five columns of whole numbers, or one is out of range.
        """
        return index_of(factors)

    def prepare_data(self) -> None:
        """Pack the published file if there is one, so that a broken one is found early."""
        if self.published is not None:
            self.published.open()

    def make_dataset(self, split: Split) -> Dataset[Batch]:
        """The data set of a split."""
        if self.published is None:
            crossing_table()  # Before there are worker processes that would each make their own.
        dataset = _SpritesDataset(self._numbers(split), self._pictures, self.prepare)
        if self.on_device:  # Its worker processes, of which there are none, could not take it.
            dataset.batch_pictures = self._batch_pictures
        return dataset

    def transform_image(self, image: Image.Image) -> Tensor:
        """Prepare a user's own image as a test image is prepared: in greys, as they are."""
        pixels = F.pil_to_tensor(to_rgb(ImageOps.exif_transpose(image)))
        prepare = PrepareBytes(self.channels, self.image_size, self.mean, self.std)
        return prepare(F.rgb_to_grayscale(pixels))

    @property
    def _pictures(self) -> Pictures:
        """Pictures in the memory of the host."""
        return self.published or draw

    def _batch_pictures(self, index: Tensor) -> Tensor:
        """Pictures where batches are made."""
        if not self.on_device:
            return self._pictures(index)
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        if self._kept is None or self._kept[0] != device:
            self._kept = device, _all_pictures(self._pictures).to(device)
        return self._kept[1][index.to(device, non_blocking=True)]

    def _numbers(self, split: Split) -> Tensor:
        """The numbers of a split's pictures."""
        if split == "all" or self.sizes[split] is None:
            return torch.arange(COUNT)
        order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(self.split_seed))
        before = _CHOSEN[: _CHOSEN.index(split)]
        start = sum(self.sizes[name] or 0 for name in before)
        # A copy: a view would take the whole order along to worker processes.
        return order[start : start + (self.sizes[split] or 0)].clone()


def draw(index: Tensor) -> Tensor:
    """Pictures drawn from their numbers, packed; see :data:`Pictures`."""
    return render(factors_of(index))


@dataclass(frozen=True)
class Prepare:
    """Brings packed pictures into the shape and range of ``image``."""

    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, packed: Tensor) -> Tensor:
        """(N, channels, size, size) float of (N, 64, 8) uint8, on their device."""
        image = unpack(packed)
        if self.size != SIZE:
            image = reduce(image, "n c (h 2) (w 2) -> n c h w", "mean")
        if self.channels > 1:
            image = repeat(image, "n 1 h w -> n c h w", c=self.channels)
        if any(self.mean) or any(std != 1 for std in self.std):
            image = F.normalize(image, self.mean, self.std)
        return image


class _SpritesDataset(Dataset[Batch]):
    """Pictures made of their numbers when they are asked for."""

    def __init__(self, numbers: Tensor, pictures: Pictures, prepare: Prepare) -> None:
        self.numbers, self.prepare = numbers, prepare
        self.item_pictures = self.batch_pictures = pictures

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is not among the {len(self)} images")
        batch = cast(dict[str, Tensor], self._batch(torch.tensor([index]), self.item_pictures))
        return cast(Batch, {name: value[0] for name, value in batch.items()})

    def __getitems__(self, indices: list[int]) -> Batch:
        """A batch at once."""
        return self._batch(torch.tensor(indices), self.batch_pictures)

    def _batch(self, index: Tensor, pictures: Pictures) -> Batch:
        numbers = self.numbers[index]
        factors = factors_of(numbers)
        return {
            "image": self.prepare(pictures(numbers)),
            "label": factors[:, 0].clone(),
            "factors": factors,
            "index": index,
        }


def _all_pictures(pictures: Pictures) -> Tensor:
    """(737280, 64, 8) uint8."""
    packed = torch.empty(COUNT, SIZE, SIZE // 8, dtype=torch.uint8)
    for start in tqdm(range(0, COUNT, _BLOCK), "gathering dSprites", delay=2, leave=False):
        stop = min(start + _BLOCK, COUNT)
        packed[start:stop] = pictures(torch.arange(start, stop))
    return packed


def _check_sizes(train: int | None, val: int, test: int) -> dict[Split, int | None]:
    """The number of images of each split."""
    sizes: dict[Split, int | None] = {"train": train, "val": val, "test": test}
    for name, size in sizes.items():
        if size is not None and not 1 <= size <= COUNT:
            raise ValueError(f"{name}_size must be from 1 to {COUNT}, got {size}")
    if (total := (train or 0) + val + test) > COUNT:
        raise ValueError(
            f"{'val_size' if train is None else 'train_size'} and the other sizes are {total} "
            f"images together, there are {COUNT}: lower one of them"
        )
    return sizes
