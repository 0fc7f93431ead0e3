"""Pictures of the images that ``evaluate`` picks, with the maps of all methods."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.analysis.units import denormalise
from pellucid.attribution.baselines import BASELINES
from pellucid.attribution.evaluation import Evaluation, Row, Subject, make_subject
from pellucid.attribution.evaluation.maps import explain_images
from pellucid.attribution.method import AttributionMethod
from pellucid.datamodules.base import ImageDataModule, Split
from pellucid.report.explanation_pictures import Shown, ShownImage, save_shown


def draw_picked(
    data: ImageDataModule,
    split: Split,
    picked: Sequence[int],
    reasons: Sequence[str],
    subjects: Sequence[Subject],
    methods: Sequence[AttributionMethod],
    table: Evaluation,
    output: Path,
) -> list[dict[str, object]]:
    """Draw picked images with the maps of all methods that have figures in the table.

    Args:
        data: The data module.
        split: Which images they are of.
        picked: Their positions in the split.
        reasons: Why each was picked.
        subjects: The networks of the table.
        methods: The methods that were asked for.
        table: What they reached.
        output: The run; pictures are in ``explanations`` below it.

    Returns:
        ``shown``, as ``explanations.json`` has it.
    """
    if not picked:
        return save_shown(output, [], [])
    dataset, device = data.dataset(split), subjects[0].image.device
    items: list[Any] = [dataset[place] for place in picked]
    image = torch.stack([item["image"] for item in items]).to(device)
    seen = [make_subject(s.network, image, name=s.name, adapt=s.adapt) for s in subjects]
    images = [
        _shown(data, place, items[number], seen[0].scores[number], why)
        for number, (place, why) in enumerate(zip(picked, reasons, strict=True))
    ]
    shown = []
    for subject, method, row in _with_maps(seen, methods, table):
        maps = explain_images(method, subject.network, subject.image, subject.target)
        if maps.heat is not None:
            heat = maps.heat.nan_to_num().cpu()
            shown.append(Shown(row.method, row.label, heat, maps.completeness_error))
    return save_shown(output, images, shown)


def _shown(
    data: ImageDataModule, place: int, item: Mapping[str, Tensor], scores: Tensor, why: str
) -> ShownImage:
    """One image, its scores (K,) and its place."""
    names, target, label = data.class_names, int(scores.argmax()), item.get("label")
    return ShownImage(
        index=place,
        pixels=denormalise(item["image"], data.mean, data.std).numpy(),
        label=None if label is None else names[int(label)],
        # One logit stands for one category against its negatives.
        predicted=names[target] if len(scores) == len(names) else names[-1],
        score=float(scores[target]),
        why=why,
    )


def _with_maps(
    subjects: Sequence[Subject], methods: Sequence[AttributionMethod], table: Evaluation
) -> list[tuple[Subject, AttributionMethod, Row]]:
    """The rows of the table that have maps, each with its network and method."""
    makers = {each.name: each for each in methods}
    makers |= {name: make() for name, make in BASELINES.items()}
    by_name = {subject.name: subject for subject in subjects}
    found = []
    for row in table.rows:
        network, _, method = row.method.rpartition("/")
        if row.heat is not None:
            found.append((by_name[network], makers[method], row))
    return found
