"""Pictures of a run directory inside the page."""

import base64
import io
from typing import Any

from PIL import Image

from pellucid.report.runs import Run


def embed(run: Run, name: Any, limit: int, missing: list[str], source: str = "units.json") -> str:
    """A picture of the run directory as a data URI, small enough; empty where there is none."""
    if not isinstance(name, str):
        missing.append(f"({source} names no file)")
        return ""
    path = (run.path / name).resolve()
    if not path.is_relative_to(run.path):
        missing.append(f"{name} (outside of the run directory)")
        return ""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as picture:
            kind = picture.format
            if len(data) > limit or kind not in ("JPEG", "PNG"):
                data, kind = _shrink(picture.convert("RGB"), limit), "JPEG"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        missing.append(f"{name} ({error})")
        return ""
    return f"data:image/{str(kind).lower()};base64,{base64.b64encode(data).decode()}"


def _shrink(picture: Image.Image, limit: int) -> bytes:
    """The best JPEG of at most ``limit`` bytes, first coarser, then smaller."""
    data = b""
    for scale in (1.0, 0.85, 0.7, 0.6, 0.5, 0.35):
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        small = picture if scale == 1 else picture.resize(size, Image.Resampling.LANCZOS)
        for quality in (78, 66, 54):
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=quality, optimize=True)
            data = buffer.getvalue()
            if len(data) <= limit:
                return data
    return data
