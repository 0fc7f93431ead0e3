"""How a score changes while pixels are deleted or inserted in the order of a map.

Source: Petsiuk, Das, Saenko, *RISE: Randomized Input Sampling for Explanation of Black-box Models*,
BMVC 2018 (arXiv 1806.07421), section 4.1.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional as F

from pellucid.metrics.maps.heat import check_heat, check_size, on_pixels
from pellucid.metrics.maps.map_metric import MapMetric
from pellucid.metrics.maps.probabilities import NonFiniteScores, class_probabilities

Baseline = Literal["zero", "mean", "blur"]
"""What takes the place of a pixel: 0, which is the data's mean in normalised images; the mean of
the image's own pixels; or the blurred image."""
Way = Literal["deletion", "insertion"]

STEPS = 64
BATCH_SIZE = 256
BASELINES: dict[Way, Baseline] = {"deletion": "zero", "insertion": "blur"}
"""As published."""
_BLUR_SIZE, _BLUR_SIGMA = 11, 5.0


def deletion_auc(
    scores: Callable[[Tensor], Tensor],
    image: Tensor,
    maps: Tensor,
    target: Tensor | None = None,
    *,
    baseline: Baseline = BASELINES["deletion"],
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Area under the probability of the target while the most relevant pixels are deleted.

    Args:
        scores: Makes class scores (N, K), logits, of images (N, C, H, W); in evaluation mode.
        image: (B, C, H, W) float.
        maps: (B, h, w) floating point, finite.
        target: (B,) int64; None: the predicted class of the whole image.
        baseline: What takes the place of a pixel.
        steps: Steps of as many pixels each, from 1 to H W.
        batch_size: Images that ``scores`` is given at once.

    Returns:
        (B,) from 0 to 1; lower is better.

    Raises:
        ValueError: See :func:`perturbation_curve`.
    """
    curve = perturbation_curve(
        scores,
        image,
        maps,
        target,
        way="deletion",
        baseline=baseline,
        steps=steps,
        batch_size=batch_size,
    )
    return area(curve)


def insertion_auc(
    scores: Callable[[Tensor], Tensor],
    image: Tensor,
    maps: Tensor,
    target: Tensor | None = None,
    *,
    baseline: Baseline = BASELINES["insertion"],
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Area under the probability of the target while the most relevant pixels are put in.

    Args:
        scores: Makes class scores (N, K), logits, of images (N, C, H, W); in evaluation mode.
        image: (B, C, H, W) float.
        maps: (B, h, w) floating point, finite.
        target: (B,) int64; None: the predicted class of the whole image.
        baseline: What is there before a pixel is put in.
        steps: Steps of as many pixels each, from 1 to H W.
        batch_size: Images that ``scores`` is given at once.

    Returns:
        (B,) from 0 to 1; higher is better.

    Raises:
        ValueError: See :func:`perturbation_curve`.
    """
    curve = perturbation_curve(
        scores,
        image,
        maps,
        target,
        way="insertion",
        baseline=baseline,
        steps=steps,
        batch_size=batch_size,
    )
    return area(curve)


@torch.no_grad()
def perturbation_curve(
    scores: Callable[[Tensor], Tensor],
    image: Tensor,
    maps: Tensor,
    target: Tensor | None = None,
    *,
    way: Way,
    baseline: Baseline,
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Probability of the target after each step of pixels, the most relevant first.

    After step ``s`` of ``S``, ``round(s H W / S)`` pixels of the upsampled map are deleted, or put
    in. The map is ranked as it is, its negative values last. Pixels that are equal come in one
    order that is drawn once for all images: a constant map, of zeros too, gives the curve of pixels
    at random, which is chance. All steps of several images pass through the network together.

    Args:
        scores: Makes class scores (N, K), logits, of images (N, C, H, W); in evaluation mode.
        image: (B, C, H, W) float.
        maps: (B, h, w) floating point, finite.
        target: (B,) int64; None: the predicted class of the whole image.
        way: Whether pixels are deleted from the image or put into the baseline.
        baseline: What is there in place of a pixel.
        steps: Number of steps, from 1 to H W.
        batch_size: Images that ``scores`` is given at once, at least 1.

    Returns:
        (B, S + 1) float32, before the first step and after each.

    Raises:
        ValueError: If an argument is out of range, or a shape, a score or the map is wrong.
    """
    height, width = _check_images(image, maps, steps, batch_size)
    if way not in get_args(Way):
        raise ValueError(f"way must be one of {', '.join(get_args(Way))}, got {way!r}")
    places = _places(check_heat(maps), (height, width))
    instead = _baseline(image, baseline)
    if target is None:
        target = _chosen(scores, image, batch_size)
    counts = torch.linspace(0, height * width, steps + 1, dtype=torch.float64).round()
    counts = counts.to(places.device, places.dtype)
    found, total = [], len(image) * (steps + 1)
    for first in range(0, total, batch_size):
        rows = torch.arange(first, min(total, first + batch_size), device=image.device)
        which = rows.div(steps + 1, rounding_mode="floor")
        taken = rearrange(
            places[which] < counts[rows % (steps + 1)].unsqueeze(1),
            "n (h w) -> n 1 h w",
            h=height,
        )
        there, gone = (image, instead) if way == "deletion" else (instead, image)
        probability = _probabilities(scores, torch.where(taken, gone[which], there[which]))
        found.append(_of_target(probability, target[which]))
    if not found:
        return image.new_zeros(0, steps + 1, dtype=torch.float32)
    return rearrange(torch.cat(found), "(b s) -> b s", s=steps + 1)


def area(curve: Tensor) -> Tensor:
    """(B,) mean height of curves (B, S + 1) by the trapezoidal rule, the steps spanning 1."""
    return ((curve[:, 1:] + curve[:, :-1]) / 2).mean(1)


def _check_images(image: Tensor, maps: Tensor, steps: int, batch_size: int) -> tuple[int, int]:
    if image.ndim != 4 or not image.is_floating_point() or len(image) != len(maps):
        raise ValueError(
            f"image must be floating point of shape (B={len(maps)}, C, H, W), with as many images "
            f"as maps, got {tuple(image.shape)} of {image.dtype}"
        )
    height, width = image.shape[-2:]
    if not 1 <= steps <= height * width:
        raise ValueError(
            f"steps must be from 1 to {height * width}, the pixels of an image, got {steps}"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    check_size((height, width), maps, "image")
    return height, width


def _places(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H W) int64, how many pixels come before each."""
    flat = rearrange(on_pixels(maps, size), "b h w -> b (h w)")
    # In reading order, equal pixels would make the upper edge of the image important.
    shuffled = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(0))
    shuffled = shuffled.to(flat.device)
    order = shuffled[flat[:, shuffled].argsort(dim=1, descending=True, stable=True)]
    numbers = torch.arange(flat.shape[1], device=flat.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, numbers)


def _baseline(image: Tensor, baseline: Baseline) -> Tensor:
    """(B, C, H, W) what takes the place of pixels."""
    if baseline == "zero":
        return torch.zeros_like(image)
    if baseline == "mean":
        return image.mean((2, 3), keepdim=True).expand_as(image)
    if baseline != "blur":
        raise ValueError(
            f"baseline must be one of {', '.join(get_args(Baseline))}, got {baseline!r}"
        )
    offset = torch.arange(_BLUR_SIZE, device=image.device) - _BLUR_SIZE // 2
    line = torch.exp(-offset.square() / (2 * _BLUR_SIGMA**2))
    line = (line / line.sum()).to(image.dtype)
    channels = image.shape[1]
    # Beyond its edge the image goes on as it ends; black there would make the edge stand out.
    padded = F.pad(image, (_BLUR_SIZE // 2,) * 4, mode="replicate")
    down = F.conv2d(padded, repeat(line, "k -> c 1 k 1", c=channels), groups=channels)
    return F.conv2d(down, repeat(line, "k -> c 1 1 k", c=channels), groups=channels)


def _probabilities(scores: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """(N, K) float32."""
    found = scores(image)
    probability = class_probabilities(found, len(image))
    if not bool(found.isfinite().all()):
        raise NonFiniteScores("scores has a value that is not finite; the curve would be undefined")
    return probability


def _of_target(probability: Tensor, target: Tensor) -> Tensor:
    return probability.gather(1, target.unsqueeze(1)).squeeze(1)


def _chosen(scores: Callable[[Tensor], Tensor], image: Tensor, batch_size: int) -> Tensor:
    """(B,) int64, the predicted classes."""
    parts = [
        _probabilities(scores, image[first : first + batch_size]).argmax(1)
        for first in range(0, len(image), batch_size)
    ]
    # Of no image there is no class.
    return torch.cat([torch.zeros(0, dtype=torch.int64, device=image.device), *parts])


class PerturbationMetric(MapMetric):
    """What :class:`DeletionAUC` and :class:`InsertionAUC` share.

    Args:
        baseline: What takes the place of a pixel; None: as published.
        steps: Steps of as many pixels each, at least 1.
        batch_size: Images that the network is given at once, at least 1.

    Raises:
        ValueError: If an argument is out of range.
    """

    way: Way

    def __init__(
        self, baseline: Baseline | None = None, steps: int = STEPS, batch_size: int = BATCH_SIZE
    ) -> None:
        super().__init__()
        for name, value in (("steps", steps), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if baseline not in (None, *get_args(Baseline)):
            raise ValueError(
                f"baseline must be one of {', '.join(get_args(Baseline))}, got {baseline!r}"
            )
        self.baseline: Baseline = baseline or BASELINES[self.way]
        self.steps, self.batch_size = steps, batch_size

    def update(
        self,
        scores: Callable[[Tensor], Tensor],
        image: Tensor,
        maps: Tensor,
        target: Tensor | None = None,
    ) -> None:
        """Look at one batch; the arguments are those of :func:`perturbation_curve`."""
        curve = perturbation_curve(
            scores,
            image,
            maps,
            target,
            way=self.way,
            baseline=self.baseline,
            steps=self.steps,
            batch_size=self.batch_size,
        )
        self.add(area(curve))


class DeletionAUC(PerturbationMetric):
    """Area under the deletion curve, mean over images; from 0 to 1, lower is better."""

    higher_is_better = False
    way = "deletion"


class InsertionAUC(PerturbationMetric):
    """Area under the insertion curve, mean over images; from 0 to 1, higher is better."""

    higher_is_better = True
    way = "insertion"
