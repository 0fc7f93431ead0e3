"""Counts of activations by level, from which a quantile can be read when all have been seen."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

OCTAVES = 16
"""Octaves of levels above 1, below 1, and likewise on the negative side."""
GREATEST = 2.0**OCTAVES
LEAST = 2.0**-OCTAVES
STEPS = 16

_BIAS, _MANTISSA = 127, 23


@dataclass(frozen=True)
class LevelGrid:
    r"""Candidates for a threshold, on both sides of zero and evenly spaced within each octave.

    Candidates are :math:`\pm(1 + m / s) 2^e` from :math:`2^{-16}` to :math:`2^{16}`, and zero
    itself; they are numbered from the highest. Negative ones are one float nearer to zero. The
    level of a value is the number of candidates that are not below it, so a value is above
    candidate ``j`` exactly where its level is ``j`` or less.

    Args:
        steps: Candidates per octave, ``s``: a power of two from 1 to 64. Neighbours are at most
            ``1 / s`` apart, relative to the smaller one.

    Raises:
        ValueError: If ``steps`` is not one of these.
    """

    steps: int = STEPS

    def __post_init__(self) -> None:
        if self.steps not in (1, 2, 4, 8, 16, 32, 64):
            raise ValueError(
                f"steps must be a power of two from 1 to 64, got {self.steps}; usual is {STEPS}"
            )

    @property
    def zero(self) -> int:
        """Number of the candidate that is zero, and of candidates above it."""
        return 2 * OCTAVES * self.steps + 1

    @property
    def size(self) -> int:
        """Number of levels: one more than there are candidates."""
        return 2 * self.zero + 2

    @property
    def _shift(self) -> int:
        return _MANTISSA - int(math.log2(self.steps))

    @property
    def _least(self) -> int:
        return (_BIAS - OCTAVES) * self.steps

    def levels(self, values: Tensor) -> Tensor:
        """The level of each value.

        Args:
            values: Contiguous float32 of any shape, from ``-GREATEST`` to ``GREATEST``.

        Returns:
            int64 of the same shape. Zero, and what is below it by less than ``LEAST``, has the
            level ``zero + 1``.
        """
        bits = values.view(torch.int32)
        if len(values) and bool(bits.amin() > 0):
            key = (bits - 1).bitwise_right_shift_(self._shift)
            return key.neg_().add_(self._least + self.zero - 1).clamp_(0, self.zero).long()
        # An integer that grows with the value; the magnitude of negative floats does not.
        bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        # One is taken off, so that a value is not above the candidate that it equals.
        key = (bits - 1) >> self._shift
        passed = (self._least + self.zero - 1 - key).clamp_(0, self.zero)
        below = (-self._least - key).clamp_(0, self.zero)
        return passed.add_(below).add_(key < 0).long()

    def candidate(self, number: Tensor) -> Tensor:
        """The value of each candidate.

        Args:
            number: int64 of any shape, from 0 to ``2 * zero``.

        Returns:
            float32 of the same shape.
        """
        positive = self._least + self.zero - 1 - number
        negative = -(self._least + number - self.zero - 1)
        ordered = torch.where(number < self.zero, positive, negative).int() << self._shift
        ordered = ordered.masked_fill(number == self.zero, 0)
        return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)

    def above(self, counts: Tensor, total: Tensor) -> Tensor:
        """How many values are above each candidate.

        Args:
            counts: (..., size) int64, values by level. Those of level ``zero + 1`` need not have
                been counted.
            total: (...) int64, number of all values.

        Returns:
            (..., size - 1) int64.
        """
        sums = counts.cumsum(-1)
        # From the other end below zero, to do without those that were not counted.
        sums[..., self.zero + 1 :] += (total - sums[..., -1]).unsqueeze(-1)
        return sums[..., :-1]

    def floor(self, counts: Tensor, allowed: int) -> Tensor:
        """The highest candidate that more than ``allowed`` values are above, where not negative.

        However many values follow, no threshold that ``allowed`` values may exceed, nor any of the
        two candidates around it, will be below.

        Args:
            counts: (U, size) int64; levels from that of the floor of earlier counts on need not be
                complete.
            allowed: Number of values.

        Returns:
            (U,) float32, minus infinity where there is none.
        """
        reached = counts[:, : self.zero + 1].cumsum(-1) > allowed
        value = self.candidate(reached.int().argmax(-1))
        return value.masked_fill(~reached[:, -1], -torch.inf)

    def enclose(self, counts: Tensor, total: Tensor, allowed: int) -> "Bracket":
        """The candidates around the exact threshold, the (``allowed`` + 1)-th value from above.

        Args:
            counts: (U, size) int64.
            total: Scalar int64, number of values of each unit.
            allowed: Number of values that may be above the threshold.
        """
        above = self.above(counts, total)
        # The lowest candidate with few enough values above it; none is above the highest.
        upper = ((above <= allowed).sum(-1) - 1).clamp(min=0)
        lower = (upper + 1).clamp(max=self.size - 2)
        # Of the n values between the two, the k-th from above is the threshold: on average
        # k / (n + 1) of the way down.
        first, last = (above.gather(-1, end.unsqueeze(-1)).squeeze(-1) for end in (upper, lower))
        way = (allowed + 1 - first) / (last - first + 1)
        # What is at zero is not spread over the step below it: there the threshold is zero itself.
        lower = torch.where(upper == self.zero, upper, lower)
        way = torch.where(lower > upper, way, 0.0)
        return Bracket(upper, lower, way.double())


@dataclass(frozen=True)
class Bracket:
    """Between which candidates a threshold is."""

    upper: Tensor
    """(U,) int64, number of the candidate not below it."""
    lower: Tensor
    """(U,) int64, number of the candidate below it; ``upper`` where the threshold is exact."""
    way: Tensor
    """(U,) float64, its estimated place, from 0 at ``upper`` to 1 at ``lower``."""

    def value(self, grid: LevelGrid) -> Tensor:
        """The estimate.

        Args:
            grid: The candidates.

        Returns:
            (U,) float32.
        """
        upper, lower = grid.candidate(self.upper).double(), grid.candidate(self.lower).double()
        return torch.lerp(upper, lower, self.way).float()


def allowed_above(quantile: float, positions: int) -> int:
    """How many of a number of positions may be above the threshold.

    Args:
        quantile: Greatest share.
        positions: Their number.
    """
    # 0.29 * 100 is 28.999999999999996.
    return math.floor(quantile * positions * (1 + 1e-12))
