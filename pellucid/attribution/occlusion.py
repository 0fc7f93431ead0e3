"""Occlusion: how much the score falls when a window of the image is covered.

Source: Zeiler and Fergus, *Visualizing and Understanding Convolutional Networks*, ECCV 2014
(arXiv 1311.2901), section 4.2. On Captum's ``Occlusion``.

Where this differs from the paper:

- The window is covered by ``baseline``, the data's mean colour by default, in all channels at once.
- A pixel is given the mean over the windows that cover it, so maps have the image's own grid.
"""

import torch
from torch import Tensor, nn

from pellucid.attribution.deep_lift import checked_baseline
from pellucid.attribution.library import captum
from pellucid.attribution.method import AttributionMethod, Finding, check_scores


class Occlusion(AttributionMethod):
    """The fall of the target's score, in logits; no completeness, as windows act on each other.

    Args:
        window: Side of the window in pixels; None: an eighth of the image's shorter side.
        stride: Distance of windows in pixels, at most the window's side; None: the same.
        baseline: Value of covered pixels, in the network's (normalised) units.
        per_run: Images in one run of the network, about; at least 1.

    Raises:
        ValueError: An argument is outside its range.
    """

    name = "occlusion"
    label = "Occlusion"
    sign = "signed"

    def __init__(
        self,
        window: int | None = None,
        stride: int | None = None,
        baseline: float = 0.0,
        per_run: int = 64,
    ) -> None:
        for name, value in {"window": window, "stride": stride, "per_run": per_run}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if window is not None and stride is not None and stride > window:
            raise ValueError(f"stride must be at most the window {window}, got {stride}")
        self.window, self.stride, self.per_run = window, stride, per_run
        self.baseline = checked_baseline(baseline)

    def explain(self, network: nn.Module, image: Tensor, target: Tensor | None) -> Finding:
        """See :meth:`AttributionMethod.explain`.

        Raises:
            ValueError: The window is larger than the image.
        """
        channels, *size = image.shape[1:]
        window = self.window or max(1, min(size) // 8)
        if window > min(size):
            raise ValueError(f"window must be at most the image's side {min(size)}, got {window}")
        stride = self.stride or window
        if stride > window:
            raise ValueError(f"stride must be at most the window {window}, got {stride}")
        seen: list[Tensor] = []

        def run(covered: Tensor) -> Tensor:
            scores: Tensor = network(covered)
            if not seen:  # The library looks at the whole images first.
                seen.append(check_scores(scores, len(image), target))
            return scores

        with torch.no_grad():
            chosen = run(image).argmax(1) if target is None else target
            pixels = (
                captum()
                .attr.Occlusion(run)
                .attribute(
                    image,
                    sliding_window_shapes=(channels, window, window),
                    strides=(channels, stride, stride),
                    baselines=self.baseline,
                    target=chosen,
                    perturbations_per_eval=max(1, self.per_run // len(image)),
                )
            )
        # A window covers all channels, which are all given the same.
        return Finding(heat=pixels[:, 0], scores=seen[0])
