"""Captum, read when it is needed: it is slow to import, and some machines lack it."""

from typing import Any


def captum() -> Any:
    """The library, with its ``attr`` and ``robust``.

    Raises:
        ImportError: It is not installed; says how to install it.
    """
    try:
        import captum.attr
    except ImportError as error:
        raise ImportError(
            f"post-hoc attribution needs Captum ({error}): pip install captum"
        ) from error
    return captum
