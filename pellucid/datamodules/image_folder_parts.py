"""The user's own photographs, in folders named by class, with optional COCO annotations."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from pellucid.batch import FIELDS, Batch
from pellucid.datamodules.attention_maps import find_maps, read_map
from pellucid.datamodules.base import ImageDataModule, Split
from pellucid.datamodules.coco import Marks, draw, read_coco
from pellucid.datamodules.errors import DataError
from pellucid.datamodules.image_check import ImageInfo, check_images
from pellucid.datamodules.transforms import (
    CROP_MARGIN,
    Augment,
    Sample,
    batch_item,
    letterbox,
    read_rgb,
    to_rgb,
    upright,
)

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"})

FOLDERS: tuple[Split, ...] = ("train", "val", "test")


class ImageFolderParts(ImageDataModule):
    """Images in ``root/{train,val,test}/<class>/``, landmarks and masks from COCO files.

    An image is turned upright as its EXIF orientation says and fitted into the square whole, its
    aspect ratio kept; the bars beside it have the mean colour, which is 0 after normalisation.
    The coordinates of annotations refer to the pixel grid as stored, before EXIF orientation,
    which is what most tools read; only where the annotation file states a width and height that
    fit the upright image alone do they refer to that.

    ``provides`` of an instance is what its files give. An image without annotation has no visible
    part and empty masks. A landmark is visible if COCO's visibility flag is not 0, one instance
    in the image shows it, and it is inside the (cropped) image.

    Args:
        root: Folder that holds ``train``, ``val`` and ``test``, each with one folder of images
            per class.
        keypoints: COCO keypoints file; names the parts. Its ``file_name`` is a path below
            ``root``, or a name that only one image has.
        segmentations: COCO instances file. A category named like a part gives ``part_masks``,
            any other ``mask``. Run-length codes need ``pip install 'pellucid[coco]'``.
        attention_maps: Folder of grey pictures, brighter where people looked, under the images'
            paths below ``root`` with the ending ``.png``; of any size, on the stored pixel grid.
            They give ``attention``, zeros for an image without one.
        image_size: Height and width of the images in pixels.
        augment: Whether training images are cropped, mirrored and coloured at random. In a
            mirror image, parts named left and right change places.
        batch_size: Images per batch and device.
        num_workers: Processes that load images.
        seed: Seed of shuffling and augmentation.

    Raises:
        DataError: A folder is missing or empty, a class is not in every split, an annotation file
            cannot be used; :meth:`prepare_data` raises it for a broken image and for a landmark
            outside its image.
        ValueError: An argument is out of its range.
    """

    provides = FIELDS - {"factors"}

    def __init__(
        self,
        root: str,
        keypoints: str | None = None,
        segmentations: str | None = None,
        attention_maps: str | None = None,
        image_size: int = 224,
        augment: bool = False,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(image_size, batch_size, num_workers, seed)
        self.root, self.augments = Path(root).expanduser(), augment
        self._class_names = _classes(self.root)
        self._files = {split: _images(self.root, split, self._class_names) for split in FOLDERS}
        self._files["all"] = [entry for split in FOLDERS for entry in self._files[split]]
        self.coco = read_coco(
            Path(keypoints).expanduser() if keypoints else None,
            Path(segmentations).expanduser() if segmentations else None,
            [file for file, _ in self._files["all"]],
        )
        fields = {"image", "label", "index"}
        fields |= {"parts", "part_visible"} if self.coco.part_names else set()
        fields |= {"part_masks"} if self.coco.has_part_masks else set()
        fields |= {"mask"} if self.coco.has_mask else set()
        fields |= {"attention"} if attention_maps else set()
        self.attention = find_maps(attention_maps, [file for file, _ in self._files["all"]])
        self.provides = frozenset(fields)  # type: ignore[misc]  # the base class allows fewer
        self._infos: dict[str, ImageInfo] | None = None

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the class folders, in alphabetical order."""
        return self._class_names

    @property
    def part_names(self) -> Sequence[str]:
        """Names of the keypoints, in the order of the file."""
        return self.coco.part_names

    def prepare_data(self) -> None:
        """Check that every image can be decoded and every landmark is inside its image."""
        self._check()

    def make_dataset(self, split: Split) -> Dataset[Batch]:
        """The data set of a split."""
        return _ImageFolderDataset(self, split, self._check())

    def transform_image(self, image: Image.Image) -> Tensor:
        """Prepare a user's own image as a test image is prepared."""
        rgb = to_rgb(ImageOps.exif_transpose(image))
        sample = letterbox(Sample(image=_pixels(rgb)), self.image_size, self.mean)
        return batch_item(sample, 0, 0, self.mean, self.std)["image"]

    def _check(self) -> dict[str, ImageInfo]:
        if self._infos is None:
            infos = check_images(self.root, [file for file, _ in self._files["all"]])
            for file, marks in self.coco.marks.items():
                self._check_marks(file, marks, infos[file])
            self._infos = infos
        return self._infos

    def _check_marks(self, file: str, marks: Marks, info: ImageInfo) -> None:
        width, height = _grid(marks, info)
        if marks.size not in (None, (width, height)):
            raise DataError(
                f"the annotations of {self.root / file} are of an image of {marks.size} (width, "
                f"height) pixels, the image has {(width, height)}; export them again"
            )
        for part, (x, y) in marks.parts.items():
            if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
                raise DataError(
                    f"landmark {self.part_names[part]!r} of {self.root / file} is at ({x:g}, "
                    f"{y:g}), outside the image of {width} x {height} pixels; correct it or set "
                    "its visibility to 0"
                )
        for _, segment in marks.segments:
            if isinstance(segment, dict) and list(segment["size"]) != [height, width]:
                raise DataError(
                    f"a run-length code of {self.root / file} is of {segment['size']} (height, "
                    f"width) pixels, the image has {[height, width]}; export it again"
                )


class _ImageFolderDataset(Dataset[Batch]):
    """The images of a split, decoded when asked for."""

    def __init__(self, data: ImageFolderParts, split: Split, infos: dict[str, ImageInfo]) -> None:
        self.root, self.coco, self.provides = data.root, data.coco, data.provides
        self.attention = data.attention
        self.files, self.infos = data._files[split], infos
        self.mean, self.std, self.size = data.mean, data.std, data.image_size
        self.augment: Augment | None = None
        if split == "train" and data.augments:
            self.augment = Augment(self.size, data.part_names)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Batch:
        file, label = self.files[index]
        sample = self._marked(file)
        if self.augment is None:
            sample = letterbox(sample, self.size, self.mean)
        else:
            canvas = letterbox(sample, round(CROP_MARGIN * self.size), self.mean)
            sample = self.augment(canvas)
        return batch_item(sample, label, index, self.mean, self.std)

    def _marked(self, file: str) -> Sample:
        """The upright image and its marks, in its own size."""
        info, marks = self.infos[file], self.coco.marks.get(file, Marks())
        image = Sample(image=_pixels(read_rgb(self.root / file)))
        if "attention" in self.provides:
            seen = read_map(self.attention.get(file), (info.width, info.height))
            image = replace(image, attention=seen)
        width, height = _grid(marks, info)
        if (width, height) == (info.width, info.height):
            return upright(self._mark(image, marks, width, height), info.orientation)
        return self._mark(upright(image, info.orientation), marks, width, height)

    def _mark(self, image: Sample, marks: Marks, width: int, height: int) -> Sample:
        count = len(self.coco.part_names)
        sample = image
        if "parts" in self.provides:
            parts, visible = torch.zeros(count, 2), torch.zeros(count, dtype=torch.bool)
            for part, place in marks.parts.items():
                parts[part], visible[part] = torch.tensor(place), True
            sample = replace(sample, parts=parts, part_visible=visible)
        if not {"part_masks", "mask"} & self.provides:
            return sample
        # The object last, as one more plane, so that one loop draws both kinds.
        planes = np.zeros((count + 1, height, width), bool)
        for segment_part, segment in marks.segments:
            planes[-1 if segment_part is None else segment_part] |= draw(segment, width, height)
        if "part_masks" in self.provides:
            sample = replace(sample, part_masks=torch.from_numpy(planes[:-1]))
        if "mask" in self.provides:
            sample = replace(sample, mask=torch.from_numpy(planes[-1]))
        return sample


def _grid(marks: Marks, info: ImageInfo) -> tuple[int, int]:
    """(width, height) of the pixel grid that annotations refer to: stored, or upright."""
    stored = (info.width, info.height)
    turned = stored[::-1] if info.orientation >= 5 else stored
    return turned if marks.size == turned else stored


def _pixels(image: Image.Image) -> Tensor:
    """(3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _classes(root: Path) -> tuple[str, ...]:
    """Class names, the same in every split."""
    if not root.is_dir():
        raise DataError(f"root {root} is missing; give the folder that holds train, val and test")
    found: dict[str, set[str]] = {}
    for split in FOLDERS:
        folder = root / split
        if not folder.is_dir():
            raise DataError(
                f"folder {folder} is missing; root must hold train, val and test, each with one "
                "folder of images per class"
            )
        found[split] = {
            p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")
        }
    names = sorted(set().union(*found.values()))
    for name in names:
        for split in FOLDERS:
            if name not in found[split]:
                raise DataError(
                    f"class {name!r} has no folder {root / split / name}; every class must have "
                    "images in train, val and test"
                )
    if len(names) < 2:
        raise DataError(
            f"{root} has {len(names)} class folders per split, at least 2 are needed; for a single "
            "category add a folder of other images"
        )
    return tuple(names)


def _images(root: Path, split: str, class_names: Sequence[str]) -> list[tuple[str, int]]:
    """(path below root, label) of a split's images."""
    entries: list[tuple[str, int]] = []
    for label, name in enumerate(class_names):
        folder = root / split / name
        files = sorted(
            p.name
            for p in folder.iterdir()
            if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".") and p.is_file()
        )
        if not files:
            raise DataError(
                f"folder {folder} holds no image; add some ({', '.join(sorted(EXTENSIONS))})"
            )
        entries += [(f"{split}/{name}/{file}", label) for file in files]
    return entries
