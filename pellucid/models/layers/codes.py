"""What a generator draws from: noise, continuous codes and categorical ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Codes:
    """Latents of ``B`` images."""

    noise: Tensor
    """(B, N) in [-1, 1]."""
    continuous: Tensor
    """(B, C); drawn in [-1, 1], but generators also take values outside."""
    categories: Tensor
    """(B, K) int64: the category of each categorical code."""

    def repeated(self, times: int) -> Self:
        """Each row ``times`` times, one after the other."""
        return type(self)(
            # In memory of their own, so that one code can be given other values.
            noise=self.noise.repeat_interleave(times, 0),
            continuous=self.continuous.repeat_interleave(times, 0),
            categories=self.categories.repeat_interleave(times, 0),
        )


class CodeSpace:
    """How latents are drawn, and how a generator's input is made of them.

    Noise and continuous codes are uniform on [-1, 1], categorical codes uniform over their
    categories, all independent.

    Args:
        num_noise: Noise variables, at least 0.
        num_continuous: Continuous codes, at least 0.
        categorical: Number of categories of each categorical code, at least 2.

    Raises:
        ValueError: An argument is outside its range, or nothing is to be drawn.
    """

    def __init__(
        self, num_noise: int, num_continuous: int = 0, categorical: Sequence[int] = ()
    ) -> None:
        for name, value in (("num_noise", num_noise), ("num_continuous", num_continuous)):
            if value < 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if any(size < 2 for size in categorical):
            raise ValueError(
                f"categorical must have at least 2 categories in each code, got {list(categorical)}"
            )
        self.num_noise, self.num_continuous = num_noise, num_continuous
        self.categorical = tuple(categorical)
        if not self.num_latents:
            raise ValueError("num_noise must be above 0 where there are no codes, got 0")

    @property
    def num_codes(self) -> int:
        """Continuous codes and all categories of the categorical ones."""
        return self.num_continuous + sum(self.categorical)

    @property
    def num_latents(self) -> int:
        """Width of the generator's input."""
        return self.num_noise + self.num_codes

    def sample(
        self, count: int, device: torch.device, generator: torch.Generator | None = None
    ) -> Codes:
        """Draw latents.

        Args:
            count: Number of images, ``B``.
            device: Where the codes are wanted.
            generator: Source on the CPU of what is drawn; None: the device's own.
        """
        where = device if generator is None else torch.device("cpu")

        def uniform(width: int) -> Tensor:
            values = torch.rand(count, width, generator=generator, device=where)
            return (2 * values - 1).to(device)

        noise, continuous = uniform(self.num_noise), uniform(self.num_continuous)
        drawn = [
            torch.randint(size, (count,), generator=generator, device=where)
            for size in self.categorical
        ]
        empty = torch.zeros(count, 0, dtype=torch.int64, device=where)
        categories = (torch.stack(drawn, 1) if drawn else empty).to(device)
        return Codes(noise=noise, continuous=continuous, categories=categories)

    def join(self, codes: Codes) -> Tensor:
        """(B, num_latents) input of a generator: noise, continuous codes, one-hot categories."""
        one_hot = [
            F.one_hot(codes.categories[:, i], size).to(codes.noise.dtype)
            for i, size in enumerate(self.categorical)
        ]
        return torch.cat([codes.noise, codes.continuous, *one_hot], 1)
