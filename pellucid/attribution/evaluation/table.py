"""The evaluation of explanations: all methods, the same images, the same metrics."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pellucid.attribution.agreement import agreement, rank_correlation
from pellucid.attribution.baselines import BASELINES, EdgeDetector, RandomMap, randomised_copy
from pellucid.attribution.evaluation.columns import LOOKS, Column, Judge, in_order, map_columns
from pellucid.attribution.evaluation.maps import Maps, explain_images
from pellucid.attribution.evaluation.own import OwnExplanation
from pellucid.attribution.evaluation.result import (
    Evaluation,
    Kind,
    PartEffectTable,
    Row,
    no_agreement,
)
from pellucid.attribution.evaluation.settings import Settings
from pellucid.attribution.evaluation.subject import Subject
from pellucid.attribution.method import AttributionMethod
from pellucid.attribution.part_effects import (
    PartEffects,
    can_redraw,
    part_correlation,
    part_relevance,
    true_part_effects,
)
from pellucid.batch import Batch
from pellucid.datamodules.base import Split
from pellucid.metrics.maps.max_sensitivity import max_sensitivity


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
    columns, skipped = map_columns(data)
    columns |= LOOKS
    known = torch.stack([each.known for each in subjects]).all(0)
    if not bool(known.all()):
        lost = int((~known).sum())
        skipped["images"] = (
            f"{lost} of {len(known)} are left out: their scores or pixels are NaN or infinite"
        )
    if not settings.sensitivity_images:
        skipped["max_sensitivity"] = "sensitivity_images is 0"
        del columns["max_sensitivity"]
    if not settings.randomised:
        skipped["randomised_similarity"] = "randomised networks were not asked for"
        del columns["randomised_similarity"]
    if any(each.scores.shape[1] < 2 for each in subjects):
        for key in ("deletion_auc", "insertion_auc"):
            skipped[key] = "needs the probability of one of two classes or more; there is one logit"
            del columns[key]
    if not bool(known.any()):
        ordered = in_order(columns)
        return _empty(ordered, skipped | {"rows": "no image is left to be explained"}, settings)
    kept: Any = {name: value[known] for name, value in batch.items()}  # type: ignore[index]
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
        self.effects: list[PartEffects] = []
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
            judge = Judge(subject, self.batch, self.data, self.columns, self.settings)
            self.effects += self._true_effects(subject)
            random = self._random(subject)
            for method in chosen:
                bar.set_description(method.label)
                rows.append(self._row(method, subject, random, judge))
                bar.update()
            where = f" of {subject.name}" if subject.name else ""
            self.skipped |= {f"{key}{where}": why for key, why in judge.skipped.items()}
        bar.close()
        return rows

    def _random(self, subject: Subject) -> Subject | None:
        """The same with a network that knows nothing; None where there is no such thing."""
        wanted = self.settings.randomised and any(True for _ in subject.network.parameters())
        if not wanted:
            return None
        return replace(subject, network=randomised_copy(subject.network, self.settings.seed))

    def _true_effects(self, subject: Subject) -> list[PartEffects]:
        """One, or none where the data cannot be drawn anew."""
        if not can_redraw(self.data) or "index" not in self.batch:
            return []
        return [
            true_part_effects(
                subject.call,
                self.data,
                self.split,
                self.batch["index"].tolist(),
                subject.target,
                adapt=subject.adapt,
                batch_size=self.settings.batch_size,
                device=subject.image.device,
            )
        ]

    def _row(
        self, method: AttributionMethod, subject: Subject, random: Subject | None, judge: Judge
    ) -> Row:
        found = self._explain(method, subject)
        name = method.name if not subject.name else f"{subject.name}/{method.name}"
        label = method.label if not subject.name else f"{method.label} of {subject.name}"
        row = Row(method=name, label=label, kind=_kind(method), note=found.note)
        if found.heat is None:
            return row
        heat = found.heat
        row.heat, row.seconds_per_image = heat.cpu(), found.seconds / len(heat)
        row.values = judge.judge(heat)
        if found.completeness_error is not None:
            row.values["completeness_error"] = _finite(found.completeness_error)
        if "max_sensitivity" in self.columns:
            moved, note = self._sensitivity(method, subject)
            row.values["max_sensitivity"] = moved
            row.note = "; ".join(each for each in (row.note, note) if each)
        if self.effects:
            row.part_correlation = self._part_correlation(heat)
        if random is not None and row.kind != "baseline":
            self._randomise(row, method, random, judge)
        return row

    def _explain(self, method: AttributionMethod, subject: Subject) -> Maps:
        return explain_images(
            method, subject.network, subject.image, subject.target, self.settings.batch_size
        )

    def _randomise(
        self, row: Row, method: AttributionMethod, random: Subject, judge: Judge
    ) -> None:
        """What the method makes of a network that knows nothing, and how much that is the same."""
        found = self._explain(method, random)
        if found.heat is None:
            row.note = "; ".join(n for n in (row.note, f"randomised network: {found.note}") if n)
            return
        assert row.heat is not None
        row.randomised = judge.judge(found.heat)
        size = (random.image.shape[-2], random.image.shape[-1])
        both = [each.cpu().nan_to_num() for each in (row.heat, found.heat)]
        alike = rank_correlation(both[0], both[1], size, cells=_cells(size))
        row.values["randomised_similarity"] = alike.float()

    def _sensitivity(self, method: AttributionMethod, subject: Subject) -> tuple[Tensor, str]:
        """(B,) float, NaN in images that are not looked at, and why it is unknown."""
        count = min(self.settings.sensitivity_images, len(subject.image))
        values = torch.full((len(subject.image),), torch.nan)

        def explain(image: Tensor, target: Tensor) -> Tensor:
            return method.attribute(subject.network, image, target).heat

        try:
            values[:count] = max_sensitivity(
                explain,
                subject.image[:count],
                subject.target[:count],
                radius=self.settings.radius,
                samples=self.settings.sensitivity_samples,
                seed=self.settings.seed,
                batch_size=self.settings.batch_size,
            ).cpu()
        except ValueError as error:
            return values, f"max-sensitivity: {error}"
        return values, ""

    def _part_correlation(self, heat: Tensor) -> Tensor:
        """(B,) float; of the network whose effects were found last."""
        given = part_relevance(heat.nan_to_num(), self.batch["part_masks"])
        return part_correlation(given.cpu(), self.effects[-1].score)

    def result(self, rows: list[Row], skipped: dict[str, str]) -> Evaluation:
        """The table, with what its rows have in common."""
        skipped = skipped | self.skipped
        image = self.subjects[0].image
        size = (image.shape[-2], image.shape[-1])
        own = {row.method: row.heat for row in rows if row.heat is not None}
        # Maps of another network may well differ.
        maps = {name: heat for name, heat in own.items() if "/" not in name}
        columns = in_order(self.columns)
        if not any("completeness_error" in row.values for row in rows):
            skipped["completeness_error"] = "no method that was asked for promises completeness"
            columns = [each for each in columns if each.key != "completeness_error"]
        effects = None
        if self.effects:
            first = self.effects[0]
            names = tuple(self.data.part_names)
            effects = PartEffectTable(
                parts=names,
                score=_means(names, first.score),
                probability=_means(names, first.probability),
            )
        else:
            skipped["part_effects"] = "the data module cannot redraw its images without a part"
        return Evaluation(
            columns=columns,
            rows=rows,
            agreement=agreement(maps, size, cells=_cells(size)),
            part_effects=effects,
            skipped=skipped,
            settings=self.settings,
            images=len(image),
        )


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


def _kind(method: AttributionMethod) -> Kind:
    if method.name in BASELINES:
        return "baseline"
    return "own" if isinstance(method, OwnExplanation) else "post_hoc"


def _cells(size: tuple[int, int]) -> int:
    """Rows and columns of the grid on which maps are compared; fewer in a tiny image."""
    return max(2, min(14, *size))


def _finite(values: Tensor) -> Tensor:
    return torch.where(values.isfinite(), values.float(), torch.nan)


def _means(names: Sequence[str], effects: Tensor) -> dict[str, float]:
    return dict(zip(names, effects.nanmean(0).tolist(), strict=True))
