"""Reads the published annotation files of CUB-200-2011, text tables joined by the image's number.

The data set's README says that places and boxes are in pixels and not where counting starts. Boxes
do start at 0 (73 of them at x = 0), and so pixels are counted from 0 here: a landmark is the centre
of pixel (x, y), and a box is made of the pixels from x to x + width, the last one excluded.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid.datamodules.errors import DataError
from pellucid.errors import nearest

FOLDER = "CUB_200_2011"
"""Name of the published folder."""

_REMEDY = "copy it again from the published CUB-200-2011"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Annotations:
    """What the data set says about its N images, in the order of their numbers."""

    class_names: tuple[str, ...]
    """As published, ``001.Black_footed_Albatross``."""
    part_names: tuple[str, ...]
    """Of the P landmarks."""
    files: tuple[str, ...]
    """Image files below ``images``, with ``/``."""
    labels: Array
    """(N,) int64, position in ``class_names``."""
    is_train: Array
    """(N,) bool, the official split."""
    boxes: Array
    """(N, 4) float, (left, top, right, bottom) of the bird in pixels, from the image's corner."""
    parts: Array
    """(N, P, 2) float32, (x, y) with the centre of the top left pixel at (0, 0)."""
    part_visible: Array
    """(N, P) bool."""


def find_root(root: Path) -> Path:
    """The published folder: ``root`` itself, or ``CUB_200_2011`` in it.

    Raises:
        DataError: Neither holds ``images.txt``.
    """
    for folder in (root, root / FOLDER):
        if (folder / "images.txt").is_file():
            return folder
    raise DataError(
        f"root {root} holds no images.txt; give the folder {FOLDER} as published, or the folder "
        "that holds it"
    )


def read_annotations(root: Path) -> Annotations:
    """Read everything but the images.

    Args:
        root: The published folder, which holds ``images.txt``.

    Raises:
        DataError: A file is missing or not as published, or two files are not about the same
            images.
    """
    classes = _list(root / "classes.txt")
    part_list = _list(root / "parts" / "parts.txt")
    for file, entries in (("classes.txt", classes), ("parts/parts.txt", part_list)):
        if list(entries) != list(range(1, len(entries) + 1)):
            raise DataError(f"{root / file} does not count from 1 up; {_REMEDY}")
    images = _list(root / "images.txt")
    numbers = np.array(list(images))

    def column(file: str, width: int) -> Array:
        return _by_image(root / file, _table(root / file, width), numbers)

    labels = column("image_class_labels.txt", 2)[:, 0].astype(np.int64) - 1
    if labels.min() < 0 or labels.max() >= len(classes):
        raise DataError(
            f"{root / 'image_class_labels.txt'} has classes {labels.min() + 1} to "
            f"{labels.max() + 1}, classes.txt {len(classes)}; copy both again from the published "
            "CUB-200-2011"
        )
    boxes = column("bounding_boxes.txt", 5)
    boxes[:, 2:] += boxes[:, :2]
    parts, visible = _parts(root / "parts" / "part_locs.txt", numbers, len(part_list))
    return Annotations(
        tuple(classes.values()),
        tuple(part_list.values()),
        tuple(images.values()),
        labels,
        column("train_test_split.txt", 2)[:, 0] == 1,
        boxes,
        parts,
        visible,
    )


def _parts(file: Path, numbers: Array, count: int) -> tuple[Array, Array]:
    """(N, P, 2) float32 places and (N, P) bool, whether they are visible."""
    table = _table(file, 5)
    rows = np.searchsorted(numbers, table[:, 0]).clip(max=len(numbers) - 1)
    columns = table[:, 1].astype(np.int64) - 1
    cells = rows * count + columns
    wanted = len(numbers) * count
    known = (numbers[rows] == table[:, 0]) & (columns >= 0) & (columns < count)
    if not (known.all() and len(cells) == wanted == len(np.unique(cells))):
        raise DataError(
            f"{file} has not one line for each of {len(numbers)} images and {count} parts; "
            f"{_REMEDY}"
        )
    parts = np.zeros((wanted, 2), np.float32)
    visible = np.zeros(wanted, bool)
    parts[cells], visible[cells] = table[:, 2:4], table[:, 4] == 1
    return parts.reshape(-1, count, 2), visible.reshape(-1, count)


def find_categories(
    class_names: Sequence[str], categories: Sequence[int | str] | None
) -> tuple[int, ...]:
    """Positions of classes in ``class_names``.

    Args:
        class_names: As published.
        categories: Numbers from 1, published names, or names without their number, in any spelling
            of case and with spaces or underscores; None: all.

    Raises:
        ValueError: There is no such class, fewer than two are named, or one twice.
    """
    if categories is None:
        return tuple(range(len(class_names)))
    known: dict[str, int] = {}
    for position, name in enumerate(class_names):
        known |= {_spelt(name): position, _spelt(bare_name(name)): position}
    chosen = []
    for given in categories:
        name = str(given).strip()
        if name.isdecimal():
            if not 1 <= int(name) <= len(class_names):
                raise ValueError(
                    f"categories: there is no class {name}; numbers are from 1 to "
                    f"{len(class_names)}"
                )
            chosen.append(int(name) - 1)
        elif _spelt(name) in known:
            chosen.append(known[_spelt(name)])
        else:
            hint = nearest(name.replace(" ", "_"), class_names)
            raise ValueError(f"categories: there is no class {name!r}; {hint}")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"categories must not repeat, got {list(categories)}; name each once")
    if len(chosen) < 2:
        raise ValueError(
            f"categories must name at least two classes, got {list(categories)}; there are no "
            "images without birds to tell one from; null takes all classes"
        )
    return tuple(chosen)


def find_landmarks(
    part_names: Sequence[str], landmarks: Sequence[str] | None, option: str = "landmarks"
) -> tuple[int, ...]:
    """Positions of landmarks in ``part_names``.

    Args:
        part_names: As published, ``left eye``, those that there are to choose from.
        landmarks: Names, in any spelling of case and with spaces or underscores; None: all.
        option: What to call them.

    Raises:
        ValueError: There is no such landmark, none is named, or one twice.
    """
    if landmarks is None:
        return tuple(range(len(part_names)))
    known = {_spelt(name): position for position, name in enumerate(part_names)}
    for name in landmarks:
        if _spelt(name) not in known:
            raise ValueError(
                f"{option}: there is no {name!r}; {nearest(_spelt(name), known, show=15)}"
            )
    chosen = tuple(known[_spelt(name)] for name in landmarks)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"{option} must name at least one landmark and none twice, got {list(landmarks)}; "
            f"null takes all {len(part_names)}"
        )
    return chosen


def bare_name(name: str) -> str:
    """``Black footed Albatross`` for ``001.Black_footed_Albatross``."""
    number, dot, rest = name.partition(".")
    return (rest if dot and number.isdecimal() else name).replace("_", " ")


def _spelt(name: str) -> str:
    return name.strip().lower().replace("_", " ")


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Name the file in whatever goes wrong when its content is not as published."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"annotation file {file} is missing; {_REMEDY}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read annotation file {file} ({error}); {_REMEDY}") from error


def _list(file: Path) -> dict[int, str]:
    """Names by their numbers, in the order of the numbers."""
    with _naming(file):
        lines = file.read_text(encoding="utf-8").splitlines()
        pairs = [line.split(maxsplit=1) for line in lines if line.strip()]
        named = {int(number): name.strip() for number, name in pairs}
        if not named or len(named) < len(pairs):
            raise ValueError("it is empty" if not named else "a number is there twice")
        return dict(sorted(named.items()))


def _table(file: Path, width: int) -> Array:
    """(M, width) float64, the numbers of a file."""
    with _naming(file):
        if not file.read_bytes().strip():
            raise ValueError("it is empty")
        table = np.loadtxt(file, ndmin=2, comments=None)
        if table.shape[1] != width or not np.isfinite(table).all():
            raise ValueError(f"its lines must hold {width} finite numbers")
        return table


def _by_image(file: Path, table: Array, numbers: Array) -> Array:
    """The columns after the image's number, in the order of ``numbers``."""
    ordered = table[np.argsort(table[:, 0], kind="stable")]
    if not np.array_equal(ordered[:, 0], numbers):
        raise DataError(
            f"{file} and images.txt are not about the same images; copy both again from the "
            "published CUB-200-2011"
        )
    return ordered[:, 1:]
