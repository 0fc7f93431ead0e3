"""Meaningful perturbation: the least of an image that has to go for its class to be lost.

Source: Fong and Vedaldi, *Interpretable Explanations of Black Boxes by Meaningful Perturbation*,
ICCV 2017 (arXiv 1704.03296), equations 3 to 6 and section 4.3; the deletion game.

Where this differs from the paper:

- The values below are those of section 4.3 and of the authors' code for the deletion game (300
  steps of Adam at 0.1; 1e-4, 1e-2 and 3; cells of 8 pixels, blurs of 10 and 5, jitter 4, a circle
  that suppresses 99 %), as checked against it. Other implementations have others, as 1e-2 and 0.2.
- Lengths, which the paper has in pixels of images of 224 x 224, are shares of the image: one of
  64 x 64 has the same 28 x 28 mask, and its blur is 64 / 224 as wide.
- The mask is enlarged bilinearly and then smoothed with a Gaussian, where the paper sums a Gaussian
  around each cell.
- The image is shifted by up to the jitter either way, and its edge continued: images of 64 pixels
  would hardly be jittered else. The paper shifts by 0 to 3 pixels, one way.
- The variation of the mask is that of equation 5, of differences down and to the right each by
  itself; the authors' code takes the length of the two together.
- The first circle is hard, and 25 radii are tried; the authors blur its edge and have a radius
  every 5 pixels.
"""

import math
from typing import ClassVar, Literal, get_args

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from pellucid.attribution.method import AttributionMethod, Finding, Sign, check_scores

Reference = Literal["blur", "constant", "noise"]

ITERATIONS = 300
LEARNING_RATE = 0.1
L1_WEIGHT = 1e-4
TV_WEIGHT = 1e-2
TV_BETA = 3.0
MASK_SIZE = 28
"""Cells along a side: 224 pixels in steps of 8."""
IMAGE_SIZE = 224
"""Pixels of a side that the paper's lengths are for."""
BLUR = 10.0
MASK_BLUR = 5.0
"""Standard deviations in pixels of an image of 224."""
JITTER = 4
"""Largest shift, likewise."""
NOISE = 1.0
"""Standard deviation of ``noise``, in standard deviations of the data where these normalise."""
CIRCLES = 25
"""Radii that are tried for the first mask."""
CIRCLE_SUPPRESSION = 0.99
"""Share of the score's fall that the first mask must bring about."""


class MeaningfulPerturbation(AttributionMethod):
    r"""A mask that hides as little as it can and the target's probability with it.

    Adam minimises over masks :math:`m \in [0, 1]^{s \times s}`, for every image by itself,
    :math:`\lambda_1 \|1 - m\|_1 + \lambda_2 \sum_u \|\nabla m(u)\|_\beta^\beta + p_c(m x + (1 - m)
    r)` with the reference :math:`r`, from the smallest circle in the middle that hides the class.

    The heat is :math:`1 - m`, in [0, 1]: what is hidden.

    Args:
        reference: What hidden places show: ``blur``: the image out of focus; ``constant``: 0, the
            mean of the data where images are normalised; ``noise``: Gaussian noise.
        iterations: Steps of Adam.
        lr: Its learning rate.
        mask_size: Cells along a side, :math:`s`.
        l1_weight: :math:`\lambda_1`.
        tv_weight: :math:`\lambda_2`.
        tv_beta: :math:`\beta`.
        jitter: Largest shift of the image from step to step, in pixels of an image of 224; 0: none.
        seed: Of shifts and noise, which are the same for all images.

    Raises:
        ValueError: An argument is outside its range.
    """

    name: ClassVar[str] = "meaningful_perturbation"
    label: ClassVar[str] = "Meaningful perturbation"
    sign: ClassVar[Sign] = "positive"

    def __init__(
        self,
        reference: Reference = "blur",
        iterations: int = ITERATIONS,
        lr: float = LEARNING_RATE,
        mask_size: int = MASK_SIZE,
        l1_weight: float = L1_WEIGHT,
        tv_weight: float = TV_WEIGHT,
        tv_beta: float = TV_BETA,
        jitter: int = JITTER,
        seed: int = 0,
    ) -> None:
        if reference not in get_args(Reference):
            allowed = ", ".join(get_args(Reference))
            raise ValueError(f"reference must be one of {allowed}, got {reference!r}")
        for name, value, least in (
            ("iterations", iterations, 1),
            ("mask_size", mask_size, 2),
            ("l1_weight", l1_weight, 0),
            ("tv_weight", tv_weight, 0),
            ("tv_beta", tv_beta, 1),
            ("jitter", jitter, 0),
        ):
            if not value >= least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not lr > 0:
            raise ValueError(f"lr must be above 0, got {lr}; the paper's value is {LEARNING_RATE}")
        self.reference, self.iterations, self.lr = reference, iterations, lr
        self.mask_size, self.l1_weight = mask_size, l1_weight
        self.tv_weight, self.tv_beta = tv_weight, tv_beta
        self.jitter, self.seed = jitter, seed

    def explain(self, network: nn.Module, image: Tensor, target: Tensor | None) -> Finding:
        """See :class:`~pellucid.attribution.method.AttributionMethod`."""
        with torch.no_grad():
            scores = check_scores(network(image), len(image), target)
        wanted = scores.argmax(1) if target is None else target
        generator = torch.Generator().manual_seed(self.seed)
        hidden = self._hidden(image, generator)
        mask = self._circle(network, image, hidden, wanted).requires_grad_()
        optimizer = torch.optim.Adam([mask], lr=self.lr)
        for _ in tqdm(range(self.iterations), desc=self.label, delay=2, leave=False):
            shift = self._shift(image, generator)
            shown = _blend(_shifted(image, shift), _shifted(hidden, shift), mask)
            # The sum: each image's terms depend on its own mask alone, and Adam works by value.
            loss = (self._cost(mask) + probability(network(shown), wanted)).sum()
            mask.grad = torch.autograd.grad(loss, mask)[0]
            optimizer.step()
            mask.data.clamp_(0, 1)
        return Finding(heat=rearrange(1 - mask.detach(), "b 1 h w -> b h w"), scores=scores)

    def _cost(self, mask: Tensor) -> Tensor:
        """(B,) what a mask (B, 1, s, s) costs by its size and its edges."""
        down, right = (mask.diff(dim=axis).abs() ** self.tv_beta for axis in (2, 3))
        edges = down.sum((1, 2, 3)) + right.sum((1, 2, 3))
        return self.l1_weight * (1 - mask).sum((1, 2, 3)) + self.tv_weight * edges

    def _hidden(self, image: Tensor, generator: torch.Generator) -> Tensor:
        if self.reference == "blur":
            return gaussian_blur(image, BLUR * min(image.shape[-2:]) / IMAGE_SIZE)
        if self.reference == "constant":
            return torch.zeros_like(image)
        noise = torch.randn(image.shape[1:], generator=generator) * NOISE
        return repeat(noise.to(image), "c h w -> b c h w", b=len(image))

    def _shift(self, image: Tensor, generator: torch.Generator) -> tuple[int, int]:
        """Pixels down and right, for all images of one step."""
        most = round(self.jitter * min(image.shape[-2:]) / IMAGE_SIZE)
        down, right = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
        return down, right

    @torch.no_grad()
    def _circle(self, network: nn.Module, image: Tensor, hidden: Tensor, target: Tensor) -> Tensor:
        """(B, 1, s, s) each image's first mask; all is hidden where no circle does."""
        places = torch.linspace(-1, 1, self.mask_size, device=image.device)
        distance = (places[:, None].square() + places[None].square()).sqrt()
        whole = probability(network(image), target)
        least = probability(network(hidden), target)
        enough = whole - CIRCLE_SUPPRESSION * (whole - least)
        first = image.new_zeros(len(image), 1, self.mask_size, self.mask_size)
        for radius in torch.linspace(math.sqrt(2), 0.1, CIRCLES).tolist():
            mask = (distance > radius).to(image)[None, None].expand_as(first)
            hides = probability(network(_blend(image, hidden, mask)), target) <= enough
            first = torch.where(rearrange(hides, "b -> b 1 1 1"), mask, first)
        return first


def probability(scores: Tensor, target: Tensor) -> Tensor:
    """(B,) the target's probability by logits (B, K); K of 1 is one category against the rest."""
    chances = scores.softmax(1) if scores.shape[1] > 1 else scores.sigmoid()
    return chances.gather(1, target[:, None])[:, 0]


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Images (B, C, H, W) smoothed by a Gaussian of ``sigma`` pixels, edges continued."""
    radius = math.ceil(3 * sigma)
    offset = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-(offset**2) / (2 * sigma**2))
    kernel = repeat(kernel / kernel.sum(), "k -> c 1 k 1", c=image.shape[1])
    padded = F.pad(image, (radius,) * 4, mode="replicate")
    down = F.conv2d(padded, kernel, groups=image.shape[1])
    return F.conv2d(down, rearrange(kernel, "c 1 k 1 -> c 1 1 k"), groups=image.shape[1])


def _blend(image: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
    size = (image.shape[-2], image.shape[-1])
    large = F.interpolate(mask, size, mode="bilinear", align_corners=False)
    large = gaussian_blur(large, MASK_BLUR * min(size) / IMAGE_SIZE)
    return large * image + (1 - large) * hidden


def _shifted(image: Tensor, shift: tuple[int, int]) -> Tensor:
    down, right = shift
    most = max(abs(down), abs(right))
    if not most:
        return image
    height, width = image.shape[-2:]
    padded = F.pad(image, (most,) * 4, mode="replicate")
    top, left = most - down, most - right
    return padded[..., top : top + height, left : left + width]
