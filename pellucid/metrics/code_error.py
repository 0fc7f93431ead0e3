"""Whether a categorical code, learned without labels, is the category of the data.

Sources: best assignment, Kuhn, *The Hungarian Method for the Assignment Problem*, 1955, as the
clustering accuracy of Xie, Girshick, Farhadi, ICML 2016 (arXiv 1511.06335), section 4.2, uses it;
majority vote, purity in Manning, Raghavan, Schütze, *Introduction to Information Retrieval*, 2008,
section 16.3. InfoGAN (arXiv 1606.03657, section 7.2) reports an error without saying which.
"""

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from pellucid.metrics.resampling import RESAMPLINGS, Resampled, check_resamplings


def code_error_hungarian(counts: Tensor) -> Tensor:
    """Share of images whose code is not that of their label, each code standing for one label.

    Codes are assigned to labels one to one so that the error is least. With more codes than labels
    the images of those left over are wrong, and likewise with more labels than codes.

    Args:
        counts: (K, C) images with each code and label, at least 0.

    Returns:
        Scalar from 0 to 1, lower is better; NaN without images.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(counts.cpu().numpy(), maximize=True)
    return 1 - counts[rows, columns].sum() / counts.sum()


def code_error_majority(counts: Tensor) -> Tensor:
    """Share of images whose label is not the most frequent one of their code.

    Never above :func:`code_error_hungarian`, as several codes may stand for one label; it falls
    with the number of codes, and is 0 where each image has its own.

    Args:
        counts: (K, C) images with each code and label, at least 0.

    Returns:
        Scalar from 0 to 1, lower is better; NaN without images.
    """
    return 1 - counts.amax(1).sum() / counts.sum()


class CodeError(Metric, Resampled):
    """Counts images by code and label; holds ``8 K C`` bytes, however many images there are.

    Args:
        num_codes: Number of categories of the code, ``K``.
        num_classes: Number of labels, ``C``.
        resamplings: Resampled sets of images for :meth:`spread`; 0: none.
        seed: Of their draw.

    Raises:
        ValueError: A number of categories is below 2, or ``resamplings`` is 1 or below 0.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    counts: Tensor

    def __init__(
        self, num_codes: int, num_classes: int, *, resamplings: int = RESAMPLINGS, seed: int = 0
    ) -> None:
        super().__init__()
        check_resamplings(resamplings)
        self.resamplings, self.seed = resamplings, seed
        for name, value in (("num_codes", num_codes), ("num_classes", num_classes)):
            if value < 2:
                raise ValueError(f"{name} must be at least 2, got {value}")
        counts = torch.zeros(num_codes, num_classes, dtype=torch.int64)
        self.add_state("counts", counts, dist_reduce_fx="sum")

    def update(self, logits: Tensor, label: Tensor) -> None:
        """Look at one batch.

        Args:
            logits: (B, K) of the code's categories; the largest counts.
            label: (B,) int64.

        Raises:
            ValueError: A shape or a label is wrong.
        """
        codes, classes = self.counts.shape
        if logits.ndim != 2 or logits.shape[1] != codes or label.shape != logits.shape[:1]:
            raise ValueError(
                f"logits must have shape (B, {codes}) and label (B,), got {tuple(logits.shape)} "
                f"and {tuple(label.shape)}"
            )
        if len(label) and not 0 <= int(label.min()) <= int(label.max()) < classes:
            raise ValueError(
                f"label must be from 0 to {classes - 1}, got {int(label.min())} to "
                f"{int(label.max())}: give num_classes as the data have it"
            )
        pairs = logits.argmax(1) * classes + label
        self.counts += pairs.bincount(minlength=codes * classes).view(codes, classes)

    @staticmethod
    @abstractmethod
    def error(counts: Tensor) -> Tensor:
        """The error by (K, C) counts."""

    def compute(self) -> Tensor:
        """The error."""
        return self.error(self.counts)

    def spread(self) -> float:
        """See :meth:`Resampled.spread`."""
        with self.sync_context():
            counts = self.counts.cpu().numpy()
        total = int(counts.sum())
        if not total or not self.resamplings:
            return float("nan")
        # An error knows of an image its code and its label alone: as many draws of such a pair.
        shares, source = counts.ravel() / total, np.random.default_rng(self.seed)
        drawn = source.multinomial(total, shares, size=self.resamplings)
        errors = [self.error(torch.from_numpy(each.reshape(counts.shape))) for each in drawn]
        return float(torch.stack(errors).std())

    def sample_sizes(self) -> dict[str, int]:
        """See :meth:`Resampled.sample_sizes`."""
        with self.sync_context():
            return {"images": int(self.counts.sum())}


class CodeErrorHungarian(CodeError):  # noqa: N818 - a share, no exception
    """Error of a categorical code under the best assignment to labels; lower is better.

    See :func:`code_error_hungarian` for the definition. It holds ``8 K C`` bytes,
    however many images there are.

    Args:
        num_codes: Number of categories of the code, ``K``.
        num_classes: Number of labels, ``C``.
        resamplings: See :class:`CodeError`.
        seed: Likewise.

    Raises:
        ValueError: See :class:`CodeError`.
    """

    @staticmethod
    def error(counts: Tensor) -> Tensor:
        """See :func:`code_error_hungarian`."""
        return code_error_hungarian(counts)


class CodeErrorMajority(CodeError):  # noqa: N818 - a share, no exception
    """Error of a categorical code where each category stands for its majority; lower is better.

    See :func:`code_error_majority` for the definition. It holds ``8 K C`` bytes,
    however many images there are.

    Args:
        num_codes: Number of categories of the code, ``K``.
        num_classes: Number of labels, ``C``.
        resamplings: See :class:`CodeError`.
        seed: Likewise.

    Raises:
        ValueError: See :class:`CodeError`.
    """

    @staticmethod
    def error(counts: Tensor) -> Tensor:
        """See :func:`code_error_majority`."""
        return code_error_majority(counts)
