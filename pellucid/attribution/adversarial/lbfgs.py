"""L-BFGS: the smallest change that makes the network say another class.

Source: Szegedy et al., *Intriguing properties of neural networks*, ICLR 2014 (arXiv 1312.6199),
section 4.1.

Where this differs from the paper:

- The norm is squared, as is usual since Carlini and Wagner (S&P 2017): its minimum is smooth.
- The target is the class with the second highest score, where the paper draws one.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import Bounds, minimize
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from pellucid.attribution.adversarial.attack import Attack

LARGEST_WEIGHT = 1e3
"""Weight of the norm from which the search comes down."""
FACTOR = 10.0
"""By which it comes down until the attack succeeds."""
LEAST_WEIGHT = 1e-5


class LBFGS(Attack):
    r"""Minimises :math:`c \|r\|_2^2 + L(x + r, l)` subject to :math:`x + r \in [0, 1]`.

    :math:`L` is the cross-entropy of the wanted class :math:`l`. The larger :math:`c`, the smaller
    the change: a line search over :math:`\log c` looks for the largest with which the network says
    :math:`l`, first in steps of ten, then by halving. Of all changes that succeed on the way, that
    with the smallest norm is kept; the image is left alone if none does.

    Args:
        iterations: Most steps of L-BFGS for each weight.
        search_steps: How often the interval of :math:`\log c` is halved.

    Raises:
        ValueError: An argument is outside its range.
    """

    name: ClassVar[str] = "lbfgs"
    label: ClassVar[str] = "L-BFGS"

    def __init__(self, iterations: int = 50, search_steps: int = 6) -> None:
        for name, value, least in (
            ("iterations", iterations, 1),
            ("search_steps", search_steps, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.iterations, self.search_steps = iterations, search_steps

    @property
    def settings(self) -> Mapping[str, float | int | str]:
        """See :class:`Attack`."""
        return {"iterations": self.iterations, "search_steps": self.search_steps}

    def perturb(self, network: nn.Module, pixels: Tensor, predicted: Tensor) -> Tensor:
        """See :class:`Attack`."""
        with torch.no_grad():
            wanted = network(pixels).topk(2, dim=1).indices[:, 1]
        bar = tqdm(
            zip(pixels, wanted.tolist(), strict=True), self.label, len(pixels), delay=2, leave=False
        )
        return torch.stack([self._one(network, image, target) for image, target in bar])

    def _one(self, network: nn.Module, image: Tensor, target: int) -> Tensor:
        """The adversarial image of one (C, H, W)."""
        best, least = image, math.inf

        def succeeds(weight: float) -> bool:
            nonlocal best, least
            found = self._minimise(network, image, target, weight)
            with torch.no_grad():
                fooled = int(network(found[None]).argmax()) == target
            size = float((found - image).norm())
            if fooled and size < least:
                best, least = found, size
            return fooled

        # It fails with the weight above, and succeeds with the weight below.
        below = LARGEST_WEIGHT
        while not succeeds(below):
            below /= FACTOR
            if below < LEAST_WEIGHT:
                return image
        above = below * FACTOR
        for _ in range(self.search_steps):
            middle = math.sqrt(below * above)
            if succeeds(middle):
                below = middle
            else:
                above = middle
        return best

    def _minimise(self, network: nn.Module, image: Tensor, target: int, weight: float) -> Tensor:
        """The image (C, H, W) in [0, 1] that minimises the loss with one weight of the norm."""
        wanted = torch.tensor([target], device=image.device)

        def loss(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            now = torch.tensor(values).to(image).view_as(image).requires_grad_()
            cost = weight * (now - image).square().sum() + F.cross_entropy(
                network(now[None]), wanted
            )
            (slope,) = torch.autograd.grad(cost, now)
            return float(cost.detach()), slope.flatten().cpu().double().numpy()

        start = image.flatten().cpu().double().numpy()
        found = minimize(
            loss,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=Bounds(0.0, 1.0),
            options={"maxiter": self.iterations},
        )
        return torch.from_numpy(found.x).to(image).view_as(image).clamp(0, 1)
