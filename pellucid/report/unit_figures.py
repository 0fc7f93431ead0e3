"""The figures of one unit, as ``units.json`` holds them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pellucid.analysis.categories import UnitCategories
from pellucid.analysis.unit_examples import Examples
from pellucid.analysis.units import UnitSummary
from pellucid.report.glossary import unit_figure


def describe_unit(
    summary: UnitSummary, unit: int, categories: UnitCategories | None = None
) -> dict[str, Any]:
    """What is known of a unit without its metrics.

    Args:
        summary: What the units fire at.
        unit: Number of the unit.
        categories: The units' categories and votes, if known.

    Returns:
        Fields of ``units.json``: category (the class whose images activate the unit most, unless
        categories are given), mean activation per class, share of images on which it fires,
        position, strongest, representative and surprising images, and the votes for each class, if
        known.
    """
    names = dict(enumerate(summary.class_names))
    means = summary.class_activation[unit].tolist()
    known = {c: mean for c, mean in enumerate(means) if not math.isnan(mean)}
    category = max(known, key=lambda c: known[c]) if any(m > 0 for m in known.values()) else None
    if categories is not None:
        own = int(categories.categories[unit])
        category = None if own < 0 else own
    height, width = next(iter(summary.images.values())).shape[:2]
    spread = summary.position_covariance[unit].diagonal().sum().clamp(min=0).sqrt()
    entry: dict[str, Any] = {
        "unit": unit,
        "name": summary.unit_names[unit] if unit < len(summary.unit_names) else None,
        "category": None if category is None else names.get(category, f"class {category}"),
        "mean_activation": {names.get(c, f"class {c}"): mean for c, mean in known.items()},
        "share_fired": float(summary.share_fired[unit]),
        "strongest_peak": float(summary.peaks[unit, 0]),
        "position_mean": summary.position_mean[unit].tolist(),
        "position_spread": float(spread) / math.hypot(height, width),
        "strongest": [
            {"index": index, "label": names.get(label), "peak": peak}
            for index, label, peak in zip(
                summary.indices[unit].tolist(),
                summary.labels[unit].tolist(),
                summary.peaks[unit].tolist(),
                strict=True,
            )
        ],
    }
    if summary.representative:
        entry["representative"] = _listed(summary.representative[unit], names)
    if summary.surprising:
        entry["surprising"] = _listed(summary.surprising[unit], names)
    if categories is not None:
        votes = categories.votes[unit].tolist()
        entry["votes"] = dict(zip(categories.class_names, votes, strict=True))
    total = sum(known.values())
    if category in known and len(known) > 1 and min(known.values()) >= 0 and total > 0:
        entry["selectivity"] = known[category] / total
    return entry


def _listed(examples: Examples, names: Mapping[int, str]) -> list[dict[str, Any]]:
    rows = zip(examples.indices, examples.labels, examples.peaks, strict=True)
    return [
        {
            "index": index,
            "label": None if label < 0 else names.get(label, f"class {label}"),
            "peak": peak,
        }
        for index, label, peak in rows
    ]


def unit_metrics(
    per_unit: Mapping[str, Tensor], unit: int, columns: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """A unit's metrics: one figure each, those per part, and the part with the best one.

    Args:
        per_unit: Metrics by name, (U,) or one column per part.
        unit: Number of the unit.
        columns: By metric, the names of its parts.
    """
    entry: dict[str, Any] = {}
    judged = False
    for name, values in per_unit.items():
        if values.ndim == 1:
            entry[name] = float(values[unit])
            continue
        parts = dict(zip(columns[name], values[unit].tolist(), strict=True))
        known = {part: value for part, value in parts.items() if not math.isnan(value)}
        entry[f"{name}_by_part"] = parts
        over = max if unit_figure(name).over_parts == "max" else lambda v: sum(v) / len(v)
        entry[name] = over(list(known.values())) if known else None
        better = unit_figure(name).pick()
        best = None if better is None or not known else better(known, key=lambda p: known[p])
        # Overlap with a part says more than a steady distance from it, whichever comes first.
        higher = unit_figure(name).better == "higher"
        if best is not None and ("best_part" not in entry or (higher and not judged)):
            entry["best_part"], judged = best, higher
    return entry


def without_nan(value: Any) -> Any:
    """JSON has no NaN: null in its place."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
