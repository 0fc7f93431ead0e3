"""ILSVRC Animal-Part: photographs of animals with their heads and frontal legs.

Zhang, Wu, Zhu, *Interpretable Convolutional Neural Networks*, CVPR 2018. An image is the object's
bounding box, cut out and resized to 224 x 224. Departures from the released code, beside those of
the splits (:mod:`pellucid.datamodules.animal_part_split`):

- It tests on the repeated and mirrored objects; here each object is tested once, as it is.
- With several categories it repeats small ones up to a fixed number of images; here each training
  object counts twice, as it is and mirrored.
- It drops images to get exactly three positives per negative; here all images stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pellucid.batch import Batch
from pellucid.datamodules import crop_cache
from pellucid.datamodules.animal_part_files import (
    CROP_SIZE,
    NAMES,
    PART_NAMES,
    Objects,
    annotation_files,
    find_categories,
    image_files,
    image_folder,
    read_category,
    read_negatives,
)
from pellucid.datamodules.animal_part_split import check_splits, chosen
from pellucid.datamodules.base import ImageDataModule, Split
from pellucid.datamodules.errors import DataError
from pellucid.datamodules.transforms import (
    Augment,
    Sample,
    batch_item,
    box_masks,
    mirror,
    read_rgb,
    resize,
)

POSITIVE_SHARE = 0.75
"""Of the training images of one category and its negatives."""

Array = npt.NDArray[Any]


class AnimalPart(ImageDataModule):
    """ILSVRC Animal-Part, one category against negatives or several categories.

    With one category, ``label`` 1 is the category and 0 its negatives; training images are the
    objects and their mirror images, repeated until they are three quarters of the set. With
    several, each is a class and there are no negatives. The splits hold 81, 9 and 10 % of the
    objects, and of the negatives, by the released code's rule of even spacing; ``val``, ``test``
    and ``all`` have each of theirs once, not mirrored.

    Parts are the head and the frontal legs. With several categories each has its own, as they are
    annotated (``parts_by_category``): a unit can detect the head of the fox. A part that is not
    annotated, or is annotated several times in one object, is not visible. ``part_masks`` are the
    parts' boxes.

    All crops are decoded once, into a cache in the data set's folder or, if that must not be
    written to, in the user's cache directory.

    Args:
        root: Folder that holds ``detanimalpart``, ``truth_part`` and ``neg`` as published.
        categories: WordNet names (``n02118333``) or common names (``fox``); None: all that
            ``root`` holds.
        image_size: Height and width of the images in pixels.
        negatives: Folder of the negative images of a single category; None: ``root/neg``.
        augment: Whether training images are also cropped and coloured at random, the landmarks
            with them.
        batch_size: Images per batch and device.
        num_workers: Processes that load images.
        seed: Seed of shuffling and augmentation.
        cache_dir: Folder of the cache; None: chosen as above.

    Raises:
        DataError: A folder, a category or a file is missing, or an image cannot be read.
        ValueError: An argument is out of its range.
    """

    provides = frozenset({"image", "label", "parts", "part_visible", "part_masks", "index"})

    def __init__(
        self,
        root: str,
        categories: list[str] | None = None,
        image_size: int = CROP_SIZE,
        negatives: str | None = None,
        augment: bool = False,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(image_size, batch_size, num_workers, seed)
        self.root, self.augments, self.cache_dir = Path(root).expanduser(), augment, cache_dir
        self.wnids = find_categories(self.root, categories)
        for wnid in self.wnids:
            annotation_files(self.root, wnid)
        self.negatives: Path | None = None
        if len(self.wnids) == 1:
            self.negatives = Path(negatives).expanduser() if negatives else self.root / "neg"
            image_files(self.negatives)
        self.parts_by_category = len(self.wnids) > 1
        self._groups: list[_Group] | None = None

    @property
    def class_names(self) -> Sequence[str]:
        """The categories' common names, after ``negative`` if there is one category."""
        names = tuple(NAMES.get(wnid, wnid) for wnid in self.wnids)
        return ("negative", *names) if len(names) == 1 else names

    @property
    def part_names(self) -> Sequence[str]:
        """Head and frontal legs."""
        return PART_NAMES

    def prepare_data(self) -> None:
        """Decode the images into the cache, so that a broken one is found before training."""
        self._load()

    def make_dataset(self, split: Split) -> Dataset[Batch]:
        """The data set of a split."""
        groups = self._load()
        entries = [
            (group, i, False)
            for group in range(len(groups))
            for i in chosen(split, len(groups[group].crops))
        ]
        augment = None
        if split == "train":
            entries = self._mirrored_and_repeated(entries)
            if self.augments:
                augment = Augment(self.image_size, PART_NAMES, mirror_probability=0)
        return _AnimalPartDataset(groups, entries, augment, self.mean, self.std)

    def _mirrored_and_repeated(
        self, entries: list[tuple[int, int, bool]]
    ) -> list[tuple[int, int, bool]]:
        positives = [
            (group, i, mirrored)
            for group, i, _ in entries
            if group < len(self.wnids)
            for mirrored in (False, True)
        ]
        negatives = [entry for entry in entries if entry[0] == len(self.wnids)]
        wanted = round(POSITIVE_SHARE / (1 - POSITIVE_SHARE) * len(negatives))
        return list(islice(cycle(positives), max(wanted, len(positives)))) + negatives

    def _load(self) -> "list[_Group]":
        if self._groups is None:
            folder = crop_cache.choose_folder(self.root, self.cache_dir)
            first = 1 if len(self.wnids) == 1 else 0
            self._groups = [
                self._group(folder, wnid, label, wnid)
                for label, wnid in enumerate(self.wnids, start=first)
            ]
            if self.negatives is not None:
                self._groups.append(self._group(folder, "negatives", 0, None))
        return self._groups

    def _group(self, folder: Path, name: str, label: int, wnid: str | None) -> "_Group":
        """Open the cache of a category, or of the negatives; build it if there is none."""
        if wnid is not None:
            source = image_folder(self.root, wnid)
            files = image_files(source) + annotation_files(self.root, wnid)
        else:
            assert self.negatives is not None
            source = self.negatives
            files = image_files(source)
        # The source's address keeps data sets apart that share a cache folder.
        key = crop_cache.fingerprint(files, size=self.image_size)
        address = crop_cache.fingerprint([], source=str(source.resolve()))[:8]
        stem = f"{name}_{self.image_size}_{address}"
        cached = crop_cache.load(folder, stem, key)
        if cached is None:
            objects = read_negatives(source) if wnid is None else read_category(self.root, wnid)
            check_splits(len(objects.paths), source)

            def decode(index: int) -> Tensor:
                return _decode(objects, index, self.image_size)

            crop_cache.build(
                folder, stem, key, decode, len(objects.paths), _tables(objects, self.image_size)
            )
            cached = crop_cache.load(folder, stem, key)
            if cached is None:
                raise DataError(
                    f"the cache {folder / stem}.npy cannot be read back; "
                    "free some disk space or name another folder with cache_dir"
                )
        crops, tables = cached
        return _Group(crops, label, **{k: torch.from_numpy(t) for k, t in tables.items()})


@dataclass(frozen=True)
class _Group:
    """The decoded images of a category, or the negatives."""

    crops: crop_cache.Crops
    label: int
    parts: Tensor
    """(N, P, 2) float."""
    part_visible: Tensor
    """(N, P) bool."""
    part_boxes: Tensor
    """(N, P, 4) float, (left, top, right, bottom), places of pixel centres."""


class _AnimalPartDataset(Dataset[Batch]):
    """Entries are (group, position in it, whether mirrored)."""

    def __init__(
        self,
        groups: "list[_Group]",
        entries: list[tuple[int, int, bool]],
        augment: Augment | None,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.groups, self.entries, self.augment = groups, entries, augment
        self.mean, self.std = mean, std
        first: dict[tuple[int, int, bool], int] = {}
        # A repeated image is known by its first position, so that it counts and is cached once.
        self.positions = [first.setdefault(entry, i) for i, entry in enumerate(entries)]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Batch:
        number, i, mirrored = self.entries[index]
        group = self.groups[number]
        image = group.crops[i]
        visible = group.part_visible[i]
        sample = Sample(
            image=image,
            parts=group.parts[i],
            part_visible=visible,
            part_masks=box_masks(group.part_boxes[i], visible, image.shape[-1]),
        )
        if mirrored:
            sample = mirror(sample)
        if self.augment is not None:
            sample = self.augment(sample)
        return batch_item(sample, group.label, self.positions[index], self.mean, self.std)


def _decode(objects: Objects, index: int, size: int) -> Tensor:
    """(3, size, size) uint8, the object's crop."""
    image = read_rgb(objects.paths[index])
    if objects.boxes is not None:
        left, top, right, bottom = (int(v) for v in objects.boxes[index])
        box = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
        if box[0] >= box[2] or box[1] >= box[3]:
            raise DataError(
                f"the object's box {left, top, right, bottom} lies outside "
                f"{objects.paths[index]} ({image.width} x {image.height} pixels); "
                "copy the image and its data.mat again"
            )
        image = image.crop(box)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    crop = resize(Sample(image=pixels), CROP_SIZE)
    return crop.image if size == CROP_SIZE else resize(crop, size).image


def _tables(objects: Objects, size: int) -> dict[str, Array]:
    """Landmarks and part boxes in pixels of a ``size`` x ``size`` crop."""
    scale = size / CROP_SIZE
    centres = (objects.parts + 0.5) * scale - 0.5
    half = objects.part_sizes * scale / 2
    return {
        "parts": centres.astype(np.float32),
        "part_visible": objects.part_visible,
        "part_boxes": np.concatenate([centres - half, centres + half], axis=-1).astype(np.float32),
    }
