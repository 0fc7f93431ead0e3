"""Which objects of ILSVRC Animal-Part are for training, validation and test.

The rule is the released code's: nine tenths of a category's objects, evenly spaced, are for
training and the rest for the test. Here it is applied to the training objects once more, and what
it leaves of them is ``val``; so the splits hold 81, 9 and 10 % and no checkpoint is ever chosen on
test images. Negatives are split likewise.

The released code with several categories splits a list in which each object stands next to its
mirror image, so that it trains on most test objects. Here a split is over objects, always, and no
object is in two splits. A photograph with several animals is several objects, though, and may be
in two splits, as in the released code: of the published cattle 14 of 23 test objects, of the other
categories up to 16 %, are cut from a photograph of which another object is in ``train``.
"""

from pathlib import Path

import numpy as np

from pellucid.datamodules.base import Split
from pellucid.datamodules.errors import DataError

TRAIN_SHARE = 0.9


def evenly_spaced(count: int) -> list[int]:
    """Nine tenths of ``range(count)`` by the released code's rule.

    In MATLAB, from 1: ``round(linspace(1, count, round(0.9 * count)))``.
    """
    # NumPy rounds halves to even, MATLAB away from zero.
    length = int(np.floor(TRAIN_SHARE * count + 0.5))
    return [int(i) for i in np.floor(np.linspace(1, count, length) + 0.5) - 1]


def chosen(split: Split, count: int) -> list[int]:
    """Indices of a split's objects.

    Args:
        split: Which split; ``all`` is every object.
        count: Number of objects.
    """
    if split == "all":
        return list(range(count))
    outer = evenly_spaced(count)
    if split == "test":
        return sorted(set(range(count)) - set(outer))
    inner = evenly_spaced(len(outer))
    if split == "val":
        return [outer[i] for i in sorted(set(range(len(outer))) - set(inner))]
    return [outer[i] for i in inner]


def check_splits(count: int, source: Path) -> None:
    """Check that no split is empty.

    Args:
        count: Number of objects.
        source: Folder they are from.

    Raises:
        DataError: There are fewer than seven.
    """
    if not (chosen("val", count) and chosen("test", count)):
        raise DataError(
            f"{source} has {count} usable images, too few for three splits; add at least "
            f"{7 - count}"
        )
