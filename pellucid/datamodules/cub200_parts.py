"""CUB-200-2011: photographs of 200 species of birds with fifteen landmarks.

Wah, Branson, Welinder, Perona, Belongie, *The Caltech-UCSD Birds-200-2011 Dataset*, Technical
Report CNS-TR-2011-001, Caltech, 2011. Departures from Zhang, Wu, Zhu, CVPR 2018, who measure
interpretable CNNs on it:

- They tell all birds together from images without birds; here each species is a class.
- The data set has no validation split; here it is taken from the training images.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch.utils.data import Dataset

from pellucid.batch import Batch
from pellucid.datamodules.base import ImageDataModule, Split
from pellucid.datamodules.cub200_parts_files import (
    Annotations,
    bare_name,
    find_categories,
    find_landmarks,
    find_root,
    read_annotations,
)
from pellucid.datamodules.errors import DataError
from pellucid.datamodules.holdout import check_share, stratified_holdout
from pellucid.datamodules.image_check import check_images
from pellucid.datamodules.transforms import (
    CROP_MARGIN,
    Augment,
    Sample,
    batch_item,
    read_rgb,
    resize,
)

MASK_LEVEL = 128
"""Least grey of the object in a segmentation, which is the mean of five people's outlines."""


class CUB200Parts(ImageDataModule):
    """CUB-200-2011, several species of birds.

    An image is the bird's bounding box, or the photograph, resized to a square whatever its aspect
    ratio. A box that leaves the photograph ends where that does; grey photographs become RGB.

    ``test`` is the official test split; ``train`` and ``val`` share the official training images,
    and the same images are held out whichever species are chosen. ``all`` is train, val and test in
    the order of the data set.

    A landmark is not visible where it is not annotated or lies outside the (cropped) image. In a
    mirror image left and right eye, leg and wing change places.

    Args:
        root: The folder ``CUB_200_2011`` as published, or the folder that holds it.
        categories: Species: numbers from 1 to 200 (in YAML without leading zeros, it reads 010 as
            8), published names (``001.Black_footed_Albatross``), or names without number (``black
            footed albatross``); their order is that of ``label``. None: all.
        landmarks: Landmarks that make ``parts``, in their order. None: all fifteen, as part purity
            and consistency are published.
        instability_landmarks: Those of them that location instability looks at;
            ``[forehead, back, tail]`` in the paper. None: all of ``landmarks``.
        crop_to_box: Whether an image is the bird's bounding box, not the photograph.
        segmentations: Folder of the data set's segmentations, which are published apart, in the
            layout of ``images`` as PNG; they make ``mask``. None: ``segmentations`` in the
            published folder, where there is one.
        image_size: Height and width of the images in pixels.
        augment: Whether training images are cropped, mirrored and coloured at random.
        val_share: Share of each species' training images that are for validation, in (0, 1).
        split_seed: Seed of the choice of these; apart from ``seed``, so that runs with several
            seeds are validated on the same images.
        batch_size: Images per batch and device.
        num_workers: Processes that load images.
        seed: Seed of shuffling and augmentation.

    Raises:
        DataError: A folder or a file is missing or not as published; :meth:`prepare_data` raises it
            for an image that cannot be read and for a box outside its image.
        ValueError: An argument is out of its range, or there is no such species or landmark.
    """

    provides = frozenset({"image", "label", "parts", "part_visible", "mask", "index"})

    def __init__(
        self,
        root: str,
        categories: list[int | str] | None = None,
        landmarks: list[str] | None = None,
        instability_landmarks: list[str] | None = None,
        crop_to_box: bool = True,
        segmentations: str | None = None,
        image_size: int = 224,
        augment: bool = False,
        val_share: float = 0.1,
        split_seed: int = 0,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(image_size, batch_size, num_workers, seed)
        check_share(val_share)
        self.root, self.augments = find_root(Path(root).expanduser()), augment
        self.val_share, self.split_seed = val_share, split_seed
        self.annotations = read_annotations(self.root)
        self._categories = find_categories(self.annotations.class_names, categories)
        self._landmarks = find_landmarks(self.annotations.part_names, landmarks)
        self._located = find_landmarks(
            self.part_names, instability_landmarks, "instability_landmarks"
        )
        rows = np.flatnonzero(np.isin(self.annotations.labels, self._categories)).tolist()
        files = {row: self.annotations.files[row] for row in rows}
        _check_present(self.root / "images", files.values())
        mask_folder = Path(segmentations or self.root / "segmentations").expanduser()
        masks: dict[int, str] = {}
        if segmentations or mask_folder.is_dir():
            masks = {row: _png(file) for row, file in files.items()}
            _check_present(mask_folder, masks.values())
        else:
            self.provides = self.provides - {"mask"}  # type: ignore[misc]  # the base allows fewer
        self._photographs = _Photographs(
            self.annotations, self.root / "images", files, mask_folder, masks, crop_to_box
        )
        self._checked = False

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the species, without numbers."""
        return tuple(bare_name(self.annotations.class_names[i]) for i in self._categories)

    @property
    def part_names(self) -> Sequence[str]:
        """Names of the chosen landmarks."""
        return tuple(self.annotations.part_names[i] for i in self._landmarks)

    @property
    def instability_parts(self) -> Sequence[str]:
        """Names of the landmarks that location instability looks at."""
        return tuple(self.part_names[i] for i in self._located)

    def prepare_data(self) -> None:
        """Check that every image can be decoded and that the boxes and masks fit the images."""
        self._check()

    def make_dataset(self, split: Split) -> Dataset[Batch]:
        """The data set of a split."""
        self._check()
        return _CUB200Dataset(self, self._rows(split), augmented=split == "train" and self.augments)

    def _rows(self, split: Split) -> list[int]:
        """The images of a split, as positions in the annotations."""
        is_train, files = self.annotations.is_train, self._photographs.files
        if split == "all":
            return list(files)
        if split == "test":
            return [row for row in files if not is_train[row]]
        # Over all species, so that a choice of some does not move images between the splits.
        rows = np.flatnonzero(is_train)
        labels = torch.from_numpy(self.annotations.labels[rows])
        held = stratified_holdout(labels, self.val_share, self.split_seed).numpy()
        chosen = rows[held if split == "val" else ~held].tolist()
        return [row for row in chosen if row in files]

    def _check(self) -> None:
        if self._checked:
            return
        photographs = self._photographs
        infos = check_images(photographs.folder, list(photographs.files.values()))
        masks = check_images(photographs.mask_folder, list(photographs.masks.values()))
        for row, file in photographs.files.items():
            width, height = infos[file].width, infos[file].height
            left, top, right, bottom = photographs.box(row, width, height)
            if left >= right or top >= bottom:
                raise DataError(
                    f"the box {tuple(self.annotations.boxes[row].tolist())} (left, top, right, "
                    f"bottom) lies outside {photographs.folder / file} ({width} x {height} "
                    "pixels); copy the image and bounding_boxes.txt again"
                )
            mask = masks.get(photographs.masks.get(row, ""))
            if mask is not None and (mask.width, mask.height) != (width, height):
                raise DataError(
                    f"{photographs.mask_folder / photographs.masks[row]} has {mask.width} x "
                    f"{mask.height} pixels, its image {width} x {height}; copy both again"
                )
        self._checked = True


@dataclass(frozen=True)
class _Photographs:
    """The chosen images. Apart from the data module, which does not go to worker processes."""

    annotations: Annotations
    folder: Path
    files: dict[int, str]
    """Below ``folder``, by position in the annotations."""
    mask_folder: Path
    masks: dict[int, str]
    """Likewise; empty where there are none."""
    crop_to_box: bool

    def box(self, row: int, width: int, height: int) -> tuple[int, int, int, int]:
        """What is cut out of an image: (left, top, right, bottom), the latter two exclusive."""
        if not self.crop_to_box:
            return 0, 0, width, height
        left, top, right, bottom = self.annotations.boxes[row].tolist()
        inside = min(ceil(right), width), min(ceil(bottom), height)
        return max(floor(left), 0), max(floor(top), 0), *inside

    def read(self, row: int) -> Sample:
        """What is cut out of an image and all its landmarks, in its own size."""
        image = read_rgb(self.folder / self.files[row])
        box = self.box(row, image.width, image.height)
        mask = None
        if self.masks:
            grey = read_rgb(self.mask_folder / self.masks[row]).convert("L")
            mask = torch.from_numpy(np.array(grey.crop(box)) >= MASK_LEVEL)
        return Sample(
            image=torch.from_numpy(np.array(image.crop(box))).permute(2, 0, 1),
            parts=torch.from_numpy(self.annotations.parts[row]) - torch.tensor(box[:2]),
            part_visible=torch.from_numpy(self.annotations.part_visible[row]),
            mask=mask,
        )


class _CUB200Dataset(Dataset[Batch]):
    """The images of a split, decoded when asked for."""

    def __init__(self, data: CUB200Parts, rows: list[int], augmented: bool) -> None:
        self.photographs, self.rows = data._photographs, rows
        self.size, self.mean, self.std = data.image_size, data.mean, data.std
        annotations = data.annotations
        labels = {category: label for label, category in enumerate(data._categories)}
        self.labels = [labels[int(annotations.labels[row])] for row in rows]
        self.landmarks = list(data._landmarks)
        self.augment = Augment(self.size, annotations.part_names) if augmented else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:
        sample = self.photographs.read(self.rows[index])
        if self.augment is None:
            sample = resize(sample, self.size)
        else:
            sample = self.augment(resize(sample, round(CROP_MARGIN * self.size)))
        assert sample.parts is not None
        assert sample.part_visible is not None
        # Chosen only now: a mirrored right eye stands where the left eye is wanted.
        sample = replace(
            sample,
            parts=sample.parts[self.landmarks],
            part_visible=sample.part_visible[self.landmarks],
        )
        return batch_item(sample, self.labels[index], index, self.mean, self.std)


def _png(file: str) -> str:
    return str(PurePosixPath(file).with_suffix(".png"))


def _check_present(folder: Path, files: Iterable[str]) -> None:
    what = f"the {folder.name} of CUB-200-2011"
    if not folder.is_dir():
        raise DataError(
            f"folder {folder} is missing; put {what} there, as {folder / next(iter(files))} and "
            "so on (Caltech publishes the data set as CUB-200-2011)"
        )
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        others = f" and {len(missing) - 1} more are" if len(missing) > 1 else " is"
        raise DataError(f"{folder / missing[0]}{others} missing; copy {what} again")
