"""How much a score varies with the images that it is of: its spread over resampled sets of them.

Sources: Efron, Tibshirani, *An Introduction to the Bootstrap*, Chapman & Hall 1993, chapter 6;
for images that come batch by batch and are not kept, Hanley, MacGibbon, *Creating non-parametric
bootstrap samples using Poisson frequencies*, Computer Methods and Programs in Biomedicine 83
(2006).
"""

import zlib
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

RESAMPLINGS = 5


def check_resamplings(resamplings: int) -> None:
    """Raise a ``ValueError`` unless there are none, or so many that they have a spread."""
    if resamplings < 0 or resamplings == 1:
        raise ValueError(
            f"resamplings must be 0 or at least 2, got {resamplings}: the spread of one is not "
            "known"
        )


class Resampled(ABC):
    """A metric that tells how much it varies with the images, and of how many it is."""

    @abstractmethod
    def compute(self) -> Tensor:
        """The figure, a scalar."""

    @abstractmethod
    def spread(self) -> float:
        """Standard deviation over resampled sets of images.

        NaN where fewer than two sets have a figure: without images, or where none was resampled.
        Call it on every process.
        """

    @abstractmethod
    def sample_sizes(self) -> dict[str, int]:
        """How many images the metric is of, by kind. Call it on every process."""


def deviation(figures: Tensor) -> float:
    """Standard deviation of the figures (R,) of resampled sets, without those that have none.

    Of three images one set in twenty is empty. NaN where fewer than two are left.
    """
    known = figures[figures.isfinite()]
    return float(known.std()) if len(known) > 1 else float("nan")


def resampling_weights(values: Tensor, resamplings: int, seed: int = 0) -> Tensor:
    """How often each image of a batch is in the sample itself, and in each resampled one.

    The counts of a resampled set are Poisson of mean 1, so that sets grow batch by batch. They are
    by ``seed`` and the values of the batch: the order of batches changes nothing.

    Args:
        values: (B, ...) floating point, what the metric is made of.
        resamplings: Number of resampled sets, R.
        seed: Of the draws.

    Returns:
        (1 + R, B) float64 on the device of ``values``, the first row of ones.
    """
    content = values.detach().float().cpu().contiguous().numpy().tobytes()
    source = np.random.default_rng([seed, zlib.crc32(content)])
    weights = np.ones((1 + resamplings, len(values)))
    weights[1:] = source.poisson(size=weights[1:].shape)
    return torch.from_numpy(weights).to(values.device)
