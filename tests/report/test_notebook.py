"""What explanations, their evaluation and runs show of themselves in a notebook."""

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.attribution.agreement import Agreement
from pellucid.attribution.evaluation import Settings
from pellucid.attribution.evaluation.columns import Column
from pellucid.attribution.evaluation.result import Evaluation, PartEffectTable, Row
from pellucid.attribution.method import Attribution
from pellucid.models.explanation import Explanation, Traversals
from pellucid.report.runs import load_run

NewRun = Callable[..., Path]


def make(count: int = 2, **fields: object) -> Explanation:
    maps = torch.zeros(count, 3, 4, 4)
    maps[:, 1, 2, 3] = 5.0
    known = {
        "scores": torch.tensor([[1.0, 2.5]]).repeat(count, 1),
        "target": torch.ones(count, dtype=torch.int64),
        "maps": maps,
        "contributions": torch.tensor([[0.1, 2.0, -0.4]]).repeat(count, 1),
        "unit_names": ("a", "<script>b</script>", "c"),
    }
    return Explanation(**(known | fields))  # type: ignore[arg-type]


def test_an_explanation_shows_scores_maps_and_units() -> None:
    html = make()._repr_html_()
    assert "Explanation of 2 images" in html
    assert "2.500" in html
    assert "&lt;script&gt;b&lt;/script&gt; +2.000, c -0.400, a +0.100" in html
    assert "<script" not in html
    pictures = re.findall(r"data:image/png;base64,([\w+/=]+)", html)
    assert len(pictures) == 2
    with Image.open(io.BytesIO(base64.b64decode(pictures[0]))) as picture:
        pixels = np.asarray(picture.convert("L"), dtype=int)
    y, x = np.unravel_index(pixels.argmax(), pixels.shape)
    size = picture.width // 4
    assert (y // size, x // size) == (2, 3), "the brightest cell is where the unit fires"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"contributions": None}, "strongest units"),
        ({"contributions": None, "maps": None}, "2.500"),
        ({"heat": torch.full((2, 4, 4), torch.nan)}, "data:image/png"),
        ({"heat": torch.randn(2, 4, 4), "map_sign": "signed"}, "signed"),
        ({"scores": torch.zeros(2, 1)}, "0.000"),
        ({"scores": torch.zeros(2, 0), "contributions": None}, "Explanation of 2 images"),
    ],
)
def test_whatever_a_model_has(fields: dict[str, object], says: str) -> None:
    assert says in make(**fields)._repr_html_()


def test_a_long_batch_is_cut() -> None:
    html = make(20)._repr_html_()
    assert html.count("<img") == 8
    assert "the first 8 of 20 images" in html


def test_traversals_are_counted() -> None:
    walks = Traversals(
        images=torch.zeros(2, 1, 3, 1, 4, 4),
        values=torch.zeros(2, 1, 3),
        names=("size",),
        kinds=("continuous",),
        importance=torch.ones(1),
        importance_name="KL",
    )
    html = make(contributions=None, maps=None, traversals=walks)._repr_html_()
    assert "traversals of 1 latents" in html


def test_a_run_shows_its_figures_and_what_is_missing(new_run: NewRun) -> None:
    path = new_run(model="m.<b>Model</b>")
    (path / "metrics.csv").unlink()
    run = load_run(path)
    html = run._repr_html_()
    for text in ("icnn_parts is right on 97.7 %", "Location instability ↓", "0.064", "5 units"):
        assert text in html, text
    assert "metrics.csv is missing" in html
    assert "<b>Model</b>" not in html


def test_load_run_refuses_what_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a run directory"):
        load_run(tmp_path / "nowhere")


def test_an_empty_run_shows_itself(tmp_path: Path) -> None:
    assert "results.json is missing" in load_run(tmp_path)._repr_html_()


def attribution(count: int = 2, **fields: object) -> Attribution:
    heat = torch.zeros(count, 4, 4)
    heat[:, 1, 3] = 2.0
    known = {
        "heat": heat,
        "sign": "signed",
        "target": torch.ones(count, dtype=torch.int64),
        "scores": torch.tensor([[1.0, 2.5]]).repeat(count, 1),
    }
    return Attribution(**(known | fields))  # type: ignore[arg-type]


def test_an_attribution_shows_class_score_map_and_error() -> None:
    html = attribution(completeness_error=torch.tensor([2e-4, torch.nan]))._repr_html_()
    for text in ("Attribution of 2 images", "maps of 4 x 4, signed", "completeness error"):
        assert text in html, text
    for cell in (">1<", ">2.500<", ">2.0e-04<", ">—<"):
        assert cell in html, cell
    (picture, _) = re.findall(r"data:image/png;base64,([\w+/=]+)", html)
    with Image.open(io.BytesIO(base64.b64decode(picture))) as opened:
        pixels = np.asarray(opened.convert("L"), dtype=int)
    y, x = np.unravel_index(pixels.argmax(), pixels.shape)
    assert (y // (opened.height // 4), x // (opened.width // 4)) == (1, 3)


def test_an_attribution_that_promises_nothing_and_is_long() -> None:
    html = attribution(20, heat=torch.full((20, 3, 3), torch.nan))._repr_html_()
    assert "completeness error" not in html
    assert html.count("<img") == 8
    assert "the first 8 of 20 images" in html


def evaluation(**fields: object) -> Evaluation:
    def row(method: str, label: str, kind: str, **values: object) -> Row:
        return Row(method=method, label=label, kind=kind, **values)  # type: ignore[arg-type]

    half = {"deletion_auc": torch.tensor([0.25, 0.75, torch.nan])}
    rows = [
        row("own", "<b>Own</b>", "own", values={"relevance_mass": torch.full((3,), 0.5)} | half),
        row("lrp", "LRP", "post_hoc", note="<i>refused</i>"),
        row("random", "Random map", "baseline", values={"relevance_mass": torch.zeros(3)}),
    ]
    rows[0].randomised = {"relevance_mass": torch.full((3,), 0.125)}
    known = {
        "columns": [
            Column("relevance_mass", True, "fraction"),
            Column("deletion_auc", False, "probability"),
        ],
        "rows": rows,
        "agreement": Agreement((), torch.zeros(0, 0)),
        "part_effects": None,
        "skipped": {"infidelity": "<u>no</u> squares"},
        "settings": Settings(resamples=20),
        "images": 3,
    }
    return Evaluation(**(known | fields))  # type: ignore[arg-type]


def cells_of(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def test_an_evaluation_shows_methods_metrics_and_reasons() -> None:
    html = evaluation()._repr_html_()
    head, own, random_network, lrp, noise = cells_of(html)
    assert head == ["method", "kind", "Relevance mass ↑", "Deletion ↓"]
    assert own[:3] == ["&lt;b&gt;Own&lt;/b&gt;", "the model itself", "0.500 (0.500 to 0.500)"]
    assert re.fullmatch(r"0\.500 \(0\.\d+ to 0\.\d+\), n = 2", own[3])
    expected = ["&lt;b&gt;Own&lt;/b&gt;, random network", "", "0.125 (0.125 to 0.125)", "—"]
    assert random_network == expected
    assert lrp == ["LRP", "after the fact", "—", "—"]
    assert noise[:3] == ["Random map", "baseline", "0.000 (0.000 to 0.000)"]
    assert "LRP: &lt;i&gt;refused&lt;/i&gt;" in html
    assert "infidelity: &lt;u&gt;no&lt;/u&gt; squares" in html
    assert "Evaluation of explanations of 3 images" in html


def test_an_evaluation_with_true_effects_of_parts() -> None:
    effects = PartEffectTable(parts=("head",), score={"head": 1.0}, probability={"head": 0.5})
    table = evaluation(part_effects=effects)
    table.rows[0].part_correlation = torch.tensor([0.5, 0.5, torch.nan])
    head, own, random_network, *_ = cells_of(table._repr_html_())
    assert len(head) == 5
    assert own[4] == "0.500 (0.500 to 0.500), n = 2"
    assert random_network[4] == "—"


def test_an_evaluation_of_nothing() -> None:
    html = evaluation(rows=[], columns=[])._repr_html_()
    assert cells_of(html) == [["method", "kind"]]
    assert "infidelity" in html
