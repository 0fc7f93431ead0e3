"""The units of a run as cards with pictures and figures, and their votes for classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from pellucid.report.embed import embed
from pellucid.report.glossary import FIGURES, UNIT_FIGURES, Figure, unit_figure
from pellucid.report.runs import Run

# Of the bytes of a unit's pictures; the position has the rest.
_SHEET_SHARE = 0.8
# What a strip of representative or of surprising images has beside those bytes.
_STRIP_SHARE = 0.27
_KINDS = ("representative", "surprising")
_VOTES_BYTES = 100_000


@dataclass(frozen=True)
class Shown:
    """One figure of a unit as the page shows it."""

    text: str
    value: float | None
    detail: str
    """Its values per part, as a line of text."""


@dataclass(frozen=True)
class Votes:
    """Which units of a run vote for which class, as the page shows it."""

    picture: str
    text: str
    alt: str


@dataclass(frozen=True)
class Strip:
    """The representative or the surprising images of a unit, as the page shows them."""

    known: Figure
    """What they are."""
    picture: str
    """Data URI; empty where there are none, or the file is gone."""
    text: str
    """Their categories, if known, or that there are none."""


@dataclass(frozen=True)
class UnitCard:
    """One unit as the page shows it."""

    name: str
    number: int
    category: str
    best_part: str
    sheet: str
    position: str
    strips: tuple[Strip, ...]
    """Of the kinds of which the run says something."""
    alt: str
    figures: tuple[Shown, ...]
    """In the order of the page's figures of units."""
    classes: tuple[tuple[str, str, float], ...]
    """Class, mean activation as text, and its share of the largest one in per cent."""


def unit_figures_of(runs: Sequence[Run]) -> dict[str, Figure]:
    """The figures that at least one unit of any run has: those we know first."""
    hidden = {"unit"}
    found = {
        key
        for run in runs
        for entry in run.units
        for key, value in entry.items()
        if key not in hidden and _is_number(value)
    }
    known = [key for key in UNIT_FIGURES if key in found]
    return {key: unit_figure(key) for key in known + sorted(found - set(known))}


def picture_weight(run: Run) -> float:
    """The pictures of a run's units, counted in units that have no strips."""
    return len(run.units) + _STRIP_SHARE * sum(
        entry.get(f"{kind}_image") is not None for entry in run.units for kind in _KINDS
    )


def make_cards(run: Run, keys: dict[str, Figure], limit: int) -> list[UnitCard]:
    """The units of a run, the best by the first figure on top, as the page's script sorts them."""
    missing: list[str] = []
    cards = [_make_card(run, n, entry, keys, limit, missing) for n, entry in enumerate(run.units)]
    if missing:
        run.problems.append(
            f"{len(missing)} pictures of units cannot be shown, the first one {missing[0]}."
        )
    if not keys:
        return cards
    sign = -1 if next(iter(keys.values())).better != "lower" else 1

    def rank(card: UnitCard) -> tuple[bool, float]:
        value = card.figures[0].value
        return value is None, sign * (value or 0.0)

    return sorted(cards, key=rank)


def _make_card(
    run: Run,
    number: int,
    entry: dict[str, Any],
    keys: dict[str, Figure],
    limit: int,
    missing: list[str],
) -> UnitCard:
    name = str(entry.get("name") or f"Unit {entry.get('unit', number)}")
    category = str(entry.get("category") or "")
    means = entry.get("mean_activation")
    means = (
        {str(c): v for c, v in means.items() if _is_number(v)} if isinstance(means, dict) else {}
    )
    largest = max(means.values(), default=0)
    sheet_limit = int(limit * _SHEET_SHARE)
    return UnitCard(
        name=name,
        number=number,
        category=category,
        best_part=str(entry.get("best_part") or ""),
        sheet=embed(run, entry.get("images"), sheet_limit, missing),
        position=embed(run, entry.get("position_image"), limit - sheet_limit, missing),
        strips=tuple(
            strip
            for kind in _KINDS
            if (strip := _strip(run, entry, kind, int(limit * _STRIP_SHARE), missing))
        ),
        alt=f"{name} of {run.label}",
        figures=tuple(_show(entry, key, known) for key, known in keys.items()),
        classes=tuple(
            (c, f"{mean:.3g}", 100 * max(mean, 0) / largest if largest > 0 else 0)
            for c, mean in sorted(means.items(), key=lambda item: -item[1])[:10]
        ),
    )


def _strip(
    run: Run, entry: dict[str, Any], kind: str, limit: int, missing: list[str]
) -> Strip | None:
    found = entry.get(kind)
    if not isinstance(found, list):
        return None
    if not found:
        return Strip(FIGURES[kind], "", "none")
    labels = [str(each.get("label") or "") for each in found if isinstance(each, dict)]
    picture = embed(run, entry.get(f"{kind}_image"), limit, missing)
    if not any(labels):
        return Strip(FIGURES[kind], picture, "")
    # Pictures stand in the order in which they tell most, and are often all of one category.
    whole = f"{len(labels)} of {labels[0]}" if len(set(labels)) == 1 else "; ".join(labels)
    return Strip(FIGURES[kind], picture, whole)


def make_votes(run: Run) -> Votes | None:
    """Filters and categories of a run; None where its units vote for no classes."""
    found = run.categories
    missing: list[str] = []
    picture = embed(run, found.get("picture"), _VOTES_BYTES, missing) if found else ""
    if not picture:
        return None
    counts = found.get("units")
    counts = {c: n for c, n in counts.items() if _is_number(n)} if isinstance(counts, dict) else {}
    known = FIGURES["category_balance"]
    how = "as training assigned them" if found.get("assigned") else "by strongest mean activation"
    parts = [f"Categories {how}; balance {known.write(found.get('balance'))}"]
    if counts:
        most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
        parts.append(f"most units: {most} ({counts[most]}), fewest: {least} ({counts[least]})")
    if _is_number(share := found.get("agreement")):
        parts.append(f"{100 * share:.0f} % of the units vote most for their own category")
    return Votes(picture, "; ".join(parts) + ".", f"Votes of the units of {run.label}")


def _show(entry: dict[str, Any], key: str, known: Figure) -> Shown:
    found = entry.get(key)
    value = float(found) if _is_number(found) else None
    parts = entry.get(f"{key}_by_part")
    parts = parts if isinstance(parts, dict) else {}
    detail = ", ".join(f"{part} {known.write(figure)}" for part, figure in parts.items())
    return Shown(known.write(value), value, detail)


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
