"""What the metrics share that judge each unit of a layer."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torchmetrics import Metric


class QuietMetric(Metric):
    """A metric that says itself what it answers where a process has seen no image."""

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        """A warning on top of the answer to no images would stop strict runs."""
        wrapped = super()._wrap_compute(compute)

        @functools.wraps(compute)
        def quiet(*args: Any, **kwargs: Any) -> Any:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
                return wrapped(*args, **kwargs)

        return quiet


class UnitMetric(QuietMetric):
    """A figure for each unit, and their summary.

    A subclass's ``compute`` stores the units' figures in ``self._per_unit``.

    Args:
        num_units: Number of units, ``U``.

    Raises:
        ValueError: If there is no unit.
    """

    is_differentiable = False
    # Peaks of one batch cannot be added to those of others, so forward() must not try.
    full_state_update = True

    def __init__(self, num_units: int) -> None:
        super().__init__()
        if num_units < 1:
            raise ValueError(f"num_units must be at least 1, got {num_units}")
        self.num_units = num_units
        self._per_unit: Tensor

    def per_unit(self) -> Tensor:
        """The figure of each unit, or of each unit and part, that :meth:`compute` summarises.

        Where several processes share the images, it is that of all of them, and the call is
        collective unless :meth:`compute` has been called since the last update.

        Returns:
            (U, P) float for metrics that judge units against parts, else (U,); NaN where there
            were too few images.
        """
        self.compute()
        return self._per_unit.to(self.device)

    def _check_unit(self, unit: int) -> None:
        if not 0 <= unit < self.num_units:
            raise ValueError(f"unit must be from 0 to {self.num_units - 1}, got {unit}")
