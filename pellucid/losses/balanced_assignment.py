"""As many filters for each category, and each filter as near to its own as that allows."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def balanced_assignment(strength: Tensor) -> Tensor:
    """Assign filters to categories so that each category has its share of them.

    Maximises ``sum_u r[c(u), u]`` with ``r`` the strength of a filter on a category as a share of
    that on all, over all assignments that give each category ``U // K`` filters, and one more to
    ``U % K`` of them at the most. A filter that answers all categories alike has nothing to lose,
    so goes where one is missing.

    Args:
        strength: (K, U) how strongly each filter answers each category, at least 0.

    Returns:
        (U,) int64, the category of each filter.
    """
    categories, units = strength.shape
    strength = strength.detach().double().cpu()
    share = strength / strength.sum(0, keepdim=True).clamp(min=1e-30)
    full = units // categories
    places = full + (units % categories > 0)
    gain = share.T.repeat_interleave(places, dim=1)
    # More than all shares together: the places that each category must fill come before the last.
    gain[:, torch.arange(categories * places) % places < full] += units + 1
    place = linear_sum_assignment(gain.numpy(), maximize=True)[1]
    return torch.from_numpy(place).to(torch.int64) // places
