"""What the metrics share that judge each unit of a layer against each part of the object."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pellucid.metrics.unit_metric import UnitMetric


class PartMetric(UnitMetric):
    """A figure for each pair of a unit and a part, and their summary.

    A subclass's ``compute`` stores the (U, P) figures in ``self._per_unit``.

    Args:
        num_units: Number of units, ``U``.
        part_names: Names of the ``P`` parts, in the order of the batch's fields.

    Raises:
        ValueError: If there is no unit or no part.
    """

    def __init__(self, num_units: int, part_names: Sequence[str]) -> None:
        super().__init__(num_units)
        if not part_names:
            raise ValueError(
                f"part_names must name at least one part, got {part_names!r}: "
                f"leave {type(self).__name__} out for data without parts"
            )
        self.part_names = tuple(part_names)


def check_shape(name: str, tensor: Tensor, wanted: Sequence[int | None]) -> None:
    """Check a tensor's shape.

    Args:
        name: What to call it.
        tensor: The tensor.
        wanted: Size of each axis; None: any.

    Raises:
        ValueError: Names the tensor, the wanted and the given shape.
    """
    shape = tuple(tensor.shape)
    if len(shape) != len(wanted) or any(
        size not in (None, got) for size, got in zip(wanted, shape, strict=True)
    ):
        text = ", ".join("any" if size is None else str(size) for size in wanted)
        raise ValueError(f"{name} must have shape ({text}), got {shape}")


def check_maps(maps: Tensor, least: float = -torch.inf, greatest: float = torch.inf) -> Tensor:
    """Check that maps are finite and in range.

    Args:
        maps: (B, U, h, w) of any floating type.
        least: Least allowed value.
        greatest: Greatest allowed value.

    Returns:
        (B, U, h, w) float32, detached.

    Raises:
        ValueError: Names the first unit with a wrong value, and the value.
    """
    if maps.ndim != 4 or 0 in maps.shape[1:] or not maps.is_floating_point():
        raise ValueError(
            f"maps must be floating point of shape (B, U, h, w), got {tuple(maps.shape)} "
            f"of {maps.dtype}"
        )
    maps = maps.detach().float()
    if not len(maps):
        return maps
    low, high = maps.amin((0, 2, 3)), maps.amax((0, 2, 3))
    wrong = ~(low.isfinite() & high.isfinite() & (low >= least) & (high <= greatest))
    if wrong.any():
        unit = int(wrong.nonzero()[0, 0])
        value = float(high[unit] if low[unit].isfinite() and low[unit] >= least else low[unit])
        raise ValueError(
            f"unit {unit} has the activation {value:g}; activations must be finite"
            + (f" and from {least:g} to {greatest:g}" if least > -torch.inf else "")
        )
    return maps
