"""Whether the images that a unit responds to most are of one category.

Source: purity as clusterings are judged by it (Manning, Raghavan, Schütze, *Introduction to
Information Retrieval*, 2008, section 16.3), with a unit's strongest images as the cluster. The
claim that it tests, that a filter stands for one category, is that of Zhang, Wu, Zhu,
*Interpretable Convolutional Neural Networks*, CVPR 2018 (arXiv 1710.00935), section 3.
"""

import math
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from pellucid.metrics import plots
from pellucid.metrics.part_metric import check_maps, check_shape
from pellucid.metrics.strongest import KeepsStrongest, StrongestImages, number_images
from pellucid.metrics.unit_category import check_label
from pellucid.metrics.unit_metric import UnitMetric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOP_K = 10


def category_purity(
    maps: Tensor,
    label: Tensor,
    num_classes: int,
    top_k: int = TOP_K,
    index: Tensor | None = None,
) -> Tensor:
    r"""Category purity of units, :math:`\mathrm{mean}_u \max_c n_{u,c} / \sum_c n_{u,c}`.

    :math:`n_{u,c}` is the number of images of category :math:`c` among the ``top_k`` images on
    which unit :math:`u` responds most, by the maximum of its map. Images on which it responds as
    little as on any do not count, since nothing but their order would choose among them: a filter
    that fires on six images is judged by six, and a dead one is left out.

    A unit that knows nothing of categories does not have 1 / K but more, as the most frequent of
    few images: 0.42 for ten images of four equally frequent categories. Where a category has fewer
    than ``top_k`` images, none of its units can be pure.

    Args:
        maps: (B, U, h, w) floating point, finite: the units' responses.
        label: (B,) int64, the category, from 0 to ``num_classes - 1``.
        num_classes: Number of categories, ``K``.
        top_k: Images per unit.
        index: (B,) int64 from 0 to 2**30 - 1, position in the split: decides between equal
            responses (the smaller first); images of the same index count once. None: all
            different, in the given order.

    Returns:
        Scalar from 1 / K to 1, higher is better. NaN if no unit responds to some images more than
        to others.

    Raises:
        ValueError: If an option, a shape, a label, the index, or an activation is wrong; names the
            unit.
    """
    _check_options(num_classes, top_k)
    number = number_images(index, len(maps), maps.device)
    seen = _observe(maps, label, number, num_classes)
    weakest = seen.scores.amin((1, 2)) if len(maps) else maps.new_zeros(maps.shape[1])
    counts = _counts(seen.best(top_k), weakest, num_classes)
    return _purity(counts).nanmean()


def _check_options(num_classes: int, top_k: int) -> None:
    if num_classes < 2:
        raise ValueError(
            f"num_classes must be at least 2, got {num_classes}: of one category all is pure"
        )
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}; usual is {TOP_K}")


def _observe(maps: Tensor, label: Tensor, number: Tensor, num_classes: int) -> StrongestImages:
    """The responses of a batch, one row for each unit, with the label as their value."""
    maps = check_maps(maps)
    check_label(label, len(maps), num_classes)
    units = maps.shape[1]
    return StrongestImages(
        rearrange(maps.amax((2, 3)), "b u -> u 1 b"),
        number.expand(units, 1, -1),
        label.float().view(1, 1, -1, 1).expand(units, -1, -1, -1),
    )


def _counts(seen: StrongestImages, weakest: Tensor, num_classes: int) -> Tensor:
    """(U, K) images of each category among the strongest of each unit."""
    counted = seen.scores > weakest.view(-1, 1, 1)
    one_hot = F.one_hot(seen.values[:, 0, :, 0].long(), num_classes)
    return (one_hot * counted[:, 0].unsqueeze(-1)).sum(1)


def _purity(counts: Tensor) -> Tensor:
    """(U,) greatest share; NaN for units without images."""
    return counts.amax(1) / counts.sum(1)


class CategoryPurity(UnitMetric, KeepsStrongest):
    """Whether a unit's strongest images are of one category, as a share; higher is better.

    See :func:`category_purity` for the definition; :meth:`per_unit` is (U,), NaN for dead units.
    It holds ``16 U top_k + 4 U`` bytes (84 kB for 512 units, 10 images), however many images there
    are. With ``index`` given, batch sizes, order, the number of processes and images repeated by a
    distributed sampler do not change the result. A metric that has seen no image is NaN.

    Args:
        num_units: Number of units, ``U``.
        num_classes: Number of categories, ``K``, at least 2.
        top_k: Images per unit, at least 1; no more than the images of a category.

    Raises:
        ValueError: If an argument is out of range.
    """

    higher_is_better = True
    weakest: Tensor

    def __init__(self, num_units: int, num_classes: int, top_k: int = TOP_K) -> None:
        super().__init__(num_units)
        _check_options(num_classes, top_k)
        self.num_classes = num_classes
        self._add_strongest_states(num_units, 1, top_k, width=1)
        self.add_state("weakest", torch.full((num_units,), torch.inf), dist_reduce_fx="min")
        self._category_counts: Tensor

    def update(self, maps: Tensor, label: Tensor, index: Tensor | None = None) -> None:
        """Look at one batch; the arguments are those of :func:`category_purity`."""
        check_shape("maps", maps, (None, self.num_units, None, None))
        number = self._number_images(index, len(maps))
        batch = _observe(maps, label, number, self.num_classes)
        self._keep(batch)
        if len(maps):
            self.weakest = torch.minimum(self.weakest, batch.scores.amin((1, 2)))

    def compute(self) -> Tensor:
        """The mean over units."""
        self._category_counts = _counts(self._strongest(), self.weakest, self.num_classes)
        self._per_unit = _purity(self._category_counts)
        return self._per_unit.nanmean()

    def category_counts(self) -> Tensor:
        """How many of each unit's strongest images are of each category.

        Collective as :meth:`per_unit` is.

        Returns:
            (U, K) int64; 0 for dead units.
        """
        self.compute()
        return self._category_counts.to(self.device)

    def entropy(self) -> Tensor:
        """Entropy of the categories of each unit's strongest images; lower is purer.

        Collective as :meth:`per_unit` is.

        Returns:
            (U,) float in bits, from 0 to log2 K; NaN for dead units.
        """
        counts = self.category_counts()
        shares = counts / counts.sum(1, keepdim=True)
        nats: Tensor = torch.special.entr(shares).sum(1)
        return nats / math.log(2)

    def plot(self) -> tuple["Figure", "Axes"]:
        """A dot for each unit, and the mean."""
        return plots.unit_rows(
            self.per_unit().cpu().unsqueeze(1),
            ("units",),
            f"share of one category among the unit's {self.top_k} strongest images",
            limit=1.0,
        )
