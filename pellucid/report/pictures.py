"""A picture of why a model gave one image its score."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor

from pellucid.logging import figure_picture
from pellucid.metrics.location_instability import peak_positions
from pellucid.models.explanation import Explanation
from pellucid.report.drawing import (
    Picture,
    as_picture,
    outline,
    resize,
)

_FOR, _AGAINST, _INK, _QUIET = "#0f766e", "#b4530a", "#1c2430", "#6b7480"
_IMAGE_PIXELS = 420
_MARKER_RADIUS = 11
_DISC_TEXT: dict[str, Any] = {
    "color": "white",
    "weight": "bold",
    "ha": "center",
    "va": "center_baseline",
}


def draw_explanation(
    image: Picture | Tensor,
    explanation: Explanation,
    i: int,
    class_names: Sequence[str] = (),
    *,
    num_units: int = 8,
    title: str | None = None,
) -> Picture:
    """Draw why a model gave one image its score.

    On the left the image, with the place of each of the most important units outlined (above half
    of its peak) and numbered; on the right what each of them added to the score, then the other
    units, the bias, and their sum: the score. A model without contributions gets the peaks of its
    units instead.

    Args:
        image: (H, W, 3) uint8, the image that was explained.
        explanation: Of a batch.
        i: Number of the image in the batch.
        class_names: Names of the classes; empty: their numbers.
        num_units: Number of units to draw, at least 1.
        title: First line; None: the class and its score.

    Returns:
        (480, 1000, 3) uint8.

    Raises:
        ValueError: If a number is out of range, or the explanation has neither contributions nor
            maps.
    """
    size = len(explanation.scores)
    if not 0 <= i < size:
        raise ValueError(f"i must be in [0, {size - 1}], the images of the explanation, got {i}")
    if num_units < 1:
        raise ValueError(f"num_units must be at least 1, got {num_units}")
    explanation = explanation.to("cpu")
    values = _values(explanation, i)
    order = values.abs().argsort(descending=True, stable=True)[:num_units].tolist()
    target = int(explanation.target[i])
    if title is None:
        # One logit stands for one category against its negatives: it has the last name.
        names = class_names[-explanation.scores.shape[1] :]
        name = names[target] if target < len(names) else f"class {target}"
        score = float(explanation.scores[i, target])
        title = f"{name}   score {score:+.2f} {explanation.contribution_unit}"
    page = Figure(figsize=(10, 4.8), dpi=100, facecolor="white")
    page.text(0.02, 0.94, title, size=13, weight="bold", color=_INK, parse_math=False)
    _draw_places(page, as_picture(image), explanation, i, order, values)
    _draw_bars(page, explanation, i, order, values)
    return figure_picture(page)


def _values(explanation: Explanation, i: int) -> Tensor:
    """(U,) how much each unit counts: its contribution, or else its peak."""
    if explanation.contributions is not None:
        return explanation.contributions[i].float()
    if explanation.maps is None:
        raise ValueError("the explanation has neither contributions nor maps, so nothing to draw")
    return explanation.maps[i].float().amax((-2, -1))


def _unit_name(explanation: Explanation, unit: int) -> str:
    names = explanation.unit_names
    return names[unit] if unit < len(names) else f"unit {unit}"


def _draw_places(
    page: Figure,
    image: Picture,
    explanation: Explanation,
    i: int,
    order: Sequence[int],
    values: Tensor,
) -> None:
    """The image with a numbered disc for each unit, moved aside where two would overlap."""
    picture = resize(image, _IMAGE_PIXELS)
    height, width = picture.shape[:2]
    positions = explanation.positions
    if explanation.maps is not None:
        for unit in order[::-1]:
            activation = explanation.maps[i, unit]
            if (peak := float(activation.max())) > 0:
                colour = (15, 160, 140) if values[unit] >= 0 else (240, 120, 30)
                picture = outline(picture, activation, peak / 2, colour=colour, width=2)
        if positions is None:
            size = (image.shape[0], image.shape[1])
            positions = peak_positions(explanation.maps.float(), size)[1]
    left, bottom = 20 + (_IMAGE_PIXELS - width) / 2, 14 + (_IMAGE_PIXELS - height) / 2
    axes = page.add_axes((left / 1000, bottom / 480, width / 1000, height / 480))
    axes.imshow(picture, extent=(0, width, height, 0), interpolation="none")
    axes.set_axis_off()
    if positions is None:
        return
    taken: list[tuple[float, float]] = []
    for number, unit in enumerate(order, 1):
        x, y = ((positions[i, unit] + 0.5) * (width / image.shape[1])).tolist()
        spot = _free_spot(x, y, taken, width, height)
        taken.append(spot)
        ink = _FOR if values[unit] >= 0 else _AGAINST
        axes.plot([x, spot[0]], [y, spot[1]], color="white", linewidth=2.6, zorder=2)
        axes.plot([x, spot[0]], [y, spot[1]], color=ink, linewidth=1.2, zorder=2)
        axes.plot(x, y, "o", markersize=4, color=ink, markeredgecolor="white", zorder=2)
        disc = Circle(spot, _MARKER_RADIUS, facecolor=ink, edgecolor="white", zorder=3)
        axes.add_patch(disc)
        axes.text(*spot, str(number), size=9, zorder=4, **_DISC_TEXT)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)


def _free_spot(
    x: float, y: float, taken: Sequence[tuple[float, float]], width: int, height: int
) -> tuple[float, float]:
    """The place nearest to (x, y), inside the image, where a disc touches no other."""
    margin = _MARKER_RADIUS + 2
    best = (x, y)
    for ring in range(12):
        for step in range(16 if ring else 1):
            angle = 2 * math.pi * (step / 16 - 0.25)
            away = ring * _MARKER_RADIUS
            best = (
                min(max(x + away * math.cos(angle), margin), width - margin),
                min(max(y + away * math.sin(angle), margin), height - margin),
            )
            if all(math.dist(best, other) > 2 * margin - 2 for other in taken):
                return best
    return best


def _draw_bars(
    page: Figure, explanation: Explanation, i: int, order: Sequence[int], values: Tensor
) -> None:
    """What each unit added, down to the score."""
    rows = [(_unit_name(explanation, u), float(values[u]), str(n)) for n, u in enumerate(order, 1)]
    adds_up = explanation.contributions is not None
    if adds_up:
        if (rest := len(values) - len(order)) > 0:
            other = float(values.sum() - values[order].sum())
            rows.append((f"{rest} other unit{'s' if rest > 1 else ''}", other, ""))
        if explanation.bias is not None:
            rows.append(("bias", float(explanation.bias[i]), ""))
    total = sum(value for _, value, _ in rows)
    score = [("score", total, "")] if adds_up and explanation.bias is not None else []
    axes = page.add_axes((0.6, 0.03, 0.37, 0.81))
    largest = max((abs(value) for _, value, _ in rows + score), default=0) or 1.0
    least = min(0.0, *(value for _, value, _ in rows + score))
    axes.set_xlim(least - 0.3 * largest if least < 0 else 0, largest * 1.2)
    axes.set_ylim(len(rows) + len(score) - 0.4, -0.6)
    digits = max(2, min(6, 2 - math.floor(math.log10(largest))))
    for row, (name, value, number) in enumerate(rows + score):
        is_score = row == len(rows)
        colour = _INK if is_score else _FOR if value >= 0 else _AGAINST
        axes.barh(row, value, height=0.62, color=colour, alpha=1 if number or is_score else 0.55)
        side = "left" if value >= 0 else "right"
        space = 0.02 * largest * (1 if value >= 0 else -1)
        weight = "bold" if is_score else "normal"
        text = f"{value:{'+' if adds_up else ''}.{digits}f}"
        style: dict[str, Any] = {"size": 9.5, "va": "center", "color": _INK, "weight": weight}
        axes.text(value + space, row, text, ha=side, **style)
        where = axes.get_yaxis_transform()
        axes.text(-0.03, row, name, transform=where, ha="right", parse_math=False, **style)
        if number:
            axes.plot(-0.34, row, "o", markersize=13, color=colour, transform=where, clip_on=False)
            axes.text(-0.34, row, number, transform=where, size=8.5, **_DISC_TEXT)
    axes.axvline(0, color=_INK, linewidth=0.8)
    if score:
        axes.axhline(len(rows) - 0.5, color=_QUIET, linewidth=0.8)
    heading = f"What each unit adds ({explanation.contribution_unit})" if adds_up else "Peak"
    page.text(0.468, 0.87, heading, size=9.5, color=_QUIET, parse_math=False)
    axes.set_axis_off()
