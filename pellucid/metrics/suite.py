"""The metrics of units that every run reports: what each needs, and what it is given."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torchmetrics import Metric

from pellucid.batch import Batch
from pellucid.metrics.category_balance import CategoryBalance
from pellucid.metrics.category_purity import CategoryPurity
from pellucid.metrics.decision_sparsity import DecisionSparsity
from pellucid.metrics.location_instability import LocationInstability
from pellucid.metrics.mask_grid import masks_on_grid
from pellucid.metrics.network_dissection import NetworkDissection
from pellucid.metrics.part_consistency import PartConsistency
from pellucid.metrics.part_interpretability import PartInterpretability
from pellucid.metrics.part_purity import PartPurity
from pellucid.metrics.part_stability import PartStability, perturb

NOISY_IMAGES = 250
"""About as many images of a pass, evenly spread, pass through the network again for stability, or
:data:`NOISY_IMAGES_PER_CATEGORY` a category if that is more: all of them would double the test."""
NOISY_IMAGES_PER_CATEGORY = 25
"""A unit is judged on images of its own category alone."""

_GOLDEN = 0x9E3779B1


class Data(Protocol):
    """What is read of a data module."""

    provides: Collection[str]
    parts_by_category: bool

    @property
    def class_names(self) -> Any:
        """Names of the categories."""

    @property
    def part_names(self) -> Any:
        """Names of the landmarks and masks."""

    @property
    def instability_parts(self) -> Any:
        """Names of the landmarks that location instability looks at."""

    @property
    def num_classes(self) -> int:
        """Number of categories."""


@dataclass(frozen=True, kw_only=True)
class Units:
    """What the units of a layer did on one batch.

    Args:
        batch: The batch.
        maps: (B, U, h, w), before any mask.
        respond: Makes maps of other images of the same shape.
        grid: Stride and offset in pixels of the maps' cells; None: cells that tile the image.
        contributions: (B, U), what each unit adds to the score of the predicted class; None: not
            known.
        num_images: No fewer images than the whole pass over the data has; None: not known.
    """

    batch: Batch
    maps: Tensor
    respond: Callable[[Tensor], Tensor]
    grid: tuple[float, float] | None = None
    contributions: Tensor | None = None
    num_images: int | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        height, width = self.batch["image"].shape[-2:]
        return height, width


class _Entry(NamedTuple):
    """A metric of the suite."""

    needs: frozenset[str]
    """Fields of the batch."""
    make: Callable[[int, Data], Metric]
    """From the number of units and the data."""
    update: Callable[[Any, Units], None]
    each_epoch: bool = False
    """Whether it is quick enough for the validation after each epoch."""


_PARTS, _MASKS = frozenset({"parts", "part_visible"}), frozenset({"part_masks", "part_visible"})
_LABEL = frozenset({"label"})


def _categories(data: Data) -> int | None:
    return data.num_classes if "label" in data.provides else None


def _landmarks(units: Units) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
    return units.maps, units.batch["parts"], units.batch["part_visible"], units.image_size


def _update_numbered(metric: Any, units: Units) -> None:
    """Instability and purity, which want the images' numbers."""
    metric.update(*_landmarks(units), index=units.batch.get("index"), grid=units.grid)


class _InstabilityOfSome(LocationInstability):
    """Location instability by some of the batch's landmarks."""

    def __init__(self, num_units: int, part_names: Sequence[str], chosen: Sequence[str]) -> None:
        super().__init__(num_units, chosen)
        self.columns = [part_names.index(name) for name in chosen]

    def update(
        self,
        maps: Tensor,
        parts: Tensor,
        part_visible: Tensor,
        image_size: tuple[int, int],
        index: Tensor | None = None,
        grid: tuple[float, float] | None = None,
    ) -> None:
        """Look at one batch with all its landmarks."""
        parts, part_visible = parts[:, self.columns], part_visible[:, self.columns]
        super().update(maps, parts, part_visible, image_size, index, grid)


def _make_instability(count: int, data: Data) -> LocationInstability:
    names, chosen = tuple(data.part_names), tuple(data.instability_parts)
    if chosen == names:
        return LocationInstability(count, names)
    return _InstabilityOfSome(count, names, chosen)


def _label(metric: Any, units: Units) -> Tensor | None:
    return None if metric.num_classes is None else units.batch["label"]


def _update_consistency(metric: PartConsistency, units: Units) -> None:
    metric.update(*_landmarks(units), grid=units.grid, label=_label(metric, units))


def _update_stability(metric: PartStability, units: Units) -> None:
    maps, parts, visible, size = _landmarks(units)
    number = units.batch.get("index")
    if number is None:
        number = torch.arange(len(maps), device=maps.device)
    wanted = max(NOISY_IMAGES, NOISY_IMAGES_PER_CATEGORY * (metric.num_classes or 1))
    share = min(1.0, wanted / (units.num_images or 1))
    # Multiples of the golden ratio spread evenly, also over categories that take turns.
    chosen = (number * _GOLDEN % 2**32 < share * 2**32).nonzero()[:, 0]
    if not len(chosen):
        return
    # Noise of an image's own: the figure depends neither on the batch size nor on other draws.
    generator = torch.Generator()
    noisy = torch.stack(
        [
            perturb(units.batch["image"][i], generator=generator.manual_seed(int(number[i])))
            for i in chosen.tolist()
        ]
    )
    label = _label(metric, units)
    metric.update(
        maps[chosen],
        units.respond(noisy),
        parts[chosen],
        visible[chosen],
        size,
        grid=units.grid,
        label=None if label is None else label[chosen],
    )


def _update_interpretability(metric: PartInterpretability, units: Units) -> None:
    if not metric.positions.any():
        metric.num_images = units.num_images
    metric.update(units.maps, units.batch["part_masks"], units.batch["part_visible"])


def _of_categories(data: Data) -> bool:
    return data.parts_by_category and "label" in data.provides


def _make_dissection(count: int, data: Data) -> NetworkDissection:
    """Concepts are the parts, or the parts of each category where these are its own."""
    names = tuple(data.part_names)
    if _of_categories(data):
        names = tuple(f"{category} {part}" for category in data.class_names for part in names)
    return NetworkDissection(count, names)


def parts_of_categories(masks: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Give each category its own parts, of which an image has those of its category alone.

    Args:
        masks: (B, P, ...) bool.
        label: (B,) int64.
        num_classes: Number of categories, ``K``.

    Returns:
        (B, K * P, ...) bool, the parts of category 0 first.
    """
    own = masks.new_zeros(len(masks), num_classes, *masks.shape[1:])
    own[torch.arange(len(masks), device=masks.device), label] = masks
    return own.flatten(1, 2)


def _update_dissection(metric: NetworkDissection, units: Units) -> None:
    if not metric.total:
        metric.num_images = units.num_images
    batch = units.batch
    masks, visible = batch["part_masks"], batch["part_visible"]
    if (several := len(metric.part_names) // masks.shape[1]) > 1:
        # On the metric's grid first, which has fewer pixels.
        masks, visible = masks_on_grid(masks, visible, metric.resolution)
        masks, visible = (
            parts_of_categories(each, batch["label"], several) for each in (masks, visible)
        )
    metric.update(units.maps, masks, visible)


def _update_sparsity(metric: DecisionSparsity, units: Units) -> None:
    if units.contributions is None:
        raise ValueError(
            "decision_sparsity needs contributions (B, U): return them from step in tests, or name "
            "decision_sparsity in lacks()"
        )
    metric.update(units.contributions)


METRICS: Mapping[str, _Entry] = {
    "location_instability": _Entry(
        _PARTS,
        _make_instability,
        _update_numbered,
        each_epoch=True,
    ),
    "part_interpretability": _Entry(
        _MASKS,
        lambda count, data: PartInterpretability(count, tuple(data.part_names)),
        _update_interpretability,
        each_epoch=True,
    ),
    "part_purity": _Entry(
        _PARTS, lambda count, data: PartPurity(count, tuple(data.part_names)), _update_numbered
    ),
    "part_consistency": _Entry(
        _PARTS,
        lambda count, data: PartConsistency(
            count, tuple(data.part_names), num_classes=_categories(data)
        ),
        _update_consistency,
    ),
    "part_stability": _Entry(
        _PARTS,
        lambda count, data: PartStability(count, num_classes=_categories(data)),
        _update_stability,
    ),
    "network_dissection": _Entry(
        _MASKS,
        _make_dissection,
        _update_dissection,
    ),
    "category_purity": _Entry(
        _LABEL,
        lambda count, data: CategoryPurity(count, data.num_classes),
        lambda metric, units: metric.update(
            units.maps, units.batch["label"], units.batch.get("index")
        ),
    ),
    "category_balance": _Entry(
        _LABEL,
        lambda count, data: CategoryBalance(count, data.num_classes),
        lambda metric, units: metric.update(units.maps, units.batch["label"]),
    ),
    "decision_sparsity": _Entry(
        frozenset(), lambda count, data: DecisionSparsity(count), _update_sparsity
    ),
}
"""The suite by key, in the order of a report."""


def make_suite(
    num_units: int,
    data: Data,
    *,
    names: Collection[str] | None = None,
    each_epoch: bool = False,
    lacking: Mapping[str, str] | None = None,
) -> tuple[dict[str, Metric], dict[str, str]]:
    """Build the metrics of a layer's units, new ones at each call.

    Args:
        num_units: Number of units, ``U``.
        data: The data module.
        names: Keys of :data:`METRICS`; None: all.
        each_epoch: Whether to leave out what takes too long for a validation after each epoch.
        lacking: Reasons, by key, why the model has not what a metric needs.

    Returns:
        Metrics by key, and for those that were left out because the data or the model has not
        what they need, the reason.
    """
    built: dict[str, Metric] = {}
    skipped: dict[str, str] = {}
    for name, entry in METRICS.items():
        if names is not None and name not in names:
            continue
        if missing := sorted(entry.needs - set(data.provides)):
            skipped[name] = (
                f"needs {', '.join(missing)}, which {type(data).__name__} does not provide"
            )
        elif lacking is not None and name in lacking:
            skipped[name] = lacking[name]
        elif entry.needs == _LABEL and data.num_classes < 2:
            skipped[name] = f"needs several categories, {type(data).__name__} has one"
        elif entry.each_epoch or not each_epoch:
            built[name] = entry.make(num_units, data)
    return built, skipped


def update_suite(metrics: Mapping[str, Metric], units: Units) -> None:
    """Give one batch to each metric.

    Args:
        metrics: What :func:`make_suite` built.
        units: What the units did.
    """
    for name, metric in metrics.items():
        METRICS[name].update(metric, units)
