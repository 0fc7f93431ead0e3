"""One row of the table: what a method says of a network, judged."""

import torch
from torch import Tensor

from pellucid.attribution.agreement import CELLS, rank_correlation
from pellucid.attribution.baselines import BASELINES
from pellucid.attribution.evaluation.columns import Judge
from pellucid.attribution.evaluation.maps import Maps, explain_images
from pellucid.attribution.evaluation.own import OwnExplanation
from pellucid.attribution.evaluation.result import Kind, Row
from pellucid.attribution.evaluation.subject import Subject
from pellucid.attribution.method import AttributionMethod
from pellucid.attribution.part_effects import PartEffects, part_correlation, part_relevance
from pellucid.metrics.maps.max_sensitivity import max_sensitivity


class RowMaker:
    """Makes the rows of one network.

    Args:
        subject: The network and its images.
        random: The first of the images with a network that knows nothing; None: there is no such
            column.
        judge: Judges maps by the subject.
        effects: True effects of parts on the network; None: they are not known.
    """

    def __init__(
        self, subject: Subject, random: Subject | None, judge: Judge, effects: PartEffects | None
    ) -> None:
        self.subject, self.random, self.judge, self.effects = subject, random, judge, effects
        self.settings = judge.settings

    def make(self, method: AttributionMethod) -> Row:
        """The row of one method; without figures where it has no maps."""
        name, where = method.name, self.subject.name
        row = Row(
            method=f"{where}/{name}" if where else name,
            label=f"{method.label} of {where}" if where else method.label,
            kind=_kind(method),
        )
        found = self._explain(method, self.subject)
        row.note, heat = found.note, found.heat
        if heat is None:
            return row
        row.heat, row.seconds_per_image = heat.cpu(), found.seconds / len(heat)
        row.values = self.judge.judge(heat)
        if found.completeness_error is not None:
            error = found.completeness_error.float()
            row.values["completeness_error"] = error.where(error.isfinite(), torch.nan)
        if "max_sensitivity" in self.judge.columns:
            self._move(row, method, heat)
        if self.effects is not None:
            given = part_relevance(heat.nan_to_num(), self.judge.batch["part_masks"])
            row.part_correlation = part_correlation(given.cpu(), self.effects.score)
        if self.random is not None and row.kind != "baseline":
            self._randomise(row, method, self.random)
        return row

    def _explain(self, method: AttributionMethod, subject: Subject) -> Maps:
        return explain_images(
            method, subject.network, subject.image, subject.target, self.settings.batch_size
        )

    def _randomise(self, row: Row, method: AttributionMethod, random: Subject) -> None:
        """What the method makes of a network that knows nothing, and how much that is the same."""
        # The class to be explained stays that of the network which knows something.
        found = self._explain(method, random)
        if found.heat is None:
            _add_note(row, f"randomised network: {found.note}")
            return
        assert row.heat is not None
        heat = found.heat.new_full((len(row.heat), *found.heat.shape[1:]), torch.nan)
        heat[: len(found.heat)] = found.heat
        row.randomised = self.judge.judge(heat)
        size = (random.image.shape[-2], random.image.shape[-1])
        # A map of zeros ranks nothing, as one that is not there.
        both = [each.cpu().nan_to_num() for each in (row.heat, heat)]
        alike = rank_correlation(both[0], both[1], size, cells=common_cells(size))
        row.values["randomised_similarity"] = alike.float()

    def _move(self, row: Row, method: AttributionMethod, heat: Tensor) -> None:
        """Max-sensitivity of the first images; NaN of those that are not looked at."""
        subject, settings = self.subject, self.settings
        known = heat[: settings.sensitivity_images].flatten(1).isfinite().all(1)
        rows = known.nonzero().flatten()
        row.values["max_sensitivity"] = values = torch.full((len(heat),), torch.nan)
        if not len(rows):
            return

        def explain(image: Tensor, target: Tensor) -> Tensor:
            return method.attribute(subject.network, image, target).heat

        try:
            values[rows.cpu()] = max_sensitivity(
                explain,
                subject.image[rows],
                subject.target[rows],
                heat[rows],
                radius=settings.radius,
                samples=settings.sensitivity_samples,
                seed=settings.seed,
                batch_size=settings.batch_size,
            ).cpu()
        # A changed image may have scores of NaN, or a map that is not finite.
        except ValueError as error:
            _add_note(row, f"max-sensitivity: {error}")


def common_cells(size: tuple[int, int]) -> int:
    """Rows and columns of the grid on which maps are compared; fewer in a tiny image."""
    return max(2, min(CELLS, *size))


def _add_note(row: Row, note: str) -> None:
    row.note = "; ".join(each for each in (row.note, note) if each)


def _kind(method: AttributionMethod) -> Kind:
    if method.name in BASELINES:
        return "baseline"
    return "own" if isinstance(method, OwnExplanation) else "post_hoc"
