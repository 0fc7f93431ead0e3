"""Features of frozen layers, computed once per image in place of once per epoch."""

import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor

log = logging.getLogger(__name__)


class FeatureCache:
    """Keeps what frozen layers make of each image of a data set, by its ``index``.

    Right only while neither the layers nor the images change; whoever uses it makes sure of that.
    Data sets are told apart as objects, and forgotten with them. Not part of a checkpoint.

    Args:
        limit_gib: Memory of the features of all data sets together, in GiB. Those of a data set
            that need more than is left of it are not kept.

    Raises:
        ValueError: The limit is not positive.
    """

    def __init__(self, limit_gib: float = 4.0) -> None:
        if not limit_gib > 0:
            raise ValueError(f"limit_gib must be greater than 0, got {limit_gib}")
        self.limit_gib = limit_gib
        self._features: WeakKeyDictionary[Any, Tensor] = WeakKeyDictionary()
        self._known: WeakKeyDictionary[Any, Tensor] = WeakKeyDictionary()
        self._told: WeakSet[Any] = WeakSet()

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process or into a copy of the model: no features."""
        return {"limit_gib": self.limit_gib}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __contains__(self, dataset: Any) -> bool:
        return dataset in self._features

    def clear(self) -> None:
        """Forget everything, as when the layers have changed."""
        self._features.clear()
        self._known.clear()
        self._told.clear()

    @torch.no_grad()
    def get(
        self,
        dataset: Any,
        index: Tensor,
        image: Tensor,
        compute: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Features of a batch, computed for those of its images that are not known yet.

        Args:
            dataset: The data set that ``index`` counts in.
            index: (B,) int64.
            image: (B, C, H, W).
            compute: The frozen layers.

        Returns:
            (B, ...) as ``compute(image)``.
        """
        known = self._known.get(dataset)
        if known is None:
            features = compute(image)
            size = len(dataset)
            need = features[0].numel() * features.element_size() * size / 2**30
            left = self.limit_gib - sum(kept.nbytes for kept in self._features.values()) / 2**30
            if need > left:
                if dataset not in self._told:  # Once for all of its batches.
                    self._told.add(dataset)
                    says = "frozen features of %d images need %.1f GiB, %.1f are left: not kept"
                    log.info(says, size, need, left)
                return features
            self._features[dataset] = features.new_empty((size, *features.shape[1:]))
            known = self._known[dataset] = torch.zeros(size, dtype=torch.bool, device=index.device)
            new = torch.ones_like(index, dtype=torch.bool)
        else:
            new = ~known[index]
            if not bool(new.any()):
                return self._features[dataset][index]
            features = compute(image[new])
        self._features[dataset][index[new]] = features
        known[index] = True
        return self._features[dataset][index]
