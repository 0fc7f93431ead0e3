"""The metrics of heat maps that a run reports, and the judging of any other heat map by them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor

from pellucid.batch import Batch, check_batch
from pellucid.metrics.maps.attention_correlation import AttentionCorrelation, attention_correlation
from pellucid.metrics.maps.attention_faithfulness import Change
from pellucid.metrics.maps.best_iou import BestIoU, iou_over_thresholds
from pellucid.metrics.maps.deletion_insertion import (
    BATCH_SIZE,
    STEPS,
    deletion_auc,
    insertion_auc,
)
from pellucid.metrics.maps.entropy import MapEntropy, map_entropy
from pellucid.metrics.maps.gini import MapGini, map_gini
from pellucid.metrics.maps.heat import Ranked, check_size, rank, relevance
from pellucid.metrics.maps.map_metric import MapMetric
from pellucid.metrics.maps.pointing_game import PointingGame, peak_inside
from pellucid.metrics.maps.relevance_mass import RelevanceMass, mass_inside
from pellucid.metrics.maps.relevance_rank import RelevanceRank, share_of_first


@dataclass(frozen=True)
class JudgedMaps:
    """Maps of one batch, and what several metrics of them have in common, made once.

    Args:
        maps: (B, h, w) floating point, finite.
        batch: The batch.
        label_parts: Which of ``part_masks`` carry the label; empty: not known.

    Raises:
        BatchError: If a field of the batch has a wrong shape or type.
        ValueError: If maps are wrong or finer than the image.
    """

    maps: Tensor
    batch: Batch
    label_parts: Sequence[int] = ()

    def __post_init__(self) -> None:
        check_batch(self.batch)
        image = self.batch["image"]
        if len(image) != len(self.maps):
            raise ValueError(f"image has {len(image)} images, maps have {len(self.maps)}")
        # All masks have the image's pixels.
        check_size((image.shape[-2], image.shape[-1]), self.maps, "image")

    @cached_property
    def heat(self) -> Tensor:
        """(B, H, W) relevance of each pixel."""
        height, width = self.batch["image"].shape[-2:]
        return relevance(self.maps, (height, width))

    @cached_property
    def ranked(self) -> Ranked:
        """The pixels by relevance."""
        return rank(self.heat)

    @cached_property
    def parts(self) -> Tensor:
        """(B, H, W) bool, all parts together."""
        return self.batch["part_masks"].any(1)

    @cached_property
    def label_mask(self) -> Tensor:
        """(B, H, W) bool, the parts that carry the label together."""
        return self.batch["part_masks"][:, list(self.label_parts)].any(1)

    @property
    def object(self) -> Tensor:
        """(B, H, W) bool."""
        return self.batch["mask"]


class _Entry(NamedTuple):
    """A metric of the suite."""

    needs: frozenset[str]
    """Fields of the batch."""
    make: Callable[[], MapMetric]
    judge: Callable[[JudgedMaps], Tensor]
    """(B,) figure of each image."""
    label_parts: bool = False
    """Whether it needs to know which parts carry the label."""


_MASK, _PARTS = frozenset({"mask"}), frozenset({"part_masks"})

MAP_METRICS: Mapping[str, _Entry] = {
    "relevance_mass": _Entry(_MASK, RelevanceMass, lambda m: mass_inside(m.heat, m.object)),
    "relevance_mass_parts": _Entry(_PARTS, RelevanceMass, lambda m: mass_inside(m.heat, m.parts)),
    "relevance_mass_label_parts": _Entry(
        _PARTS, RelevanceMass, lambda m: mass_inside(m.heat, m.label_mask), label_parts=True
    ),
    "relevance_rank": _Entry(
        _MASK, RelevanceRank, lambda m: share_of_first(m.heat, m.ranked, m.object)
    ),
    "relevance_rank_parts": _Entry(
        _PARTS, RelevanceRank, lambda m: share_of_first(m.heat, m.ranked, m.parts)
    ),
    "relevance_rank_label_parts": _Entry(
        _PARTS,
        RelevanceRank,
        lambda m: share_of_first(m.heat, m.ranked, m.label_mask),
        label_parts=True,
    ),
    "pointing_game": _Entry(_MASK, PointingGame, lambda m: peak_inside(m.heat, m.object)),
    "iou_best": _Entry(_MASK, BestIoU, lambda m: iou_over_thresholds(m.ranked, m.object)),
    "attention_correlation": _Entry(
        frozenset({"attention"}),
        AttentionCorrelation,
        lambda m: attention_correlation(m.maps, m.batch["attention"]),
    ),
    "gini": _Entry(frozenset(), MapGini, lambda m: map_gini(m.maps)),
    "entropy": _Entry(frozenset(), MapEntropy, lambda m: map_entropy(m.maps)),
}
"""The metrics that need no further look of the network, by key, in the order of a report."""

PERTURBATIONS: Mapping[str, Callable[..., Tensor]] = {
    "deletion_auc": deletion_auc,
    "insertion_auc": insertion_auc,
}
"""The metrics for which the network looks many times at each image, by key."""

FAITHFULNESS: Mapping[str, Change] = {
    "attention_faithfulness": "permute",
    "attention_faithfulness_even": "even",
    "attention_faithfulness_strongest": "remove_strongest",
}
"""What is done to the attention of a model that can be given another one, by key."""

ALL_NAMES = (*MAP_METRICS, *PERTURBATIONS, *FAITHFULNESS)
"""Keys of all metrics of maps."""


def label_parts_of(data: Any) -> tuple[int, ...]:
    """Which parts carry the label, as positions in ``part_masks``; empty where it is not known.

    Args:
        data: A data module; one that knows names them in ``label_parts``.
    """
    names = list(data.part_names)
    return tuple(names.index(name) for name in getattr(data, "label_parts", ()))


def make_map_suite(
    data: Any, names: Collection[str] | None = None
) -> tuple[dict[str, MapMetric], dict[str, str]]:
    """Build the metrics of maps, new ones at each call.

    Args:
        data: The data module.
        names: Keys of :data:`MAP_METRICS`; None: all. Other names are passed over.

    Returns:
        Metrics by key, and for those that were left out because the data have not what they need,
        the reason. Where the data have no masks of parts, or do not say which carry the label,
        what they would add is left out without a word.
    """
    built: dict[str, MapMetric] = {}
    skipped: dict[str, str] = {}
    for name, entry in MAP_METRICS.items():
        if names is not None and name not in names:
            continue
        known = not entry.label_parts or bool(label_parts_of(data))
        missing = sorted(entry.needs - set(data.provides))
        if known and not missing:
            built[name] = entry.make()
        elif name in (names or ()) or (missing and entry.needs == _MASK):
            what = ", ".join(missing) or "to know the parts that carry the label"
            skipped[name] = f"needs {what}, which {type(data).__name__} does not provide"
    return built, skipped


def evaluate_maps(
    maps: Tensor,
    batch: Batch,
    scores: Callable[[Tensor], Tensor] | None = None,
    *,
    target: Tensor | None = None,
    label_parts: Sequence[int] = (),
    names: Collection[str] | None = None,
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
) -> dict[str, float]:
    """Judge any heat maps of a batch by all metrics that the batch allows.

    Args:
        maps: (B, h, w) floating point, finite, on any grid no finer than the image.
        batch: ``image``, and ``mask``, ``part_masks`` or ``attention`` where they are known.
        scores: Makes class scores (N, K), logits, of images (N, C, H, W), for deletion and
            insertion; None: without them.
        target: (B,) int64, whose probability deletion and insertion watch; None: the predicted
            class.
        label_parts: Which of ``part_masks`` carry the label; empty: not known.
        names: Keys of :data:`ALL_NAMES`; None: all. Those of :data:`FAITHFULNESS` are of models,
            not of maps, and passed over.
        steps: Steps of deletion and insertion.
        batch_size: Images that ``scores`` is given at once.

    Returns:
        Mean over the images that can be judged, by key; NaN where none can.

    Raises:
        ValueError: If maps, a field of the batch or a name is wrong.
    """
    check_map_names(names)
    judged = JudgedMaps(maps, batch, label_parts)
    values = {
        name: entry.judge(judged)
        for name, entry in MAP_METRICS.items()
        if (names is None or name in names)
        and entry.needs <= batch.keys()
        and (label_parts or not entry.label_parts)
    }
    if scores is not None:
        for name, judge in PERTURBATIONS.items():
            if names is None or name in names:
                values[name] = judge(
                    scores, batch["image"], maps, target, steps=steps, batch_size=batch_size
                )
    return {name: float(value.nanmean()) for name, value in values.items()}


def check_map_names(names: Collection[str] | None) -> None:
    """Check names of metrics of maps.

    Raises:
        ValueError: Names the first that does not exist, and what there is.
    """
    for name in names or ():
        if name not in ALL_NAMES:
            raise ValueError(
                f"there is no metric {name!r} of maps; choose from {', '.join(ALL_NAMES)}"
            )
