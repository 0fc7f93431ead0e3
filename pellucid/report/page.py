"""The report of one run, or the comparison of several, as one HTML file.

Everything is inside the file: pictures as data URIs, curves as inline SVG, style and the few lines
of script. It loads nothing, so it can be mailed, archived and opened anywhere.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeGuard

from jinja2 import Environment, FileSystemLoader

from pellucid import __version__
from pellucid.report import curves, latents, scatter
from pellucid.report.agreement import make_agreement
from pellucid.report.embed import embed
from pellucid.report.glossary import FIGURES, UNIT_FIGURES, Figure, figure, unit_figure
from pellucid.report.results import make_headlines, make_skipped, make_table, make_verdict
from pellucid.report.runs import Run, read_runs
from pellucid.report.tradeoff import Tradeoff, find_tradeoff, is_many, make_rows, make_summary

# A page of two runs with 128 units each stays under 8 MB; base64 adds a third.
_PICTURE_BYTES = 5_400_000
_LEAST_BYTES, _MOST_BYTES = 8_000, 40_000
_SHEET_SHARE = 0.8
_VOTES_BYTES = 400_000

_ELSEWHERE = {"metrics", "skipped", "experiment", "model", "data"}


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
class UnitCard:
    """One unit as the page shows it."""

    name: str
    number: int
    category: str
    best_part: str
    sheet: str
    position: str
    alt: str
    figures: tuple[Shown, ...]
    """In the order of the page's figures of units."""
    classes: tuple[tuple[str, str, float], ...]
    """Class, mean activation as text, and its share of the largest one in per cent."""


def build_report(runs: Sequence[Path | str], output: Path | str | None = None) -> Path:
    """Write the report of a run, or the comparison of several.

    A run may be incomplete: what is missing is said on the page, with the reason.

    Args:
        runs: Run directories; the first is the one that the others are compared with.
        output: The file to write; None: ``report.html`` in the run directory, or, for several
            runs, in the directory that holds them all.

    Returns:
        The path of the report.

    Raises:
        ValueError: If there is no run, or one is not a directory.
    """
    read = read_runs([Path(run) for run in runs])
    if output is None:
        folders = [str(run.path) for run in read]
        together = folders[0] if len(read) == 1 else os.path.commonpath(folders)
        output = Path(together) / "report.html"
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(render(read), encoding="utf-8")
    return output


def render(runs: Sequence[Run]) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tradeoff = find_tradeoff(runs)
    # Over many runs the page follows settings, not runs: in its words, colours and pictures.
    many = tradeoff if is_many(runs) else None
    colours, drawn = _by_setting(runs, many)
    count = sum(len(run.units) for run, shown in zip(runs, drawn, strict=True) if shown)
    limit = min(max(_PICTURE_BYTES // max(count, 1), _LEAST_BYTES), _MOST_BYTES)
    keys = _unit_figures(runs)
    cards = [
        _make_cards(run, keys, limit) if shown else []
        for run, shown in zip(runs, drawn, strict=True)
    ]
    generators = sum(bool(run.latents) for run in runs)
    sliders = [
        latents.make_latents(run, generators) if shown else None
        for run, shown in zip(runs, drawn, strict=True)
    ]
    names = list(dict.fromkeys(run.experiment if many else run.label for run in runs))
    categories = sorted({card.category for run in cards for card in run if card.category})
    return environment.get_template("report.html.j2").render(
        title=" and ".join(names),
        names=names,
        runs=runs,
        colours=colours,
        drawn=drawn,
        many=many,
        verdict=make_summary(many) if many else make_verdict(runs),
        headlines=make_headlines(runs),
        table=make_table(runs),
        skipped=make_skipped(runs),
        charts=curves.make_charts(runs),
        **(_tradeoff_fields(tradeoff) if tradeoff else {}),
        plot=(curves.WIDTH, curves.HEIGHT, curves.LEFT, curves.RIGHT),
        unit_figures=list(keys.values()),
        cards=cards,
        votes=[_make_votes(r) if d else None for r, d in zip(runs, drawn, strict=True)],
        categories=categories,
        sliders=sliders,
        agreement=make_agreement(runs),
        bars=latents,
        provenance=_provenance(runs),
        version=__version__,
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    )


def _tradeoff_fields(tradeoff: Tradeoff) -> dict[str, Any]:
    """What ``tradeoff.html.j2`` shows."""
    return {
        "tradeoff": tradeoff,
        "caption": scatter.make_caption(tradeoff),
        "scatters": scatter.make_scatters(tradeoff),
        "frame": scatter,
        "shapes": scatter.SHAPES,
        "columns": [figure(name) for name in ("accuracy", *tradeoff.metrics)],
        "rows": make_rows(tradeoff),
    }


def _by_setting(runs: Sequence[Run], many: Tradeoff | None) -> tuple[list[int], list[bool]]:
    """The number of each run's colour, and whether its units are shown."""
    if many is None:
        return list(range(len(runs))), [True] * len(runs)
    colours = {id(run): group.number for group in many.groups for run in group.runs}
    first = {id(group.runs[0]) for group in many.groups}
    # A run without figures is in no group, and has the colour after theirs.
    return [colours.get(id(run), len(many.groups)) for run in runs], [id(r) in first for r in runs]


def _unit_figures(runs: Sequence[Run]) -> dict[str, Figure]:
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


def _make_cards(run: Run, keys: dict[str, Figure], limit: int) -> list[UnitCard]:
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
        alt=f"{name} of {run.label}",
        figures=tuple(_show(entry, key, known) for key, known in keys.items()),
        classes=tuple(
            (c, f"{mean:.3g}", 100 * max(mean, 0) / largest if largest > 0 else 0)
            for c, mean in sorted(means.items(), key=lambda item: -item[1])[:10]
        ),
    )


def _make_votes(run: Run) -> Votes | None:
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


def _provenance(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Rows of a table: a name and one text per run."""
    columns: list[dict[str, str]] = []
    for run in runs:
        column = {"run directory": run.path.name}
        for key, value in run.results.items():
            if key in _ELSEWHERE:
                continue
            label = key.replace("_", " ")
            if isinstance(value, dict):
                column |= {f"{label}: {inner}": _text(v) for inner, v in value.items()}
            else:
                column[label] = _text(value)
        columns.append(column)
    names = dict.fromkeys(name for column in columns for name in column)
    return [(name, [column.get(name, "—") for column in columns]) for name in names]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) >= 1e5 else str(value)
    if value is None:
        return "—"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
