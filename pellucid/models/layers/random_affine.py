"""Small random affine maps of images, which leave what they show as it is."""

import torch
from torch import Tensor
from torch.nn import functional as F


def random_affine(image: Tensor, strength: float = 0.15) -> Tensor:
    """Turn, scale, shear and shift each image a little, differently.

    Args:
        image: (B, C, H, W); what comes in from outside is 0.
        strength: Standard deviation of the entries of the 2 x 2 matrix about the identity, and of
            the shift in half image widths; at least 0. At 0.15 digits stay themselves.

    Returns:
        (B, C, H, W), bilinear.

    Raises:
        ValueError: ``strength`` is below 0.
    """
    if not strength >= 0:
        raise ValueError(f"strength must be at least 0, got {strength}; usual is 0.15")
    drawn = strength * torch.randn(len(image), 2, 3, device=image.device)
    maps = torch.eye(2, 3, device=image.device) + drawn
    grid = F.affine_grid(maps, list(image.shape), align_corners=False)
    return F.grid_sample(image.float(), grid, align_corners=False)
