"""Little creatures of known parts: the built-in data set, drawn on the fly, nothing to download."""

from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pellucid.batch import FIELDS, Batch
from pellucid.datamodules.base import ImageDataModule, Split, collate
from pellucid.datamodules.figures.dataset import FigureDataset
from pellucid.datamodules.figures.render import (
    SIZE_MAX,
    SIZE_MIN,
    check_parts,
)
from pellucid.datamodules.figures.shapes import PARTS, SHAPES
from pellucid.datamodules.figures.specs import (
    CLASSES_MAX,
    CLASSES_MIN,
    FACTORS,
    FigureSpecs,
    class_members,
    draw_specs,
)

_STREAMS: dict[Split, int] = {"train": 0, "val": 1, "test": 2}

ConfoundSplits = Literal["train", "all"]


class SyntheticParts(ImageDataModule):
    """Creatures drawn from seven parts; head and tail shapes together make the class.

    Colours, the other parts' shapes, pose, place, background and clutter say nothing about the
    class. Every batch field is exact: ``part_masks`` are the visible pixels of each part (where it
    covers more than half of the pixel and nothing is in front), ``mask`` is their union, ``parts``
    are anatomical points, known for hidden parts too, and ``part_visible`` says whether any of the
    part is seen and its landmark is inside the image.

    ``factors`` is (B, F) int64 in the order of :attr:`factor_names`; their ranges, units and value
    names are in ``pellucid.datamodules.figures.FACTORS``. Pose is drawn in whole degrees and
    thousandths, so the integers are exact too.

    A figure is a function of seed, split and index alone, not of the other images, the workers or
    the split's size, and it is the same at every image size.

    Args:
        image_size: Height and width of the images in pixels, 32 to 256.
        num_classes: Number of classes, 2 to 8.
        train_size: Number of training images.
        val_size: Number of validation images.
        test_size: Number of test images.
        remove_parts: Parts that all figures are drawn without; all else stays as it is.
        confound: Share in [0, 1] of training images whose background gives the class away.
            ``make_dataset("test", confound=0.9)`` has the test figures before such backgrounds,
            and ``swap_background=True`` before others than their own.
        confound_splits: ``train``: validation and test images have random backgrounds; ``all``:
            all splits have that bias, as a data set that somebody collected would.
        batch_size: Images per batch and device.
        num_workers: Processes that load images; 0, which loads in the training process, is fast.
        seed: Seed of figures and shuffling, not negative.

    Raises:
        ValueError: An argument is out of its range.
    """

    provides: ClassVar[frozenset[str]] = FIELDS - {"attention"}
    label_parts: ClassVar[tuple[str, ...]] = ("head", "tail")
    """The parts that the class depends on, both together."""

    # Measured on the default training split.
    mean = (0.58, 0.58, 0.56)
    std = (0.28, 0.26, 0.26)

    def __init__(
        self,
        image_size: int = 64,
        num_classes: int = 4,
        train_size: int = 2000,
        val_size: int = 500,
        test_size: int = 1000,
        remove_parts: list[str] | None = None,
        confound: float = 0.0,
        confound_splits: ConfoundSplits = "train",
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(image_size, batch_size, num_workers, seed)
        for name, value, least, most in (
            ("image_size", image_size, SIZE_MIN, SIZE_MAX),
            ("num_classes", num_classes, CLASSES_MIN, CLASSES_MAX),
            ("train_size", train_size, 1, 2**31),
            ("val_size", val_size, 1, 2**31),
            ("test_size", test_size, 1, 2**31),
            ("seed", seed, 0, 2**63 - 1),
        ):
            if not least <= value <= most:
                raise ValueError(
                    f"{name} must be from {least} to {most}, got {value}: choose one of these"
                )
        if confound_splits not in get_args(ConfoundSplits):
            raise ValueError(f"confound_splits must be train or all, got {confound_splits!r}")
        self.confound, self.confound_splits = _check_confound(confound), confound_splits
        self.remove_parts = check_parts(remove_parts or ())
        self.sizes: dict[Split, int] = {"train": train_size, "val": val_size, "test": test_size}
        self._members = class_members(num_classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Head and tail of each class."""
        names = [
            f"{SHAPES['head'][pair['head_shape']]} head, {SHAPES['tail'][pair['tail_shape']]} tail"
            for pair in (members[0] for members in self._members)
        ]
        return ("other", names[1]) if len(names) == CLASSES_MIN else tuple(names)

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the parts, in the order of ``parts`` and ``part_masks``."""
        return PARTS

    @property
    def factor_names(self) -> tuple[str, ...]:
        """Names of the factors, in the order of ``factors``."""
        return tuple(FACTORS)

    @property
    def factor_sizes(self) -> tuple[int | None, ...]:
        """Number of values of each category; None for measured factors: angle, size and place."""
        return tuple(len(factor.names) or None for factor in FACTORS.values())

    def length(self, split: Split) -> int:
        """Number of images in a split; ``all`` is train, val and test, one after the other."""
        return sum(self.sizes.values()) if split == "all" else self.sizes[split]

    def make_dataset(
        self,
        split: Split,
        *,
        remove_parts: Sequence[str] | None = None,
        confound: float | None = None,
        swap_background: bool = False,
    ) -> Dataset[Batch]:
        """The data set of a split.

        Args:
            split: Which images.
            remove_parts: Parts to leave out; None: those of the constructor.
            confound: Share in [0, 1] of images whose background gives the class away; None: as the
                constructor was told.
            swap_background: Whether each figure has the background of another class than it would
                have; all else stays as it is. Which one depends on its position in the split alone.

        Raises:
            ValueError: ``confound`` is out of range, or there is no such part.
        """
        return self._figures(split, None, remove_parts, confound, swap_background)

    def _figures(
        self,
        split: Split,
        indices: Sequence[int] | Tensor | None,
        remove_parts: Sequence[str] | None,
        confound: float | None,
        swap_background: bool,
    ) -> FigureDataset:
        specs, labels = self.specs(
            split, indices, confound=confound, swap_background=swap_background
        )
        removed = self.remove_parts if remove_parts is None else check_parts(remove_parts)
        return FigureDataset(specs, labels, self.image_size, removed, self.mean, self.std)

    def specs(
        self,
        split: Split,
        indices: Sequence[int] | Tensor | None = None,
        *,
        confound: float | None = None,
        swap_background: bool = False,
    ) -> tuple[FigureSpecs, NDArray[np.int64]]:
        """What the figures of a split are, for ``render_figures`` and counterfactuals.

        Args:
            split: Which images.
            indices: (N,) positions in the split; None: all.
            confound: As in :meth:`make_dataset`.
            swap_background: As in :meth:`make_dataset`.

        Returns:
            The figures and their labels, (N,) int64.

        Raises:
            ValueError: ``confound`` or an index is out of range.
        """
        length = self.length(split)
        chosen = np.arange(length) if indices is None else np.asarray(indices, dtype=np.int64)
        if not len(chosen):
            raise ValueError("indices must have at least one index, got none: name an image")
        if chosen.min() < 0 or chosen.max() >= length:
            raise ValueError(
                f"indices must be from 0 to {length - 1} in split {split!r}, got "
                f"{chosen.min()} to {chosen.max()}: choose among these or enlarge the split"
            )
        start, rows, drawn = 0, [], []
        for name in self.sizes if split == "all" else (split,):
            stop = start + self.sizes[name]
            rows.append(np.flatnonzero((chosen >= start) & (chosen < stop)))
            biased = name == "train" or self.confound_splits == "all"
            tied = self.confound if biased else 0.0
            if confound is not None:
                tied = _check_confound(confound)
            places = chosen[rows[-1]] - start
            figures, found = draw_specs(self.seed, _STREAMS[name], places, self._members, tied)
            if swap_background:
                figures = _swap_scenes(figures, places, len(self._members))
            drawn.append((figures, found))
            start = stop
        order = np.concatenate(rows).argsort()
        factors = np.concatenate([specs.factors for specs, _ in drawn])[order]
        nuisance = np.concatenate([specs.nuisance for specs, _ in drawn])[order]
        labels = np.concatenate([label for _, label in drawn])[order]
        return FigureSpecs(factors, nuisance), labels

    def render(
        self,
        split: Split,
        indices: Sequence[int] | Tensor,
        *,
        remove_parts: Sequence[str] | None = None,
        confound: float | None = None,
        swap_background: bool = False,
    ) -> Batch:
        """Chosen images of a split, drawn anew.

        Args:
            split: Which images.
            indices: (N,) positions in the split.
            remove_parts: As in :meth:`make_dataset`.
            confound: As in :meth:`make_dataset`.
            swap_background: As in :meth:`make_dataset`.

        Returns:
            A batch of the N images with every field.

        Raises:
            ValueError: ``confound`` or an index is out of range, or there is no such part.
        """
        figures = self._figures(split, indices, remove_parts, confound, swap_background)
        batch = collate([figures[row] for row in range(len(figures))])
        batch["index"] = torch.as_tensor(indices, dtype=torch.int64)
        return batch


def _swap_scenes(specs: FigureSpecs, places: NDArray[np.int64], count: int) -> FigureSpecs:
    """The same figures, each before another of the first ``count`` scenes than its own."""
    shift = 1 + places % (count - 1)
    return specs.with_factors(scene=(specs.factor("scene") + shift) % count)


def _check_confound(confound: float) -> float:
    if not 0 <= confound <= 1:
        raise ValueError(
            f"confound must be from 0 to 1, got {confound}: it is the share of images whose "
            "background gives the class away"
        )
    return confound
