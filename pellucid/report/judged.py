"""All that a page shows of the explanations of one run."""

from dataclasses import dataclass

from pellucid.report.checked import mapping
from pellucid.report.evaluation import (
    Agreement,
    Evaluation,
    PartEffects,
    check_version,
    make_agreement_of_methods,
    make_evaluation,
    make_left_out,
    make_part_effects,
)
from pellucid.report.explained import Explained, make_explained
from pellucid.report.runs import Run


@dataclass(frozen=True)
class Judged:
    """The explanations of one run: pictures, table, agreement, part effects."""

    images: Explained | None
    evaluation: Evaluation | None
    agreement: Agreement | None
    effects: PartEffects | None
    left_out: tuple[tuple[str, str], ...]
    """What was not measured, with the reason."""
    missing: str
    """Why nothing is there, and what to do about it; empty where something is."""


def judge(run: Run, num_runs: int = 1) -> Judged:
    """What ``explanations.json`` holds, whatever state it is in.

    Args:
        run: The run.
        num_runs: Number of runs with explanations on the page.
    """
    check_version(run)
    return Judged(
        images=make_explained(run, num_runs),
        evaluation=make_evaluation(run),
        agreement=make_agreement_of_methods(run),
        effects=make_part_effects(run),
        left_out=tuple(make_left_out(run)),
        missing=_missing(run),
    )


def _missing(run: Run) -> str:
    if mapping(run.explanations):
        return ""
    return (
        "Explanations were not evaluated. `pellucid evaluate RUN` compares the model's own with "
        "those of methods applied after the fact, and this section then shows both."
    )
