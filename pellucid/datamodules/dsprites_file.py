"""The published file of dSprites, packed once into a cache and mapped to memory ever after."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from pellucid.datamodules import crop_cache
from pellucid.datamodules.dsprites_rendering import COUNT, SIZE
from pellucid.datamodules.errors import DataError

FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
SOURCE = "https://github.com/google-deepmind/dsprites-dataset"
_MEMBER = "imgs.npy"
_BLOCK = 4096  # Images read at a time: 16 MiB, of 3 GiB in all.


class PublishedPictures:
    """The published pictures, by their numbers.

    Args:
        root: The file, or the folder that holds it under its published name.
        cache_dir: Folder of the cache; None: beside the file or, if that must not be written to, in
            the user's cache directory.

    Raises:
        DataError: The file is missing.
    """

    def __init__(self, root: str, cache_dir: str | None = None) -> None:
        path = Path(root).expanduser()
        self.path = path / FILE if path.is_dir() else path
        if not self.path.is_file():
            raise DataError(
                f"file {self.path} is missing; get it from {SOURCE}, or leave root out to have "
                "the pictures drawn"
            )
        self.cache_dir = cache_dir
        self._pictures: crop_cache.Crops | None = None

    def __call__(self, index: Tensor) -> Tensor:
        """(N, 64, 8) uint8, pictures packed as ``render`` packs them, of (N,) int64 numbers."""
        return self.open()[index.numpy()]

    def open(self) -> crop_cache.Crops:
        """The packed pictures, (737280, 64, 8) uint8; packed first if there is no cache.

        Raises:
            DataError: The file is broken or another one, or the cache cannot be written.
        """
        if self._pictures is None:
            folder = crop_cache.choose_folder(self.path.resolve().parent, self.cache_dir)
            key = crop_cache.fingerprint([self.path], shape=(COUNT, SIZE, SIZE // 8))
            address = crop_cache.fingerprint([], source=str(self.path.resolve()))[:8]
            name = f"dsprites_{address}"
            cached = crop_cache.load(folder, name, key)
            if cached is None:
                shape = (COUNT, SIZE, SIZE // 8)
                crop_cache.write(folder, name, key, shape, self._pack, {})
                cached = crop_cache.load(folder, name, key)
                if cached is None:
                    raise DataError(
                        f"the cache {folder / name}.npy cannot be read back; "
                        "free some disk space or name another folder with cache_dir"
                    )
            self._pictures = cached[0]
        return self._pictures

    def _pack(self, packed: NDArray[np.uint8]) -> None:
        """Read the pictures, block by block and nothing else, into (737280, 64, 8)."""
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(_MEMBER) as file:
                _check_header(file)
                blocks = range(0, len(packed), _BLOCK)
                for start in tqdm(blocks, "packing dSprites", delay=2, leave=False):
                    block = packed[start : start + _BLOCK]
                    wanted = len(block) * SIZE**2
                    pixels = np.frombuffer(file.read(wanted), np.uint8)
                    if len(pixels) != wanted:
                        raise ValueError(f"it ends in picture {start + len(pixels) // SIZE**2}")
                    if pixels.max() > 1:
                        raise ValueError(f"a pixel is {pixels.max()}, not 0 or 1")
                    rows = pixels.reshape(len(block), SIZE, SIZE)
                    block[:] = np.packbits(rows, axis=-1, bitorder="little")
        except Exception as error:  # A broken file fails in the readers in countless ways.
            raise DataError(
                f"cannot read {self.path} ({error}); get it anew from {SOURCE}"
            ) from error


def _check_header(file: Any) -> None:
    """Read the array's header, which must be that of the published pictures."""
    header = np.lib.format
    version = header.read_magic(file)
    read = header.read_array_header_1_0 if version == (1, 0) else header.read_array_header_2_0
    shape, columns_first, dtype = read(file)
    wanted = (COUNT, SIZE, SIZE)
    if shape != wanted or dtype not in (np.dtype("u1"), np.dtype("?")) or columns_first:
        raise ValueError(f"its imgs are {shape} of {dtype}, not {wanted} of uint8, row by row")
