"""Fréchet distance of generated and real images in the features of a classifier trained here.

Heusel et al., *GANs Trained by a Two Time-Scale Update Rule*, NeurIPS 2017 (arXiv 1706.08500),
section 4 and equation 6. Published FIDs use an Inception network trained on ImageNet; this one uses
the classifier that the user names, so its values compare with each other only, and only where the
classifier and the number of images are the same.
"""

import torch
from torch import Tensor
from torchmetrics import Metric

from pellucid.metrics.resampling import (
    RESAMPLINGS,
    Resampled,
    check_resamplings,
    deviation,
    resampling_weights,
)


def frechet_distance(
    mean: Tensor, covariance: Tensor, mean2: Tensor, covariance2: Tensor
) -> Tensor:
    r"""Squared Fréchet distance of two Gaussians.

    :math:`|m - m_2|^2 + \mathrm{tr}(C + C_2 - 2 (C C_2)^{1/2})`, Heusel et al., equation 6.

    Args:
        mean: (D,).
        covariance: (D, D), symmetric, positive semi-definite.
        mean2: (D,).
        covariance2: (D, D), likewise.

    Returns:
        Scalar, at least 0, in squared units of the features; lower is better.
    """
    # C C2 has the eigenvalues of the symmetric C^1/2 C2 C^1/2.
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ covariance2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean - mean2).square().sum() + covariance.trace() + covariance2.trace()
    squared: Tensor = (distance - 2 * shared).clamp(min=0)
    return squared


class ClassifierFID(Metric, Resampled):
    """Fréchet distance of generated and real images in a classifier's features; lower is better.

    See :func:`frechet_distance`; covariances divide by N - 1. It holds ``16 (1 + R) (D^2 + D)``
    bytes for D features and R resampled sets of images (3.1 MB for 180 and 5), however many images
    there are, in double precision: sums of squares of float32 lose what the distance is about. Few
    images make it greater than it is; below 2 D images of a kind it means little.

    Args:
        num_features: Width of the features, ``D``, at least 1.
        resamplings: Resampled sets of images for :meth:`spread`, see
            :func:`~pellucid.metrics.resampling.resampling_weights`; 0: none. Their images repeat,
            so that their distances are greater than the sample's own; the spread is of that.
        seed: Of their draw.

    Raises:
        ValueError: ``num_features`` is below 1, or ``resamplings`` is 1 or below 0.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    def __init__(self, num_features: int, *, resamplings: int = RESAMPLINGS, seed: int = 0) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features must be at least 1, got {num_features}")
        check_resamplings(resamplings)
        self.num_features, self.resamplings, self.seed = num_features, resamplings, seed
        # First those of the sample itself, then those of each resampled set.
        for kind in ("real", "generated"):
            for name, shape in (
                ("count", ()),
                ("sum", (num_features,)),
                ("squares", (num_features, num_features)),
            ):
                state = torch.zeros(1 + resamplings, *shape, dtype=torch.float64)
                self.add_state(f"{kind}_{name}", state, dist_reduce_fx="sum")

    def update(self, real: Tensor, generated: Tensor) -> None:
        """Look at one batch.

        Args:
            real: (B, D) features of real images.
            generated: (B', D) features of generated images.

        Raises:
            ValueError: A shape is wrong.
        """
        for kind, features in (("real", real), ("generated", generated)):
            if features.ndim != 2 or features.shape[1] != self.num_features:
                raise ValueError(
                    f"{kind} features must have shape (B, {self.num_features}), got "
                    f"{tuple(features.shape)}"
                )
            exact = features.double()
            weights = resampling_weights(features, self.resamplings, self.seed)
            getattr(self, f"{kind}_count").add_(weights.sum(1))
            getattr(self, f"{kind}_sum").add_(weights @ exact)
            for squares, weight in zip(getattr(self, f"{kind}_squares"), weights, strict=True):
                squares.add_((exact.T * weight) @ exact)

    def compute(self) -> Tensor:
        """The distance; NaN with fewer than two images of a kind, or where features are none."""
        return self._distance(0)

    def spread(self) -> float:
        """See :meth:`Resampled.spread`."""
        with self.sync_context():
            drawn = [self._distance(1 + number) for number in range(self.resamplings)]
        return deviation(torch.stack(drawn)) if drawn else float("nan")

    def sample_sizes(self) -> dict[str, int]:
        """See :meth:`Resampled.sample_sizes`."""
        with self.sync_context():
            counts = {k: getattr(self, f"{k}_count") for k in ("real", "generated")}
            return {f"{kind}_images": int(count[0]) for kind, count in counts.items()}

    def _distance(self, sample: int) -> Tensor:
        counts = [getattr(self, f"{kind}_count")[sample] for kind in ("real", "generated")]
        if min(counts) < 2:
            return torch.full((), torch.nan, dtype=torch.float64, device=self.device)
        moments = (*self._moments("real", sample), *self._moments("generated", sample))
        if not all(bool(moment.isfinite().all()) for moment in moments):
            return torch.full((), torch.nan, dtype=torch.float64, device=self.device)
        return frechet_distance(*moments)

    def _moments(self, kind: str, sample: int) -> tuple[Tensor, Tensor]:
        """Mean and covariance."""
        count, total, squares = (
            getattr(self, f"{kind}_{name}")[sample] for name in ("count", "sum", "squares")
        )
        mean = total / count
        return mean, (squares - count * mean.outer(mean)) / (count - 1)
