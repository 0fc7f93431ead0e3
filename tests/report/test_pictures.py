"""Explanations as pictures, and the files that the report reads."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.models.explanation import Explanation
from pellucid.report.drawing import outline, overlay, resize
from pellucid.report.pictures import _free_spot, draw_explanation
from pellucid.report.unit_pictures import draw_examples, draw_strongest, save_units
from tests.report.conftest import SIZE, make_summary

IMAGE = np.full((SIZE, SIZE, 3), 180, np.uint8)
FOR, AGAINST, INK = (15, 118, 110), (180, 83, 10), (28, 36, 48)


def explanation(units: int = 12, **changes: object) -> Explanation:
    generator = torch.Generator().manual_seed(1)
    contributions = torch.linspace(-2, 3, units).repeat(2, 1)
    bias = torch.tensor([0.5, -0.5])
    fields = {
        "scores": (contributions.sum(1) + bias)[:, None].repeat(1, 2),
        "target": torch.zeros(2, dtype=torch.int64),
        "maps": torch.rand(2, units, 5, 5, generator=generator),
        "positions": torch.rand(2, units, 2, generator=generator) * (SIZE - 1),
        "contributions": contributions,
        "bias": bias,
    }
    return Explanation(**(fields | changes))  # type: ignore[arg-type]


def is_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(picture.astype(int) - colour).max(-1) <= 2


def bar_lengths(picture: np.ndarray, colour: tuple[int, int, int], least: int = 6) -> list[int]:
    """Longest horizontal run of a colour in each bar of the chart, from top to bottom."""
    mask = is_colour(picture[100:, 600:], colour)
    lengths: list[int] = []
    inside = False
    for row in mask:
        padded = np.diff(np.concatenate([[0], row.astype(int), [0]]))
        starts, ends = (padded == 1).nonzero()[0], (padded == -1).nonzero()[0]
        longest = int((ends - starts).max()) if len(starts) else 0
        if longest >= least and not inside:
            lengths.append(longest)
        elif longest >= least:
            lengths[-1] = max(lengths[-1], longest)
        inside = longest >= least
    return lengths


def test_draw_explanation_is_a_picture_of_fixed_size() -> None:
    picture = draw_explanation(IMAGE, explanation(), 0, ["fox", "bear"])
    assert picture.shape == (480, 1000, 3)
    assert picture.dtype == np.uint8


def test_bars_are_as_long_as_the_contributions() -> None:
    contributions = torch.tensor([[1.0, 3.0, -2.0]])
    bias = torch.tensor([1.0])
    one = explanation(
        units=3,
        scores=torch.tensor([[3.0]]),
        target=torch.tensor([0]),
        contributions=contributions,
        bias=bias,
        maps=None,
        positions=None,
    )
    picture = draw_explanation(IMAGE, one, 0)
    positive = bar_lengths(picture, FOR)
    negative = bar_lengths(picture, AGAINST)
    score = bar_lengths(picture, INK)
    # +3 and +1 in full colour (the bias is paler), -2, and the score: 3.
    assert len(positive) == 2
    assert positive[0] / positive[1] == pytest.approx(3, rel=0.05)
    assert positive[0] / negative[0] == pytest.approx(1.5, rel=0.05)
    assert max(score) == pytest.approx(positive[0], rel=0.03)


def test_small_contributions_are_written_with_digits_that_differ() -> None:
    few = {"units": 2, "maps": None, "positions": None, "bias": torch.zeros(1)}
    few |= {"scores": torch.zeros(1, 1), "target": torch.tensor([0])}
    # Bars of the same length, so only the digits can tell the pictures apart.
    pictures = [
        draw_explanation(IMAGE, explanation(contributions=torch.tensor([values]), **few), 0)
        for values in ([1e-3, 5e-4], [2e-3, 1e-3])
    ]
    assert (pictures[0] != pictures[1]).any()


def test_the_most_important_units_are_drawn_at_their_places() -> None:
    contributions = torch.tensor([[0.0, 5.0, 0.1]])
    positions = torch.tensor([[[35.0, 35.0], [9.5, 29.5], [30.0, 5.0]]])
    one = explanation(
        units=3,
        scores=torch.tensor([[5.1]]),
        target=torch.tensor([0]),
        contributions=contributions,
        bias=torch.tensor([0.0]),
        maps=None,
        positions=positions,
    )
    picture = draw_explanation(IMAGE, one, 0, num_units=1)[46:466, 20:440]
    rows, columns = is_colour(picture, FOR).nonzero()
    # 420 pixels stand for 40.
    assert columns.mean() == pytest.approx(10 * 10.5, abs=3)
    assert rows.mean() == pytest.approx(30 * 10.5, abs=3)


def test_without_positions_the_strongest_cell_is_the_place() -> None:
    maps = torch.zeros(1, 1, 4, 4)
    maps[0, 0, 3, 0] = 1.0
    one = explanation(
        units=1,
        scores=torch.tensor([[1.0]]),
        target=torch.tensor([0]),
        contributions=torch.tensor([[1.0]]),
        bias=torch.tensor([0.0]),
        maps=maps,
        positions=None,
    )
    picture = draw_explanation(IMAGE, one, 0)[46:466, 20:440]
    rows, columns = is_colour(picture, FOR).nonzero()
    assert columns.mean() == pytest.approx(420 / 8, abs=4)
    assert rows.mean() == pytest.approx(420 * 7 / 8, abs=4)


def test_without_contributions_the_peaks_are_drawn() -> None:
    picture = draw_explanation(IMAGE, explanation(contributions=None, bias=None), 1, num_units=4)
    assert len(bar_lengths(picture, FOR)) == 4


def test_text_that_looks_like_mathematics_is_drawn_as_it_is() -> None:
    named = explanation(unit_names=("$x^", *("u" * 11)))
    draw_explanation(IMAGE, named, 0, ["$^fox$", "\\frac"], num_units=12)


def test_one_logit_has_the_name_of_the_category_not_of_its_negatives() -> None:
    one = explanation(scores=torch.tensor([[3.0], [3.0]]))
    picture = draw_explanation(IMAGE, one, 0, ["negatives", "fox"])
    assert (picture == draw_explanation(IMAGE, one, 0, ["fox"])).all()
    assert not (picture == draw_explanation(IMAGE, one, 0, ["negatives"])).all()


def test_a_wide_image_is_drawn_whole() -> None:
    wide = np.zeros((20, 80, 3), np.uint8)
    picture = draw_explanation(wide, explanation(maps=None, positions=None), 0)
    rows, columns = (picture[:, :450] == 0).all(-1).nonzero()
    assert np.ptp(columns) + 1 == pytest.approx(420, abs=2)
    assert np.ptp(rows) + 1 == pytest.approx(105, abs=2)


@pytest.mark.parametrize(
    ("changes", "i", "num_units", "message"),
    [
        ({}, 2, 8, r"i must be in \[0, 1\]"),
        ({}, 0, 0, "num_units must be at least 1, got 0"),
        ({"maps": None, "contributions": None}, 0, 8, "neither contributions nor maps"),
    ],
)
def test_draw_explanation_checks_its_arguments(
    changes: dict[str, None], i: int, num_units: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        draw_explanation(IMAGE, explanation(**changes), i, num_units=num_units)


def test_discs_of_units_at_one_place_do_not_overlap() -> None:
    taken: list[tuple[float, float]] = []
    for _ in range(12):
        taken.append(_free_spot(3.0, 3.0, taken, 420, 420))
    gaps = [math.dist(a, b) for i, a in enumerate(taken) for b in taken[:i]]
    assert min(gaps) >= 22
    assert all(13 <= value <= 407 for spot in taken for value in spot)


def test_draw_strongest_sets_three_in_a_row() -> None:
    summary = make_summary(shown=4)
    assert draw_strongest(summary, 0, size=20).shape == (42, 64, 3)
    assert draw_strongest(summary, 0, size=20, columns=None).shape == (20, 86, 3)


def test_draw_strongest_checks_the_unit() -> None:
    with pytest.raises(ValueError, match=r"unit must be in \[0, 4\], got 5"):
        draw_strongest(make_summary(), 5)


def test_save_units_writes_pictures_and_figures(tmp_path: Path) -> None:
    summary = make_summary(units=3)
    instability = torch.tensor([[0.1, 0.3], [math.nan, 0.2], [math.nan, math.nan]])
    overlap = torch.tensor([[0.2, 0.7], [0.6, 0.1], [math.nan, math.nan]])
    per_unit = {
        "location_instability": instability,
        "part_interpretability": overlap,
        "purity": torch.tensor([0.5, 0.25, math.nan]),
    }
    path = save_units(summary, tmp_path / "run", per_unit, ["head", "legs"], progress=False)
    assert path == tmp_path / "run" / "units.json"
    # Strict JSON: no NaN.
    units = json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(text))
    assert [unit["unit"] for unit in units] == [0, 1, 2]
    first, second, third = units
    assert first["location_instability"] == pytest.approx(0.2)
    assert first["location_instability_by_part"] == pytest.approx({"head": 0.1, "legs": 0.3})
    assert first["part_interpretability"] == pytest.approx(0.7)
    assert (first["best_part"], second["best_part"]) == ("legs", "head")
    assert second["location_instability"] == pytest.approx(0.2)
    assert second["location_instability_by_part"]["head"] is None
    assert third["location_instability"] is None
    assert third["part_interpretability"] is None
    assert "best_part" not in third
    assert [unit["purity"] for unit in units] == [0.5, 0.25, None]
    for number, unit in enumerate(units):
        assert unit["images"] == f"images/units/unit_{number:03d}.jpg"
        assert unit["position_image"] == f"images/units/position_{number:03d}.jpg"
        with Image.open(path.parent / unit["images"]) as picture:
            assert picture.size == (3 * 112 + 4, 2 * 112 + 2)
        with Image.open(path.parent / unit["position_image"]) as picture:
            assert picture.size == (112, 112)
        means = summary.class_activation[number].tolist()
        assert unit["mean_activation"] == pytest.approx(dict(zip(["fox", "bear"], means)))  # noqa: B905
        assert unit["category"] == ("fox" if means[0] > means[1] else "bear")
        assert unit["selectivity"] == pytest.approx(max(means) / sum(means))
        assert unit["share_fired"] == pytest.approx(float(summary.share_fired[number]))
        assert [shown["index"] for shown in unit["strongest"]] == summary.indices[number].tolist()
        spread = summary.position_covariance[number].trace().sqrt() / math.hypot(SIZE, SIZE)
        assert unit["position_spread"] == pytest.approx(float(spread))


def test_draw_examples_keeps_the_scale_of_the_strongest_image() -> None:
    summary = make_summary(units=5, shown=4, peaks=torch.ones(5, 4))
    for unit in (1, 2, 3, 4):
        found = summary.surprising[unit]
        strip = draw_examples(summary, unit, found, size=20)
        # Three cells, whatever there is, so that all pictures are of one size.
        assert strip.shape == (20, 64, 3)
        for place in range(3):
            cell = strip[:, 22 * place : 22 * place + 20]
            if place >= len(found.indices):
                assert (cell == 255).all()
                continue
            image = resize(summary.images[found.indices[place]], 20)
            expected = overlay(image, found.maps[place], largest=1.0)
            np.testing.assert_array_equal(cell, outline(expected, found.maps[place], 0.5))


def test_save_units_writes_what_represents_and_what_surprises(tmp_path: Path) -> None:
    units = json.loads(save_units(make_summary(units=5), tmp_path, progress=False).read_text())
    assert units[0]["surprising"] == []
    assert "surprising_image" not in units[0]
    assert units[2]["surprising"] == [
        {"index": 0, "label": "bear", "peak": 0.5},
        {"index": 1, "label": "fox", "peak": 0.4},
    ]
    with Image.open(tmp_path / units[2]["surprising_image"]) as picture:
        assert picture.size == (3 * 84 + 4, 84)
    assert units[2]["representative"] == [
        {"index": 9, "label": "fox", "peak": 0.9},
        {"index": 8, "label": "fox", "peak": 0.8},
        {"index": 7, "label": "fox", "peak": 0.7},
    ]
    with Image.open(tmp_path / units[2]["representative_image"]) as picture:
        assert picture.size == (3 * 84 + 4, 84)
    assert units[4]["representative"] == []
    assert "representative_image" not in units[4]


def test_save_units_without_examples(tmp_path: Path) -> None:
    summary = make_summary(representative=(), surprising=())
    units = json.loads(save_units(summary, tmp_path, progress=False).read_text())
    assert not any({"representative", "surprising"} & {*unit} for unit in units)


@pytest.mark.parametrize(("label", "written"), [(-1, None), (1, "class 1")])
def test_labels_of_examples_without_names(tmp_path: Path, label: int, written: str | None) -> None:
    summary = make_summary(units=1)
    found = replace(summary.representative[0], indices=(1,), labels=(label,), peaks=(1.0,))
    found = replace(found, maps=(summary.maps[0, 0],))
    summary = replace(summary, representative=(found,), class_names=())
    unit = json.loads(save_units(summary, tmp_path, progress=False).read_text())[0]
    assert unit["representative"] == [{"index": 1, "label": written, "peak": 1.0}]


def test_save_units_of_silent_units_without_labels(tmp_path: Path) -> None:
    nan = torch.full((2, 2, 2), torch.nan)
    summary = make_summary(
        units=2,
        peaks=torch.zeros(2, 4),
        maps=torch.zeros(2, 4, 5, 5),
        positions=nan,
        position_mean=nan[0],
        position_covariance=nan,
        class_activation=torch.zeros(2, 0),
        class_names=(),
    )
    (unit, _) = json.loads(save_units(summary, tmp_path, progress=False).read_text())
    assert unit["category"] is None
    assert unit["position_mean"] == [None, None]
    assert unit["position_spread"] is None


def test_save_units_checks_the_shape_of_a_metric(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"per_unit\['purity'\] must have shape \(5,\) or \(5, 1\)"
    ):
        save_units(make_summary(), tmp_path, {"purity": torch.zeros(5, 2)}, ["head"])
    assert not (tmp_path / "units.json").exists()


def test_a_metric_can_have_concepts_of_its_own(tmp_path: Path) -> None:
    per_unit = {
        "network_dissection": torch.tensor([[0.1, 0.3, 0.2]] * 2),
        "location_instability": torch.tensor([[0.1, 0.2]] * 2),
    }
    concepts = {"network_dissection": ("fox head", "fox legs", "dog head")}
    summary = make_summary(units=2)
    path = save_units(
        summary, tmp_path, per_unit, ["head", "legs"], concepts=concepts, progress=False
    )
    unit = json.loads(path.read_text())[0]
    found = unit["network_dissection_by_part"]
    assert found == pytest.approx({"fox head": 0.1, "fox legs": 0.3, "dog head": 0.2})
    assert unit["best_part"] == "fox legs"
    assert unit["location_instability_by_part"].keys() == {"head", "legs"}
    with pytest.raises(ValueError, match=r"\(2, 2\) for the parts \['head', 'legs'\]"):
        save_units(summary, tmp_path, per_unit, ["head", "legs"], progress=False)
