"""What all data modules share: splits, seeds, sampling and loaders."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, cast, get_args

import pytorch_lightning as pl
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from pellucid.batch import Batch

Split = Literal["train", "val", "test", "all"]
"""``all`` is every image of the data set once, as it looks in evaluation."""

SPLITS: tuple[Split, ...] = get_args(Split)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class EpochSampler(Sampler[int]):
    """A shuffle that is a function of seed and epoch alone.

    A resumed run therefore sees the images in the order of the run that was not interrupted.
    Positions carry the epoch (``epoch * length + index``), so that :class:`SeededDataset` can seed
    an augmentation in any worker.

    Args:
        length: Number of items.
        seed: Seed of the shuffle.
    """

    def __init__(self, length: int, seed: int = 0) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle; Lightning calls this before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(_mix(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator)
        return iter((order + self.epoch * self.length).tolist())

    def __len__(self) -> int:
        return self.length


class SeededDataset(Dataset[Batch]):
    """Makes each item a function of seed, epoch and index, whichever process asks for it.

    Args:
        dataset: A data set of batch items; its random choices must come from torch's global
            generator, as those of ``torchvision.transforms.v2`` do.
        seed: Seed of the choices.
        random: Whether items make random choices at all; seeding costs 0.2 ms an item.
    """

    def __init__(self, dataset: Dataset[Batch], seed: int = 0, *, random: bool = True) -> None:
        self.dataset, self.seed, self.random = dataset, seed, random
        self.length = len(dataset)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> Batch:
        epoch, index = divmod(position, self.length)
        if not self.random:
            return self.dataset[index]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_mix(self.seed, epoch, index))
            return self.dataset[index]

    def __getitems__(self, positions: list[int]) -> Batch | list[Batch]:
        """What a loader asks for: a ready batch where the data set can make one, else its items.

        A data set makes batches if it has a method of this name, from a list of indices. They must
        hold the same values as its items.
        """
        at_once = getattr(self.dataset, "__getitems__", None)
        if self.random or at_once is None:
            return [self[position] for position in positions]
        return cast(Batch, at_once([position % self.length for position in positions]))


def _mix(*numbers: int) -> int:
    """One well-spread 63-bit seed from several numbers (splitmix64 over their sequence)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


class ImageDataModule(pl.LightningDataModule, ABC):
    """Base of all data modules: subclasses only say what a split's data set is.

    Args:
        image_size: Height and width of the images in pixels.
        batch_size: Images per batch and device.
        num_workers: Processes that load images; 0 loads in the training process.
        seed: Seed of what a data module draws, and of shuffling and augmentation.
    """

    provides: ClassVar[frozenset[str]] = frozenset({"image", "index"})
    """Batch fields that the data can have. An instance may set it to fewer."""

    mean: Sequence[float] = IMAGENET_MEAN
    """Mean of each channel that images are normalised with, of values in [0, 1]."""
    std: Sequence[float] = IMAGENET_STD
    """Standard deviation of each channel, likewise."""

    augments: bool = False
    """Whether training images change from epoch to epoch."""

    on_device: bool = False
    """Whether batches are made on the accelerator, so that there is nothing to be copied there."""

    parts_by_category: bool = False
    """Whether each category has parts of its own, though by the same names: the head of a fox and
    that of a dog are two concepts to detect. Otherwise all categories share the parts."""

    training_seed: int = 0
    """Added to ``seed`` for the order and the augmentation of training images. The command line
    sets it to ``--seed_everything``, so that runs with several seeds share their images."""

    def __init__(
        self, image_size: int, batch_size: int = 32, num_workers: int = 0, seed: int = 0
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("image_size", image_size, 1),
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.image_size, self.batch_size = image_size, batch_size
        self.num_workers, self.seed = num_workers, seed
        self._datasets: dict[Split, SeededDataset] = {}

    @abstractmethod
    def make_dataset(self, split: Split) -> Dataset[Batch]:
        """The data set of a split; its items are batch dictionaries without the batch axis."""

    @property
    @abstractmethod
    def class_names(self) -> Sequence[str]:
        """Names of the categories, in the order of ``label``."""

    @property
    def num_classes(self) -> int:
        """Number of categories. One category and its negatives count as two."""
        return len(self.class_names)

    def use_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Normalise images as pretrained weights want; data sets are made anew.

        Args:
            mean: Mean of each channel, of values in [0, 1].
            std: Standard deviation of each channel, likewise, above 0.

        Raises:
            ValueError: There are not as many as the data have channels, or one is not above 0.
        """
        if len(mean) != len(self.mean) or len(std) != len(mean) or min(std) <= 0:
            raise ValueError(
                f"mean and std must have {len(self.mean)} values and std be above 0, got "
                f"{tuple(mean)} and {tuple(std)}: give weights for images of as many channels"
            )
        self.mean, self.std = tuple(mean), tuple(std)
        self._datasets.clear()

    @property
    def part_names(self) -> Sequence[str]:
        """Names of the landmarks, in the order of ``parts``; empty where there are none."""
        return ()

    @property
    def instability_parts(self) -> Sequence[str]:
        """Names of those landmarks that location instability looks at."""
        return self.part_names

    @property
    def factor_names(self) -> Sequence[str]:
        """Names of the generative factors, in the order of ``factors``; empty without any."""
        return ()

    @property
    def factor_sizes(self) -> Sequence[int | None]:
        """Number of values of each factor, which are 0, 1, ...; None: it is continuous."""
        return ()

    def transform_image(self, image: Image.Image) -> Tensor:
        """Prepare a user's own image as a test image is prepared.

        Args:
            image: Any PIL image; it is turned as its EXIF orientation says, and what is
                transparent becomes white.

        Returns:
            (C, H, W) float, resized to ``image_size`` squared and normalised.
        """
        from torchvision.transforms.v2 import functional as F

        from pellucid.datamodules.transforms import to_rgb

        rgb = to_rgb(ImageOps.exif_transpose(image))
        resized = F.resize(F.pil_to_tensor(rgb), [self.image_size] * 2, antialias=True)
        return cast(
            Tensor,
            F.normalize(F.to_dtype(resized, torch.float32, scale=True), self.mean, self.std),
        )

    def dataset(self, split: Split) -> SeededDataset:
        """The data set of a split, made once."""
        if split not in self._datasets:
            seed = self.seed + (self.training_seed if split == "train" else 0)
            dataset = self.make_dataset(split)
            self._datasets[split] = SeededDataset(dataset, seed, random=self.augments)
        return self._datasets[split]

    def dataloader(self, split: Split, *, shuffle: bool = False) -> DataLoader[Batch]:
        """A loader over a split.

        Args:
            split: Which images.
            shuffle: Whether the order changes with each epoch; also drops a last batch of one
                image, on which batch normalisation cannot train.
        """
        dataset = self.dataset(split)
        sampler = EpochSampler(len(dataset), self.seed + self.training_seed) if shuffle else None
        if sampler is not None and self.trainer is not None:
            # Workers fetch ahead before Lightning tells a resumed run's sampler its epoch.
            progress: Any = self.trainer.fit_loop.epoch_progress.current
            sampler.set_epoch(progress.processed)
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            # Memory of the accelerator cannot be pinned.
            pin_memory=torch.cuda.is_available() and not self.on_device,
            drop_last=shuffle and len(dataset) % self.batch_size == 1 and len(dataset) > 1,
            collate_fn=collate,
            # A loader without one draws from the global generator, but not when a resumed run does.
            generator=torch.Generator(),
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled training images."""
        return self.dataloader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Validation images in order."""
        return self.dataloader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Test images in order."""
        return self.dataloader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Test images in order."""
        return self.dataloader("test")


def collate(items: list[Any] | Batch) -> Batch:
    """Stack items to a batch of plain tensors; a ready batch stays as it is."""
    return cast(Batch, default_collate(items) if isinstance(items, list) else items)
