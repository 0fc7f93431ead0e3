"""Landmarks and masks from COCO annotation files.

A landmark's coordinates are taken as COCO writes them, pixel (0, 0) being the top left pixel. A
polygon's corners are measured from that pixel's corner, and the pixels whose centres are inside
belong to the mask.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid.datamodules.errors import DataError

BoolArray = npt.NDArray[np.bool_]


@dataclass
class Marks:
    """What is annotated in one image, on the pixel grid of the annotation file."""

    size: tuple[int, int] | None = None
    """(width, height) that the file states."""
    parts: dict[int, tuple[float, float]] = field(default_factory=dict)
    """(x, y) of each visible part."""
    segments: list[tuple[int | None, Any]] = field(default_factory=list)
    """Part (None: the object) and its outline: polygons, or a run-length code."""


@dataclass(frozen=True)
class Coco:
    """Annotations of a set of images."""

    part_names: tuple[str, ...]
    marks: dict[str, Marks]
    """By image file, its path below the root."""
    has_mask: bool
    has_part_masks: bool


def read_coco(keypoints: Path | None, segmentations: Path | None, files: Sequence[str]) -> Coco:
    """Read annotation files and join them to images.

    An image of an annotation file goes with the image file of that path, or else with the only
    one of that name. Images that are not among ``files`` are left out. A landmark that several
    annotations of one image show is left out: which one is meant is not known.

    Args:
        keypoints: COCO keypoints file; its categories' ``keypoints`` name the parts.
        segmentations: COCO instances file; a category named like a part outlines that part, any
            other the object.
        files: Image files, as paths below the root with ``/``.

    Raises:
        DataError: A file is missing, is not COCO, or matches none of the images.
    """
    part_names: tuple[str, ...] = ()
    marks: dict[str, Marks] = defaultdict(Marks)
    if keypoints is not None:
        content = _Content(keypoints, files)
        part_names = content.part_names()
        content.add_parts(marks, part_names)
    if segmentations is not None:
        _Content(segmentations, files).add_segments(marks, part_names)
    targets = {part for mark in marks.values() for part, _ in mark.segments}
    return Coco(part_names, dict(marks), None in targets, bool(targets - {None}))


class _Content:
    """One annotation file."""

    def __init__(self, path: Path, files: Sequence[str]) -> None:
        self.path = path
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DataError(f"annotation file {path} is missing; check its path") from error
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {path} as JSON ({error}); export it again") from error
        try:
            self.categories = {c["id"]: c for c in content["categories"]}
            self.annotations: list[dict[str, Any]] = list(content["annotations"])
            images = {image["id"]: image for image in content["images"]}
            self.sizes = {
                i: (int(image["width"]), int(image["height"]))
                for i, image in images.items()
                if "width" in image and "height" in image
            }
            self.files = self._join(
                {i: str(image["file_name"]) for i, image in images.items()}, files
            )
            for annotation in self.annotations:
                for key, known in (("image_id", images), ("category_id", self.categories)):
                    if annotation[key] not in known:
                        raise self._wrong(annotation, f"has an unknown {key} {annotation[key]!r}")
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{path} is not a COCO annotation file ({type(error).__name__}: {error}); it must "
                "have images, annotations and categories as COCO's instances or keypoints files do"
            ) from error

    def part_names(self) -> tuple[str, ...]:
        names = [str(n) for c in self.categories.values() for n in c.get("keypoints", ())]
        if not names:
            raise DataError(
                f"no category in {self.path} has keypoints; give a COCO keypoints file, or give it "
                "as segmentations"
            )
        return tuple(dict.fromkeys(names))

    def add_parts(self, marks: dict[str, Marks], part_names: tuple[str, ...]) -> None:
        shown: Counter[tuple[str, int]] = Counter()
        for annotation, file in self._joined(marks):
            names = self.categories[annotation["category_id"]].get("keypoints", ())
            values = annotation.get("keypoints", ())
            if not values:
                continue
            if len(values) != 3 * len(names):
                raise self._wrong(
                    annotation, f"has {len(values)} keypoint numbers, not 3 x {len(names)}"
                )
            for name, (x, y, visibility) in zip(
                names, np.asarray(values, float).reshape(-1, 3).tolist(), strict=True
            ):
                if visibility > 0:
                    part = part_names.index(str(name))
                    marks[file].parts[part] = (x, y)
                    shown[file, part] += 1
        for (file, part), times in shown.items():
            if times > 1:
                del marks[file].parts[part]

    def add_segments(self, marks: dict[str, Marks], part_names: tuple[str, ...]) -> None:
        for annotation, file in self._joined(marks):
            name = str(self.categories[annotation["category_id"]].get("name", ""))
            segment = annotation.get("segmentation")
            if not segment:
                continue
            if isinstance(segment, dict):
                if not {"size", "counts"} <= segment.keys():
                    raise self._wrong(annotation, "has a run-length code without size or counts")
                _pycocotools()
            elif any(len(polygon) < 6 or len(polygon) % 2 for polygon in segment):
                raise self._wrong(annotation, "has a polygon that is not a list of 3 or more x, y")
            part = part_names.index(name) if name in part_names else None
            marks[file].segments.append((part, segment))

    def _joined(self, marks: dict[str, Marks]) -> list[tuple[dict[str, Any], str]]:
        """Annotations of the images that there are, with their files; notes the images' sizes."""
        for image, file in self.files.items():
            marks[file].size = self.sizes.get(image, marks[file].size)
        return [
            (a, self.files[a["image_id"]]) for a in self.annotations if a["image_id"] in self.files
        ]

    def _join(self, names: dict[Any, str], files: Sequence[str]) -> dict[Any, str]:
        known = set(files)
        by_name: dict[str, list[str]] = defaultdict(list)
        for file in files:
            by_name[PurePosixPath(file).name].append(file)
        joined: dict[Any, str] = {}
        for image, raw in names.items():
            name = raw.replace("\\", "/").removeprefix("./")
            found = [name] if name in known else by_name[PurePosixPath(name).name]
            if len(found) > 1:
                raise DataError(
                    f"image {name!r} of {self.path} may be any of {', '.join(found[:3])}; write "
                    "its path below the root as file_name"
                )
            if found:
                joined[image] = found[0]
        twice = [file for file, times in Counter(joined.values()).items() if times > 1]
        if twice:
            raise DataError(f"{self.path} has {twice[0]} twice among its images; keep one of them")
        if not joined:
            raise DataError(
                f"none of the {len(names)} images of {self.path} is in the image folder; write "
                "paths below the root as file_name"
            )
        return joined

    def _wrong(self, annotation: dict[str, Any], what: str) -> DataError:
        file = self.files.get(annotation.get("image_id"), "an image that is not there")
        return DataError(
            f"annotation {annotation.get('id')!r} in {self.path}, of {file}, {what}; correct it"
        )


def draw(segment: Any, width: int, height: int) -> BoolArray:
    """The mask of a segmentation.

    Args:
        segment: Polygons, each a flat list x0, y0, x1, y1 ..., whose union is meant; or a
            run-length code, compressed or not.
        width: Width of the image in pixels.
        height: Its height.

    Returns:
        (height, width) bool.

    Raises:
        DataError: A run-length code is of an image of another size.
    """
    if isinstance(segment, dict):
        if list(segment["size"]) != [height, width]:
            raise DataError(
                f"a run-length code is of {segment['size']} (height, width) pixels, its image has "
                f"{[height, width]}; export it again"
            )
        coder = _pycocotools()
        code = segment
        if isinstance(segment["counts"], list):
            code = coder.frPyObjects(segment, height, width)
        return np.asarray(coder.decode(code)).astype(bool)
    mask = np.zeros((height, width), bool)
    for polygon in segment:
        mask |= polygon_mask(np.asarray(polygon, float).reshape(-1, 2), width, height)
    return mask


def polygon_mask(corners: npt.NDArray[np.float64], width: int, height: int) -> BoolArray:
    """The pixels whose centres are inside a polygon, by the even-odd rule.

    Args:
        corners: (N, 2), (x, y) measured from the image's top left corner.
        width: Width of the image in pixels.
        height: Its height.

    Returns:
        (height, width) bool.
    """
    x0, y0 = corners.T
    x1, y1 = np.roll(corners, -1, axis=0).T
    centres = np.arange(height) + 0.5
    edges, rows = np.nonzero((y0[:, None] <= centres) != (y1[:, None] <= centres))
    slope = (x1[edges] - x0[edges]) / (y1[edges] - y0[edges])
    crossings = x0[edges] + (centres[rows] - y0[edges]) * slope
    # A pixel is inside when an odd number of edges cross its row to the left of its centre.
    columns = np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.int64)
    changes = np.zeros((height, width + 1), np.int64)
    np.add.at(changes, (rows, columns), 1)
    inside: BoolArray = changes.cumsum(axis=1)[:, :width] % 2 == 1
    return inside


def _pycocotools() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise DataError(
            "segmentations with run-length codes need pycocotools; pip install 'pellucid[coco]'"
        ) from error
    return mask
