"""Superpixels: the regions that LIME and KernelSHAP keep or hide as a whole."""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

SAMPLES = 1000
"""Images with hidden regions that the network looks at for each image; the default of the authors'
code of LIME."""
Kind = Literal["slic", "grid"]
Baseline = Literal["zero", "mean"]

COMPACTNESS = 10.0
"""Of SLIC: how much nearness counts beside colour; the default of scikit-image."""


class Superpixels:
    """How images are cut into regions, and what a hidden region looks like.

    Args:
        kind: ``slic``: regions of like colour (Achanta et al., *SLIC Superpixels*, TPAMI 2012), by
            scikit-image; ``grid``: squares, which need no package.
        count: About how many regions an image has; ``grid`` has the nearest square number.
        baseline: What a hidden region shows: ``zero``, the mean of the data where images are
            normalised, as grey as it gets; ``mean``, its own mean colour, which hides little where
            regions are of one colour.

    Raises:
        ValueError: An argument is outside its range, or the package is missing.
    """

    def __init__(self, kind: Kind, count: int, baseline: Baseline) -> None:
        for name, value, allowed in (
            ("superpixels", kind, get_args(Kind)),
            ("baseline", baseline, get_args(Baseline)),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        if count < 2:
            raise ValueError(
                f"num_superpixels must be at least 2, got {count}; the usual value is 50"
            )
        if kind == "slic":
            _import_slic()
        self.kind, self.count, self.baseline = kind, count, baseline

    def cut(self, image: Tensor) -> list[Tensor]:
        """The regions of each image.

        Args:
            image: (B, C, H, W) float.

        Returns:
            B labels (H, W) int64, from 0 on without gaps; images differ in how many.
        """
        if self.kind == "grid":
            labels = _grid(self.count, image.shape[-2], image.shape[-1]).to(image.device)
            return [labels] * len(image)
        return [_slic(each, self.count).to(image.device) for each in image]

    def hidden(self, image: Tensor, labels: Tensor) -> Tensor:
        """An image (C, H, W) with every region of ``labels`` (H, W) hidden."""
        if self.baseline == "zero":
            return torch.zeros_like(image)
        pixels = rearrange(image, "c h w -> c (h w)")
        flat = rearrange(labels, "h w -> (h w)")
        sums = pixels.new_zeros(len(image), int(labels.max()) + 1).index_add_(1, flat, pixels)
        means = sums / torch.bincount(flat).to(sums.dtype)
        return means[:, labels]


def check_samples(samples: int, batch_size: int) -> None:
    """Check how many images with hidden regions a network is to look at.

    Raises:
        ValueError: ``samples`` is below 2, or ``batch_size`` below 1.
    """
    for name, value, least in (("samples", samples, 2), ("batch_size", batch_size, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def keep(image: Tensor, hidden: Tensor, labels: Tensor, kept: Tensor) -> Tensor:
    """Images in which some regions are hidden.

    Args:
        image: (C, H, W).
        hidden: (C, H, W), the same with all regions hidden.
        labels: (H, W) int64, the regions.
        kept: (N, M) bool, for N images which of the M regions are kept.

    Returns:
        (N, C, H, W).
    """
    return torch.where(rearrange(kept[:, labels], "n h w -> n 1 h w"), image, hidden)


def spread(values: Tensor, labels: Tensor) -> Tensor:
    """Spread each region's value evenly over its pixels, so that the map sums to the values.

    Args:
        values: (M,) float.
        labels: (H, W) int64.

    Returns:
        (H, W) float.
    """
    size = torch.bincount(rearrange(labels, "h w -> (h w)"), minlength=len(values))
    return (values / size.to(values.dtype).clamp(min=1))[labels]


@torch.no_grad()
def target_scores(
    network: Callable[[Tensor], Tensor], images: Tensor, target: int, batch_size: int
) -> Tensor:
    """(N,) float64, on the CPU: scores of one class, ``batch_size`` images at a time."""
    parts = [network(part)[:, target].cpu().double() for part in torch.split(images, batch_size)]
    return torch.cat(parts)


def _grid(count: int, height: int, width: int) -> Tensor:
    side = max(1, round(math.sqrt(count)))
    if side > min(height, width):
        raise ValueError(
            f"num_superpixels must be at most {min(height, width) ** 2} for images of "
            f"{height} x {width} pixels on a grid, got {count}"
        )
    row, column = ((torch.arange(n) * side) // n for n in (height, width))
    return repeat(row, "h -> h w", w=width) * side + repeat(column, "w -> h w", h=height)


def _slic(image: Tensor, count: int) -> Tensor:
    pixels = image.detach().float().cpu()
    # Normalised images have any range; colours are compared in [0, 1].
    low = reduce(pixels, "c h w -> c 1 1", "min")
    high = reduce(pixels, "c h w -> c 1 1", "max")
    pixels = (pixels - low) / (high - low).clamp(min=1e-8)
    found = _import_slic()(
        rearrange(pixels, "c h w -> h w c").double().numpy(),
        n_segments=count,
        compactness=COMPACTNESS,
        start_label=0,
        channel_axis=-1,
        convert2lab=len(pixels) == 3,
    )
    numbers: Tensor = torch.unique(torch.from_numpy(found).long(), return_inverse=True)[1]
    return numbers


def _import_slic() -> Callable[..., Any]:
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise ValueError(
            "superpixels 'slic' needs scikit-image: pip install 'pellucid[superpixels]', or use "
            "superpixels 'grid'"
        ) from error
    found: Callable[..., Any] = slic
    return found
