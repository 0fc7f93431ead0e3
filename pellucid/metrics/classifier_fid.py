"""Fréchet distance of generated and real images in the features of a classifier trained here.

Heusel et al., *GANs Trained by a Two Time-Scale Update Rule*, NeurIPS 2017 (arXiv 1706.08500),
section 4 and equation 6. Published FIDs use an Inception network trained on ImageNet; this one uses
the classifier that the user names, so its values compare with each other only, and only where the
classifier and the number of images are the same.
"""

import torch
from torch import Tensor
from torchmetrics import Metric


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


class ClassifierFID(Metric):
    """Fréchet distance of generated and real images in a classifier's features; lower is better.

    See :func:`frechet_distance`; covariances divide by N - 1. It holds ``16 (D^2 + D)`` bytes for D
    features (0.5 MB for 180), however many images there are, in double precision: sums of squares
    of float32 lose what the distance is about. Few images make it greater than it is; below
    2 D images of a kind it means little.

    Args:
        num_features: Width of the features, ``D``, at least 1.

    Raises:
        ValueError: ``num_features`` is below 1.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    real_count: Tensor
    generated_count: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features must be at least 1, got {num_features}")
        self.num_features = num_features
        for kind in ("real", "generated"):
            for name, shape in (
                ("count", ()),
                ("sum", (num_features,)),
                ("squares", (num_features, num_features)),
            ):
                state = torch.zeros(shape, dtype=torch.float64)
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
            for name, more in (
                ("count", torch.as_tensor(len(exact))),
                ("sum", exact.sum(0)),
                ("squares", exact.T @ exact),
            ):
                getattr(self, f"{kind}_{name}").add_(more)

    def compute(self) -> Tensor:
        """The distance; NaN with fewer than two images of a kind."""
        if self.real_count < 2 or self.generated_count < 2:
            return torch.full((), torch.nan, dtype=torch.float64, device=self.device)
        real, generated = self._moments("real"), self._moments("generated")
        return frechet_distance(*real, *generated)

    def _moments(self, kind: str) -> tuple[Tensor, Tensor]:
        """Mean and covariance."""
        count, total = getattr(self, f"{kind}_count"), getattr(self, f"{kind}_sum")
        mean = total / count
        scatter = getattr(self, f"{kind}_squares") - count * mean.outer(mean)
        return mean, scatter / (count - 1)
