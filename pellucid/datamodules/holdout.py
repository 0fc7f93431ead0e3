"""Validation images out of a training set that was published without any."""

import torch
from torch import Tensor

from pellucid.datamodules.errors import DataError


def stratified_holdout(labels: Tensor, share: float, seed: int) -> Tensor:
    """Choose the same share of every class at random.

    Args:
        labels: (N,) int64, classes of the training images.
        share: Share of each class to hold out, in (0, 1); of a class, the nearest number of
            images and at least one.
        seed: Seed of the choice; the same labels, share and seed give the same images.

    Returns:
        (N,) bool, true where an image is held out.

    Raises:
        DataError: A class would have no training image left.
        ValueError: ``share`` is out of its range.
    """
    check_share(share)
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in sorted(set(labels.tolist())):
        members = (labels == label).nonzero()[:, 0]
        count = max(1, round(share * len(members)))
        if count >= len(members):
            raise DataError(
                f"class number {label} (from 0) has {len(members)} training images, of which "
                f"val_share {share} takes {count} for validation; add images or lower val_share"
            )
        held[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return held


def check_share(share: float) -> None:
    """Check a share before any file is read.

    Args:
        share: Share of each class to hold out.

    Raises:
        ValueError: It is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(
            f"val_share must be above 0 and below 1, got {share}; 0.1 holds out one training "
            "image in ten"
        )
