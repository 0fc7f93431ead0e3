"""The evaluation of explanations: all methods, the same images, the same metrics."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pellucid.attribution.agreement import agreement
from pellucid.attribution.baselines import BASELINES, EdgeDetector, RandomMap, randomised_copy
from pellucid.attribution.evaluation.columns import LOOKS, Column, Judge, in_order, map_columns
from pellucid.attribution.evaluation.own import OwnExplanation
from pellucid.attribution.evaluation.result import (
    Evaluation,
    PartEffectTable,
    Row,
    no_agreement,
)
from pellucid.attribution.evaluation.rows import RowMaker, common_cells
from pellucid.attribution.evaluation.settings import Settings
from pellucid.attribution.evaluation.subject import Subject
from pellucid.attribution.method import AttributionMethod
from pellucid.attribution.part_effects import (
    PartEffects,
    can_redraw,
    true_part_effects,
)
from pellucid.batch import Batch
from pellucid.datamodules.base import Split


def evaluate_explanations(
    subjects: Sequence[Subject],
    methods: Sequence[AttributionMethod],
    batch: Batch,
    data: Any,
    *,
    split: Split = "test",
    settings: Settings | None = None,
    progress: bool = False,
) -> Evaluation:
    """Judge the explanations of all methods on the same images.

    Every method explains each image's predicted class on each network; those of the first network
    stand beside the two baselines. Maps of a randomised network are judged as if they explained
    the network itself: what of a figure is owed to the method alone.

    Args:
        subjects: The networks, the one that the table is about first.
        methods: The methods; :class:`OwnExplanation` counts for the first network alone.
        batch: Masks and the like of the same images, as the data have them, on the same device;
            with ``index`` for the true effects of parts.
        data: The data module.
        split: Which images they are, for drawing them anew.
        settings: Numbers of steps and the like; None: the defaults.
        progress: Whether to show a bar.

    Raises:
        ValueError: There is no network, or the networks look at different numbers of images.
    """
    settings = settings or Settings()
    _check(subjects, batch)
    columns, skipped = _columns(subjects, data, settings)
    known = torch.stack([each.known for each in subjects]).all(0)
    if not bool(known.all()):
        lost = int((~known).sum())
        skipped["images"] = (
            f"{lost} of {len(known)} are left out: their scores or pixels are NaN or infinite"
        )
    if not bool(known.any()):
        ordered = in_order(columns)
        return _empty(ordered, skipped | {"rows": "no image is left to be explained"}, settings)
    fields: Any = batch
    kept: Any = {name: value[known.to(value.device)] for name, value in fields.items()}
    table = _Table([each.at(known) for each in subjects], kept, data, split, columns, settings)
    rows = table.fill(methods, progress)
    return table.result(rows, skipped)


class _Table:
    """One table while it is filled."""

    def __init__(
        self,
        subjects: Sequence[Subject],
        batch: Batch,
        data: Any,
        split: Split,
        columns: dict[str, Column],
        settings: Settings,
    ) -> None:
        self.subjects, self.batch, self.data, self.split = subjects, batch, data, split
        self.columns, self.settings = columns, settings
        self.effects: list[PartEffects | None] = []
        self.skipped: dict[str, str] = {}

    def fill(self, methods: Sequence[AttributionMethod], progress: bool) -> list[Row]:
        """All rows, network by network."""
        baselines: list[AttributionMethod] = [RandomMap(self.settings.seed), EdgeDetector()]
        posthoc = [each for each in methods if each.name not in BASELINES]
        # What is explained by a network of its own is no matter of another one.
        other = [each for each in posthoc if not isinstance(each, OwnExplanation)]
        plan = [
            (subject, [*other] if number else [*posthoc, *baselines])
            for number, subject in enumerate(self.subjects)
        ]
        rows = []
        bar = tqdm(total=sum(len(each) for _, each in plan), disable=not progress, leave=False)
        for subject, chosen in plan:
            bar.set_description("Removals")
            effects = self._true_effects(subject)
            self.effects.append(effects)
            judge = Judge(subject, self.batch, self.data, self.columns, self.settings)
            maker = RowMaker(subject, self._random(subject), judge, effects)
            for method in chosen:
                bar.set_description(method.label)
                rows.append(maker.make(method))
                bar.update()
            where = f" of {subject.name}" if subject.name else ""
            self.skipped |= {f"{key}{where}": why for key, why in judge.skipped.items()}
        bar.close()
        return rows

    def _random(self, subject: Subject) -> Subject | None:
        """The same with a network that knows nothing; None where there is no such thing."""
        count = self.settings.randomised_images
        if not count or next(subject.network.parameters(), None) is None:
            return None
        subject = subject.at(torch.arange(min(count, len(subject.image))))
        return replace(subject, network=randomised_copy(subject.network, self.settings.seed))

    def _true_effects(self, subject: Subject) -> PartEffects | None:
        """None where the data cannot be drawn anew."""
        if not can_redraw(self.data) or "index" not in self.batch:
            return None
        return true_part_effects(
            subject.call,
            self.data,
            self.split,
            self.batch["index"].tolist(),
            subject.target,
            adapt=subject.adapt,
            batch_size=self.settings.batch_size,
            device=subject.image.device,
        )

    def result(self, rows: list[Row], skipped: dict[str, str]) -> Evaluation:
        """The table, with what its rows have in common."""
        skipped = skipped | self.skipped
        image = self.subjects[0].image
        size = (image.shape[-2], image.shape[-1])
        # Maps of another network may well differ.
        first = [row for row in rows if "/" not in row.method]
        maps = {row.method: row.heat for row in first if row.heat is not None}
        columns = in_order(self.columns)
        if not any("completeness_error" in row.values for row in rows):
            skipped["completeness_error"] = "no method that was asked for promises completeness"
            columns = [each for each in columns if each.key != "completeness_error"]
        if self.effects[0] is None:
            skipped["part_effects"] = "the data module cannot redraw its images without a part"
        return Evaluation(
            columns=columns,
            rows=rows,
            agreement=agreement(maps, size, cells=common_cells(size)),
            part_effects=_means(self.data, self.effects[0]),
            skipped=skipped,
            settings=self.settings,
            images=len(image),
        )


def _columns(
    subjects: Sequence[Subject], data: Any, settings: Settings
) -> tuple[dict[str, Column], dict[str, str]]:
    """The columns that can be measured, and why others cannot."""
    columns, skipped = map_columns(data)
    columns |= LOOKS
    for key, setting in (
        ("max_sensitivity", "sensitivity_images"),
        ("randomised_similarity", "randomised_images"),
    ):
        if not getattr(settings, setting):
            skipped[key] = f"{setting} is 0"
    if any(each.scores.shape[1] < 2 for each in subjects):
        for key in ("deletion_auc", "insertion_auc"):
            skipped[key] = "needs the probability of one of two classes or more; there is one logit"
    return {key: each for key, each in columns.items() if key not in skipped}, skipped


def _check(subjects: Sequence[Subject], batch: Batch) -> None:
    if not subjects:
        raise ValueError("subjects must have at least one network, got none")
    counts = {len(each.image) for each in subjects} | {len(batch["image"])}
    if len(counts) > 1:
        raise ValueError(f"all networks must look at the same images, got {sorted(counts)} of them")


def _empty(columns: list[Column], skipped: dict[str, str], settings: Settings) -> Evaluation:
    return Evaluation(
        columns=columns,
        rows=[],
        agreement=no_agreement(),
        part_effects=None,
        skipped=skipped,
        settings=settings,
        images=0,
    )


def _means(data: Any, effects: PartEffects | None) -> PartEffectTable | None:
    if effects is None:
        return None

    def mean(values: Tensor) -> dict[str, float]:
        return dict(zip(data.part_names, values.nanmean(0).tolist(), strict=True))

    return PartEffectTable(
        parts=tuple(data.part_names),
        score=mean(effects.score),
        probability=mean(effects.probability),
    )
