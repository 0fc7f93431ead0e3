"""SmoothGrad: the gradient averaged over noisy copies of the image.

Source: Smilkov et al., *SmoothGrad: Removing Noise by Adding Noise*, 2017 (arXiv 1706.03825),
section 3; the paper's noise, 10 to 20 % of the image's range, and 50 samples.

Where this differs from the paper:

- Gradients are averaged with their sign, and the size of the average is shown.
- Noise comes from a seed of its own, so that a map does not depend on what ran before.
"""

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from pellucid.attribution.gradients import score_gradient
from pellucid.attribution.method import AttributionMethod, Finding, check_scores


class SmoothGrad(AttributionMethod):
    """The size of the mean gradient over noisy copies of each image.

    Args:
        samples: Number of copies, at least 1.
        noise: Standard deviation of the noise, as a share of each image's range, above 0.
        seed: Of the noise, which is the same for every image of a batch.
        per_run: Copies in one run of the network, about; at least 1.

    Raises:
        ValueError: An argument is outside its range.
    """

    name = "smooth_grad"
    label = "SmoothGrad"
    sign = "positive"

    def __init__(
        self, samples: int = 50, noise: float = 0.15, seed: int = 0, per_run: int = 32
    ) -> None:
        for name, value in {"samples": samples, "per_run": per_run}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 < noise < float("inf"):
            raise ValueError(f"noise must be above 0, a share of the image's range, got {noise}")
        self.samples, self.noise, self.seed = samples, noise, seed
        self.per_run = per_run

    def explain(self, network: nn.Module, image: Tensor, target: Tensor | None) -> Finding:
        """See :meth:`AttributionMethod.explain`."""
        with torch.no_grad():
            scores = check_scores(network(image), len(image), target)
        if target is None:
            target = scores.argmax(1)
        deviation = self.noise * (image.amax((1, 2, 3)) - image.amin((1, 2, 3)))
        generator = torch.Generator().manual_seed(self.seed)
        total = torch.zeros_like(image)
        at_once = max(1, self.per_run // len(image))
        for first in range(0, self.samples, at_once):
            count = min(at_once, self.samples - first)
            # One by one, so that what is drawn does not depend on how many are run at once.
            noise = [torch.randn(image.shape[1:], generator=generator) for _ in range(count)]
            drawn = rearrange(torch.stack(noise).to(image), "s c h w -> s 1 c h w")
            noisy = rearrange(
                image + deviation.view(-1, 1, 1, 1) * drawn, "s b c h w -> (s b) c h w"
            )
            gradient = score_gradient(network, noisy, target.repeat(count))[0]
            total += reduce(gradient, "(s b) c h w -> b c h w", "sum", s=count)
        return Finding(pixels=(total / self.samples).abs(), scores=scores)
