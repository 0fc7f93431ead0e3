"""Checks of numbers that models, losses and scores are made with."""

import math


def check_at_least(least: float, **arguments: float) -> None:
    """Raise a ``ValueError`` that names the first argument below ``least`` or infinite."""
    for name, value in arguments.items():
        if not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    _check_finite(arguments)


def check_positive(**arguments: float) -> None:
    """Raise a ``ValueError`` that names the first argument that is not above 0, or infinite."""
    for name, value in arguments.items():
        if not value > 0:
            raise ValueError(f"{name} must be greater than 0, got {value}")
    _check_finite(arguments)


def check_whole(**arguments: float) -> None:
    """Raise a ``ValueError`` that names the first argument that is no whole number."""
    for name, value in arguments.items():
        if value != value // 1:
            raise ValueError(f"{name} must be a whole number, got {value}")


def _check_finite(arguments: dict[str, float]) -> None:
    for name, value in arguments.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")
