"""The picture of a trade-off: places, bars, and names that cover nothing."""

import itertools
import json
import random
from pathlib import Path

import pytest

from pellucid.report.labels import Box, place_labels, text_box
from pellucid.report.page import build_report
from pellucid.report.runs import read_runs
from pellucid.report.scatter import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, make_caption, make_scatters
from pellucid.report.tradeoff import find_tradeoff
from tests.report.test_page import Page
from tests.report.test_tradeoff import make_run, make_sweep


def write_runs(folder: Path, runs) -> list[Path]:
    """Run directories that hold what the runs do."""
    paths = []
    for number, run in enumerate(runs):
        path = folder / run.experiment / f"2026-01-02_03-04-{number:02d}"
        path.mkdir(parents=True)
        (path / "config.yaml").write_text(run.config)
        (path / "results.json").write_text(json.dumps(run.results | {"metrics": run.metrics}))
        paths.append(path)
    return paths


def test_points_are_where_the_means_are():
    (scatter,) = make_scatters(find_tradeoff(make_sweep()))
    assert scatter.figure.label == "Location instability"
    assert scatter.better == "left"
    zero, third, one, twin = scatter.points
    assert [p.label.text for p in scatter.points] == ["0", "0.3", "1", "cnn"]
    # Means .055, .033, .021, .07 across; .895, .889, .875, .95 up.
    assert one.x < third.x < zero.x < twin.x
    assert (zero.x - third.x) / (zero.x - one.x) == pytest.approx(0.022 / 0.034)
    assert twin.y < zero.y < third.y < one.y
    assert (one.y - third.y) / (one.y - twin.y) == pytest.approx(0.014 / 0.075)
    assert all(LEFT < p.x < WIDTH and TOP < p.y < HEIGHT - BOTTOM for p in scatter.points)
    (path,) = scatter.paths
    corners = [tuple(map(float, pair.split(","))) for pair in path.split()]
    assert corners == [(round(p.x, 1), round(p.y, 1)) for p in (zero, third, one)]


def test_bars_are_one_standard_error_to_either_side():
    (scatter,) = make_scatters(find_tradeoff(make_sweep()))
    zero, _, one, _ = scatter.points
    unit = (zero.x - one.x) / (0.055 - 0.021)
    (x1, y1, x2, y2), (x3, y3, x4, y4) = zero.bars
    assert y1 == y2 == zero.y
    assert x3 == x4 == zero.x
    assert zero.x - x1 == pytest.approx(0.005 * unit)
    assert x2 - zero.x == pytest.approx(0.005 * unit)
    rise = (one.y - zero.y) / (0.895 - 0.875)
    assert y3 - zero.y == pytest.approx(0.005 * rise)
    assert zero.y - y4 == pytest.approx(0.005 * rise)
    assert "filter_loss_weight 0: location instability 0.0550 ± 0.0050" in zero.title
    assert "(2 seeds)" in zero.title


def test_a_single_seed_has_no_bars():
    tradeoff = find_tradeoff([make_run(weight=0, accuracy=0.8), make_run(weight=1)])
    (scatter,) = make_scatters(tradeoff)
    assert all(point.bars == () for point in scatter.points)
    assert "no error bars" in make_caption(tradeoff)
    assert "(1 seed)" in scatter.points[0].title


def test_axes_have_round_numbers_with_their_unit():
    (scatter,) = make_scatters(find_tradeoff(make_sweep()))
    assert [tick.text for tick in scatter.y_ticks] == ["88 %", "90 %", "92 %", "94 %"]
    assert [tick.text for tick in scatter.x_ticks] == [
        "0.02",
        "0.03",
        "0.04",
        "0.05",
        "0.06",
        "0.07",
    ]
    places = [tick.at for tick in scatter.x_ticks]
    assert all(b - a == pytest.approx(places[1] - places[0]) for a, b in itertools.pairwise(places))


def test_equal_figures_are_drawn_in_the_middle():
    (scatter,) = make_scatters(find_tradeoff([make_run(weight=0), make_run(weight=1)]))
    for point in scatter.points:
        assert point.x == pytest.approx((LEFT + WIDTH - 14) / 2)
    first, second = (text_box(p.label.text, p.label.x, p.label.y) for p in scatter.points)
    assert first.overlap(second) == 0


def test_shapes_tell_lines_and_references_apart():
    runs = [make_run(weight=w, lr=lr) for w in (0, 1) for lr in (0.1, 0.2)]
    (scatter,) = make_scatters(find_tradeoff([*runs, make_run("cnn", templates=False)]))
    shapes = [point.shape for point in scatter.points]
    assert shapes == ["circle", "circle", "diamond", "diamond", "square"]
    # Two lines, each with its name.
    texts = [point.label.text for point in scatter.points]
    assert len([text for text in texts if text.startswith("icnn, ")]) == 2


@pytest.mark.parametrize("seed", range(5))
def test_names_cover_neither_points_nor_one_another(seed):
    generator = random.Random(seed)
    texts = [generator.choice(("0", "0.1", "0.03", "cnn_parts")) for _ in range(9)]
    # Four of them in one heap.
    points = [(200 + generator.random() * 8, 150 + generator.random() * 8) for _ in range(4)]
    points += [(generator.uniform(60, 440), generator.uniform(20, 270)) for _ in range(5)]
    markers = [Box(x - 7, y - 7, x + 7, y + 7) for x, y in points]
    area = Box(54, 12, 446, 282)
    places = place_labels(texts, points, area, markers)
    boxes = [text_box(text, *place) for text, place in zip(texts, places, strict=True)]
    for box in boxes:
        assert area.holds(box)
        assert all(box.overlap(marker) == 0 for marker in markers)
    assert all(a.overlap(b) == 0 for a, b in itertools.combinations(boxes, 2))


def test_overlap_against_counting():
    generator = random.Random(0)
    for _ in range(50):
        edges = [sorted(generator.sample(range(12), 2)) for _ in range(4)]
        (a, b), (c, d), (e, f), (g, h) = edges
        count = sum(
            a <= x < b and e <= x < f and c <= y < d and g <= y < h
            for x in range(12)
            for y in range(12)
        )
        assert Box(a, c, b, d).overlap(Box(e, g, f, h)) == count


def test_the_page_shows_the_trade_off(tmp_path):
    page = Page(build_report(write_runs(tmp_path, make_sweep())))
    (picture,) = page.all("svg", "scatter")
    assert picture["aria-label"] == "Accuracy against location instability by filter loss weight"
    assert len(page.all("path", "error")) == 8
    assert len(page.all("path", "marker")) == 4
    for text in (
        "icnn and cnn",
        "icnn, filter_loss_weight 0.3 · 2 runs",
        "its bars are one standard error",
        "89.50 ± 0.50 %",
        "Location instability ↓ (of the image diagonal)",
    ):
        assert text in page.text, text
    assert {"href": "#tradeoff"} in page.all("a")


def test_runs_of_one_setting_have_one_colour_and_names_of_their_own(tmp_path):
    runs = read_runs(write_runs(tmp_path, make_sweep()))
    labels = [run.label for run in runs]
    assert labels[:2] == [
        "icnn, filter_loss_weight 1, seed 0",
        "icnn, filter_loss_weight 0, seed 0",
    ]
    assert labels[-1] == "cnn, seed 1"
    source = build_report([run.path for run in runs]).read_text()
    head = source.split('<table class="results">')[2].split("</thead>")[0]
    colours = [part.split('"')[0] for part in head.split("dot run-")[1:]]
    assert colours == ["0", "1", "2"] * 2 + ["3", "3"]


def test_few_runs_are_still_compared_one_by_one(tmp_path):
    runs = [make_run(weight=0, accuracy=0.8), make_run(weight=1, instability=0.03)]
    page = Page(build_report(write_runs(tmp_path, runs)))
    assert len(page.all("svg", "scatter")) == 1
    assert "compared with icnn, filter_loss_weight 0" in page.text


def test_no_trade_off_no_section(tmp_path):
    runs = [make_run("cnn", templates=False), make_run()]
    page = Page(build_report(write_runs(tmp_path, runs)))
    assert not page.all("svg", "scatter")
    assert "Trade-off" not in page.text


def test_units_of_one_run_of_each_setting_are_shown(tmp_path):
    paths = write_runs(tmp_path, make_sweep())
    for path in paths:
        (path / "units.json").write_text(json.dumps([{"unit": 0, "category": "bear"}]))
    page = Page(build_report(paths))
    assert len(page.all("article", "card")) == 4
    assert "Of each setting, the units of one run are shown." in page.text
