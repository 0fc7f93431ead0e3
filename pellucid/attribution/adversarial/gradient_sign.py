"""FGSM and PGD: steps along the sign of the gradient, by Captum.

Sources: Goodfellow, Shlens and Szegedy, *Explaining and Harnessing Adversarial Examples*, ICLR 2015
(arXiv 1412.6572), section 4; Madry et al., *Towards Deep Learning Models Resistant to Adversarial
Attacks*, ICLR 2018 (arXiv 1706.06083), section 2.1.

Captum takes gradients below 1e-6 for zero, and the gradient of the cross-entropy itself rounds to
zero, where the network is sure: such an image would be left alone. Here every sign counts, and is
that of a loss whose gradient differs by a positive factor, see :func:`margin`.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pellucid.attribution.adversarial.attack import Attack, check_epsilon

EPSILON = 8 / 255


class FGSM(Attack):
    r"""One step, :math:`x + \epsilon \, \mathrm{sign} \nabla_x L(x, y)`, cut to [0, 1].

    :math:`L` is the cross-entropy of the predicted class.

    Args:
        epsilon: Change of each value, in (0, 1].

    Raises:
        ValueError: ``epsilon`` is outside its range, or Captum is missing.
    """

    name: ClassVar[str] = "fgsm"
    label: ClassVar[str] = "FGSM"

    def __init__(self, epsilon: float = EPSILON) -> None:
        self.epsilon = check_epsilon(epsilon)
        _robust()

    @property
    def settings(self) -> Mapping[str, float | int | str]:
        """See :class:`Attack`."""
        return {"epsilon": self.epsilon}

    def perturb(self, network: nn.Module, pixels: Tensor, predicted: Tensor) -> Tensor:
        """See :class:`Attack`."""
        step = _robust().FGSM(network, margin, lower_bound=0.0, upper_bound=1.0)
        step.zero_thresh = 0.0
        with _without_advice():
            found: Tensor = step.perturb(pixels, epsilon=self.epsilon, target=predicted)
        return found


class PGD(Attack):
    """Steps of FGSM from a random start, each cut to at most ``epsilon`` from the image and [0, 1].

    Args:
        epsilon: Largest change of a value, in (0, 1].
        step_size: Change of each value per step; None: a quarter of ``epsilon``.
        steps: Number of steps.
        seed: Of the start.

    Raises:
        ValueError: An argument is outside its range, or Captum is missing.
    """

    name: ClassVar[str] = "pgd"
    label: ClassVar[str] = "PGD"

    def __init__(
        self,
        epsilon: float = EPSILON,
        step_size: float | None = None,
        steps: int = 20,
        seed: int = 0,
    ) -> None:
        self.epsilon = check_epsilon(epsilon)
        self.step_size = epsilon / 4 if step_size is None else step_size
        if not 0 < self.step_size <= 1:
            raise ValueError(
                f"step_size must be above 0 and at most 1, got {step_size}; usual is epsilon / 4"
            )
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}; the usual value is 20")
        self.steps, self.seed = steps, seed
        _robust()

    @property
    def settings(self) -> Mapping[str, float | int | str]:
        """See :class:`Attack`."""
        return {
            "epsilon": self.epsilon,
            "step_size": self.step_size,
            "steps": self.steps,
            "seed": self.seed,
        }

    def perturb(self, network: nn.Module, pixels: Tensor, predicted: Tensor) -> Tensor:
        """See :class:`Attack`."""
        walk = _robust().PGD(network, margin, lower_bound=0.0, upper_bound=1.0)
        walk.fgsm.zero_thresh = 0.0
        devices = [pixels.device] if pixels.is_cuda else []
        with torch.random.fork_rng(devices=devices), _without_advice():
            torch.manual_seed(self.seed)
            found: Tensor = walk.perturb(
                pixels,
                radius=self.epsilon,
                step_size=self.step_size,
                step_num=self.steps,
                target=predicted,
                random_start=True,
            )
        return found


def margin(scores: Tensor, label: Tensor) -> Tensor:
    r"""How far the other classes together are above one, in logits.

    :math:`m = \log \sum_{j \ne y} e^{z_j} - z_y`. The cross-entropy is :math:`\log(1 + e^m)`, so
    its gradient is that of :math:`m` times the probability of the other classes, above 0.

    Args:
        scores: (B, K) logits, K at least 2.
        label: (B,) int64.

    Returns:
        (B,).
    """
    own = nn.functional.one_hot(label, scores.shape[1]).bool()
    others = scores.masked_fill(own, -torch.inf).logsumexp(1)
    return others - scores.gather(1, label[:, None])[:, 0]


@contextmanager
def _without_advice() -> Iterator[None]:
    """Captum says that it turns gradients of images on, at each step; there is nothing to do."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*did not already require gradients.*")
        yield


def _robust() -> Any:
    try:
        import captum.robust
    except ImportError as error:
        raise ValueError("fgsm and pgd need captum: pip install captum") from error
    return captum.robust
