"""What explanations, their evaluation and runs show in a notebook: HTML without scripts."""

import base64
import io
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from PIL import Image
from torch import Tensor

from pellucid.report.explanation_table import with_randomised
from pellucid.report.figure import Figure
from pellucid.report.glossary import figure
from pellucid.report.results import make_table, make_verdict

if TYPE_CHECKING:
    from pellucid.attribution.evaluation.result import Evaluation
    from pellucid.attribution.method import Attribution
    from pellucid.models.explanation import Explanation
    from pellucid.report.runs import Run

_MOST_IMAGES, _MOST_UNITS, _MOST_METRICS = 8, 4, 14
_PIXELS = 96
_CELL = "padding:4px 12px 4px 0;text-align:left;vertical-align:top"
_NUMBER = "padding:4px 12px 4px 0;text-align:right;font-variant-numeric:tabular-nums"
_QUIET = "opacity:0.65;font-size:90%"
_KINDS = {"own": "the model itself", "post_hoc": "after the fact", "baseline": "baseline"}
_ARROWS = {True: "↑", False: "↓", None: ""}


def explanation_html(explanation: "Explanation") -> str:
    """An explanation as a table: of each image the class, its score, its map and its units.

    Args:
        explanation: Of a batch; of more than eight images the first eight are shown.
    """
    explanation = explanation.to("cpu")
    count = len(explanation.scores)
    heat = explanation.heat_map()
    has_classes = explanation.scores.shape[1] > 0
    head = ["image"]
    head += ["class", f"score ({explanation.contribution_unit})"] if has_classes else []
    head += ["map"] if heat is not None else []
    head += [_unit_heading(explanation)] if _unit_heading(explanation) else []
    rows = []
    for i in range(min(count, _MOST_IMAGES)):
        cells = [_cell(str(i))]
        if has_classes:
            # One logit stands for one category against its negatives.
            target = int(explanation.target[i])
            place = target if target < explanation.scores.shape[1] else 0
            cells.append(_cell(str(target)))
            cells.append(_cell(f"{float(explanation.scores[i, place]):.3f}", _NUMBER))
        if heat is not None:
            cells.append(f'<td style="{_CELL}">{_thumbnail(heat[i], f"map of image {i}")}</td>')
        if _unit_heading(explanation):
            cells.append(_cell(_units(explanation, i)))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    what = f"Explanation of {count} image{'s' * (count != 1)}"
    parts = [f"<b>{what}</b>", _quiet(_shape(explanation)), _table(head, rows), _quiet(_cut(count))]
    return f"<div>{''.join(parts)}</div>"


def attribution_html(attribution: "Attribution") -> str:
    """What a post-hoc method says, as a table: of each image the class, its score and its map.

    Args:
        attribution: Of a batch; of more than eight images the first eight are shown.
    """
    scores, heat = attribution.scores.cpu(), attribution.heat.cpu()
    target, error = attribution.target.cpu(), attribution.completeness_error
    count = len(heat)
    promised = None if error is None else error.cpu()
    head = ["image", "class", "score (logits)", "map"]
    head += [] if promised is None else ["completeness error"]
    rows = []
    for i in range(min(count, _MOST_IMAGES)):
        score = f"{float(scores[i, int(target[i])]):.3f}"
        cells = [_cell(str(i)), _cell(str(int(target[i]))), _cell(score, _NUMBER)]
        cells.append(f'<td style="{_CELL}">{_thumbnail(heat[i], f"map of image {i}")}</td>')
        if promised is not None:
            value = float(promised[i])
            cells.append(_cell("—" if value != value else f"{value:.1e}", _NUMBER))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    height, width = heat.shape[1:]
    shape = f"maps of {height} x {width}, {attribution.sign}"
    what = f"<b>Attribution of {count} image{'s' * (count != 1)}</b>"
    return f"<div>{what}{_quiet(shape)}{_table(head, rows)}{_quiet(_cut(count))}</div>"


def evaluation_html(evaluation: "Evaluation") -> str:
    """A table of methods by metrics, with intervals, baselines, and what was left out.

    Args:
        evaluation: As :func:`pellucid.attribution.evaluation.evaluate_explanations` gives it.
    """
    table, count = evaluation.as_dict(), evaluation.images
    columns = [(figure(c.key), _ARROWS[c.higher_is_better], c.key) for c in evaluation.columns]
    rows = [dict(row) for row in with_randomised(table["rows"])]
    if table["part_effects"] is not None:
        columns.append((figure("part_effects"), _ARROWS[True], "part_effects"))
        found = {row["method"]: row["correlation"] for row in table["part_effects"]["rows"]}
        for row in rows:
            row["cells"] = {**row["cells"], "part_effects": found.get(row["method"])}
    head = "".join(_metric_heading(known, arrow) for known, arrow, _ in columns)
    body = []
    for row in rows:
        cells = [_interval(known, row["cells"].get(key), count) for known, _, key in columns]
        kind = _KINDS[row["kind"]] if row["method"] else ""
        body.append(f"<tr>{_cell(row['label'])}{_cell(kind)}{''.join(cells)}</tr>")
    first = f'<th style="{_CELL}">method</th><th style="{_CELL}">kind</th>'
    parts = [
        f"<b>Evaluation of explanations of {count} image{'s' * (count != 1)}</b>",
        _quiet("Means over images with their 95 % bootstrap intervals. ↑ more is better, ↓ less."),
        f"<table><thead><tr>{first}{head}</tr></thead><tbody>{''.join(body)}</tbody></table>",
    ]
    parts += [_quiet(f"{row['label']}: {row['note']}") for row in table["rows"] if row["note"]]
    parts += [_quiet(f"{name}: {reason}") for name, reason in evaluation.skipped.items()]
    return f"<div>{''.join(parts)}</div>"


def run_html(run: "Run") -> str:
    """A run as a table: what it was, its figures, and what is missing.

    Args:
        run: As :func:`pellucid.report.runs.load_run` gives it.
    """
    what = f"{run.class_of('model') or 'unknown model'} on {run.class_of('data') or 'unknown data'}"
    parts = [f"<b>{escape(run.label or run.experiment)}</b>", _quiet(what)]
    parts += [f"<p>{escape(sentence)}</p>" for sentence in make_verdict([run])]
    rows = []
    for stage in make_table([run])[:2]:
        for row in stage.rows[:_MOST_METRICS]:
            label = f"{row.figure.label} {row.figure.arrow}".strip()
            title = escape(row.figure.definition, quote=True)
            rows.append(
                f'<tr><td style="{_CELL}" title="{title}">{escape(label)}</td>'
                f"{_cell(row.cells[0].text, _NUMBER)}{_cell(row.figure.unit)}"
                f"{_cell(stage.name)}</tr>"
            )
    if rows:
        parts.append(_table(["metric", "value", "unit", "stage"], rows))
    parts += [_quiet(problem) for problem in run.problems]
    parts.append(_quiet(f"{run.path}, {len(run.units)} units"))
    return f"<div>{''.join(parts)}</div>"


def _table(head: list[str], rows: list[str]) -> str:
    names = "".join(f'<th style="{_CELL}">{escape(name)}</th>' for name in head)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _cell(text: str, style: str = _CELL) -> str:
    return f'<td style="{style}">{escape(text)}</td>'


def _quiet(text: str) -> str:
    return f'<p style="{_QUIET}">{escape(text)}</p>' if text else ""


def _cut(count: int) -> str:
    return f"the first {_MOST_IMAGES} of {count} images" if count > _MOST_IMAGES else ""


def _metric_heading(known: Figure, arrow: str) -> str:
    title = escape(" ".join([known.definition, known.unit]).strip(), quote=True)
    return f'<th style="{_NUMBER}" title="{title}">{escape(f"{known.label} {arrow}".strip())}</th>'


def _interval(known: Figure, cell: Mapping[str, Any] | None, images: int) -> str:
    """A mean with its interval, and the number of images where it is not of all."""
    if cell is None or cell["mean"] is None:
        return _cell("—", _NUMBER)
    words = known.write(cell["mean"])
    if cell["low"] is not None and cell["high"] is not None:
        words += f" ({known.write(cell['low'])} to {known.write(cell['high'])})"
    return _cell(words + (f", n = {cell['count']}" if cell["count"] < images else ""), _NUMBER)


def _shape(explanation: "Explanation") -> str:
    parts = []
    if explanation.maps is not None:
        units, height, width = explanation.maps.shape[1:]
        parts.append(f"{units} maps of {height} x {width}, {explanation.map_sign}")
    if explanation.traversals is not None:
        parts.append(f"traversals of {len(explanation.traversals.names)} latents")
    return ", ".join(parts)


def _unit_heading(explanation: "Explanation") -> str:
    if explanation.contributions is not None:
        return f"what units add ({explanation.contribution_unit})"
    return "strongest units" if explanation.maps is not None else ""


def _units(explanation: "Explanation", i: int) -> str:
    values, sign = explanation.contributions, "+"
    if values is None:
        assert explanation.maps is not None
        values, sign = explanation.maps.flatten(2).amax(2), ""
    order = values[i].abs().argsort(descending=True)[:_MOST_UNITS].tolist()
    names = explanation.unit_names
    return ", ".join(
        f"{names[u] if u < len(names) else f'unit {u}'} {float(values[i, u]):{sign}.3f}"
        for u in order
    )


def _thumbnail(heat: Tensor, alt: str) -> str:
    """A map as a picture inside the page: what is not finite is drawn as nothing."""
    values = np.nan_to_num(heat.detach().float().numpy(), nan=0.0, posinf=0.0, neginf=0.0)
    largest = float(np.abs(values).max()) or 1.0
    name, low = ("RdBu_r", -largest) if values.min() < 0 else ("inferno", 0.0)
    colours = matplotlib.colormaps[name]((values - low) / (largest - low))[..., :3]
    picture = Image.fromarray((255 * colours).round().astype(np.uint8))
    scale = _PIXELS / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.NEAREST).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt, quote=True)}">'
