"""Accuracy against interpretability of any several runs on the same data."""

from collections.abc import Sequence

from pellucid.report.differences import groups_of, name_of
from pellucid.report.runs import Run
from pellucid.report.tradeoff import Tradeoff, interpretability_metrics, seeds_of


def find_overview(runs: Sequence[Run]) -> Tradeoff | None:
    """Runs of equal settings as points, where no hyper-parameter orders them.

    Args:
        runs: Runs that can be compared.

    Returns:
        A trade-off of references alone; None where fewer than two settings have both an accuracy
        and an interpretability metric of the test split, and of two single runs, whose two points
        would say no more than their headline figures.
    """
    groups = [group for group in groups_of(runs) if group.estimate("accuracy")]
    merged = any(len(group.runs) > 1 for group in groups)
    if len(groups) < (2 if merged else 3) or not (metrics := interpretability_metrics(groups)):
        return None
    place = {id(run): number for number, run in enumerate(runs)}
    for number, group in enumerate(groups):
        group.label = name_of(group)
        # The colour of its runs everywhere else on the page.
        group.number = number if merged else place[id(group.runs[0])]
    return Tradeoff("", (), tuple(groups), metrics)


def overview_caption(found: Tradeoff) -> str:
    """What the pictures show, as sentences."""
    return (
        "Each setting by how right it is and how well it can be understood; the best corner is "
        f"marked. {seeds_of(found)}"
    )
