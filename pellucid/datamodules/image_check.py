"""Finds broken images before training starts, and remembers which were whole."""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import platformdirs
from PIL import ExifTags, Image
from tqdm import tqdm

from pellucid.datamodules.errors import DataError


class ImageInfo(NamedTuple):
    """What is known of an image file that has been decoded."""

    bytes: int
    modified_ns: int
    width: int
    """Of the stored pixel grid."""
    height: int
    orientation: int
    """EXIF orientation, 1 to 8."""


def check_images(root: Path, files: Sequence[str]) -> dict[str, ImageInfo]:
    """Decode every image once.

    Files whose size and time of change are those of an earlier successful check are not decoded
    again; what is known of them is kept in the user's cache directory.

    Args:
        root: Folder of the images.
        files: Their paths below ``root``.

    Raises:
        DataError: Some cannot be decoded; names the first and counts them.
    """
    record = _record_file(root)
    known = _read_record(record)
    infos: dict[str, ImageInfo] = {}
    for file in files:
        info, status = known.get(file), (root / file).stat()
        if info and (info.bytes, info.modified_ns) == (status.st_size, status.st_mtime_ns):
            infos[file] = info
    unknown = [file for file in files if file not in infos]
    broken: list[tuple[str, Exception]] = []
    if unknown:
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            found = pool.map(lambda file: _inspect(root / file), unknown)
            progress = tqdm(found, "checking images", len(unknown), delay=2, leave=False)
            for file, result in zip(unknown, progress, strict=True):
                if isinstance(result, Exception):
                    broken.append((file, result))
                else:
                    infos[file] = result
        _write_record(record, infos)
    if broken:
        others = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise DataError(
            f"cannot read image {root / broken[0][0]}{others} ({broken[0][1]}); "
            "replace or remove it"
        )
    return infos


def _inspect(path: Path) -> ImageInfo | Exception:
    try:
        status = path.stat()
        with Image.open(path) as image:
            width, height = image.size
            # A JPEG is read to its end, but for an eighth of the work.
            image.draft(None, (1, 1))
            image.load()
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to.
        return error
    known = orientation if orientation in range(1, 9) else 1
    return ImageInfo(status.st_size, status.st_mtime_ns, width, height, int(known))


def _record_file(root: Path) -> Path:
    name = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    return Path(platformdirs.user_cache_dir("pellucid")) / "checked_images" / f"{name}.json"


def _read_record(record: Path) -> dict[str, ImageInfo]:
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        return {file: ImageInfo(*map(int, values)) for file, values in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        # Without a record, or with a damaged one, all images are checked.
        return {}


def _write_record(record: Path, infos: dict[str, ImageInfo]) -> None:
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=record.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(infos, file)
        Path(name).replace(record)
    except OSError:
        # A record saves time only; where it cannot be kept the next start checks again.
        return
