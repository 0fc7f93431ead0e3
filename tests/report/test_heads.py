"""Where heads look, beside the masks of the parts."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pellucid.head_pictures import save_heads_of
from pellucid.models.explanation import Explanation
from pellucid.report.heads import colour_of, draw_parts, make_heads, save_heads
from pellucid.report.page import build_report
from pellucid.report.runs import load_run
from tests.helpers import TinyData, TinyModel
from tests.report.test_page import Page

NewRun = Callable[..., Path]


def explanation(maps: torch.Tensor) -> Explanation:
    count = len(maps)
    names = tuple(f"head {n + 1}" for n in range(maps.shape[1]))
    return Explanation(
        scores=torch.zeros(count, 2),
        target=torch.zeros(count, dtype=torch.int64),
        maps=maps,
        unit_names=names,
    )


def test_masks_are_drawn_in_the_colours_of_the_legend() -> None:
    image = np.full((4, 6, 3), 100, dtype=np.uint8)
    masks = torch.zeros(2, 4, 6, dtype=torch.bool)
    masks[0, :2], masks[1, 1:3, :3] = True, True
    drawn = draw_parts(image, masks)
    for part, (y, x) in enumerate([(0, 5), (1, 0)]):
        wanted = 0.3 * 100 + 0.7 * np.array(colour_of(part, 2))
        assert np.abs(drawn[y, x] - wanted).max() <= 1
    assert (drawn[3] == 140).all(), "what is no part is pale"
    with pytest.raises(ValueError, match=r"\(P, 4, 6\)"):
        draw_parts(image, masks[:, :3])


def test_heads_beside_parts_on_the_page(new_run: NewRun) -> None:
    run = new_run()
    images = [np.full((20, 20, 3), shade, dtype=np.uint8) for shade in (40, 200)]
    masks = torch.zeros(2, 1, 20, 20, dtype=torch.bool)
    masks[:, :, 5:9] = True
    maps = torch.rand(2, 3, 5, 5)
    save_heads(explanation(maps), images, ["one", "<b>two</b>"], run, masks, ["<i>beak</i>"])
    found = make_heads(load_run(run))
    assert found is not None
    captions = [caption for _, caption in found.rows[0].pictures]
    assert captions == ["image", "parts", "head 1", "head 2", "head 3"]
    page = Page(build_report([run]))
    assert len(page.all("figure", "heads-row")) == 2
    assert "<b>two</b>" in page.text
    assert "<i>beak</i>" in page.text
    (run / "images/heads/image_0_02.jpg").unlink()
    assert "1 pictures of heads cannot be shown" in Page(build_report([run])).text


@pytest.mark.parametrize("maps", [torch.rand(2, 17, 5, 5), torch.rand(1, 3, 5, 5)])
def test_wrong_maps_are_refused(tmp_path: Path, maps: torch.Tensor) -> None:
    images = [np.zeros((8, 8, 3), dtype=np.uint8)] * 2
    with pytest.raises(ValueError, match=r"maps must be \(2, 1 to 16, h, w\)"):
        save_heads(explanation(maps), images, ["a", "b"], tmp_path)


def test_a_model_with_few_maps_is_drawn(tmp_path: Path) -> None:
    data = TinyData(length=9)
    path = save_heads_of(TinyModel(3), data, tmp_path)
    assert path is not None
    rows = json.loads(path.read_text())["rows"]
    labels = ["Test image 0, class 0", "Test image 3, class 0"]
    assert [row["label"] for row in rows][:2] == labels
    assert len(rows) == 4
    assert all(len(row["pictures"]) == 5 for row in rows)
    assert save_heads_of(TinyModel(3, width=20), data, tmp_path) is None
