"""What explanations and runs show of themselves in a notebook: HTML without scripts."""

import base64
import io
from html import escape
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from PIL import Image
from torch import Tensor

from pellucid.report.results import make_table, make_verdict

if TYPE_CHECKING:
    from pellucid.models.explanation import Explanation
    from pellucid.report.runs import Run

_MOST_IMAGES, _MOST_UNITS, _MOST_METRICS = 8, 4, 14
_PIXELS = 96
_CELL = "padding:4px 12px 4px 0;text-align:left;vertical-align:top"
_NUMBER = "padding:4px 12px 4px 0;text-align:right;font-variant-numeric:tabular-nums"
_QUIET = "opacity:0.65;font-size:90%"


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
    more = f"the first {_MOST_IMAGES} of {count} images" if count > _MOST_IMAGES else ""
    what = f"Explanation of {count} image{'s' * (count != 1)}"
    parts = [f"<b>{what}</b>", _quiet(_shape(explanation)), _table(head, rows), _quiet(more)]
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
