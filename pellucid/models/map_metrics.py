"""Which metrics of heat maps the tests report, of models that explain by a map."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchmetrics import Metric

from pellucid.batch import Batch
from pellucid.datamodules.base import collate
from pellucid.errors import nearest
from pellucid.metrics.maps.attention_faithfulness import REPEATS, attention_faithfulness
from pellucid.metrics.maps.deletion_insertion import BATCH_SIZE
from pellucid.metrics.maps.map_metric import MapMetric
from pellucid.metrics.maps.probabilities import NonFiniteScores
from pellucid.metrics.maps.suite import (
    ALL_NAMES,
    FAITHFULNESS,
    MAP_METRICS,
    PERTURBATIONS,
    JudgedMaps,
    label_parts_of,
    make_map_suite,
)
from pellucid.models.explanation import heat_of

if TYPE_CHECKING:
    from pellucid.models.base import InterpretableModel, Stage

IMAGES = 256
"""Test images for deletion, insertion and faithfulness, evenly spread: each passes ``2 (steps +
1)`` times."""
STEPS = 16


class Attended(NamedTuple):
    """What a model pools of images, by which attention, and what it makes of it."""

    features: Tensor
    """(B, C, h, w)."""
    attention: Tensor
    """(B, U, h, w) of each head, at least 0."""
    scores: Callable[[Tensor, Tensor], Tensor]
    """Makes class scores (N, K), logits, of features (N, C, h, w) and another attention (N, U, h,
    w)."""


class MapMetrics:
    """The metrics of heat maps that a model's tests report.

    Args:
        names: Keys of :data:`pellucid.metrics.maps.suite.ALL_NAMES`; None: all.
        images: Test images for deletion, insertion and attention faithfulness, at least 0 (none).
        steps: Steps of deletion and insertion, at least 1.

    Raises:
        ValueError: There is no such metric, or a number is out of range.
    """

    def __init__(
        self, names: Sequence[str] | None = None, images: int = IMAGES, steps: int = STEPS
    ) -> None:
        for name in names or ():
            if name not in ALL_NAMES:
                raise ValueError(f"names: there is no metric {name!r}; {nearest(name, ALL_NAMES)}")
        for name, value, least in (("images", images, 0), ("steps", steps, 1)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.names, self.images, self.steps = names, images, steps
        self._label_parts: tuple[int, ...] = ()
        self._told: bool | None = None
        self._tested: dict[str, MapMetric] = {}

    def make(
        self, model: "InterpretableModel", data: Any, stage: "Stage"
    ) -> tuple[dict[str, MapMetric], dict[str, str]]:
        """Build the metrics of a stage, new ones at each call.

        Args:
            model: The model.
            data: The data module.
            stage: The stage; none but ``test`` has any.

        Returns:
            Metrics by key, and the reasons for those that were left out, likewise.
        """
        if stage != "test" or not model.explains_by_map:
            return {}, {}
        self._label_parts = label_parts_of(data)
        self._tested, skipped = make_map_suite(data, self.names)
        return dict(self._tested), skipped

    def update(
        self,
        model: "InterpretableModel",
        metrics: Mapping[str, Metric],
        outputs: Mapping[str, Tensor],
        batch: Batch,
    ) -> None:
        """Give one batch to the metrics.

        Args:
            model: The model.
            metrics: Of those that :meth:`make` has built.
            outputs: What the model's ``step`` returned, detached.
            batch: The batch.
        """
        heat = self._heat(model, outputs, batch)
        # One image on which a model fails must not cost the figures of all others.
        known = heat.flatten(1).isfinite().all(1)
        heat = torch.where(known[:, None, None], heat, 0.0)
        judged = JudgedMaps(heat, batch, self._label_parts)
        for name, metric in metrics.items():
            assert isinstance(metric, MapMetric)
            metric.add(MAP_METRICS[name].judge(judged).masked_fill(~known, torch.nan))

    def _heat(
        self, model: "InterpretableModel", outputs: Mapping[str, Tensor], batch: Batch
    ) -> Tensor:
        """(B, h, w) the map that :meth:`Explanation.heat_map` gives, if need be by explaining."""
        if "heat" in outputs:
            return outputs["heat"]
        if self._told is None:
            self._told = _tells(model, outputs, batch["image"][:1])
        if self._told:
            return heat_of(outputs["maps"], outputs.get("contributions"))
        return explained_heat(model, batch["image"])

    def perturb(
        self, model: "InterpretableModel", data: Any, device: Any, tested: int | None = None
    ) -> dict[str, float]:
        """Deletion, insertion and, where the model attends, faithfulness, on test images.

        The model is on the CPU and evaluates afterwards.

        Args:
            model: The model.
            data: The data module.
            device: Where to compute.
            tested: Number of images that the test saw; no more are looked at. None: all.

        Returns:
            Figures by key; none of a model that does not explain by a map.
        """
        looks = (*PERTURBATIONS, *FAITHFULNESS)
        wanted = [name for name in looks if self.names is None or name in self.names]
        if not wanted or not self.images or not model.explains_by_map:
            return {}
        dataset = data.dataset("test")
        length = min(len(dataset), tested or len(dataset))
        count = min(self.images, length)
        places = [number * length // count for number in range(count)]
        # Values, not metrics, which would wait for processes that do not come here.
        values: dict[str, list[Tensor]] = {name: [] for name in wanted}
        model.to(device).eval()
        loader: DataLoader[Batch] = DataLoader(
            Subset(dataset, places), data.batch_size, collate_fn=collate
        )
        with torch.no_grad():
            for batch in loader:
                found = self._look(model, batch["image"].to(device), wanted)
                for name, value in found.items():
                    values[name].append(value)
        model.cpu()
        return {name: float(torch.cat(found).nanmean()) for name, found in values.items() if found}

    def _look(
        self, model: "InterpretableModel", image: Tensor, wanted: Sequence[str]
    ) -> dict[str, Tensor]:
        """(N,) each figure by key, of those of images (B, C, H, W) that the model can explain."""
        found: dict[str, Tensor] = {}
        explanation = model.explain({"image": image})
        maps = _not_none(model, explanation.heat_map())
        known = torch.cat((maps.flatten(1), explanation.scores), 1).isfinite().all(1)
        image, maps, target = image[known], maps[known], explanation.target[known]
        if not len(image):
            return {name: maps.new_empty(0) for name in wanted if name in PERTURBATIONS}
        for name, judge in PERTURBATIONS.items():
            if name in wanted:
                try:
                    found[name] = judge(model.class_scores, image, maps, target, steps=self.steps)
                # Of a changed image; the others of the batch are lost with it, which is rare.
                except NonFiniteScores:
                    found[name] = maps.new_full((len(image),), torch.nan)
        changes = [name for name in wanted if name in FAITHFULNESS]
        attended = model.attended(image) if changes else None
        if attended is not None:
            for name in changes:
                found[name] = _faithfulness(attended, name)
        return found

    def report(self) -> dict[str, Any] | None:
        """Settings, and how many images could not be judged; None: no maps were judged."""
        counts = {name: metric.last_counts for name, metric in self._tested.items()}
        known = {name: count for name, count in counts.items() if count is not None}
        if not known:
            return None
        return {
            "settings": {"names": self.names, "images": self.images, "steps": self.steps},
            "judged": {name: int(judged) for name, (judged, _) in known.items()},
            "left_out": {name: int(left_out) for name, (_, left_out) in known.items()},
        }


def _faithfulness(attended: Attended, name: str) -> Tensor:
    """(B,) how far predictions move when the attention is changed in the way of that name."""
    # Repeats pass together: no more features at once than images of deletion.
    rows = max(1, BATCH_SIZE // REPEATS)
    parts = zip(
        torch.split(attended.features, rows), torch.split(attended.attention, rows), strict=True
    )
    change = FAITHFULNESS[name]
    return torch.cat(
        [attention_faithfulness(attended.scores, *part, change).distance for part in parts]
    )


def _tells(model: "InterpretableModel", outputs: Mapping[str, Tensor], image: Tensor) -> bool:
    """Whether what a step returned makes the heat map that the model explains by."""
    if "maps" not in outputs:
        return False
    with torch.no_grad():
        own = model.explain({"image": image})
    terms = own.contributions is None or "contributions" in outputs
    return own.heat is None and own.maps is not None and terms


def explained_heat(model: "InterpretableModel", image: Tensor) -> Tensor:
    """(B, h, w) the heat map of a model's own explanation of images (B, C, H, W).

    Raises:
        ValueError: The model explains by no map.
    """
    with torch.no_grad():
        return _not_none(model, model.explain({"image": image}).heat_map())


def _not_none(model: "InterpretableModel", heat: Tensor | None) -> Tensor:
    if heat is None:
        raise ValueError(
            f"{type(model).__name__} has explains_by_map, but explain() gives neither maps "
            "(B, U, h, w) nor heat (B, h, w)"
        )
    return heat
