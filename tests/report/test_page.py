"""The page: complete, self-contained, escaped, and made of whatever there is."""

import base64
import io
import json
import re
import shutil
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.report.page import build_report
from tests.report.conftest import make_summary

NewRun = Callable[..., Path]


class Page(HTMLParser):
    """Tags with their attributes, and all text outside of style and script."""

    VOID = {"meta", "img", "br", "input", "link", "path", "circle", "polyline"}

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.stack: list[str] = []
        self.words: list[str] = []
        self.feed(self.source)
        self.close()
        self.text = " ".join(" ".join(self.words).split())
        assert self.stack == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.stack):
            self.words.append(data)

    def all(self, tag: str, kind: str = "") -> list[dict[str, str]]:
        found = [attributes for name, attributes in self.tags if name == tag]
        return [a for a in found if not kind or kind in a.get("class", "").split()]


def test_report_of_one_run(new_run: NewRun) -> None:
    run = new_run()
    path = build_report([run])
    assert path.resolve() == (run / "report.html").resolve()
    page = Page(path)
    for text in (
        "icnn_parts",
        "InterpretableCNN on SyntheticParts",
        "icnn_parts is right on 97.7 % of the images",
        "Test split",
        "pictures and figures of the test split",
        "All images",
        "98.1 %",
        "Share of images whose predicted class is the labelled one.",
        "Purity : the data has no part boxes",
        "1,234,567",
        "versions: torch 2.99.1",
        "0123abcd0123abcd",
        "lr: 0.001",
    ):
        assert text in page.text, text
    assert "Not in this report" not in page.text
    assert len(page.all("article", "card")) == 5
    assert len(page.all("svg", "chart")) == 2


def test_report_of_two_runs(new_run: NewRun, tmp_path: Path) -> None:
    plain = new_run(
        "cnn_parts", metrics={"test/accuracy": 0.981, "test/location_instability": 0.111}
    )
    ours = new_run("icnn_parts", summary=make_summary(units=7))
    path = build_report([plain, ours])
    assert path == tmp_path / "report.html"
    page = Page(path)
    assert "location instability is 0.58 times as large (0.064 against 0.111: better)" in page.text
    assert "98.1 % (better)" in page.text
    assert "0.064 (better) \N{MULTIPLICATION SIGN} 0.58" in page.text
    assert len(page.all("div", "column")) == 2
    assert len(page.all("article", "card")) == 12
    assert "config.yaml of cnn_parts" in page.text
    # The plain run was not measured on all images: a dash stands for it.
    assert re.search(r"All images Accuracy ↑ .*? — 98.1 %", page.text)


def test_two_runs_of_one_experiment_have_different_names(new_run: NewRun, tmp_path: Path) -> None:
    first = new_run(seed=3)
    second = tmp_path / "again"
    shutil.copytree(first, second)
    results = json.loads((second / "results.json").read_text())
    (second / "results.json").write_text(json.dumps(results | {"seed": 4}))
    text = Page(build_report([first, second], tmp_path / "out" / "both.html")).text
    assert "icnn_parts, seed 4 compared with icnn_parts, seed 3" in text
    (second / "results.json").write_text(json.dumps(results))
    text = Page(build_report([first, second], tmp_path / "both.html")).text
    assert "icnn_parts, again compared with icnn_parts, 2026-01-02_03-04-05" in text


def test_the_page_loads_nothing(new_run: NewRun) -> None:
    page = Page(build_report([new_run()]))
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "data", "action", "srcset", "poster", "xlink:href"):
            value = attributes.get(name, "#")
            assert value.startswith(("#", "data:image/")), (tag, name, value[:60])
    without_pictures = re.sub(r"data:image/\w+;base64,[\w+/=]+", "", page.source)
    assert not re.search(r"(https?:)?//\w", without_pictures.replace("// ", ""))
    assert "@import" not in without_pictures
    assert "url(" not in without_pictures
    (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'")


def test_text_from_the_disk_is_escaped(new_run: NewRun) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
    run = new_run(
        summary=make_summary(class_names=(evil, "bear"), unit_names=(evil,) * 5),
        part_names=(evil, "legs"),
        metrics={"test/accuracy": 0.5, f"test/{evil}": 1.0, "test/x": evil},
        model=evil,
        data=evil,
        skipped={evil: evil},
        versions={evil: evil},
        experiment_note=evil,
    )
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps(results | {"experiment": evil, "seed": evil}))
    (run / "config.yaml").write_text(f"</pre>{evil}")
    with (run / "metrics.csv").open("a") as file:
        file.write("<script>,1,2,3,4,5\n")
    page = Page(build_report([run]))
    assert len(page.all("script")) == 1
    assert not [a for a in page.all("img") if not a["src"].startswith("data:image/")]
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
    assert "alert(1)" in page.text
    assert evil in {a["data-category"] for a in page.all("article")}


def test_every_figure_of_a_unit_can_be_sorted_by(new_run: NewRun) -> None:
    run = new_run()
    page = Page(build_report([run]))
    units = json.loads((run / "units.json").read_text())
    options = {a["value"]: a["data-better"] for a in page.all("option") if "data-better" in a}
    assert list(options) == [*map(str, range(6)), "unit"]
    assert (options["0"], options["1"]) == ("lower", "higher")
    cards = page.all("article", "card")
    by_unit = {unit["unit"]: unit for unit in units}
    keys = [
        "location_instability",
        "part_interpretability",
        "position_spread",
        "share_fired",
        "strongest_peak",
        "selectivity",
    ]
    for card in cards:
        unit = by_unit[int(card["data-number"])]
        for number, key in enumerate(keys):
            assert float(card[f"data-f{number}"]) == pytest.approx(unit[key])
    # Before any script runs the steadiest unit is on top.
    order = [float(card["data-f0"]) for card in cards]
    assert order == sorted(order)
    assert {a["id"] for a in page.all("select")} == {"sort", "order", "category"}
    categories = {unit["category"] for unit in units}
    assert {a["data-category"] for a in cards} == categories


def test_a_unit_without_a_figure_comes_last(new_run: NewRun) -> None:
    values = torch.tensor([[0.3], [torch.nan], [0.1], [0.2], [0.4]])
    run = new_run(per_unit={"location_instability": values}, part_names=("head",))
    cards = Page(build_report([run])).all("article", "card")
    assert [card["data-number"] for card in cards] == ["2", "3", "0", "4", "1"]
    assert cards[-1]["data-f0"] == ""


def test_pictures_are_those_of_the_run(new_run: NewRun) -> None:
    run = new_run()
    page = Page(build_report([run]))
    sheets = page.all("img", "sheet")
    units = {
        f"Strongest images of Unit {u['unit']} of icnn_parts": u
        for u in json.loads((run / "units.json").read_text())
    }
    assert len(sheets) == len(page.all("img", "position")) == 5
    for sheet in sheets:
        data = base64.b64decode(sheet["src"].partition("base64,")[2])
        assert data == (run / units[sheet["alt"]]["images"]).read_bytes()


@pytest.mark.parametrize(
    ("name", "message", "still"),
    [
        ("results.json", "results.json is missing: no results table", "1.20"),
        ("units.json", "units.json is missing: no pictures of the units", "97.7 %"),
        ("metrics.csv", "metrics.csv is missing: no training curves", "97.7 %"),
        ("config.yaml", "config.yaml cannot be read", "97.7 %"),
    ],
)
def test_a_missing_file_is_named(new_run: NewRun, name: str, message: str, still: str) -> None:
    run = new_run()
    (run / name).unlink()
    page = Page(build_report([run]))
    assert message in page.text
    assert page.text.count("Not in this report") == 1
    if name != "results.json":
        assert still in page.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("results.json", '{"metrics": ', "results.json cannot be read (Expecting value"),
        ("results.json", "[1]", "results.json holds no object but list"),
        ("results.json", '{"metrics": 3}', "results.json has no metrics"),
        ("results.json", '{"metrics": {"test/x": "a"}}', "the metric test/x is no number but 'a'"),
        ("results.json", "[" * 100_000, "results.json cannot be read"),
        ("units.json", '{"a": 1}', "units.json holds no list but dict"),
        ("units.json", '[1, {"unit": 0}]', "1 entries are no objects"),
        ("units.json", '[{"unit": 0, "images": "nowhere.jpg"}]', "nowhere.jpg"),
        ("units.json", '[{"unit": 0, "images": "config.yaml"}]', "cannot identify image"),
        ("units.json", '[{"unit": 0, "images": "../secret.jpg"}]', "outside of the run directory"),
        ("units.json", '[{"unit": 0, "mean_activation": 3, "strongest": "?"}]', "names no file"),
        ("metrics.csv", "", "metrics.csv holds no figure"),
        ("metrics.csv", "epoch,step\n0,1\n", "metrics.csv holds no figure"),
        ("metrics.csv", "epoch,val/loss\n0,nan\nx,1\n1,inf\n2\n", "metrics.csv holds no figure"),
    ],
)
def test_a_broken_file_is_named(new_run: NewRun, name: str, content: str, message: str) -> None:
    run = new_run()
    (run / name).write_text(content)
    page = Page(build_report([run]))
    assert message in page.text
    assert "Configuration and origin" in page.text


@pytest.mark.parametrize("name", ["results.json", "units.json", "metrics.csv"])
def test_a_file_that_is_no_text_is_named(new_run: NewRun, name: str) -> None:
    run = new_run()
    (run / name).write_bytes(b"\xff\xfe\x00\x80")
    assert f"{name} cannot be read" in Page(build_report([run])).text


def test_units_show_what_represents_them_and_what_surprises(new_run: NewRun) -> None:
    run = new_run()
    path = build_report([run])
    page = Page(path)
    shown = [a for a in page.all("img") if a["alt"].startswith("Surprising images of ")]
    assert [a["alt"] for a in shown] == [
        f"Surprising images of Unit {unit} of icnn_parts" for unit in (1, 2, 3, 4)
    ]
    with Image.open(io.BytesIO(base64.b64decode(shown[0]["src"].partition(",")[2]))) as picture:
        assert picture.size == (3 * 24 + 4, 24)
    typical = [a["alt"] for a in page.all("img") if a["alt"].startswith("Representative")]
    # Unit 4 is silent.
    assert typical == [
        f"Representative images of Unit {unit} of icnn_parts" for unit in (0, 1, 2, 3)
    ]
    assert page.text.count("what the unit fires at as a rule") == 5
    assert "3 of fox" in page.text
    # One definition with each unit, and one that has none says so.
    assert page.text.count("above half of the mean of its ten largest peaks") == 5
    for text in ("bear; fox; bear", "bear; fox", "1 of bear", "none"):
        assert text in page.text.partition("Images to which")[2], text


@pytest.mark.parametrize("kind", ["representative", "surprising"])
@pytest.mark.parametrize("wrong", [None, 3, [7], [{"label": "<b>x</b>"}]])
def test_examples_that_are_not_as_written(new_run: NewRun, wrong: object, kind: str) -> None:
    run = new_run()
    units = json.loads((run / "units.json").read_text())
    for unit in units:
        unit[kind], unit[f"{kind}_image"] = wrong, "nowhere.jpg"
    (run / "units.json").write_text(json.dumps(units))
    page = Page(build_report([run]))
    assert not [a for a in page.all("img") if a["alt"].startswith(kind.title())]
    assert ("5 pictures of units cannot be shown" in page.text) == isinstance(wrong, list)
    assert "<b>x</b>" not in page.source
    assert ("<b>x</b>" in page.text) == (wrong == [{"label": "<b>x</b>"}])


def test_an_empty_run_has_a_page(tmp_path: Path) -> None:
    page = Page(build_report([tmp_path]))
    for text in (
        "No figures yet",
        "There are no results to show",
        "There are no training curves to show",
        "There are no units to show",
    ):
        assert text in page.text


def test_one_of_two_runs_is_incomplete(new_run: NewRun, tmp_path: Path) -> None:
    whole, broken = new_run("cnn_parts"), new_run("icnn_parts")
    (broken / "units.json").unlink()
    page = Page(build_report([whole, broken]))
    assert "icnn_parts: units.json is missing" in page.text
    assert "No units to show." in page.text
    assert len(page.all("article", "card")) == 5


def test_the_last_value_of_an_epoch_is_drawn(new_run: NewRun) -> None:
    run = new_run()
    (run / "metrics.csv").write_text("epoch,val/loss\n0,9\n0,1\n1,\n1,3\n")
    titles = Page(build_report([run])).text
    assert "icnn_parts, val, epoch 1: 3.000" in titles
    assert "9.000" not in titles


@pytest.mark.parametrize("runs", [[], ["nowhere"]])
def test_refuses_what_is_no_run(runs: list[str], tmp_path: Path) -> None:
    message = "at least one run directory" if not runs else "nowhere is not a run directory"
    with pytest.raises(ValueError, match=message):
        build_report([tmp_path / name for name in runs])


@pytest.mark.parametrize(("strips", "least"), [(0, 96), (1, 72), (2, 64)])
def test_size_and_time_of_128_units_in_two_runs(tmp_path: Path, strips: int, least: int) -> None:
    noise = np.random.default_rng(0)
    runs = []
    for name in ("a", "b"):
        folder = tmp_path / name / "images" / "units"
        folder.mkdir(parents=True)
        units = []
        # Smooth noise, about as hard to compress as photographs with much texture.
        for unit in range(128):
            coarse = noise.integers(0, 256, (75, 113, 3), np.uint8)
            sheet = Image.fromarray(coarse).resize((340, 226), Image.Resampling.BICUBIC)
            sheet.save(folder / f"unit_{unit:03d}.jpg", quality=82)
            sheet.crop((0, 0, 112, 112)).save(folder / f"position_{unit:03d}.jpg", quality=82)
            kinds = ("representative", "surprising")[:strips]
            for kind in kinds:
                sheet.crop((0, 0, 256, 84)).save(folder / f"{kind}_{unit:03d}.jpg", quality=82)
            units.append(
                {
                    "unit": unit,
                    "images": f"images/units/unit_{unit:03d}.jpg",
                    "position_image": f"images/units/position_{unit:03d}.jpg",
                }
                | {kind: [{"label": "fox"}] for kind in kinds}
                | {f"{kind}_image": f"images/units/{kind}_{unit:03d}.jpg" for kind in kinds}
            )
        (tmp_path / name / "units.json").write_text(json.dumps(units))
        runs.append(tmp_path / name)
    start = time.perf_counter()
    path = build_report(runs)
    assert time.perf_counter() - start < 20
    assert path.stat().st_size < 8_000_000
    page = Page(path)
    pictures = [a["src"] for a in page.all("img")]
    assert len(pictures) == 512 + 256 * strips
    with Image.open(io.BytesIO(base64.b64decode(pictures[0].partition(",")[2]))) as picture:
        # Three images in a row of at least as many pixels each.
        assert picture.width >= 3 * least
    if strips:
        with Image.open(io.BytesIO(base64.b64decode(pictures[2].partition(",")[2]))) as picture:
            assert picture.width >= 3 * 48
        assert build_report(runs[:1]).stat().st_size < 5_000_000


def test_scores_have_their_spread_over_resamplings(new_run: NewRun) -> None:
    scores = {"std": {"mig": 0.0125, "sap": "x"}}
    run = new_run(metrics={"test/mig": 0.31, "test/sap": 0.2}, scores=scores)
    text = Page(build_report([run])).text
    assert "0.310 ± 0.013 over resamplings" in " ".join(text.split())
    assert text.count("over resamplings") == 1
