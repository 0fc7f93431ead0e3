"""Codes of images beside the factors that the images were made from: what the scores draw from."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

NUM_TRAIN = 10_000
"""Points that a score looks at, or that its classifier is trained on, as published."""
NUM_TEST = 5_000
"""Points that its classifier is judged on, as published."""
NUM_BINS = 20
"""Bins of equal width between the smallest and the largest value of a code, as published."""
LARGEST = 1e15
"""Of greater codes sums of squares overflow in single precision."""
ROUNDING = 1e-6
"""A column that varies by less than this share of its largest value is constant: in single
precision, in which networks give codes, the last bit is a tenth of that."""
_LEAST_RANGE = 1e-30


def as_codes(codes: Any, least: int = 2, *, may_be_constant: bool = False) -> Floats:
    """Check a representation.

    Args:
        codes: (N, L) tensor or array, what an encoder gives for ``N`` images.
        least: Rows that are needed.
        may_be_constant: Whether to let codes pass of which no column varies.

    Returns:
        (N, L) float64; columns that vary by no more than rounding does have one value.

    Raises:
        ValueError: If the shape is wrong, there are fewer rows, a column has values that are not
            finite or above 1e15, or no column varies.
    """
    if isinstance(codes, Tensor):
        codes = codes.detach().double().cpu().numpy()
    rows = np.asarray(codes, dtype=np.float64)
    if rows.ndim != 2 or not rows.shape[1]:
        raise ValueError(f"codes must be (N, L) with at least one column, got {rows.shape}")
    need_rows(len(rows), least)
    bad = ~np.isfinite(rows)
    if bad.any():
        column = int(bad.any(0).argmax())
        raise ValueError(
            f"codes[:, {column}] has {int(bad[:, column].sum())} values of {len(rows)} that are not"
            " finite: look at the encoder's output"
        )
    largest = np.abs(rows).max(0)
    if largest.max() > LARGEST:
        column = int(largest.argmax())
        raise ValueError(
            f"codes[:, {column}] has a value of size {largest[column]:g}, and scores can be "
            f"computed up to {LARGEST:g}: look at the encoder's output"
        )
    varies = np.ptp(rows, axis=0) > np.maximum(ROUNDING * largest, _LEAST_RANGE)
    if not varies.all():
        rows = np.where(varies, rows, rows[0])
    if not may_be_constant and not varies.any():
        raise ValueError(
            f"codes are constant, all columns from codes[:, 0] = {rows[0, 0]:g} on: the encoder "
            "ignores its input, and there is nothing to score"
        )
    return rows


def is_active(codes: Floats) -> NDArray[np.bool_]:
    """(L,) whether a column varies at all."""
    varies: NDArray[np.bool_] = codes.max(0) > codes.min(0)
    return varies


def need_rows(rows: int, least: int) -> None:
    """Raise a ``ValueError`` if there are fewer rows than a score needs."""
    if rows < least:
        raise ValueError(f"codes have {rows} rows, and at least {least} are needed: give more")


class CodeTable:
    """What an encoder gives for ``N`` images, beside their factors.

    The images need not be a full grid of factors. A point that shares one factor with another is
    drawn from the rows that have the same value; in a full grid that is the same as drawing all
    other factors anew, which is what the published protocols do.

    Args:
        codes: (N, L) float tensor or array, the representation: a VAE's posterior means, InfoGAN's
            Q, a layer of a classifier.
        factors: (N, F) tensor or array; None where they are not known, for the scores that need
            none. A column of floats that are no whole numbers is
            continuous: its values are put into ``factor_bins`` bins of equal width wherever a score
            wants values that several images share.
        factor_bins: Bins of continuous factors.
        factor_names: Names of the factors, for errors and results; None: their numbers.

    Attributes:
        codes: (N, L) float64.
        factors: (N, G) float64, the factors that vary.
        values: (N, G) int64, number of the value among those of the factor, from 0 on.
        factor_sizes: Number of values of each of the G factors.
        factor_names: Names of the G factors.
        continuous: Whether each of the G factors was put into bins.
        constant: Names of factors that do not vary and are left out.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, all codes are constant, or no
            factor varies.
    """

    def __init__(
        self,
        codes: Any,
        factors: Any,
        factor_bins: int = NUM_BINS,
        factor_names: tuple[str, ...] | None = None,
    ) -> None:
        if factor_bins < 2:
            raise ValueError(f"factor_bins must be at least 2, got {factor_bins}")
        self.codes = as_codes(codes)
        if isinstance(factors, Tensor):
            factors = factors.detach().double().cpu().numpy()
        known = factors is not None
        table = np.asarray(factors if known else np.empty((len(self.codes), 0)), dtype=np.float64)
        if table.ndim != 2 or len(table) != len(self.codes):
            raise ValueError(
                f"factors must be (N, F) with a row for each of the {len(self.codes)} rows of "
                f"codes, got {table.shape}"
            )
        if not np.isfinite(table).all():
            column = int((~np.isfinite(table)).any(0).argmax())
            raise ValueError(f"factors[:, {column}] has values that are not finite")
        names = factor_names or tuple(str(k) for k in range(table.shape[1]))
        if len(names) != table.shape[1]:
            raise ValueError(
                f"factor_names must be {table.shape[1]}, one for each column, got {len(names)}"
            )
        varies = np.ptp(table, axis=0) > 0
        if known and not varies.any():
            raise ValueError("factors are constant: scores need at least one that varies")
        self.constant = tuple(name for name, v in zip(names, varies, strict=True) if not v)
        self.factor_names = tuple(name for name, v in zip(names, varies, strict=True) if v)
        self.factors = table[:, varies]
        self.continuous = tuple(bool((column % 1 != 0).any()) for column in self.factors.T)
        self._number_values(factor_bins)
        self.origin: Integers = np.arange(len(self.codes))

    def _number_values(self, factor_bins: int) -> None:
        values, orders, starts = [], [], []
        for column, continuous in zip(self.factors.T, self.continuous, strict=True):
            rounded = equal_width_bins(column, factor_bins) if continuous else column
            number = np.unique(rounded, return_inverse=True)[1].ravel()
            values.append(number.astype(np.int64))
            orders.append(np.argsort(number, kind="stable"))
            starts.append(np.concatenate([[0], np.bincount(number).cumsum()]))
        self.values: Integers = np.stack(values, 1) if values else self.factors.astype(np.int64)
        self.factor_sizes = tuple(len(start) - 1 for start in starts)
        # Rows by factor and value, one after the other; where the rows of a value start.
        self._orders, self._starts = orders, starts

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def num_factors(self) -> int:
        """Number of factors that vary; 0 where none are known."""
        return len(self.factor_sizes)

    def rows(self, count: int, rng: np.random.Generator) -> Integers:
        """Row numbers, drawn without replacement; all rows where there are no more.

        Args:
            count: How many.
            rng: Source of the draw.
        """
        drawn: Integers = rng.permutation(len(self))[:count]
        return drawn

    def split(self, train: int, test: int, rng: np.random.Generator) -> tuple[Integers, Integers]:
        """Row numbers of two parts that share no image.

        Args:
            train: Rows of the first part.
            test: Rows of the second. Where there are fewer rows in all, they are divided in this
                proportion.
            rng: Source of the draw.

        Returns:
            (train,) and (test,).
        """
        place = rng.permutation(int(self.origin.max()) + 1)
        rows = np.argsort(place[self.origin], kind="stable")
        sizes = self.part_sizes(train, test)
        cut, end = sizes[0], sum(sizes)
        # Copies of one image, as a resampled table has, stay together.
        while 0 < cut < len(rows) and self.origin[rows[cut]] == self.origin[rows[cut - 1]]:
            cut += 1
        return rows[:cut], rows[cut:end]

    def part_sizes(self, train: int, test: int) -> tuple[int, int]:
        """Rows of the two parts of :meth:`split` where no image comes twice."""
        share = min(1.0, len(self) / (train + test))
        cut = round(train * share)
        return cut, round((train + test) * share) - cut

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Integers:
        """Row numbers of any shape, drawn with replacement."""
        return rng.integers(len(self), size=shape)

    def sharing(self, rows: Integers, factor: int, rng: np.random.Generator) -> Integers:
        """For each of some rows a row that has the same value of a factor.

        Args:
            rows: Row numbers of any shape.
            factor: Number of the factor.
            rng: Source of the draw, uniform over the rows of that value.
        """
        start = self._starts[factor]
        value = self.values[rows, factor]
        count = start[value + 1] - start[value]
        offset = (rng.random(rows.shape) * count).astype(np.int64)
        shared: Integers = self._orders[factor][start[value] + offset]
        return shared

    def resampled(self, rng: np.random.Generator) -> Self:
        """A table of as many rows, drawn with replacement, to tell how much a score varies."""
        rows = self.draw((len(self),), rng)
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.codes, other.factors = self.codes[rows], self.factors[rows]
        other.values, other.origin = self.values[rows], self.origin[rows]
        other._orders = [np.argsort(column, kind="stable") for column in other.values.T]
        other._starts = [
            np.concatenate([[0], np.bincount(column, minlength=size).cumsum()])
            for column, size in zip(other.values.T, self.factor_sizes, strict=True)
        ]
        return other


def equal_width_bins(values: Floats, num_bins: int) -> Integers:
    """Number of the bin of each value, from 0 on; bins are as wide as each other.

    Args:
        values: (N,).
        num_bins: Bins between the smallest and the largest value.
    """
    edges = np.histogram_bin_edges(values, num_bins)
    bins: Integers = np.searchsorted(edges[:-1], values, side="right") - 1
    return bins
