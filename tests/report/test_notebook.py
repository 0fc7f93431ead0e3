"""What explanations and runs show of themselves in a notebook."""

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

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
