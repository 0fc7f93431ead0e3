"""The disentanglement scores as one torchmetrics metric: codes are kept, and scored at the end."""

import math
from collections.abc import Collection

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from pellucid.distributed import is_distributed
from pellucid.metrics.disentanglement.code_table import CodeTable, as_codes, is_active
from pellucid.metrics.disentanglement.score_settings import ScoreSettings
from pellucid.metrics.disentanglement.suite import (
    check_names,
    chosen_scores,
    score_table,
)
from pellucid.metrics.part_metric import check_shape
from pellucid.metrics.unit_metric import QuietMetric

MAX_ROWS = 20_000
"""More than any score looks at; of larger splits as many images are kept, evenly spread."""
LEAST_EACH_EPOCH = 1000
"""Of fewer images the scores that need factors are not computed after each epoch."""


class DisentanglementScores(QuietMetric):
    """All scores of a representation, from codes that come batch by batch.

    See :func:`~pellucid.metrics.disentanglement.suite.score_table`. It holds
    ``4 N (2 L + F + 2)`` bytes with ``N`` at most ``max_rows`` (2.2 MB for 20,000 images, 10 codes
    and 5 factors), however many images there are. With ``index`` given, batch sizes, order, the
    number of processes and images that a distributed sampler repeats change nothing. Where a split
    has more images than ``max_rows``, those are kept whose number is small after multiplication by
    a golden section of the split's length, so that no grid of factors is met in step.

    Args:
        num_codes: Number of codes, ``L``.
        num_images: Images of the split; each ``index`` is below it.
        num_factors: Number of factors, ``F``; 0: they are not known, and only scores that need none
            are computed.
        settings: None: the published ones.
        names: Keys of :data:`~pellucid.metrics.disentanglement.suite.SCORES`; None: all.
        each_epoch: Whether to compute only what is quick, without its spread.
        max_rows: Images that are kept.
        factor_names: Names of the factors; None: their numbers.

    Raises:
        ValueError: If a number is below its least value, or there is no such score.
    """

    is_differentiable = False
    full_state_update = True
    higher_is_better = None
    codes: Tensor
    factors: Tensor
    kl: Tensor
    means: Tensor
    seen: Tensor
    count: Tensor

    def __init__(
        self,
        num_codes: int,
        num_images: int,
        num_factors: int = 0,
        *,
        settings: ScoreSettings | None = None,
        names: Collection[str] | None = None,
        each_epoch: bool = False,
        max_rows: int = MAX_ROWS,
        factor_names: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("num_codes", num_codes, 1),
            ("num_images", num_images, 1),
            ("num_factors", num_factors, 0),
            ("max_rows", max_rows, 2),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        check_names(names)
        self.settings = settings or ScoreSettings()
        self.num_codes, self.num_factors, self.num_images = num_codes, num_factors, num_images
        self.names, self.each_epoch, self.factor_names = names, each_epoch, factor_names
        self._step = _golden_step(num_images) if num_images > max_rows else 1
        rows = min(num_images, max_rows)
        # Sums over processes, divided by how many have seen the image: that image's own.
        for name, width in (
            ("codes", num_codes),
            ("factors", num_factors),
            ("kl", num_codes),
            ("means", 1),
        ):
            self.add_state(name, torch.zeros(rows, width), dist_reduce_fx="sum")
        self.add_state("seen", torch.zeros(rows), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
        self.spread: dict[str, float] = {}
        """By key, the standard deviation over resampled tables; after :meth:`compute`."""
        self.samples: dict[str, dict[str, int]] = {}
        """By key, of how many rows or batches a score is; after :meth:`compute`."""
        self.kl_spread: list[float] | None = None
        """Standard deviation of each latent's mean KL over resampled images, in nats; None: not
        known; after :meth:`compute`."""
        self.skipped: dict[str, str] = {}
        """By key, why a score could not be computed; after :meth:`compute`."""
        self.rows: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {}
        """``codes`` (n, L), ``index`` (n,), and, where they are known, ``image_mean`` (n,) and
        ``kl_per_latent`` (L,) in nats; after :meth:`compute`."""

    def update(
        self,
        codes: Tensor,
        factors: Tensor | None = None,
        index: Tensor | None = None,
        kl_per_latent: Tensor | None = None,
        image_mean: Tensor | None = None,
    ) -> None:
        """Keep one batch.

        Args:
            codes: (B, L) floating point.
            factors: (B, F); wanted where ``num_factors`` is not 0.
            index: (B,) int64 from 0 to ``num_images - 1``, position in the split. None: images come
                once and in any order.
            kl_per_latent: (B, L) in nats.
            image_mean: (B,) mean over each image's pixels, by which UDR finds that runs were tested
                on other images.

        Raises:
            ValueError: If a shape is wrong, or the index out of range.
        """
        check_shape("codes", codes, (None, self.num_codes))
        number = self._number(index, len(codes))
        place = number * self._step % self.num_images
        kept = ((number < self.num_images) & (place < len(self.seen))).nonzero()[:, 0]
        place = place[kept]
        self.codes[place] = codes[kept].float()
        if self.num_factors:
            if factors is None:
                raise ValueError(f"factors must be (B, {self.num_factors}), got None")
            check_shape("factors", factors, (len(codes), self.num_factors))
            self.factors[place] = factors[kept].float()
        if kl_per_latent is not None:
            check_shape("kl_per_latent", kl_per_latent, (len(codes), self.num_codes))
            self.kl[place] = kl_per_latent[kept].float()
        if image_mean is not None:
            check_shape("image_mean", image_mean, (len(codes),))
            self.means[place, 0] = image_mean[kept].float()
        self.seen[place] = 1.0

    def _number(self, index: Tensor | None, count: int) -> Tensor:
        if index is not None:
            check_shape("index", index, (count,))
            low, high = (int(i) for i in index.aminmax()) if count else (0, 0)
            if low < 0 or high >= self.num_images:
                raise ValueError(
                    f"index must be from 0 to {self.num_images - 1}, got {low} to {high}: give the "
                    "number of images of the split as num_images"
                )
            return index
        step = dist.get_world_size() if is_distributed() else 1
        rank = dist.get_rank() if is_distributed() else 0
        first = int(self.count)
        self.count = self.count + count
        return rank + step * torch.arange(first, first + count, device=self.device)

    def compute(self) -> dict[str, Tensor]:
        """The scores by key; what could not be computed is in :attr:`skipped`."""
        self.spread, self.skipped, self.rows = {}, {}, {}
        self.samples, self.kl_spread = {}, None
        keys = self.score_keys()
        seen = self.seen > 0
        if int(seen.sum()) < 2:
            self.skipped = dict.fromkeys(keys, f"needs images, got {int(seen.sum())}")
            return {}
        share = self.seen[seen].unsqueeze(1)
        codes = (self.codes[seen] / share).cpu().numpy()
        self._keep_rows(codes, seen, share)
        try:
            finite = as_codes(codes, may_be_constant=True)
            if not is_active(finite).any():
                self.skipped = dict.fromkeys(keys, "the codes are constant: the input is ignored")
                if "active_units" not in keys:
                    return {}
                # And so it is of all that are drawn of them.
                self.samples = {"active_units": {"rows": len(codes)}}
                if self.settings.resamplings and not self.each_epoch:
                    self.spread = {"active_units": 0.0}
                return self._tensors({"active_units": 0.0})
            factors = (self.factors[seen] / share).cpu().numpy()
            quick = self.each_epoch and len(codes) < LEAST_EACH_EPOCH
            known = bool(self.num_factors) and not quick
            bins, names = self.settings.num_bins, self.factor_names if known else None
            table = CodeTable(codes, factors if known else None, bins, names)
        except ValueError as error:
            self.skipped = dict.fromkeys(keys, str(error))
            return {}
        found = score_table(table, self.settings, names=self.names, each_epoch=self.each_epoch)
        self.spread, self.skipped, self.samples = found.spread, found.skipped, found.samples
        return self._tensors(found.values)

    def score_keys(self) -> list[str]:
        """Keys of all figures that :meth:`compute` can give."""
        chosen = chosen_scores(
            self.names, factors=bool(self.num_factors), each_epoch=self.each_epoch
        )
        return [key for entry in chosen.values() for key in entry.keys]

    def _tensors(self, values: dict[str, float]) -> dict[str, Tensor]:
        self.skipped = {key: why for key, why in self.skipped.items() if key not in values}
        return {key: torch.tensor(value, device=self.device) for key, value in values.items()}

    def _keep_rows(self, codes: NDArray[np.float32], seen: Tensor, share: Tensor) -> None:
        place = seen.nonzero()[:, 0].cpu().numpy().astype(np.int64)
        back = pow(self._step, -1, self.num_images) if self.num_images > 1 else 1
        self.rows = {"codes": codes, "index": place * back % self.num_images}
        means = (self.means[seen] / share)[:, 0].cpu().numpy()
        if means.any():
            self.rows["image_mean"] = means
        kl = (self.kl[seen] / share).double().cpu().numpy()
        # Real latents have some: none at all says that nobody gave it.
        if not kl.mean(0).any():
            return
        self.rows["kl_per_latent"] = kl.mean(0).astype(np.float32)
        if not self.each_epoch and self.settings.resamplings:
            source = np.random.default_rng(self.settings.seed)
            counts = source.multinomial(
                len(kl), np.full(len(kl), 1 / len(kl)), self.settings.resamplings
            )
            self.kl_spread = (counts @ kl / len(kl)).std(0, ddof=1).tolist()


def _golden_step(length: int) -> int:
    """About 0.618 of a length and without a common divisor with it."""
    step = max(1, round(0.6180339887 * length))
    while math.gcd(step, length) > 1:
        step += 1
    return step
