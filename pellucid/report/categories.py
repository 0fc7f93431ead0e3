"""The picture of which units vote for which class, and the file that the report reads."""

import json
from pathlib import Path

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from pellucid.analysis.categories import UnitCategories
from pellucid.logging import figure_picture
from pellucid.report.drawing import Picture
from pellucid.report.unit_figures import without_nan

PICTURE = "images/categories.png"
FILE = "categories.json"

_FOR, _AGAINST, _INK, _QUIET = "#0f766e", "#b4530a", "#1c2430", "#6b7480"
_VOTES = LinearSegmentedColormap.from_list("votes", [_AGAINST, "#f7f7f5", _FOR])
# More names than this would lie over one another.
_NAMES = 40


def draw_categories(found: UnitCategories) -> Picture:
    """Draw the votes of all units, sorted by category, and how many units each category has.

    A column for each unit, a row for each class: teal where the unit speaks for the class, orange
    where it speaks against it. Lines part the categories; in a layer whose units vote for their own
    category the teal blocks lie on the diagonal.

    Args:
        found: Categories and votes.

    Returns:
        (H, W, 3) uint8.
    """
    classes = len(found.class_names)
    height = 1.7 + 0.3 * min(max(classes, 4), _NAMES)
    figure = Figure(figsize=(11, height), dpi=100, facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(5, 1))
    votes = found.votes[found.order()].T.numpy()
    largest = float(np.abs(votes).max()) or 1.0
    # Cells are drawn as they are: smoothing would mix neighbours of different categories.
    drawn = left.imshow(
        votes,
        cmap=_VOTES,
        vmin=-largest,
        vmax=largest,
        aspect="auto",
        interpolation="none",
    )
    counts = found.counts.tolist()
    for end in np.cumsum(counts)[:-1]:
        left.axvline(end - 0.5, color=_QUIET, lw=0.6)
    if sum(counts) < votes.shape[1]:
        left.axvline(sum(counts) - 0.5, color=_INK, lw=1.2, ls=":")
    step = -(-classes // _NAMES)
    left.set_yticks(range(0, classes, step))
    for tick, name in zip(left.get_yticks(), found.class_names[::step], strict=True):
        left.text(
            -0.012,
            tick,
            name if len(name) <= 32 else f"{name[:30]}...",
            transform=left.get_yaxis_transform(),
            ha="right",
            va="center",
            size=9,
            color=_INK,
            parse_math=False,
        )
    left.tick_params(labelleft=False, length=2, labelsize=8, colors=_QUIET)
    left.set_xlabel(
        f"{votes.shape[1]} units, sorted by category, strongest vote first", size=9, color=_QUIET
    )
    bar = figure.colorbar(drawn, ax=left, location="top", shrink=0.4, aspect=40, pad=0.02)
    bar.set_label("vote, in logits per standard deviation", size=9, color=_QUIET)
    bar.ax.tick_params(labelsize=8, colors=_QUIET, length=2)
    right.barh(range(classes), counts, height=0.7, color=_FOR)
    if classes <= _NAMES:
        for row, count in enumerate(counts):
            right.text(count, row, f" {count}", va="center", size=8.5, color=_INK)
    right.axvline(sum(counts) / classes, color=_QUIET, lw=0.8, ls=":", zorder=0)
    right.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    right.set_xlim(0, 1.2 * max(*counts, 1))
    right.set_xlabel("units per category\n(dotted: even)", size=9, color=_QUIET)
    right.tick_params(labelleft=False, left=False, labelsize=8, colors=_QUIET, length=2)
    for axes in (left, right):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.spines[:].set_color(_QUIET)
    return figure_picture(figure)


def save_categories(found: UnitCategories, run_directory: Path | str) -> Picture:
    """Write the picture, and what the report says beside it, into a run.

    Args:
        found: Categories and votes.
        run_directory: The run; made if it is not there.

    Returns:
        The picture.
    """
    path = Path(run_directory) / PICTURE
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = draw_categories(found)
    Image.fromarray(picture).save(path, optimize=True)
    content = without_nan(
        {
            "assigned": found.assigned,
            "units": dict(zip(found.class_names, found.counts.tolist(), strict=True)),
            "balance": found.balance,
            "agreement": found.agreement,
            "picture": PICTURE,
        }
    )
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (Path(run_directory) / FILE).write_text(text, encoding="utf-8")
    return picture
