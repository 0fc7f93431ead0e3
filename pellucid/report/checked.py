"""Values of files that nobody has promised to be as they should."""

import math
from typing import Any


def number(value: Any) -> float | None:
    """A finite number; None of anything else, true and false among it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def text(value: Any) -> str:
    """A text; empty of what is none."""
    return value if isinstance(value, str) else ""


def mapping(value: Any) -> dict[str, Any]:
    """An object with text as keys; empty of what is none."""
    return {str(k): v for k, v in value.items()} if isinstance(value, dict) else {}


def sequence(value: Any) -> list[Any]:
    """A list; empty of what is none."""
    return value if isinstance(value, list) else []


def records(value: Any) -> list[dict[str, Any]]:
    """The objects in a list; whatever else is in it is left out."""
    return [mapping(item) for item in sequence(value) if isinstance(item, dict)]
