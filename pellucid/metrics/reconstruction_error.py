"""How well a generator draws an image from the code that it has read of it.

In pixels, so that it compares models whose decoders have different likelihoods.
"""

import torch
from torch import Tensor
from torchmetrics import Metric

from pellucid.metrics.part_metric import check_shape
from pellucid.metrics.resampling import (
    RESAMPLINGS,
    Resampled,
    check_resamplings,
    deviation,
    resampling_weights,
)


class ReconstructionError(Metric, Resampled):
    """Mean squared error of a pixel, mean over images; lower is better.

    It holds ``16 (1 + R)`` bytes for R resampled sets of images, however many images there are.

    Args:
        resamplings: Resampled sets of images for :meth:`spread`, see
            :func:`~pellucid.metrics.resampling.resampling_weights`; 0: none.
        seed: Of their draw.

    Raises:
        ValueError: ``resamplings`` is 1 or below 0.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, *, resamplings: int = RESAMPLINGS, seed: int = 0) -> None:
        super().__init__()
        check_resamplings(resamplings)
        self.resamplings, self.seed = resamplings, seed
        # First those of the sample itself, then those of each resampled set.
        for name in ("total", "count"):
            state = torch.zeros(1 + resamplings, dtype=torch.float64)
            self.add_state(name, state, dist_reduce_fx="sum")

    def update(self, errors: Tensor) -> None:
        """Look at one batch.

        Args:
            errors: (B,) mean squared error of the pixels of each image.

        Raises:
            ValueError: The shape is wrong.
        """
        check_shape("errors", errors, (None,))
        weights = resampling_weights(errors, self.resamplings, self.seed)
        self.total += weights @ errors.double()
        self.count += weights.sum(1)

    def compute(self) -> Tensor:
        """The error, a scalar; NaN without images."""
        return (self.total[0] / self.count[0]).float()

    def spread(self) -> float:
        """See :meth:`Resampled.spread`."""
        with self.sync_context():
            return deviation(self.total[1:] / self.count[1:])

    def sample_sizes(self) -> dict[str, int]:
        """See :meth:`Resampled.sample_sizes`."""
        with self.sync_context():
            return {"images": int(self.count[0])}
