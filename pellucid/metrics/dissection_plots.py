"""A picture of what the units of a layer detect."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pellucid.metrics.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BARS = 40


def detector_bars(
    detectors: Tensor, concepts: Sequence[str], categories: Sequence[str], label: str
) -> tuple["Figure", "Axes"]:
    """A bar for each detected concept, the most detected one first.

    Args:
        detectors: (U,) int64, on the CPU, the concept of each unit or -1.
        concepts: Names of the concepts.
        categories: Category of each concept, which colours its bar.
        label: What is counted.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    counts = torch.bincount(detectors[detectors >= 0], minlength=len(concepts))
    order = counts.argsort(descending=True, stable=True)
    found = order[: int((counts > 0).sum())].tolist()
    shown = found[:MOST_BARS]
    figure = Figure(figsize=(6.0, 1.4 + 0.22 * max(len(shown), 3)), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(categories))
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}
    for row, concept in enumerate(shown):
        axes.barh(row, int(counts[concept]), 0.75, color=colours[categories[concept]])
    axes.set_yticks(range(len(shown)), [concepts[concept] for concept in shown], fontsize=8)
    axes.set_ylim(max(len(shown), 1) - 0.4, -0.6)
    axes.set_xlim(0, max(1.0, 1.05 * float(counts.max())))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(label)
    if not found:
        axes.text(0.5, 0.5, "no unit detects a concept", ha="center", transform=axes.transAxes)
    elif len(names) > 1:
        handles = [Patch(color=colours[name], label=name) for name in names]
        axes.legend(handles=handles, fontsize=8, loc="lower right")
    more = f" (the first {MOST_BARS} drawn)" if len(found) > MOST_BARS else ""
    number = int((detectors >= 0).sum())
    axes.set_title(
        f"{number} of {len(detectors)} units detect {len(found)} of {len(concepts)} concepts{more}",
        fontsize=9,
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes
