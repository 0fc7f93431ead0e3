"""What the names of parts say about each other: which are the left and the right of a pair."""

import re
from collections.abc import Sequence


def mirrored_order(part_names: Sequence[str]) -> list[int]:
    """Where each part's name goes in a mirror: ``left_eye`` and ``right_eye`` change places.

    Args:
        part_names: Names of the parts. ``left`` and ``right`` count in any spelling of case, and
            only where the counterpart is a part as well.

    Returns:
        For each place, the index of the part that stands there in the mirror image.
    """
    other = {"left": "right", "right": "left"}
    lowered = [name.lower() for name in part_names]
    swapped = [re.sub("left|right", lambda found: other[found[0]], name) for name in lowered]
    return [lowered.index(s) if s in lowered else i for i, s in enumerate(swapped)]


def merge_sides(part_names: Sequence[str]) -> dict[str, str]:
    """Names under which the left and the right one of a pair are the same part.

    Args:
        part_names: Names of the parts, see :func:`mirrored_order`.

    Returns:
        ``{"left eye": "left eye / right eye", "right eye": "left eye / right eye"}`` for an eye,
        and so on; names without a counterpart are not in it.
    """
    merged = {}
    for name, place in zip(part_names, mirrored_order(part_names), strict=True):
        other = part_names[place]
        if other.lower() != name.lower():
            merged[name] = " / ".join(sorted((name, other), key=str.lower))
    return merged
