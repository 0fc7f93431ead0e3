"""The report of one run, or the comparison of several, as one HTML file.

Everything is inside the file: pictures as data URIs, curves as inline SVG, style and the few lines
of script. It loads nothing, so it can be mailed, archived and opened anywhere.
"""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from pellucid import __version__
from pellucid.report import curves, evaluation, latents, scatter
from pellucid.report.adversarial import make_vulnerability
from pellucid.report.agreement import make_agreement
from pellucid.report.comparable import incomparable
from pellucid.report.confusions import make_confusion
from pellucid.report.differences import make_differences
from pellucid.report.glossary import figure
from pellucid.report.heads import make_heads
from pellucid.report.judged import judge
from pellucid.report.overview import find_overview, overview_caption
from pellucid.report.provenance import make_provenance
from pellucid.report.reliance import make_reliance
from pellucid.report.results import make_headlines, make_skipped, make_table
from pellucid.report.runs import Run, read_runs
from pellucid.report.tradeoff import (
    TOLD,
    Tradeoff,
    find_tradeoff,
    is_many,
    make_rows,
    make_summary,
)
from pellucid.report.unit_cards import make_cards, make_votes, picture_weight, unit_figures_of
from pellucid.report.verdict import three_sentences

# Of the units of one run, of two, and of three or more: with all else a page of one run stays under
# 5 MB, of two under 8 MB without explanations, of three under 15 MB. Base64 adds a third.
_PICTURE_BYTES = (2_300_000, 5_400_000, 7_500_000)
_LEAST_BYTES, _MOST_BYTES = 8_000, 40_000


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
    notes = incomparable(runs)
    tradeoff = None if notes else find_tradeoff(runs) or find_overview(runs)
    # Over many runs the page follows settings, not runs: in its words, colours and pictures.
    many = tradeoff if is_many(runs) and tradeoff and _merges(tradeoff) else None
    colours, drawn = _by_setting(runs, many)
    names = list(dict.fromkeys(run.experiment if many else run.label for run in runs))
    if many and not many.lines:
        names = [group.label for group in many.groups]
    evaluated = sum(bool(run.explanations) for run in runs)
    attacked = sum(bool(run.adversarial) for run in runs)
    confusions = [make_confusion(run) for run in runs]
    judged = [judge(run, evaluated) for run in runs]
    differences = [] if notes else make_differences(runs)
    verdict = three_sentences(
        runs, confusions, [found.evaluation for found in judged], differences, not notes
    )
    return environment.get_template("report.html.j2").render(
        title=" and ".join(names),
        names=names,
        runs=runs,
        notes=notes,
        colours=colours,
        drawn=drawn,
        many=many,
        verdict=make_summary(many) if many and many.lines else verdict,
        headlines=make_headlines(runs, not notes),
        table=make_table(runs, not notes),
        skipped=make_skipped(runs),
        charts=curves.make_charts(runs),
        **(_tradeoff_fields(tradeoff) if tradeoff else {}),
        plot=(curves.WIDTH, curves.HEIGHT, curves.LEFT, curves.RIGHT),
        **_unit_fields(runs, drawn),
        confusions=confusions,
        reliance=make_reliance(runs),
        judged=judged,
        vulnerabilities=[make_vulnerability(run, attacked) for run in runs],
        heads=[make_heads(run) for run in runs],
        differences=differences,
        agreement=make_agreement(runs),
        bars=latents,
        dots=evaluation,
        known=figure,
        provenance=make_provenance(runs),
        version=__version__,
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    )


def _unit_fields(runs: Sequence[Run], drawn: Sequence[bool]) -> dict[str, Any]:
    """What the page shows of units and latents."""
    count = sum(picture_weight(run) for run, shown in zip(runs, drawn, strict=True) if shown)
    with_units = sum(shown and bool(run.units) for run, shown in zip(runs, drawn, strict=True))
    room = _PICTURE_BYTES[min(max(with_units, 1), len(_PICTURE_BYTES)) - 1]
    limit = min(max(int(room / max(count, 1)), _LEAST_BYTES), _MOST_BYTES)
    keys = unit_figures_of(runs)
    pairs = list(zip(runs, drawn, strict=True))
    cards = [make_cards(run, keys, limit) if shown else [] for run, shown in pairs]
    generators = sum(bool(run.latents) for run in runs)
    return {
        "unit_figures": list(keys.values()),
        "cards": cards,
        "categories": sorted({card.category for run in cards for card in run if card.category}),
        "votes": [make_votes(run) if shown else None for run, shown in pairs],
        "sliders": [latents.make_latents(run, generators) if d else None for run, d in pairs],
    }


def _merges(tradeoff: Tradeoff) -> bool:
    """Whether means are there to be shown: a line, or a setting of several seeds."""
    return bool(tradeoff.lines) or any(len(group.runs) > 1 for group in tradeoff.groups)


def _tradeoff_fields(tradeoff: Tradeoff) -> dict[str, Any]:
    """What ``tradeoff.html.j2`` shows."""
    return {
        "tradeoff": tradeoff,
        "told": TOLD,
        "caption": scatter.make_caption(tradeoff) if tradeoff.lines else overview_caption(tradeoff),
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
