"""Explanations, attacks, confusions and differences on the page, whatever the files hold."""

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pellucid import __version__
from pellucid.report.comparable import incomparable
from pellucid.report.confusions import make_confusion
from pellucid.report.differences import make_differences, paired_bootstrap, seed_interval
from pellucid.report.evaluation import make_evaluation, make_part_effects
from pellucid.report.page import build_report
from pellucid.report.results import text_table
from pellucid.report.runs import Run, load_run, read_runs
from pellucid.report.verdict import three_sentences
from tests.report.evaluated import write_adversarial, write_confusion, write_explanations
from tests.report.test_page import Page

NewRun = Callable[..., Path]


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_the_verdict_is_three_sentences(new_run: NewRun) -> None:
    run = new_run()
    write_explanations(run)
    write_confusion(run)
    page = Page(build_report([run]))
    sentences = page.all("p", "verdict")
    assert len(sentences) == 3
    assert (
        "Its most frequent confusion is fox taken for bear (2 images, 10.0 % of fox)." in page.text
    )
    assert (
        "The relevance mass (higher is better) of its own explanation is 0.720 (0.670 to 0.770), "
        "against 0.580 for Grad-CAM, the best of 2 methods applied after the fact; random map and "
        "edge detector reach 0.220 and 0.370."
    ) in page.text


def test_the_table_of_explanations(new_run: NewRun) -> None:
    run = new_run()
    path = write_explanations(run)
    content = json.loads(path.read_text())
    content["rows"][1]["cells"]["deletion_auc"]["count"] = 2
    path.write_text(json.dumps(content))
    found = make_evaluation(load_run(run))
    assert found is not None
    assert [c.label for c in found.columns] == [
        "Relevance mass",
        "Deletion",
        "Infidelity",
        "Sparseness",
        "Time",
    ]
    # The file says which way is better.
    assert [c.better for c in found.columns] == ["higher", "lower", "lower", None, "lower"]
    rows = {row.label: row for row in found.rows}
    own, lime = rows["Own explanation"], rows["LIME"]
    assert (own.cells[0].text, own.cells[0].interval) == ("0.720", "0.670 to 0.770")
    assert own.cells[0].best
    assert not own.cells[3].best, "without a direction nothing is best"
    assert rows["Grad-CAM"].cells[0].randomised == "0.300"
    # Of fewer images than the others, which the page must say.
    assert [cell.count for cell in rows["Grad-CAM"].cells[:3]] == ["", "2 images", ""]
    assert "2 images" in Page(build_report([run])).text
    # A baseline is never the best.
    assert not any(cell.best for row in found.rows if row.kind == "baseline" for cell in row.cells)
    assert [cell.text for cell in lime.cells[:4]] == ["—"] * 4
    assert lime.note == "refused: layer features.3 has no gradient"


def test_dots_of_part_effects_are_in_order_and_inside(new_run: NewRun) -> None:
    run = new_run()
    write_explanations(run)
    found = make_part_effects(load_run(run))
    assert found is not None
    assert [dot.name for dot in found.dots][:2] == ["Own explanation", "Grad-CAM"]
    places = [dot.x for dot in found.dots]
    assert places == sorted(places, reverse=True)
    for dot in found.dots:
        assert dot.low < dot.x < dot.high
    assert found.effects == (("head", "1.9", 100.0), ("legs", "0.4", pytest.approx(400 / 19)))
    page = Page(build_report([run])).text
    assert "How much the probability of the explained class falls without each part" in page


def test_without_an_evaluation_the_page_says_how_to_get_one(new_run: NewRun) -> None:
    page = Page(build_report([new_run()]))
    assert "`pellucid evaluate RUN`" in page.text
    assert not page.all("div", "explained")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"version": ', "explanations.json cannot be read"),
        ("[1]", "explanations.json holds no object but list"),
        ('{"version": 1}', "explanations.json has no table of methods and metrics"),
        ('{"version": 2}', "is of version 2, and this Pellucid reads version 1"),
        ('{"rows": 3, "shown": "x", "columns": null, "agreement": []}', "version None"),
        ('{"version": 1, "rows": [{"cells": 4}], "columns": [{"key": "gini"}]}', "Gini index"),
        (
            '{"version": 1, "agreement": {"methods": ["a", "b"], "rank_correlation": [[1]]}}',
            "square",
        ),
        (
            '{"version": 1, "shown": [{"image": "../../secret.png"}]}',
            "outside of the run directory",
        ),
        ('{"version": 1, "shown": [{"image": "config.yaml"}]}', "cannot identify image"),
        ('{"version": 1, "shown": [{"image": 3, "overlays": [{}, 7]}]}', "names no file"),
        ('{"version": 1, "part_effects": {"rows": [{"correlation": {"mean": NaN}}]}}', "no table"),
        ('{"version": 1, "skipped": {"gini": {"a": 1}}}', "Gini index"),
    ],
)
def test_broken_explanations_are_named(new_run: NewRun, content: str, message: str) -> None:
    run = new_run()
    (run / "explanations.json").write_text(content)
    page = Page(build_report([run]))
    assert message in page.text
    assert "Configuration and origin" in page.text


def test_values_that_are_no_numbers_are_dashes(new_run: NewRun) -> None:
    run = new_run()
    path = write_explanations(run)
    content = json.loads(path.read_text())
    content["rows"][0]["cells"] = {
        "relevance_mass": {"mean": float("nan"), "low": 0, "high": 1},
        "deletion_auc": {"mean": "0.3"},
        "infidelity": None,
        "sparseness": {"mean": 10**400},
    }
    content["shown"][0]["score"] = float("inf")
    path.write_text(json.dumps(content))
    found = make_evaluation(load_run(run))
    assert found is not None
    assert [cell.text for cell in found.rows[0].cells[:4]] == ["—"] * 4
    build_report([run])


def test_a_lost_picture_leaves_the_others(new_run: NewRun) -> None:
    run = new_run()
    write_explanations(run)
    (run / "explanations/00001_own.png").unlink()
    (run / "explanations/00002.png").write_bytes(b"no picture")
    page = Page(build_report([run]))
    assert "2 pictures of explanations cannot be shown" in page.text
    assert len(page.all("article", "shown")) == 4


def test_names_of_explanations_are_escaped(new_run: NewRun) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
    run = new_run()
    path = write_explanations(run, labels=(evil, "bear"))
    content = json.loads(path.read_text())
    for row in content["rows"]:
        row["label"] = row["method"] = row["note"] = evil
    for shown in content["shown"]:
        shown["why"] = evil
        for overlay in shown["overlays"]:
            overlay |= {"method": evil, "label": evil, "caption": evil}
        shown["overlays"][0]["file"] = f"explanations/{evil}.png"
    content["agreement"]["methods"] = [evil] * 6
    content["columns"][0] = {"key": evil, "unit": evil, "definition": evil}
    path.write_text(json.dumps(content | {"split": evil, "target": evil, "skipped": {evil: evil}}))
    write_adversarial(run, caption=evil)
    change(run / "adversarial.json", attacks=[{"label": evil, "settings": {evil: evil}}])
    write_confusion(run, (evil, "bear"))
    page = Page(build_report([run]))
    assert len(page.all("script")) == 1
    assert not [a for a in page.all("img") if not a["src"].startswith("data:image/")]
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]


def test_attacks(new_run: NewRun) -> None:
    run = new_run()
    write_adversarial(run)
    text = Page(build_report([run])).text
    for part in ("FGSM", "75.0 %", "epsilon 0.03, steps 10", "fox becomes bear", "How easily"):
        assert part in text, part


@pytest.mark.parametrize("content", ['{"attacks": 3}', '{"attacks": []}'])
def test_attacks_that_cannot_be_read(new_run: NewRun, content: str) -> None:
    run = new_run()
    (run / "adversarial.json").write_text(content)
    assert "adversarial.json holds no attacks" in Page(build_report([run])).text


def test_confusions() -> None:
    run = Run(Path("x"))
    run.confusion = {"class_names": ["a", "b", "c"], "counts": [[8, 2, 0], [0, 9, 1], [0, 0, 0]]}
    found = make_confusion(run)
    assert found is not None
    assert [pair.text for pair in found.pairs] == [
        "a taken for b: 2 images, 20.0 % of a",
        "b taken for c: 1 image, 10.0 % of b",
    ]
    # A class without images has no shares.
    assert [square.text for square in found.rows[0]] == ["80", "20", ""]
    assert [square.text for square in found.rows[2]] == ["", "", ""]
    assert found.total == 20


@pytest.mark.parametrize(
    "content",
    [
        {"class_names": ["a"], "counts": [[1, 2]]},
        {"class_names": [], "counts": []},
        {"class_names": ["a"], "counts": [[-1]]},
        {"class_names": ["a"], "counts": [["1"]]},
        {"counts": 3},
    ],
)
def test_confusions_that_are_no_table(content: dict[str, Any]) -> None:
    run = Run(Path("x"), confusion=content)
    assert make_confusion(run) is None
    assert "confusion.json holds no table" in run.problems[0]


def seeded(new_run: NewRun, folder: Path, name: str, lr: float, values: list[float]) -> list[Path]:
    found = []
    for seed, value in enumerate(values):
        metrics = {"test/accuracy": value, "test/location_instability": 1 - value}
        run = new_run(f"{name}-seed{seed}", metrics=metrics, seed=seed)
        (run / "config.yaml").write_text(
            f"seed_everything: {seed}\nmodel:\n  class_path: m.{name}\n"
        )
        found.append(run)
    return found


def test_differences_over_seeds(new_run: NewRun, tmp_path: Path) -> None:
    a, b = [0.90, 0.92, 0.91], [0.95, 0.96, 0.97]
    runs = seeded(new_run, tmp_path, "plain", 1, a) + seeded(new_run, tmp_path, "ours", 2, b)
    (comparison,) = make_differences(read_runs(runs))
    assert (comparison.name, comparison.first) == ("ours (3 seeds)", "plain (3 seeds)")
    row = comparison.rows[0]
    gaps = [y - x for x, y in zip(a, b, strict=True)]
    low, high = stats.t.interval(
        0.95, 2, loc=statistics.fmean(gaps), scale=statistics.stdev(gaps) / math.sqrt(3)
    )
    assert row.text == f"+{100 * statistics.fmean(gaps):.2f} points"
    assert row.interval == f"+{100 * low:.2f} points to +{100 * high:.2f} points"
    assert (row.judged, row.how) == ("better", "over 3 seeds, paired")
    # Six runs of two settings are shown as two.
    page = Page(build_report(runs, tmp_path / "all.html"))
    assert "ours (3 seeds) differs from plain (3 seeds) in 2 of 2 figures" in page.text
    assert len(page.all("div", "column")) == 2
    assert len(page.all("svg", "scatter")) == 1


def test_intervals_of_unpaired_seeds_are_those_of_welch() -> None:
    a, b = [1.0, 2.0, 4.0, 3.5], [2.0, 5.0, 9.0]
    first = {str(n): v for n, v in enumerate(a)}
    half, how = seed_interval(first, {f"x{n}": v for n, v in enumerate(b)})
    reference = stats.ttest_ind(b, a, equal_var=False)
    freedom = math.floor(reference.df)
    error = (statistics.fmean(b) - statistics.fmean(a)) / reference.statistic
    assert half == pytest.approx(stats.t.ppf(0.975, freedom) * error, rel=1e-3)
    assert how == "over 4 and 3 seeds"


def test_one_seed_has_no_interval() -> None:
    assert seed_interval({"0": 1.0}, {"0": 2.0}) == (None, "a single seed: no interval")


def test_single_runs_are_compared_over_their_images(new_run: NewRun) -> None:
    runs = [new_run("cnn_parts"), new_run("icnn_parts")]
    for run, wrong in zip(runs, (12, 2), strict=True):
        write_confusion(run, wrong=wrong)
    first, other = read_runs(runs)
    found = paired_bootstrap(first, other)
    assert found is not None
    # The same by drawing images one by one.
    gaps = np.array([0] * 2 + [1] * 10 + [0] * 28)
    drawn = np.random.default_rng(1).choice(gaps, (20_000, 40)).mean(1)
    assert found == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.02)
    change(runs[1] / "confusion.json", index=[n + 1 for n in range(40)])
    assert paired_bootstrap(*read_runs(runs)) is None


def test_the_verdict_counts_differences_with_an_interval_alone(new_run: NewRun) -> None:
    runs = [new_run("cnn_parts"), new_run("icnn_parts")]
    (runs[1] / "config.yaml").write_text("model:\n  lr: 0.1\n")
    for run in runs:
        write_confusion(run)
    text = Page(build_report(runs)).text
    assert (
        "Of 3 differences, 1 has an interval, that of accuracy, and holds zero; the others, of a "
        "single seed each, have none."
    ) in text
    write_confusion(runs[1], wrong=39)
    text = Page(build_report(runs)).text
    assert "By its 95 % interval, icnn_parts differs from cnn_parts in 1 of the 1 figures" in text


def test_captions_say_the_name_once(new_run: NewRun) -> None:
    run = new_run()
    path = write_explanations(run, images=1)
    content = json.loads(path.read_text())
    content["shown"][0]["overlays"][0]["caption"] = "Own explanation of 'fox' (score 1.00): red"
    path.write_text(json.dumps(content))
    write_adversarial(run, caption="FGSM: fox became bear")
    text = Page(build_report([run])).text
    assert "Own explanation. of 'fox' (score 1.00): red" in " ".join(text.split())
    assert "FGSM FGSM" not in text


def test_the_verdict_says_where_there_is_no_interval(new_run: NewRun) -> None:
    runs = [new_run("cnn_parts"), new_run("icnn_parts")]
    (runs[1] / "config.yaml").write_text("model:\n  lr: 0.1\n")
    text = Page(build_report(runs)).text
    assert "Each is one run of a single seed, so none of these differences has an interval" in text
    assert "a single seed: no interval" in text


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("data", "they were tested on other data (SyntheticParts and MNIST)"),
        ("classes", "they have other classes (fox, bear, and fox, cat)"),
        ("option", "data.categories is ['fox'] for one and ['cat'] for the other"),
    ],
)
def test_runs_that_cannot_be_compared(new_run: NewRun, how: str, why: str) -> None:
    runs = [new_run("cnn_parts"), new_run("icnn_parts")]
    if how == "data":
        change(runs[1] / "results.json", data="pellucid.datamodules.mnist.MNIST")
    elif how == "classes":
        write_confusion(runs[0], ("fox", "bear"))
        write_confusion(runs[1], ("fox", "cat"))
    else:
        for run, name in zip(runs, ("fox", "cat"), strict=True):
            (run / "config.yaml").write_text(f"data:\n  init_args:\n    categories: [{name}]\n")
    assert why in incomparable(read_runs(runs))[0]
    assert "\N{MULTIPLICATION SIGN}" not in text_table(read_runs(runs))
    page = Page(build_report(runs))
    assert f"cannot be compared: {why}" in page.text
    assert not page.all("td", "best")
    assert "\N{MULTIPLICATION SIGN} " not in page.text
    assert "compared with" not in page.text
    assert not page.all("svg", "scatter")
    assert len(page.all("article", "card")) == 10


def test_no_verdict_without_any_figure() -> None:
    run = Run(Path("x"), label="x")
    assert three_sentences([run], [None], [None], []) == []


def test_a_model_that_returned_nan(new_run: NewRun) -> None:
    run = new_run(metrics={"test/accuracy": 0.25, "test/loss": None})
    with (run / "metrics.csv").open("a") as file:
        file.write("3,39,nan,inf,,\n")
    text = Page(build_report([run])).text
    assert "test/loss is not a number: the model returned NaN or infinity" in text
    assert "metrics.csv: train/loss is not finite in epoch 3" in text
    assert "metrics.csv: val/loss is not finite in epoch 3" in text


def test_a_run_of_another_release_is_named(new_run: NewRun) -> None:
    text = Page(build_report([new_run(versions={"pellucid": "0.0.1"})])).text
    assert f"made by Pellucid 0.0.1, this page by {__version__}" in text
    text = Page(build_report([new_run("other", versions={"pellucid": __version__})])).text
    assert "Not in this report" not in text


def test_bars_of_what_the_model_relies_on(new_run: NewRun) -> None:
    metrics = {"test/accuracy": 0.9, "bias/swap_background": 0.31, "bias/remove_head": None}
    page = Page(build_report([new_run(metrics=metrics)]))
    assert "What the model relies on" in page.text
    assert [a["style"] for a in page.all("i") if "width:31" in a.get("style", "")] == [
        "width:31.0%"
    ]


def test_one_run_with_everything_is_small(new_run: NewRun, tmp_path: Path) -> None:
    run = new_run()
    write_explanations(run, images=8, size=256)
    write_adversarial(run)
    write_confusion(run)
    assert build_report([run]).stat().st_size < 2_500_000
