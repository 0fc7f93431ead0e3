"""Attention against annotation: masks of what is relevant, or maps of where people look."""

from typing import Literal, get_args

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.distributed import gather_with_gradient

Divergence = Literal["kl", "outside"]

_TINY = 1e-8
"""Attention that is added to all positions together: one that soft-max rounds to zero has no
infinite loss, and an image without any attention counts as uniform."""
_LEAST = torch.finfo(torch.float32).tiny
"""What an annotation is divided by at least: it may be of any scale, and zero."""


def relevance_on_grid(relevant: Tensor, cells: tuple[int, int]) -> Tensor:
    """Mean of the annotation over each cell of a grid that tiles the image.

    Args:
        relevant: (B, H, W) bool, or float from 0 on.
        cells: Rows and columns of the grid.

    Returns:
        (B, h, w) float32.

    Raises:
        ValueError: The annotation has not three axes, fewer pixels than the grid has cells, or
            values that are negative or not finite.
    """
    if relevant.ndim != 3 or relevant.shape[1] < cells[0] or relevant.shape[2] < cells[1]:
        raise ValueError(
            f"relevant must have shape (B, H, W) with at least {cells[0]} x {cells[1]} pixels, the "
            f"attention's grid, got {tuple(relevant.shape)}: give masks of the images' size"
        )
    if relevant.is_floating_point() and not bool((relevant.isfinite() & (relevant >= 0)).all()):
        raise ValueError(
            f"relevant must be finite and at least 0, got values from {float(relevant.min()):g} to "
            f"{float(relevant.max()):g}: give an image without annotation zeros"
        )
    return F.adaptive_avg_pool2d(relevant.float(), cells)


def attention_supervision_loss(
    attention: Tensor, relevant: Tensor, divergence: Divergence = "kl"
) -> tuple[Tensor, Tensor]:
    """How far attention is from what is relevant, per image.

    ``kl``: ``sum_i t_i log(t_i / a_i)`` with the annotation ``t`` normalised to a sum of one over
    the cells: attend to all that is relevant. ``outside``: ``sum_i a_i (1 - r_i)`` with the share
    ``r_i`` of the cell that is relevant (floating maps are divided by their maximum): attend to
    nothing else. ``a`` is the mean attention of the heads, divided by its sum over the cells.

    Args:
        attention: (B, U, h, w), at least 0; uniform where an image has none at all.
        relevant: (B, H, W) bool, or float from 0 on, on the image's pixels; all zero: the image is
            not annotated.
        divergence: ``kl`` or ``outside``.

    Returns:
        (B,) nats (``kl``, from 0) or a share (``outside``, in [0, 1]), 0 where there is no
        annotation; and (B,) bool, whether there is. ``outside`` is one minus the energy-based
        pointing game of Wang et al., Score-CAM, CVPR workshops 2020.

    Raises:
        ValueError: A shape is wrong, or the annotation is negative or not finite.
    """
    if attention.ndim != 4 or len(attention) != len(relevant):
        raise ValueError(
            f"attention must have shape (B, U, h, w) with the B of relevant "
            f"{tuple(relevant.shape)}, got {tuple(attention.shape)}"
        )
    target = relevance_on_grid(relevant, (attention.shape[2], attention.shape[3]))
    target = rearrange(target, "b h w -> b (h w)")
    annotated = target.amax(1) > 0
    mean = rearrange(reduce(attention.float(), "b u h w -> b h w", "mean"), "b h w -> b (h w)")
    mean = mean + _TINY / mean.shape[1]
    mean = mean / mean.sum(1, keepdim=True)
    if divergence == "outside":
        if relevant.is_floating_point():
            target = target / target.amax(1, keepdim=True).clamp(min=_LEAST)
        loss = (mean * (1 - target)).sum(1)
    else:
        target = target / target.sum(1, keepdim=True).clamp(min=_LEAST)
        loss = (torch.xlogy(target, target) - target * mean.log()).sum(1)
    return torch.where(annotated, loss, 0.0), annotated


class AttentionSupervisionLoss(nn.Module):
    """Mean of :func:`attention_supervision_loss` over the annotated images of a batch.

    Args:
        divergence: ``kl``: attention spreads over all that is relevant; ``outside``: it only has to
            stay inside.
        gather: Whether the mean is over the images of all devices, with exact gradients.

    Raises:
        ValueError: There is no such divergence.
    """

    def __init__(self, divergence: Divergence = "kl", gather: bool = True) -> None:
        super().__init__()
        if divergence not in get_args(Divergence):
            allowed = " or ".join(get_args(Divergence))
            raise ValueError(f"divergence must be {allowed}, got {divergence!r}")
        self.divergence, self.gather = divergence, gather

    def forward(self, attention: Tensor, relevant: Tensor) -> Tensor:
        """Mean over the annotated images, 0 if there is none.

        Args:
            attention: (B, U, h, w), at least 0.
            relevant: (B, H, W) bool, or float from 0 on; all zero: not annotated.

        Returns:
            Scalar; nats for ``kl``, a share for ``outside``.
        """
        # Logarithms of small probabilities are not for half precision.
        with torch.autocast(attention.device.type, enabled=False):
            loss, annotated = attention_supervision_loss(attention, relevant, self.divergence)
            if self.gather:
                loss, annotated = gather_with_gradient(loss), gather_with_gradient(annotated)
            return loss.sum() / annotated.sum().clamp(min=1)
