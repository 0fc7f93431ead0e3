"""The images on which each unit responds most, found in one pass and held at a fixed size."""

from typing import NamedTuple, Self

import torch
from einops import rearrange, repeat
from torch import Tensor
from torchmetrics import Metric

from pellucid.distributed import is_distributed
from pellucid.metrics.part_metric import check_shape

INDEX_LIMIT = 2**30
"""Positions in a split are below it; images without one are numbered from it."""


class StrongestImages(NamedTuple):
    """Units' responses to images, ``N`` images in each of the ``R`` rows that a unit has.

    Images that do not belong in a row have the score -inf.
    """

    scores: Tensor
    """(U, R, N) float32, the unit's greatest response in the image."""
    images: Tensor
    """(U, R, N) int64, the image's number."""
    values: Tensor
    """(U, R, N, D) float32, what is known of the unit in the image."""

    def join(self, other: Self) -> Self:
        """The images of both."""
        return type(self)(*(torch.cat(pair, 2) for pair in zip(self, other, strict=True)))

    def best(self, count: int) -> Self:
        """The images with the greatest scores, each at most once, in an order of their own.

        Sorted by falling score and, at equal scores, rising number; so the result depends neither
        on the order in which images came nor on how they were divided.
        """
        # One key for "by number, then by falling score": the same image's scores stand side by
        # side, the best first. Floats compare as their bits do, once those of negative ones are
        # flipped; adding zero makes -0 to +0.
        bits = (self.scores + 0.0).view(torch.int32)
        bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        key, order = ((self.images << 32) | (0x7FFFFFFF - bits.long())).sort(-1)
        number = key >> 32
        scores = self.scores.gather(-1, order)
        scores[..., 1:].masked_fill_(number[..., 1:] == number[..., :-1], -torch.inf)
        scores, best = scores.sort(dim=-1, descending=True, stable=True)
        order = order.gather(-1, best[..., :count])
        width = self.values.shape[-1]
        return type(self)(
            scores[..., :count],
            self.images.gather(-1, order),
            self.values.gather(-2, repeat(order, "u r n -> u r n d", d=width)),
        )


def number_images(
    index: Tensor | None,
    count: int,
    device: torch.device,
    first: int = INDEX_LIMIT,
    step: int = 1,
) -> Tensor:
    """The number by which each image of a batch is known.

    Args:
        index: (B,) int64 from 0 to 2**30 - 1, position in the split; None: there is none.
        count: Images in the batch, ``B``.
        device: Where the number is wanted.
        first: Number of the first image where there is no index.
        step: From one such number to the next.

    Returns:
        (B,) int64.

    Raises:
        ValueError: If the index has a wrong shape or is out of range.
    """
    if index is None:
        return first + step * torch.arange(count, device=device)
    check_shape("index", index, (count,))
    low, high = (int(i) for i in index.aminmax()) if count else (0, 0)
    if low < 0 or high >= INDEX_LIMIT:
        raise ValueError(f"index must be from 0 to 2**30 - 1, got {low} to {high}")
    return index


class KeepsStrongest(Metric):
    """The states of a metric that keeps each unit's strongest images."""

    scores: Tensor
    index: Tensor
    values: Tensor
    count: Tensor

    def _add_strongest_states(self, units: int, rows: int, top_k: int, width: int) -> None:
        """Make room for ``top_k`` images with ``width`` values in each row of each unit."""
        self.top_k = top_k
        shape = (units, rows, top_k)
        # Gathered states stay side by side (no reduction), as they can only be merged together.
        self.add_state("scores", torch.full(shape, -torch.inf), dist_reduce_fx=None)
        self.add_state("index", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx=None)
        self.add_state("values", torch.zeros(*shape, width), dist_reduce_fx=None)
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def _number_images(self, index: Tensor | None, count: int) -> Tensor:
        """Numbers of a batch that no other image has, on this process or another."""
        step = torch.distributed.get_world_size() if is_distributed() else 1
        rank = torch.distributed.get_rank() if is_distributed() else 0
        first = INDEX_LIMIT + rank + step * int(self.count)
        number = number_images(index, count, self.device, first, step)
        self.count = self.count + count
        return number

    def _keep(self, batch: StrongestImages) -> None:
        kept = StrongestImages(self.scores, self.index, self.values)
        self.scores, self.index, self.values = kept.join(batch).best(self.top_k)

    def _strongest(self) -> StrongestImages:
        """Those of all processes, inside ``compute``."""
        kept = StrongestImages(self.scores, self.index, self.values)
        if kept.scores.ndim == 4:
            gathered = (rearrange(state, "p u r n ... -> u r (p n) ...") for state in kept)
            kept = StrongestImages(*gathered).best(self.top_k)
        return kept
