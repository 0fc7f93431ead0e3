"""Reads the published files of ILSVRC Animal-Part: annotations in two MATLAB formats."""

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from scipy.io import loadmat

from pellucid.datamodules.errors import DataError

CROP_SIZE = 224
"""Height and width in pixels of the object crops in which the parts were annotated."""

LEAST_AREA = 50**2
"""Area in square pixels of the smallest object box that the published protocol takes."""

PART_NAMES = ("head", "frontal legs")

NAMES = {
    "n01443537": "goldfish",
    "n01503061": "bird",
    "n01639765": "frog",
    "n01662784": "turtle",
    "n01674464": "lizard",
    "n01882714": "koala",
    "n01982650": "lobster",
    "n02084071": "dog",
    "n02118333": "fox",
    "n02121808": "domestic cat",
    "n02129165": "lion",
    "n02129604": "tiger",
    "n02131653": "bear",
    "n02324045": "rabbit",
    "n02342885": "hamster",
    "n02355227": "squirrel",
    "n02374451": "horse",
    "n02391049": "zebra",
    "n02395003": "swine",
    "n02398521": "hippopotamus",
    "n02402425": "cattle",
    "n02411705": "sheep",
    "n02419796": "antelope",
    "n02437136": "camel",
    "n02444819": "otter",
    "n02454379": "armadillo",
    "n02484322": "monkey",
    "n02503517": "elephant",
    "n02509815": "red panda",
    "n02510455": "giant panda",
}
"""The published categories. Others in the same layout go by their folder's name."""

HEAD_ONLY = frozenset({"n01443537"})
"""Published categories without annotated legs."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Objects:
    """The objects of one category, or whole images, before decoding.

    Landmarks and part boxes are in pixels of the object's crop resized to ``CROP_SIZE``, (x, y)
    with the centre of the top left pixel at (0, 0).
    """

    paths: list[Path]
    """N image files."""
    boxes: Array | None
    """(N, 4) int, (left, top, right, bottom) of the crop, right and bottom exclusive; None: whole
    images."""
    parts: Array
    """(N, 2, 2) float, centres."""
    part_sizes: Array
    """(N, 2, 2) float, (width, height) of the parts' boxes."""
    part_visible: Array
    """(N, 2) bool."""


def find_categories(root: Path, categories: list[str] | None) -> tuple[str, ...]:
    """WordNet names of categories.

    Args:
        root: Folder that holds ``detanimalpart``.
        categories: WordNet names or common names; None: all that are there.

    Raises:
        DataError: There is no such folder or category.
        ValueError: No category is named, or one twice.
    """
    folder = root / "detanimalpart"
    if not folder.is_dir():
        raise DataError(
            f"root {root} has no folder detanimalpart; give the folder that holds detanimalpart, "
            "truth_part and neg as published"
        )
    present = sorted(p.name.removesuffix("_obj") for p in folder.glob("*_obj") if p.is_dir())
    if not present:
        raise DataError(f"{folder} holds no category (<wnid>_obj); copy the published folders")
    if categories is None:
        return tuple(present)
    if not categories:
        raise ValueError("categories must name at least one category, got []; null takes all")
    known = {NAMES.get(wnid, wnid).lower(): wnid for wnid in present}
    known |= {wnid.lower(): wnid for wnid in present}
    chosen: list[str] = []
    for name in categories:
        spelt = name.strip().lower()
        wnid = known.get(spelt) or known.get(spelt.replace("_", " "))
        if wnid is None:
            close = difflib.get_close_matches(spelt, known, n=3, cutoff=0.5)
            offered = close or [NAMES.get(wnid, wnid) for wnid in present]
            raise DataError(
                f"category {name!r} is not in {folder}; "
                f"{'did you mean' if close else 'it holds'} {', '.join(offered)}"
            )
        chosen.append(wnid)
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"categories must not repeat, got {categories}; name each once")
    return tuple(chosen)


def image_folder(root: Path, wnid: str) -> Path:
    """Folder of a category's images."""
    return root / "detanimalpart" / f"{wnid}_obj" / "img" / "img"


def annotation_files(root: Path, wnid: str) -> list[Path]:
    """The category's MATLAB files: object boxes first, then one file per annotated part.

    Raises:
        DataError: One of them is missing.
    """
    folder = root / "truth_part" / wnid
    files = [image_folder(root, wnid).with_name("data.mat"), folder / "truth_part01.mat"]
    legs = folder / "truth_part02.mat"
    # A folder of the user's own making may know one part only.
    if legs.exists() or wnid in NAMES.keys() - HEAD_ONLY:
        files.append(legs)
    for file in files:
        if not file.is_file():
            raise DataError(f"annotation file {file} is missing; copy it from the published data")
    return files


def image_files(folder: Path) -> list[Path]:
    """The images of a folder in the order of their names.

    Raises:
        DataError: The folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise DataError(f"folder {folder} is missing; copy it from the published data")
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise DataError(f"folder {folder} holds no .jpg or .JPEG image; copy the published images")
    return files


def read_category(root: Path, wnid: str) -> Objects:
    """Read where the objects of a category and their parts are.

    Args:
        root: Folder that holds ``detanimalpart`` and ``truth_part``.
        wnid: WordNet name of the category.

    Raises:
        DataError: A file is missing or not as published, or the files disagree on their number.
    """
    paths = image_files(image_folder(root, wnid))
    boxes_file, *part_files = annotation_files(root, wnid)
    with _naming(boxes_file), _open(boxes_file) as source:
        corners = source.boxes()
    _check_count(boxes_file, len(corners), paths)
    for number, path in enumerate(paths, start=1):
        if path.stem != f"{number:05d}":
            raise DataError(f"image {number:05d}.jpg is missing in {path.parent}; copy it again")

    shape = (len(paths), len(PART_NAMES), 2)
    centres, sizes, visible = np.zeros(shape), np.zeros(shape), np.zeros(shape[:2], bool)
    for part, file in enumerate(part_files):
        with _naming(file), _open(file) as source:
            cells = list(source.parts())
        _check_count(file, len(cells), paths)
        for i, (centre, size) in enumerate(cells):
            # Empty: not annotated. More than one (row, col): the protocol takes no part that is
            # there several times.
            if centre.size == size.size == 2:
                # MATLAB's (row, column) from 1 to our (x, y) from 0.
                centres[i, part] = centre.ravel()[::-1] - 1
                sizes[i, part] = size.ravel()[::-1]
                visible[i, part] = True

    # From 1-based and inclusive to 0-based and exclusive.
    boxes = np.rint(corners).astype(np.int64) - [1, 1, 0, 0]
    extent = boxes[:, 2:] - boxes[:, :2]
    keep = (extent.min(axis=1) > 0) & (extent.prod(axis=1) >= LEAST_AREA)
    kept_paths = [path for path, kept in zip(paths, keep, strict=True) if kept]
    return Objects(kept_paths, boxes[keep], centres[keep], sizes[keep], visible[keep])


def read_negatives(folder: Path) -> Objects:
    """Whole images without any part."""
    paths = image_files(folder)
    shape = (len(paths), len(PART_NAMES), 2)
    return Objects(paths, None, np.zeros(shape), np.zeros(shape), np.zeros(shape[:2], bool))


def _check_count(file: Path, count: int, paths: list[Path]) -> None:
    if count != len(paths):
        raise DataError(
            f"{file} annotates {count} images but {paths[0].parent} holds {len(paths)}; "
            "copy both again from the published data"
        )


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Name the file in whatever goes wrong when its content is not as published."""
    try:
        yield
    except Exception as error:  # Broken files fail in the readers in countless ways.
        raise DataError(
            f"cannot read annotation file {file} ({type(error).__name__}: {error}); "
            "copy it again from the published data"
        ) from error


class _Hdf5:
    """A file of MATLAB 7.3. Matrices come transposed; cells and structs are references."""

    def __init__(self, file: h5py.File) -> None:
        self.file = file

    def boxes(self) -> Array:
        found = [self.file[r]["bndbox"] for r in self.file["samples/obj"][()].ravel()]
        return np.array([_corners({k: box[k][()] for k in box}) for box in found])

    def parts(self) -> Iterator[tuple[Array, Array]]:
        centres, sizes = (
            self.file[f"truth/{name}"][()].ravel() for name in ("pHW_center", "pHW_scale")
        )
        for centre, size in zip(centres, sizes, strict=True):
            yield self._cell(centre), self._cell(size)

    def _cell(self, reference: h5py.Reference) -> Array:
        value = self.file[reference]
        # An empty matrix is stored as its shape, which would pass for a place.
        return np.empty(0) if value.attrs.get("MATLAB_empty", 0) else np.asarray(value[()])


class _Matlab5:
    """A file of MATLAB 5 to 7.2."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content

    def boxes(self) -> Array:
        samples = self.content["samples"].ravel()
        found = [sample["obj"][0, 0]["bndbox"][0, 0] for sample in samples]
        return np.array([_corners({k: box[k] for k in box.dtype.names}) for box in found])

    def parts(self) -> Iterator[tuple[Array, Array]]:
        for entry in self.content["truth"].ravel():
            yield entry["pHW_center"], entry["pHW_scale"]


def _corners(box: Mapping[str, Array]) -> list[float]:
    return [float(np.asarray(box[key]).item()) for key in ("xmin", "ymin", "xmax", "ymax")]


@contextmanager
def _open(file: Path) -> Iterator[_Hdf5 | _Matlab5]:
    if h5py.is_hdf5(file):
        with h5py.File(file) as content:
            yield _Hdf5(content)
    else:
        yield _Matlab5(loadmat(file))
