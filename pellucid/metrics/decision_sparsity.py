"""How few units carry a decision.

Source: the number of units that a person must look at for most of a score; the share of a total
that the largest terms hold is the Lorenz curve (Hurley, Rickard, *Comparing Measures of Sparsity*,
IEEE Transactions on Information Theory 2009).
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pellucid.metrics.part_metric import check_shape
from pellucid.metrics.unit_metric import UnitMetric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHARE = 0.9
ROUNDING = 1e-5
"""Share of the total by which a sum may fall short and still reach the share."""


def decision_sparsity(contributions: Tensor, share: float = SHARE) -> Tensor:
    r"""How many units carry most of each image's score.

    With a score :math:`b + \sum_u c_u`, it is the least :math:`n` such that the :math:`n` greatest
    :math:`|c_u|` sum to ``share`` of :math:`\sum_u |c_u|`. Units that speak against the class
    count as those that speak for it, so terms that cancel out are not overlooked, and ``share``
    is one of all that is said, not of the score's value. The bias :math:`b` belongs to no unit and
    is left out.

    Args:
        contributions: (B, U) floating point, finite: what each unit adds to the target's score, as
            :class:`~pellucid.models.explanation.Explanation` has it.
        share: The share to reach, above 0 and at most 1.

    Returns:
        (B,) int64, number of units from 0 (no unit adds anything) to U; lower is sparser.

    Raises:
        ValueError: If the share, the shape, or a contribution is wrong; names the unit.
    """
    return _carriers(contributions, share).sum(1)


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}; usual is {SHARE}")


def _carriers(contributions: Tensor, share: float) -> Tensor:
    """(B, U) bool, the units that carry each image's score; of equal ones, the first."""
    _check_share(share)
    if (
        contributions.ndim != 2
        or not contributions.shape[1]
        or not contributions.is_floating_point()
    ):
        raise ValueError(
            "contributions must be floating point of shape (B, U), got "
            f"{tuple(contributions.shape)} of {contributions.dtype}"
        )
    finite = contributions.isfinite().all(0)
    if not finite.all():
        unit = int((~finite).nonzero()[0, 0])
        raise ValueError(f"unit {unit} has a contribution that is not finite")
    # Scaled by the greatest, so that no sum overflows.
    sizes = contributions.detach().float().abs()
    sizes = sizes / sizes.amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    ordered, order = sizes.sort(dim=1, descending=True, stable=True)
    before = ordered.cumsum(1) - ordered
    # Nine of ten equal terms carry 90 %, whatever rounding says.
    wanted = before < ordered.sum(1, keepdim=True) * (share - ROUNDING)
    return torch.zeros_like(wanted).scatter(1, order, wanted)


class DecisionSparsity(UnitMetric):
    """How many units carry most of a score, mean over images, in units; lower is sparser.

    See :func:`decision_sparsity` for the definition; :meth:`per_unit` is (U,): the share of the
    images in which the unit is among those that carry the score (of units with equal
    contributions, the first). It holds ``16 U + 8`` bytes, however many images there are. Batch
    sizes, order and the number of processes do not change the result; images that a distributed
    sampler repeats do count twice. A metric that has seen no image is NaN.

    Args:
        num_units: Number of units, ``U``.
        share: The share to reach, above 0 and at most 1.

    Raises:
        ValueError: If an argument is out of range.
    """

    higher_is_better = False
    carried: Tensor
    images: Tensor

    def __init__(self, num_units: int, share: float = SHARE) -> None:
        super().__init__(num_units)
        _check_share(share)
        self.share = share
        # Images in which each unit is a carrier, and images with each number of carriers.
        carried = torch.zeros(num_units, dtype=torch.int64)
        images = torch.zeros(num_units + 1, dtype=torch.int64)
        self.add_state("carried", carried, dist_reduce_fx="sum")
        self.add_state("images", images, dist_reduce_fx="sum")
        self._image_counts: Tensor

    def update(self, contributions: Tensor) -> None:
        """Look at one batch; the argument is that of :func:`decision_sparsity`."""
        check_shape("contributions", contributions, (None, self.num_units))
        carriers = _carriers(contributions, self.share)
        # Not in place: a state that was reset in inference mode could not be changed outside it.
        self.carried = self.carried + carriers.sum(0)
        self.images = self.images + torch.bincount(carriers.sum(1), minlength=self.num_units + 1)

    def compute(self) -> Tensor:
        """The mean over images."""
        images = self.images.sum()
        self._per_unit, self._image_counts = self.carried / images, self.images
        return self.carried.sum() / images

    def image_counts(self) -> Tensor:
        """How many images are carried by each number of units.

        Collective as :meth:`per_unit` is.

        Returns:
            (U + 1,) int64, the number of images whose score 0, 1, ... U units carry.
        """
        self.compute()
        return self._image_counts.to(self.device)

    def plot(self) -> tuple["Figure", "Axes"]:
        """The share of images whose score is carried by at most so many units."""
        from matplotlib.figure import Figure

        counts = self.image_counts().cpu()
        figure = Figure(figsize=(5.0, 3.2), layout="constrained")
        axes = figure.subplots()
        if counts.sum():
            reached = counts.cumsum(0) / counts.sum()
            last = int((counts > 0).nonzero().max())
            axes.step(range(last + 1), reached[: last + 1].tolist(), where="post", color="#0072B2")
            mean = float(self.compute())
            axes.axvline(mean, color="black", lw=1.0, ls=":", label=f"mean {mean:.1f}")
            axes.legend(loc="lower right", fontsize=8)
        axes.set_ylim(0, 1.02)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"units that carry {100 * self.share:g} % of the score")
        axes.set_ylabel("share of images, at most so many")
        axes.set_title(f"{int(counts.sum())} images, {self.num_units} units", fontsize=9)
        return figure, axes
