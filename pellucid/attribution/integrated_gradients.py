"""Integrated gradients: the gradient along the straight path from a baseline to the image.

Source: Sundararajan, Taly and Yan, *Axiomatic Attribution for Deep Networks*, ICML 2017
(arXiv 1703.01365), equation 1. On Captum's ``IntegratedGradients``.

Promise: attributions sum to ``f(x) - f(baseline)``, for networks that are continuous.

Where this differs from the paper:

- The number of steps is no setting but follows from the promise: it is doubled for the images that
  do not keep it yet. All gradients are used again, so that doubling costs no more than the finest
  rule alone; the paper takes from 20 to 300 steps.
- Of the trapezoidal and the midpoint rule the mean is taken that keeps the promise best.
"""

import torch
from torch import Tensor, nn

from pellucid.attribution.deep_lift import checked_baseline
from pellucid.attribution.functions import JUMPING, FunctionRules, Rule, layer_names, preflight
from pellucid.attribution.library import captum
from pellucid.attribution.method import (
    TOLERANCE,
    AttributionMethod,
    Finding,
    check_scores,
)
from pellucid.metrics.maps.completeness import completeness_error

_REMEDY = "use deep_lift or occlusion"


class IntegratedGradients(AttributionMethod):
    """Integrated gradients with as many steps as completeness needs.

    Args:
        baseline: Value of every pixel of the baseline, in the network's (normalised) units; 0 is
            the data's mean colour.
        steps: Intervals to begin with, at least 1; each costs two gradients.
        most_steps: Intervals at most, at least ``steps``; an image that does not keep the promise
            with them says so by its completeness error.
        tolerance: Completeness error at which no more steps are taken, above 0.
        per_run: Images in one run of the network at most.

    Raises:
        ValueError: An argument is outside its range.
    """

    name = "integrated_gradients"
    label = "Integrated gradients"
    sign = "signed"
    promises_completeness = True

    def __init__(
        self,
        baseline: float = 0.0,
        steps: int = 32,
        most_steps: int = 512,
        tolerance: float = TOLERANCE,
        per_run: int = 32,
    ) -> None:
        for name, value in {"steps": steps, "per_run": per_run}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if most_steps < steps:
            raise ValueError(f"most_steps must be at least steps, {steps}, got {most_steps}")
        if not tolerance > 0:
            raise ValueError(f"tolerance must be above 0, got {tolerance}")
        self.baseline = checked_baseline(baseline)
        self.steps, self.most_steps = steps, most_steps
        self.tolerance, self.per_run = tolerance, per_run

    def check(self, network: nn.Module, image: Tensor | None = None) -> None:
        """See :meth:`AttributionMethod.check`: refuses what jumps, as the integral misses jumps."""
        if image is None:
            return

        def run(network: nn.Module, one: Tensor) -> Tensor:
            with layer_names(network) as layers:
                rules = FunctionRules(self.label, {}, None, layers, _REMEDY)

                def refuse(func: object, args: object, kwargs: object) -> Tensor:
                    name = getattr(func, "__name__", str(func))
                    raise rules.refusal(
                        f"{name}() makes the score jump, or cuts gradients off, and the integral "
                        "of gradients misses that"
                    )

                table: dict[str, Rule] = dict.fromkeys(JUMPING, refuse)
                rules.rules = table
                with rules:
                    scores: Tensor = network(one)
            return scores

        preflight(network, image, run, self.label)

    def explain(self, network: nn.Module, image: Tensor, target: Tensor | None) -> Finding:
        """See :meth:`AttributionMethod.explain`."""
        reference = torch.full_like(image, self.baseline)
        with torch.no_grad():
            scores = check_scores(network(image), len(image), target)
            zero = check_scores(network(reference[:1]), 1)
        chosen = scores.argmax(1) if target is None else target
        promised = scores.gather(1, chosen.unsqueeze(1)).squeeze(1) - zero[0][chosen]
        path = _Path(network, self.baseline, self.per_run)
        coarse = path.ends(image, chosen, self.steps)
        pixels, error = coarse.clone(), torch.full_like(promised, torch.inf).float()
        steps, left = self.steps, torch.ones_like(chosen, dtype=torch.bool)
        while bool(left.any()) and steps <= self.most_steps:
            middle = path.middles(image[left], chosen[left], steps)
            found = _mixed(coarse[left], middle, promised[left])
            wrong = completeness_error(found, promised[left])
            # Not the other way round: where nothing is promised there is no error, and no more to
            # be gained.
            better = ~(wrong >= error[left])
            kept = torch.where(better.view(-1, 1, 1, 1), found, pixels[left])
            pixels[left], error[left] = kept, torch.where(better, wrong, error[left])
            coarse[left] = (coarse[left] + middle) / 2
            steps, left = 2 * steps, error > self.tolerance
        return Finding(pixels=pixels, scores=scores, error=error)


def _mixed(ends: Tensor, middles: Tensor, promised: Tensor) -> Tensor:
    """The mean of two rules, by weights in [0, 1], that keeps the promise best.

    Simpson's rule is such a mean. The errors of the two have opposite signs where the gradient
    changes smoothly; where ReLUs switch, at the baseline above all, either may be the better one.

    Args:
        ends: (B, C, H, W) by the trapezoidal rule.
        middles: (B, C, H, W) by the midpoint rule.
        promised: (B,) what they should sum to.
    """
    first, second = (each.double().flatten(1).sum(1) for each in (ends, middles))
    between = second - first
    weight = (promised.double() - first) / torch.where(between == 0, 1.0, between)
    weight = weight.clamp(0, 1).to(ends).view(-1, 1, 1, 1)
    return ends + weight * (middles - ends)


class _Path:
    """Sums of gradients along the path, by Captum."""

    def __init__(self, network: nn.Module, baseline: float, per_run: int) -> None:
        self.method = captum().attr.IntegratedGradients(network)
        self.baseline, self.per_run = baseline, per_run

    def ends(self, image: Tensor, target: Tensor, steps: int) -> Tensor:
        """The trapezoidal rule with so many intervals."""
        return self._sum(image, target, steps + 1, "riemann_trapezoid")

    def middles(self, image: Tensor, target: Tensor, steps: int) -> Tensor:
        """The midpoint rule with so many intervals."""
        return self._sum(image, target, steps, "riemann_middle")

    def _sum(self, image: Tensor, target: Tensor, steps: int, rule: str) -> Tensor:
        found: Tensor = self.method.attribute(
            image.detach(),
            baselines=self.baseline,
            target=target,
            n_steps=steps,
            method=rule,
            internal_batch_size=max(self.per_run, len(image)),
        )
        return found.detach()
