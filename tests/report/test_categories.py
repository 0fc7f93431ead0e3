"""The picture of units and categories, and where the page shows it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pellucid.analysis.categories import UnitCategories
from pellucid.report.categories import draw_categories, save_categories
from pellucid.report.page import build_report
from pellucid.report.unit_pictures import save_units
from tests.report.conftest import make_summary

TEAL, ORANGE = (15, 118, 110), (180, 83, 10)


def found(units: int = 5, classes: tuple[str, ...] = ("fox", "bear")) -> UnitCategories:
    categories = torch.arange(units) % len(classes)
    votes = torch.full((units, len(classes)), -1.0)
    votes[torch.arange(units), categories] = 1.0
    return UnitCategories(
        categories=categories, votes=votes, assigned=True, class_names=tuple(classes)
    )


def share(picture: np.ndarray, colour: tuple[int, int, int]) -> float:
    return float((np.abs(picture.astype(int) - colour).max(-1) <= 2).mean())


def test_votes_for_the_own_category_lie_on_the_diagonal() -> None:
    picture = draw_categories(found(40, ("a", "b", "c", "d")))
    teal = np.abs(picture.astype(int) - TEAL).max(-1) <= 2
    heat = teal[:, : int(0.8 * teal.shape[1])]
    rows, columns = heat.nonzero()
    # Rows and columns of the four blocks rise together.
    assert np.corrcoef(rows, columns)[0, 1] > 0.9
    assert share(picture, ORANGE) > 2 * heat.mean()


@pytest.mark.parametrize("classes", [2, 30, 200])
def test_any_number_of_classes_can_be_drawn(classes: int) -> None:
    names = tuple(f"class $ number_{i} {'x' * 40}" for i in range(classes))
    picture = draw_categories(found(64, names))
    assert picture.dtype == np.uint8
    assert picture.shape[1] == 1100
    assert picture.shape[0] < 1500


def test_units_without_category_or_vote_can_be_drawn() -> None:
    empty = UnitCategories(
        categories=torch.full((3,), -1),
        votes=torch.zeros(3, 2),
        assigned=False,
        class_names=("a", "b"),
    )
    assert share(draw_categories(empty), TEAL) < 0.01


def test_the_page_shows_it_and_says_what_it_is(new_run: Callable[..., Path]) -> None:
    run = new_run()
    assert 'id="categories"' not in build_report([run]).read_text()
    save_categories(found(), run)
    page = build_report([run]).read_text()
    assert 'id="categories"' in page
    assert "Categories as training assigned them; balance 0.971" in page
    assert "most units: fox (3), fewest: bear (2)" in page
    assert "100 % of the units vote most for their own category" in page


def test_a_broken_file_is_said_and_not_raised(new_run: Callable[..., Path]) -> None:
    run = new_run()
    save_categories(found(), run)
    (run / "categories.json").write_text("[1]")
    page = build_report([run]).read_text()
    assert "categories.json holds no object" in page
    (run / "categories.json").write_text('{"picture": "images/categories.png", "units": 3}')
    assert 'id="categories"' in build_report([run]).read_text()


def test_units_say_the_category_that_they_were_given(tmp_path: Path) -> None:
    given = found()
    save_units(make_summary(), tmp_path, categories=given, size=32, progress=False)
    units = json.loads((tmp_path / "units.json").read_text())
    assert [unit["category"] for unit in units] == ["fox", "bear", "fox", "bear", "fox"]
    assert units[1]["votes"] == {"fox": -1.0, "bear": 1.0}


def test_a_unit_that_never_fires_keeps_the_category_it_was_given(tmp_path: Path) -> None:
    summary = make_summary(class_activation=torch.zeros(5, 2))
    save_units(summary, tmp_path, categories=found(), size=32, progress=False)
    unit = json.loads((tmp_path / "units.json").read_text())[1]
    assert unit["category"] == "bear"
    assert "selectivity" not in unit
