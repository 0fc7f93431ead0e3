"""Accuracy that tells how much it varies with the images.

Where a classifier of the data judges images that were drawn for a class, it says whether they are
of that class, as in Odena, Olah, Shlens, "Conditional Image Synthesis with Auxiliary Classifier
GANs", ICML 2017 (arXiv 1610.09585), which has an Inception network for it.
"""

import numpy as np
import torch
from torchmetrics.classification import MulticlassAccuracy

from pellucid.metrics.resampling import RESAMPLINGS, Resampled, check_resamplings


class ResampledAccuracy(MulticlassAccuracy, Resampled):
    """Share of images whose likeliest class is the wanted one, and how much it varies with them.

    Args:
        num_classes: Number of classes, at least 2.
        resamplings: Resampled sets of images for :meth:`spread`; 0: none.
        seed: Of their draw.

    Raises:
        ValueError: ``num_classes`` is below 2, or ``resamplings`` is 1 or below 0.
    """

    def __init__(self, num_classes: int, *, resamplings: int = RESAMPLINGS, seed: int = 0) -> None:
        super().__init__(num_classes, average="micro")
        check_resamplings(resamplings)
        self.resamplings, self.seed = resamplings, seed

    def spread(self) -> float:
        """See :meth:`Resampled.spread`."""
        right, total = self._counts()
        if not total or not self.resamplings:
            return float("nan")
        # It knows of an image whether it is right alone.
        source = np.random.default_rng(self.seed)
        drawn = source.binomial(total, right / total, size=self.resamplings)
        return float(np.std(drawn / total, ddof=1))

    def sample_sizes(self) -> dict[str, int]:
        """See :meth:`Resampled.sample_sizes`."""
        return {"images": self._counts()[1]}

    def _counts(self) -> tuple[int, int]:
        """Images that are right, and all."""
        with self.sync_context():
            right, wrong = (torch.as_tensor(state).sum() for state in (self.tp, self.fn))
            return int(right), int(right + wrong)
