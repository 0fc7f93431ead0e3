"""Pictures of where people looked, one beside each image that has one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pellucid.datamodules.errors import DataError


def find_maps(folder: str | None, files: Sequence[str]) -> dict[str, Path]:
    """The attention map of each image that has one.

    Args:
        folder: Folder of the maps; None: there are none.
        files: Paths of the images below their root; a map has its image's path, with ``.png``.

    Returns:
        Paths by image.

    Raises:
        DataError: The folder is missing, or holds no map of any image.
    """
    if folder is None:
        return {}
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"attention_maps {root} is missing; give the folder of the maps")
    places = {file: (root / file).with_suffix(".png") for file in files}
    found = {file: path for file, path in places.items() if path.is_file()}
    if not found:
        raise DataError(
            f"attention_maps {root} holds no map of any image; that of {files[0]} would be "
            f"{places[files[0]]}"
        )
    return found


def read_map(path: Path | None, size: tuple[int, int]) -> Tensor:
    """The attention of one image.

    Args:
        path: A grey picture of 8 or 16 bits, brighter where people looked; None: zeros.
        size: Width and height of the image in pixels; the map is scaled to it.

    Returns:
        (H, W) float32, at least 0.

    Raises:
        DataError: The file is broken, or has colours.
    """
    if path is None:
        return torch.zeros(size[1], size[0])
    try:
        with Image.open(path) as image:
            image.load()
            mode, values = image.mode, np.asarray(image, dtype=np.float32)
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to.
        raise DataError(f"cannot read attention map {path} ({error}); replace or remove it") from (
            error
        )
    if values.ndim != 2 or mode == "P":
        raise DataError(
            f"attention map {path} has the colours {mode}; save it in grey, brighter where people "
            "looked"
        )
    grey = Image.fromarray(values).resize(size, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(grey))
