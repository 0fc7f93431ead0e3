"""Part templates of the interpretable CNN: keep a feature map's activation near its peak."""

import torch
from einops import rearrange
from torch import Tensor, nn


def peak_cells(maps: Tensor) -> Tensor:
    """Row and column of the strongest position of each map, ``mu_hat = argmax x``.

    Args:
        maps: (..., H, W).

    Returns:
        (..., 2) int64, (row, column).
    """
    width = maps.shape[-1]
    flat = maps.flatten(-2).argmax(-1)
    return torch.stack((flat // width, flat % width), dim=-1)


def positive_templates(peaks: Tensor, height: int, width: int, beta: float = 4.0) -> Tensor:
    """The templates of given peaks, ``max(1 - beta |[i, j] - mu|_1 / n, -1)``, without their tau.

    On a map that is not square each axis is divided by its own length.

    Args:
        peaks: (..., 2) row and column of ``mu``.
        height: Rows ``n`` of the map.
        width: Columns ``n`` of the map.
        beta: How fast a template falls off with distance.

    Returns:
        (..., height, width) in [-1, 1], one at the peak. Source: Zhang et al. 2018, section 3.
    """
    rows = torch.arange(height, device=peaks.device)
    columns = torch.arange(width, device=peaks.device)
    row, column = rearrange(peaks, "... dim -> dim ... 1").unbind(0)
    away = rearrange((rows - row).abs() / height, "... h -> ... h 1") + rearrange(
        (columns - column).abs() / width, "... w -> ... 1 w"
    )
    return (1 - beta * away).clamp(min=-1)


class PartTemplate(nn.Module):
    """Multiplies each feature map with the template at its own peak, ``max(x * T_mu_hat, 0)``.

    The template peaks at one rather than at the paper's ``tau = 0.5 / n^2``: a constant factor
    that the following layer would have to undo.

    Args:
        beta: How fast a template falls off with distance, in (0, inf); at 4 the mask reaches zero
            a quarter of the map away from the peak.
    """

    def __init__(self, beta: float = 4.0) -> None:
        super().__init__()
        if not beta > 0:
            raise ValueError(f"beta must be greater than 0, got {beta}")
        self.beta = beta

    def forward(self, maps: Tensor) -> Tensor:
        """Mask non-negative feature maps (B, U, H, W); the result has the same shape."""
        height, width = maps.shape[-2:]
        templates = positive_templates(peak_cells(maps.detach()), height, width, self.beta)
        # For x >= 0, max(x T, 0) = x max(T, 0): one product to differentiate.
        return maps * templates.clamp(min=0).to(maps.dtype)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"beta={self.beta}"
