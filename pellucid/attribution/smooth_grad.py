"""SmoothGrad: the gradient averaged over noisy copies of the image.

Source: Smilkov et al., *SmoothGrad: Removing Noise by Adding Noise*, 2017 (arXiv 1706.03825),
section 3; the paper's noise, 10 to 20 % of the image's range, and 50 samples.

Where this differs from the paper:

- Gradients are averaged with their sign, and the size of the average is shown.
- Noise comes from a seed of its own, so that a map does not depend on what ran before.
"""

import torch
from torch import Tensor, nn

from pellucid.attribution.gradients import score_gradient
from pellucid.attribution.method import AttributionMethod, Finding


class SmoothGrad(AttributionMethod):
    """The size of the mean gradient over noisy copies of each image.

    Args:
        samples: Number of copies, at least 1.
        noise: Standard deviation of the noise, as a share of each image's range, above 0.
        seed: Of the noise, which is the same for every image of a batch.

    Raises:
        ValueError: An argument is outside its range.
    """

    name = "smooth_grad"
    label = "SmoothGrad"
    sign = "positive"

    def __init__(self, samples: int = 50, noise: float = 0.15, seed: int = 0) -> None:
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        if not 0 < noise < float("inf"):
            raise ValueError(f"noise must be above 0, a share of the image's range, got {noise}")
        self.samples, self.noise, self.seed = samples, noise, seed

    def explain(self, network: nn.Module, image: Tensor, target: Tensor | None) -> Finding:
        """See :meth:`AttributionMethod.explain`."""
        scores = None
        if target is None:
            with torch.no_grad():
                scores = network(image)
            target = scores.argmax(1)
        deviation = self.noise * (image.amax((1, 2, 3)) - image.amin((1, 2, 3)))
        generator = torch.Generator().manual_seed(self.seed)
        total = torch.zeros_like(image)
        for _ in range(self.samples):
            drawn = torch.randn(image.shape[1:], generator=generator).to(image)
            noisy = image + deviation.view(-1, 1, 1, 1) * drawn
            total += score_gradient(network, noisy, target)[0]
        return Finding(pixels=(total / self.samples).abs(), scores=scores)
