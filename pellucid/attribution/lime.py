"""LIME: a linear model of what the network does near one image.

Source: Ribeiro, Singh and Guestrin, *"Why Should I Trust You?": Explaining the Predictions of Any
Classifier*, KDD 2016 (arXiv 1602.04938), equation 2 and algorithm 1, by Captum.

Where this differs from the paper:

- All superpixels get a weight, by ridge regression, as in the authors' code for images; the paper's
  K-LASSO keeps a few of them.
- Distances are between the patterns of kept superpixels, as in the authors' code, not between
  images, whose distance would depend on how they are normalised.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pellucid.attribution.method import AttributionMethod, Finding, Sign, check_scores
from pellucid.attribution.superpixels import (
    SAMPLES,
    Baseline,
    Kind,
    Superpixels,
    check_samples,
    spread,
)

KERNEL_WIDTH = 0.25
RIDGE = 1.0
"""The defaults of the authors' code for images."""


class Lime(AttributionMethod):
    r"""Weights of superpixels in a linear model of the score.

    Superpixels are hidden at random, and :math:`\sum_z \pi(z) (f(z) - b - w \cdot z)^2 + \lambda
    |w|^2` is minimised over which are kept, :math:`z \in \{0, 1\}^M`, with :math:`\pi(z) =
    \exp(-D(z)^2 / 2 \sigma^2)` and the cosine distance :math:`D` to the whole image. Every image
    has its own random numbers, from the same seed: an attribution depends on no other image.

    The heat of a superpixel is its weight (logits), spread evenly over its pixels.

    Args:
        superpixels: ``slic`` or ``grid``, as
            :class:`~pellucid.attribution.superpixels.Superpixels` has them.
        num_superpixels: About how many an image has.
        samples: Images with hidden superpixels that the network looks at, for each image.
        kernel_width: :math:`\sigma`.
        ridge: :math:`\lambda`; 0: least squares.
        baseline: What hidden superpixels show, ``zero`` or ``mean``.
        batch_size: Images that the network looks at at once.
        seed: Of what is hidden.

    Raises:
        ValueError: An argument is outside its range, or a package is missing.
    """

    name: ClassVar[str] = "lime"
    label: ClassVar[str] = "LIME"
    sign: ClassVar[Sign] = "signed"

    def __init__(
        self,
        superpixels: Kind = "slic",
        num_superpixels: int = 50,
        samples: int = SAMPLES,
        kernel_width: float = KERNEL_WIDTH,
        ridge: float = RIDGE,
        baseline: Baseline = "zero",
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        check_samples(samples, batch_size)
        if not kernel_width > 0:
            raise ValueError(f"kernel_width must be above 0, got {kernel_width}; usual is 0.25")
        if not ridge >= 0:
            raise ValueError(f"ridge must be at least 0, got {ridge}; the usual value is 1")
        self.superpixels = Superpixels(superpixels, num_superpixels, baseline)
        self.samples, self.kernel_width, self.ridge = samples, kernel_width, ridge
        self.batch_size, self.seed = batch_size, seed
        self._captum()

    def explain(self, network: nn.Module, image: Tensor, target: Tensor | None) -> Finding:
        """See :class:`~pellucid.attribution.method.AttributionMethod`."""
        with torch.no_grad():
            scores = check_scores(network(image), len(image), target)
        wanted = scores.argmax(1) if target is None else target
        heat = []
        regions = self.superpixels.cut(image)
        bar = tqdm(regions, desc=self.label, delay=2, leave=False)
        for one, labels, number in zip(image, bar, wanted.tolist(), strict=True):
            heat.append(spread(self._weights(network, one, labels, number), labels))
        return Finding(heat=torch.stack(heat), scores=scores)

    def _weights(self, network: nn.Module, image: Tensor, labels: Tensor, target: int) -> Tensor:
        """(M,) the weight of each superpixel of an image (C, H, W)."""
        lime, ridge = self._captum()
        fitted = ridge(alpha=self.ridge) if self.ridge else _least_squares()
        method = lime(network, fitted, self._similarity)
        devices = [image.device] if image.is_cuda else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.manual_seed(self.seed)
            weights: Tensor = method.attribute(
                image[None],
                baselines=self.superpixels.hidden(image, labels)[None],
                target=target,
                feature_mask=labels[None, None],
                n_samples=self.samples,
                perturbations_per_eval=min(self.batch_size, self.samples),
                return_input_shape=False,
            )
        return weights.flatten().to(image)

    def _similarity(self, _: Tensor, __: Tensor, kept: Tensor, **___: Any) -> float:
        # The cosine of a pattern of n ones out of M and M ones is sqrt(n / M).
        distance = 1 - math.sqrt(float(kept.float().mean()))
        return math.exp(-(distance**2) / (2 * self.kernel_width**2))

    @staticmethod
    def _captum() -> tuple[Any, Any]:
        try:
            import sklearn.linear_model  # noqa: F401 - Captum needs it, and asks too late.
            from captum._utils.models.linear_model import SkLearnRidge
            from captum.attr import Lime as CaptumLime
        except ImportError as error:
            raise ValueError(
                f"lime needs captum and scikit-learn ({error}): pip install captum scikit-learn"
            ) from error
        return CaptumLime, SkLearnRidge


def _least_squares() -> Any:
    from captum._utils.models.linear_model import SkLearnLinearRegression

    return SkLearnLinearRegression()
