"""Features of frozen layers, computed once per image in place of once per epoch."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

log = logging.getLogger(__name__)


class FeatureCache:
    """Keeps what frozen layers make of each image of a split, by its ``index``.

    Right only while neither the layers nor the images change; whoever uses it makes sure of that.
    Not part of a checkpoint.

    Args:
        limit_gib: Splits whose features need more memory than this are not kept, in GiB.

    Raises:
        ValueError: The limit is not positive.
    """

    def __init__(self, limit_gib: float = 2.0) -> None:
        if not limit_gib > 0:
            raise ValueError(f"limit_gib must be greater than 0, got {limit_gib}")
        self.limit_gib = limit_gib
        self._features: dict[str, Tensor] = {}
        self._known: dict[str, Tensor] = {}

    def __contains__(self, split: str) -> bool:
        return split in self._features

    def clear(self) -> None:
        """Forget everything, as when the layers have changed."""
        self._features.clear()
        self._known.clear()

    @torch.no_grad()
    def get(
        self,
        split: str,
        size: int,
        index: Tensor,
        image: Tensor,
        compute: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Features of a batch, computed for those of its images that are not known yet.

        Args:
            split: Name of the split that ``index`` counts in.
            size: Number of images of the split.
            index: (B,) int64.
            image: (B, C, H, W).
            compute: The frozen layers.

        Returns:
            (B, ...) as ``compute(image)``.
        """
        known = self._known.get(split)
        if known is None:
            features = compute(image)
            need = features[0].numel() * features.element_size() * size / 2**30
            if need > self.limit_gib:
                log.info("frozen features of %s need %.1f GiB: not kept", split, need)
                return features
            self._features[split] = features.new_empty((size, *features.shape[1:]))
            known = self._known[split] = torch.zeros(size, dtype=torch.bool, device=index.device)
            new = torch.ones_like(index, dtype=torch.bool)
        else:
            new = ~known[index]
            if not bool(new.any()):
                return self._features[split][index]
            features = compute(image[new])
        self._features[split][index[new]] = features
        known[index] = True
        return self._features[split][index]
