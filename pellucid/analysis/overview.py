"""One look of a model at a whole split, to pick the few images that are worth a person's time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from pellucid.analysis.representatives import Representatives, unit_representatives
from pellucid.analysis.submodular_pick import Pick, heat_features, submodular_pick
from pellucid.batch import Batch
from pellucid.datamodules.base import ImageDataModule, Split, collate
from pellucid.models.base import InterpretableModel
from pellucid.models.explanation import Explanation

LIMIT = 2000
"""Images that are looked at, evenly spread over the split."""


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What a model says of the images of a split. ``N`` images, those whose scores are finite."""

    places: Tensor
    """(N,) int64, their positions in the split."""
    labels: Tensor
    """(N,) int64, their categories; the predicted ones where the data have none."""
    features: Tensor | None
    """(N, D) what each feature has to do with the prediction; None: the model tells nothing."""
    feature_names: tuple[str, ...]
    responses: Tensor | None
    """(N, U) float, peak of each unit's map; None: it has no units."""


def look_over(
    model: InterpretableModel,
    data: ImageDataModule,
    split: Split = "test",
    *,
    heat: Callable[[Tensor, Tensor], Tensor] | None = None,
    limit: int = LIMIT,
    device: Any = "cpu",
    progress: bool = False,
) -> Overview:
    """Have a model explain a whole split.

    Features are what units contribute to the score; without contributions, or where ``heat`` is
    given, the share of the heat map in each cell of a grid.

    Args:
        model: On ``device``, in evaluation mode.
        data: The data module.
        split: Which images.
        heat: Explains in the model's place: heat maps (B, h, w) of images (B, C, H, W) and targets
            (B,), on ``device``; None: the model itself.
        limit: Largest number of images, at least 1.
        device: Where to compute.
        progress: Whether to show a bar, which appears after two seconds.

    Raises:
        ValueError: ``limit`` is below 1.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    dataset = data.dataset(split)
    places = spread(len(dataset), limit)
    loader: DataLoader[Batch] = DataLoader(
        Subset(dataset, places), data.batch_size, collate_fn=collate
    )
    columns: dict[str, list[Tensor]] = {}
    names: tuple[str, ...] = ()
    with torch.no_grad():
        for batch in tqdm(loader, desc="Images", disable=not progress, delay=2, leave=False):
            image = batch["image"].to(device)
            found = model.explain({"image": image})
            table = features_of(found) if heat is None else heat_features(heat(image, found.target))
            columns.setdefault("scores", []).append(found.scores.float().cpu())
            columns.setdefault("labels", []).append(batch.get("label", found.target).cpu())
            if table is not None:
                columns.setdefault("features", []).append(table.float().cpu())
            if found.maps is not None:
                columns.setdefault("responses", []).append(found.maps.amax((2, 3)).float().cpu())
                told = heat is None and found.contributions is not None
                names = found.unit_names if told else ()
    whole = {name: torch.cat(parts) for name, parts in columns.items()}
    known = torch.stack([each.flatten(1).isfinite().all(1) for each in _rows(whole)]).all(0)
    kept = {name: values[known] for name, values in whole.items()}
    return Overview(
        places=torch.tensor(places)[known],
        labels=kept["labels"],
        features=kept.get("features"),
        feature_names=names,
        responses=kept.get("responses"),
    )


def _rows(whole: Mapping[str, Tensor]) -> list[Tensor]:
    """What may not be finite, each (N, D)."""
    return [each for each in whole.values() if each.ndim > 1]


def features_of(explanation: Explanation) -> Tensor | None:
    """(B, D) what each feature has to do with the target's score; None: nothing is told."""
    if explanation.contributions is not None:
        return explanation.contributions
    heat = explanation.heat_map()
    return None if heat is None else heat_features(heat)


def spread(length: int, count: int) -> list[int]:
    """Positions spread evenly over a split, which may be sorted by class; all of a shorter one."""
    count = min(length, count)
    return [number * length // count for number in range(count)]


def pick_images(overview: Overview, budget: int) -> tuple[list[int], list[str]]:
    """The few images that show the most of what the model goes by.

    Args:
        overview: Of the split.
        budget: Number of images.

    Returns:
        Positions in the split, the most telling first, and why each was chosen.
    """
    if not budget or not len(overview.places):
        return [], []
    if overview.features is None:
        rows = spread(len(overview.places), budget)
        why = "spread evenly over the split: the model tells no features to pick by"
        return overview.places[rows].tolist(), [why] * len(rows)
    pick = submodular_pick(overview.features, budget)
    return overview.places[pick.images].tolist(), _reasons(pick, overview.feature_names)


def _reasons(pick: Pick, names: Sequence[str], show: int = 3) -> list[str]:
    """Why each image was picked, in words."""
    reasons = []
    for new, covered in zip(pick.new, pick.coverage, strict=True):
        # Cells of a grid have no name that says anything.
        known = [names[each] for each in new[:show] if each < len(names)]
        more = f" and {len(new) - len(known)} more" if len(new) > len(known) > 0 else ""
        first = f"first to show {', '.join(known)}{more}" if known else f"{len(new)} new features"
        what = first if new else "the most important features again"
        reasons.append(f"picked: {what}; so far {covered:.0%} of what the model goes by is shown")
    return reasons


def pick_for_units(overview: Overview, count: int = 3) -> Representatives | None:
    """Representative and surprising images of each unit, as positions in the split.

    Args:
        overview: Of the split.
        count: Largest number of each kind.

    Returns:
        None: the model has no units, or there is no image.
    """
    if overview.responses is None or not len(overview.places):
        return None
    found = unit_representatives(overview.responses, overview.labels, count)
    return Representatives(*([overview.places[rows].tolist() for rows in kind] for kind in found))
