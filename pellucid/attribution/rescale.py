"""The rescale rule: a function as the straight line through its values at image and baseline.

Source: Shrikumar, Greenside and Kundaje, ICML 2017 (arXiv 1704.02685), section 3.5.2. Each function
here has the value of the one that it stands for, and the gradient of its line.
"""

from typing import Any

import torch
from torch import Tensor

_LEAST = 1e-8
"""Difference of an activation's inputs below which its slope is its derivative."""


def rescale(value: Tensor, function: Any) -> Tensor:
    """An elementwise function as the line through its values at the image and at the baseline.

    Args:
        value: (2 B, ...), images first, then their baselines.
        function: Maps a tensor to one of the same shape.
    """
    with torch.no_grad():
        result = function(value)
        change, rise = _difference(value), _difference(result)
        far = change.abs() > _LEAST
        slope = torch.where(far, rise / torch.where(far, change, 1.0), 0.0)
    if not far.all():
        with torch.enable_grad():
            here = value.detach()[: len(value) // 2].requires_grad_()
            (derivative,) = torch.autograd.grad(function(here).sum(), here)
        slope = torch.where(far, slope, derivative)
    return _through(result, value * twice(slope))


def rescale_maximum(value: Tensor, pool: Any) -> Tensor:
    """Max pooling as a line through its values at the image and at the baseline.

    Args:
        value: (2 B, C, H, W), images first.
        pool: Gives maxima and their places in the flattened plane, (2 B, C, h, w) each.
    """
    with torch.no_grad():
        result, places = pool(value)
        own, reference = result.chunk(2)
        highest = torch.maximum(own, reference)
        own_place, reference_place = (each.flatten(2) for each in places.chunk(2))
        change = _difference(value).flatten(2)
        gained = _ratio((highest - reference).flatten(2), change.gather(2, own_place))
        lost = _ratio((own - highest).flatten(2), change.gather(2, reference_place))
    flat = value.flatten(2)
    line = flat.gather(2, twice(own_place)) * twice(gained)
    line = line + flat.gather(2, twice(reference_place)) * twice(lost)
    return _through(result, line.view_as(result))


def rescale_product(first: Tensor, second: Tensor, product: Any) -> Tensor:
    """A product, linear in each factor, as a line through its values at image and baseline.

    Args:
        first: (2 B, ...), or without the batch where it does not depend on the image.
        second: Likewise.
        product: Multiplies the two.
    """
    result = product(first, second).detach()
    line = torch.zeros_like(result)
    if first.requires_grad:
        line = line + product(first, _mean(second))
    if second.requires_grad:
        line = line + product(_mean(first), second)
    return _through(result, line)


def rescale_masked(value: Tensor, factor: Tensor) -> Tensor:
    """A product with a factor of each image's own that no gradient reaches.

    Args:
        value: (2 B, ...), images first.
        factor: (2 B, ...), which may differ between image and baseline.
    """
    with torch.no_grad():
        result = value * factor
        own, reference = (value.expand_as(result)).chunk(2)
        change, rise = own - reference, _difference(result)
        far = change.abs() > _LEAST
        slope = torch.where(far, rise / torch.where(far, change, 1.0), 0.0)
        slope = torch.where(far, slope, factor.expand_as(result).chunk(2)[0])
    return _through(result, value * twice(slope))


def _difference(value: Tensor) -> Tensor:
    own, reference = value.chunk(2)
    return own - reference


def _mean(value: Tensor) -> Tensor:
    """The mean of image and baseline, for both; a factor without them is its own."""
    if not value.requires_grad:
        return value
    own, reference = value.detach().chunk(2)
    return twice((own + reference) / 2)


def twice(value: Tensor) -> Tensor:
    """The same for images and baselines."""
    return torch.cat((value, value))


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    far = whole.abs() > _LEAST
    return torch.where(far, part / torch.where(far, whole, 1.0), 0.0)


def _through(result: Tensor, line: Tensor) -> Tensor:
    """``result`` in value, ``line`` in gradient."""
    return line + (result - line).detach()
