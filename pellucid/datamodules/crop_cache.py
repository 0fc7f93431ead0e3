"""Image crops decoded once into one file, read from it ever after."""

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import platformdirs
import torch
from torch import Tensor
from tqdm import tqdm

from pellucid.datamodules.errors import DataError

VERSION = 1
"""Of the files' content; a cache of another version is built anew."""


class Crops:
    """Images of one size in a file that is mapped to memory, not loaded.

    Args:
        path: A ``.npy`` file of shape (N, C, H, W), uint8.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pixels: npt.NDArray[np.uint8] | None = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._opened())

    def __getitem__(self, index: int | npt.NDArray[np.int64]) -> Tensor:
        """(C, H, W) uint8 of an index, (B, C, H, W) of B of them; a copy."""
        return torch.from_numpy(np.array(self._opened()[index]))

    def _opened(self) -> npt.NDArray[np.uint8]:
        if self._pixels is None:
            self._pixels = np.load(self.path, mmap_mode="r")
        return self._pixels

    def __getstate__(self) -> dict[str, Any]:
        # A mapped array is pickled whole: each loading process would get a copy of all images.
        return {"path": self.path, "_pixels": None}


def choose_folder(root: Path, cache_dir: str | None) -> Path:
    """Folder for a data set's cache, made if need be.

    Args:
        root: The data set's folder, in which the cache goes if it may be written to.
        cache_dir: The user's choice; None: ``root``, or else the user's cache directory.

    Raises:
        DataError: Nothing can be written there.
    """
    if cache_dir is not None:
        folder = Path(cache_dir).expanduser()
    # An administrator can write where the owner has forbidden it, and should not.
    elif root.stat().st_mode & stat.S_IWUSR and os.access(root, os.W_OK):
        folder = root / "pellucid_cache"
    else:
        folder = Path(platformdirs.user_cache_dir("pellucid")) / "crops"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot make cache folder {folder} ({error}); name another with cache_dir"
        ) from error
    return folder


def fingerprint(files: Sequence[Path], **settings: object) -> str:
    """One hash of names, sizes and times of change of files, and of settings."""
    stats = [(file.name, (s := file.stat()).st_size, s.st_mtime_ns) for file in files]
    text = json.dumps([VERSION, stats, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load(folder: Path, name: str, key: str) -> tuple[Crops, dict[str, npt.NDArray[Any]]] | None:
    """Open a cache.

    Args:
        folder: Where it is.
        name: Its name.
        key: Fingerprint of what it must have been made from.

    Returns:
        The images and their annotations; None if there is none, or it is stale or damaged.
    """
    try:
        # NumPy would leave a file that it opened itself open if it is damaged.
        with (folder / f"{name}.npz").open("rb") as file, np.load(file) as stored:
            tables = dict(stored)
        if str(tables.pop("key")) != key:
            return None
        crops = Crops(folder / f"{name}.npy")
        complete = len(crops) == int(tables.pop("length"))
    except Exception:  # Whatever is wrong with the files, they are built again.
        return None
    return (crops, tables) if complete else None


def build(
    folder: Path,
    name: str,
    key: str,
    decode: Callable[[int], Tensor],
    length: int,
    tables: dict[str, npt.NDArray[Any]],
) -> None:
    """Decode all images and write the cache.

    Args:
        folder: Where to write.
        name: The cache's name.
        key: Fingerprint of what it is made from.
        decode: Gives the image at an index, (C, H, W) uint8, all of one shape.
        length: Number of images.
        tables: Arrays to keep with the images.

    Raises:
        DataError: An image cannot be read, or the cache cannot be written.
    """

    def fill(pixels: npt.NDArray[np.uint8]) -> None:
        def store(index: int) -> None:
            pixels[index] = decode(index).numpy()

        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            stored = pool.map(store, range(length))
            for _ in tqdm(stored, f"decoding {name}", length, delay=2, leave=False, unit="image"):
                pass

    write(folder, name, key, (length, *decode(0).shape), fill, tables)


def write(
    folder: Path,
    name: str,
    key: str,
    shape: tuple[int, ...],
    fill: Callable[[npt.NDArray[np.uint8]], None],
    tables: dict[str, npt.NDArray[Any]],
) -> None:
    """Write a cache.

    Processes that write the same cache at once each write their own files and then put them in
    place, the second replacing the first's by equal ones; a process that dies leaves the cache as
    it was.

    Args:
        folder: Where to write.
        name: The cache's name.
        key: Fingerprint of what it is made from.
        shape: Of all images, (N, C, H, W).
        fill: Puts the images into an array of this shape, uint8.
        tables: Arrays to keep with the images.

    Raises:
        DataError: The cache cannot be written.
    """
    try:
        with _replacing(folder / f"{name}.npy") as temporary:
            pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            fill(pixels)
            pixels.flush()
        # Last, because it vouches for the images.
        with _replacing(folder / f"{name}.npz") as temporary, temporary.open("wb") as file:
            np.savez(file, key=np.array(key), length=np.array(shape[0]), **cast(Any, tables))
    except OSError as error:
        raise DataError(
            f"cannot write cache {folder / name} ({error}); name another folder with cache_dir"
        ) from error


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of ``path`` at the end, if there is no error."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
