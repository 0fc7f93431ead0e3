r"""How far a map is from telling what removing regions does to the score.

Source: Yeh, Hsieh, Suggala, Inouye, Ravikumar, *On the (In)fidelity and Sensitivity of
Explanations*, NeurIPS 2019 (arXiv 1901.09392), definition 2.1, with the removal of squares of
section 2.3 and the optimal scaling of the authors' code.

What removing a square does depends on the network and the image alone. It is found once, by
:func:`square_removals`, for all the maps that are to be judged, by :func:`infidelity_of`.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from pellucid.metrics.maps.heat import check_heat, check_size, on_pixels
from pellucid.metrics.maps.map_metric import MapMetric

SQUARES = 64
BATCH_SIZE = 256
_SMALLEST, _LARGEST = 1 / 8, 1 / 2
"""Sides of squares, as shares of the image's shorter side."""


class Removals(NamedTuple):
    """Squares that were removed from images, and what it did."""

    masks: Tensor
    """(N, H, W) bool."""
    effects: Tensor
    """(B, N) float32, by how much the target's score fell, in logits."""


def square_masks(size: tuple[int, int], count: int = SQUARES, seed: int = 0) -> Tensor:
    """Squares of random side, an eighth to a half of the shorter side, at random places.

    Args:
        size: Height and width in pixels.
        count: Number of squares, N, at least 2.
        seed: Their seed.

    Returns:
        (N, H, W) bool.

    Raises:
        ValueError: ``count`` is below 2.
    """
    _check(count, 1)
    height, width = size
    short = min(height, width)
    least, most = max(1, round(short * _SMALLEST)), max(1, round(short * _LARGEST))
    generator = torch.Generator().manual_seed(seed)
    side = torch.randint(least, most + 1, (count,), generator=generator)
    place = torch.rand(2, count, generator=generator)
    inside = []
    for length, share in ((height, place[0]), (width, place[1])):
        first = (share * (length - side + 1)).floor()[:, None]
        cells = torch.arange(length)
        inside.append((cells >= first) & (cells < first + side[:, None]))
    return rearrange(inside[0], "n h -> n h 1") & rearrange(inside[1], "n w -> n 1 w")


@torch.no_grad()
def square_removals(
    scores: Callable[[Tensor], Tensor],
    image: Tensor,
    target: Tensor | None = None,
    *,
    squares: int = SQUARES,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> Removals:
    """Remove squares from images and see what becomes of the score.

    Removed pixels become 0, the data's mean in normalised images. All squares of several images
    pass through the network together; they are the same for all images.

    Args:
        scores: Makes class scores (N, K), logits, of images (N, C, H, W); in evaluation mode.
        image: (B, C, H, W) float.
        target: (B,) int64; None: the predicted class of the whole image.
        squares: Number of squares, at least 2.
        seed: Seed of the squares.
        batch_size: Images that ``scores`` is given at once, at least 1.

    Raises:
        ValueError: If an argument is out of range, or a score is not finite.
    """
    _check(squares, batch_size)
    if image.ndim != 4 or not image.is_floating_point():
        raise ValueError(
            f"image must be floating point of shape (B, C, H, W), got {tuple(image.shape)} of "
            f"{image.dtype}"
        )
    masks = square_masks((image.shape[-2], image.shape[-1]), squares, seed).to(image.device)
    whole = [_scores(scores, image[i : i + batch_size]) for i in range(0, len(image), batch_size)]
    if not whole:
        return Removals(masks, image.new_zeros(0, squares, dtype=torch.float32))
    before = torch.cat(whole)
    if target is None:
        target = before.argmax(1)
    after = []
    for first in range(0, len(image) * squares, batch_size):
        last = min(len(image) * squares, first + batch_size)
        rows = torch.arange(first, last, device=image.device)
        which, square = rows.div(squares, rounding_mode="floor"), rows % squares
        left = image[which] * rearrange(~masks[square], "n h w -> n 1 h w")
        after.append(_of(_scores(scores, left), target[which]))
    effects = _of(before, target).unsqueeze(1) - rearrange(
        torch.cat(after), "(b n) -> b n", n=squares
    )
    return Removals(masks, effects)


def infidelity_of(maps: Tensor, removals: Removals, *, relative: bool = True) -> Tensor:
    r"""Infidelity of maps where the effects of removals are known.

    :math:`\min_{\beta \ge 0} E_S [(\beta \sum_{p \in S} h_p - e_S)^2] / E_S[e_S^2]`: the map
    :math:`h`, upsampled and times the best factor, against the effect :math:`e_S` of removing the
    square :math:`S`. A factor below 0, which the authors' code allows, would praise a map that says
    the opposite.

    Args:
        maps: (B, h, w) floating point, finite; negative values count as what speaks against.
        removals: Of the same images.
        relative: Whether to divide by the mean squared effect, which makes images comparable.

    Returns:
        (B,) float32, lower is better. Relative: from 0 (the map tells all effects, up to a factor)
        to 1 (no better than no map), NaN where nothing has an effect; else in squared logits.

    Raises:
        ValueError: If shapes do not fit or a map is not finite.
    """
    masks, effects = removals
    heat = check_heat(maps)
    if len(heat) != len(effects):
        raise ValueError(f"removals are of {len(effects)} images, there are {len(heat)} maps")
    size = (masks.shape[-2], masks.shape[-1])
    check_size(size, heat, "image")
    flat = rearrange(on_pixels(heat, size), "b h w -> b (h w)")
    said = (flat @ rearrange(masks.to(flat), "n h w -> (h w) n")).double()
    done = effects.double()
    power = said.square().mean(1)
    factor = (said * done).mean(1) / torch.where(power > 0, power, 1.0)
    error = (factor.clamp(min=0).unsqueeze(1) * said - done).square().mean(1)
    if relative:
        whole = done.square().mean(1)
        error = torch.where(whole > 0, error / torch.where(whole > 0, whole, 1.0), torch.nan)
    return error.float()


def infidelity(
    scores: Callable[[Tensor], Tensor],
    image: Tensor,
    maps: Tensor,
    target: Tensor | None = None,
    *,
    relative: bool = True,
    squares: int = SQUARES,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Both steps at once: see :func:`square_removals` and :func:`infidelity_of`.

    Args:
        scores: Makes class scores (N, K), logits, of images (N, C, H, W); in evaluation mode.
        image: (B, C, H, W) float.
        maps: (B, h, w) floating point, finite.
        target: (B,) int64; None: the predicted class of the whole image.
        relative: Whether to divide by the mean squared effect.
        squares: Number of squares, at least 2.
        seed: Seed of the squares.
        batch_size: Images that ``scores`` is given at once, at least 1.

    Returns:
        (B,) float32, lower is better.

    Raises:
        ValueError: As these do.
    """
    removals = square_removals(
        scores, image, target, squares=squares, seed=seed, batch_size=batch_size
    )
    return infidelity_of(maps, removals, relative=relative)


def _scores(scores: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    found = scores(image)
    if found.ndim != 2 or len(found) != len(image) or not bool(found.isfinite().all()):
        raise ValueError(
            f"scores must make finite (N={len(image)}, K) logits, got {tuple(found.shape)}"
            f"{'' if bool(found.isfinite().all()) else ' with values that are not finite'}"
        )
    return found.float()


def _of(scores: Tensor, target: Tensor) -> Tensor:
    return scores.gather(1, target.unsqueeze(1)).squeeze(1)


def _check(squares: int, batch_size: int) -> None:
    if squares < 2:
        raise ValueError(f"squares must be at least 2, got {squares}; usual is {SQUARES}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")


class Infidelity(MapMetric):
    """Relative infidelity of maps, mean over images; from 0 to 1, lower is better.

    See :func:`infidelity`. Images in which nothing has an effect are left out.

    Args:
        squares: Number of squares, at least 2.
        seed: Seed of the squares.
        batch_size: Images that the network is given at once, at least 1.

    Raises:
        ValueError: If an argument is out of range.
    """

    higher_is_better = False

    def __init__(self, squares: int = SQUARES, seed: int = 0, batch_size: int = BATCH_SIZE) -> None:
        super().__init__()
        _check(squares, batch_size)
        self.squares, self.seed, self.batch_size = squares, seed, batch_size

    def update(
        self,
        scores: Callable[[Tensor], Tensor],
        image: Tensor,
        maps: Tensor,
        target: Tensor | None = None,
    ) -> None:
        """Look at one batch; the arguments are those of :func:`infidelity`."""
        self.add(
            infidelity(
                scores,
                image,
                maps,
                target,
                squares=self.squares,
                seed=self.seed,
                batch_size=self.batch_size,
            )
        )
