"""What the metrics of heat maps share: a mean over the images that can be judged."""

import torch
from torch import Tensor

from pellucid.metrics.unit_metric import QuietMetric


class MapMetric(QuietMetric):
    """Mean of a figure over images; images for which it is not defined are left out and counted.

    It holds 24 bytes, however many images there are. Batch sizes, order and the number of processes
    do not change the result beyond rounding; images that a distributed sampler repeats count twice.
    A metric that has seen no image that can be judged is NaN.
    """

    full_state_update = False
    total: Tensor
    judged: Tensor
    left_out: Tensor
    """Number of images that could not be judged."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("judged", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("left_out", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.last_counts: tuple[Tensor, Tensor] | None = None
        """Images judged and left out when :meth:`compute` was last called; None: never."""

    def add(self, values: Tensor) -> None:
        """Count figures of images that are already known.

        Args:
            values: (B,) float, NaN for images that cannot be judged.
        """
        known = ~values.isnan()
        # Not in place: a state that was reset in inference mode could not be changed outside it.
        self.total = self.total + values.detach().double().nan_to_num(nan=0.0).sum()
        self.judged = self.judged + known.sum()
        self.left_out = self.left_out + (~known).sum()

    def compute(self) -> Tensor:
        """The mean over the images that could be judged."""
        # Over all processes, and still there when a trainer has reset the metric after its epoch.
        self.last_counts = (self.judged, self.left_out)
        return (self.total / self.judged).float()


class MaskMetric(MapMetric):
    """A metric of how maps and masks agree; a subclass says how in :meth:`judge`."""

    def judge(self, maps: Tensor, mask: Tensor) -> Tensor:
        """(B,) the figure of each image."""
        raise NotImplementedError

    def update(self, maps: Tensor, mask: Tensor) -> None:
        """Look at one batch.

        Args:
            maps: (B, h, w) floating point, finite.
            mask: (B, H, W) bool.
        """
        self.add(self.judge(maps, mask))
