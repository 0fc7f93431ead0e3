"""Attention roll-out: how much of each input token reaches each token through all layers.

Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020 (arXiv 2005.00928),
section 3.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def attention_rollout(attention: Sequence[Tensor]) -> Tensor:
    """Product of the layers' attention, the residual connections counted in.

    Each layer's matrix is ``0.5 W + 0.5 I``, the identity standing for the residual connection
    (equation 1 of the paper, whose rows sum to one as those of ``W`` do); the last layer's comes
    first in the product.

    Args:
        attention: (B, N, N) float of each layer from the first on, averaged over heads; rows, which
            are queries, sum to one.

    Returns:
        (B, N, N) float; rows sum to one: entry (i, j) is the share of input token j in token i of
        the last layer.

    Raises:
        ValueError: There is no layer, or its matrices are not square.
    """
    if not attention:
        raise ValueError("attention must have at least one layer, got none")
    first = attention[0]
    if first.ndim != 3 or first.shape[1] != first.shape[2]:
        raise ValueError(
            f"attention must have shape (B, N, N) per layer, got {tuple(first.shape)}; average "
            "over heads first"
        )
    identity = torch.eye(first.shape[1], device=first.device)
    rolled = identity.expand(first.shape)
    for weights in attention:
        mixed = 0.5 * weights.float() + 0.5 * identity
        # Rows of low-precision attention sum to one but roughly, which a product would amplify.
        rolled = mixed / mixed.sum(-1, keepdim=True) @ rolled
    return rolled
