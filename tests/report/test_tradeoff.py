"""Runs of equal settings as means over seeds, and what they are compared with."""

import math
import re
from pathlib import Path

import pytest
import yaml

from pellucid.report.glossary import Figure
from pellucid.report.runs import Run
from pellucid.report.settings import differing_keys, frozen, read_settings
from pellucid.report.tradeoff import (
    Estimate,
    estimate,
    find_tradeoff,
    group_runs,
    make_rows,
    make_summary,
    seeds_of,
    text_tradeoff,
)

INSTABILITY = {0: (0.05, 0.06), 0.3: (0.03, 0.036), 1: (0.02, 0.022)}


def make_run(
    experiment="icnn",
    weight=0.0,
    seed=0,
    accuracy=0.9,
    instability: float | None = 0.04,
    data=None,
    name="",
    **model,
) -> Run:
    """A run as it is read from its directory, without the directory."""
    config = {
        "seed_everything": seed,
        "experiment": experiment,
        "run_root": f"runs/{seed}",
        "model": {"class_path": "a.B", "init_args": {"filter_loss_weight": weight} | model},
        "data": {"class_path": "c.D", "init_args": {"num_workers": seed} | (data or {})},
        "trainer": {"max_epochs": 3, "accelerator": "auto" if seed else "cpu"},
    }
    metrics = {"test/accuracy": accuracy, "test/loss": 1.0, "test/dead_units": 2.0}
    if instability is not None:
        metrics["test/location_instability"] = instability
    return Run(
        Path(f"{experiment}-{weight}-{seed}{name}"),
        label=f"{experiment} {weight} {seed}",
        results={"experiment": experiment, "seed": seed},
        metrics=metrics,
        config=yaml.safe_dump(config, sort_keys=False),
    )


def make_sweep() -> list[Run]:
    """Three weights and the twin, two seeds each, in no order."""
    runs = [
        make_run("icnn", weight, seed, 0.9 - 0.01 * seed - 0.02 * weight, INSTABILITY[weight][seed])
        for seed in (0, 1)
        for weight in (1, 0, 0.3)
    ]
    return runs + [make_run("cnn", 0, seed, 0.95, 0.07, templates=False) for seed in (0, 1)]


@pytest.mark.parametrize("values", [[0.3, 0.5], [0.9, 0.91, 0.95], [1.0, 1.0, 1.0, 1.0]])
def test_the_standard_error_is_that_of_the_mean(values):
    total = 0.0
    for value in values:
        total += value
    mean = total / len(values)
    squares = 0.0
    for value in values:
        squares += (value - mean) ** 2
    found = estimate(iter(values))
    assert found.mean == pytest.approx(mean)
    assert found.error == pytest.approx((squares / (len(values) - 1) / len(values)) ** 0.5)
    assert found.count == len(values)


def test_a_published_standard_error():
    """Two values a and b: half their distance."""
    assert estimate([0.90, 0.94]).error == pytest.approx(0.02)


def test_one_value_has_no_error_and_none_has_no_mean():
    assert estimate([0.25]) == Estimate(0.25, None, 1)
    assert estimate([]) is None


@pytest.mark.parametrize(
    ("known", "value", "text"),
    [
        (Figure(label="a", percent=True), Estimate(0.98765, 0.00123, 3), "98.77 ± 0.12 %"),
        (Figure(label="a", percent=True), Estimate(0.98765, None, 1), "98.8 %"),
        (Figure(label="a"), Estimate(0.0312, 0.0004, 2), "0.0312 ± 0.0004"),
        (Figure(label="a"), Estimate(1234.5, 12.34, 2), "1,234.5 ± 12"),
        (Figure(label="a", whole=True), Estimate(3.0, 0.5, 2), "3 ± 0.5"),
    ],
)
def test_writing_an_estimate(known, value, text):
    assert value.write(known) == text


def test_weights_are_a_line_and_the_twin_stands_beside_it():
    tradeoff = find_tradeoff(make_sweep())
    assert tradeoff.parameter == "model.filter_loss_weight"
    assert tradeoff.metrics == ("location_instability",)
    (line,) = tradeoff.lines
    assert line.label == "icnn"
    assert [group.label for group in line.groups] == ["0", "0.3", "1"]
    for group in line.groups:
        values = INSTABILITY[float(group.label)]
        found = group.estimate("location_instability")
        assert found.mean == pytest.approx(sum(values) / 2)
        assert found.error == pytest.approx(abs(values[0] - values[1]) / 2)
    (twin,) = tradeoff.references
    assert twin.label == "cnn"
    assert twin.estimate("accuracy") == Estimate(0.95, 0.0, 2)
    assert len({group.number for group in tradeoff.groups}) == 4


def test_whole_and_broken_numbers_are_equal_and_truth_is_neither():
    assert frozen({"a": 1}) == frozen({"a": 1.0}) != frozen({"a": True})
    assert differing_keys([{"a": 1, "b": 2}, {"a": 1.0, "b": 3, "c": 4}]) == ["b", "c"]


def test_settings_leave_out_seed_places_and_machines():
    settings = read_settings(make_run(seed=7).config)
    assert settings == {
        "model.class_path": "a.B",
        "model.filter_loss_weight": 0.0,
        "data.class_path": "c.D",
        "trainer.max_epochs": 3,
    }
    assert read_settings("{[") == read_settings("- a") == read_settings("") == {}


def test_the_same_run_twice_says_nothing_about_the_spread():
    again = make_run(accuracy=0.7, name="again")
    (group,) = group_runs([make_run(accuracy=0.9), make_run(seed=1, accuracy=0.8), again])
    assert group.estimate("accuracy") == estimate([0.7, 0.8])
    assert len(group.runs) == 2


def test_a_run_without_config_or_figures_is_left_out():
    broken = make_run(weight=9)
    broken.config = ""
    untested = make_run(weight=5)
    untested.metrics = {}
    (line,) = find_tradeoff([*make_sweep(), broken, untested]).lines
    assert [group.label for group in line.groups] == ["0", "0.3", "1"]


def test_a_figure_that_is_none_is_left_out_of_its_mean():
    runs = [make_run(weight=w, seed=s, instability=0.1) for w in (0, 1) for s in (0, 1)]
    runs[0].metrics["test/location_instability"] = math.nan
    group = find_tradeoff(runs).lines[0].groups[0]
    assert group.estimate("location_instability") == Estimate(0.1, None, 1)
    assert group.estimate("accuracy").count == 2


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [make_run()],
        [make_run(seed=0), make_run(seed=1)],
        # Weight and templates: not one number alone.
        [make_run(), make_run("cnn", 1, templates=False)],
        [make_run(lr="a"), make_run(lr="b")],
        [make_run(templates=True), make_run(templates=False)],
        [make_run(weight=0), make_run(weight=1, data={"image_size": 64})],
        [make_run(weight=0, instability=None), make_run(weight=1, instability=None)],
        [make_run(weight=0), make_run(weight=1, instability=None)],
    ],
    ids=["none", "one", "seeds", "two keys", "words", "truth", "data", "no metric", "half"],
)
def test_no_trade_off(runs):
    assert find_tradeoff(runs) is None


def test_the_number_with_the_most_values_is_the_one_swept():
    runs = [
        make_run(weight=w, lr=lr, data={"batch_size": 8}) for w in (0, 1, 2) for lr in (0.1, 0.2)
    ]
    tradeoff = find_tradeoff(runs)
    assert tradeoff.parameter == "model.filter_loss_weight"
    assert [line.label for line in tradeoff.lines] == ["icnn, lr 0.1", "icnn, lr 0.2"]
    assert all(len(line.groups) == 3 for line in tradeoff.lines)
    assert tradeoff.references == ()


def test_a_reference_need_not_have_the_parameter():
    other = make_run("other", depth=3)
    other.config = other.config.replace("filter_loss_weight: 0.0", "alpha: null")
    tradeoff = find_tradeoff([make_run(weight=0), make_run(weight=1), other])
    assert [group.label for group in tradeoff.references] == ["other"]


@pytest.mark.parametrize(
    ("seeds", "says"),
    [
        ([(0, 1), (0, 1)], "the mean over 2 seeds, its bars are one standard error"),
        ([(0,), (0,)], "single seed, so there are no error bars"),
        ([(0, 1, 2), (0,)], "the mean over 1 to 3 seeds"),
    ],
)
def test_the_number_of_seeds_is_said(seeds, says):
    runs = [make_run(weight=w, seed=s) for w, all_ in enumerate(seeds) for s in all_]
    assert says in seeds_of(find_tradeoff(runs))


def test_rows_and_sentences():
    tradeoff = find_tradeoff(make_sweep())
    assert make_rows(tradeoff)[0] == (
        "icnn, filter_loss_weight 0",
        2,
        ["89.50 ± 0.50 %", "0.0550 ± 0.0050"],
    )
    assert make_rows(tradeoff)[-1][0] == "cnn"
    assert make_summary(tradeoff) == [
        "icnn with a filter loss weight from 0 to 1, on the test split: accuracy goes from "
        "89.50 ± 0.50 % to 87.50 ± 0.50 %; location instability goes from 0.0550 ± 0.0050 to "
        "0.0210 ± 0.0010.",
        "cnn, for comparison: accuracy 95.00 ± 0.00 %; location instability 0.0700 ± 0.0000.",
    ]


def test_the_table_has_a_column_for_each_setting():
    """A row for each figure: twenty of them side by side would be wider than any screen."""
    lines = text_tradeoff(make_sweep()).splitlines()
    assert lines[0].split() == [
        "Test",
        "split,",
        "icnn",
        "by",
        "filter_loss_weight",
        "0",
        "0.3",
        "1",
        "cnn",
    ]
    assert lines[1].split() == ["seeds", "2", "2", "2", "2"]
    assert lines[2].startswith("Accuracy (higher is better)  ")
    assert re.split(" {2,}", lines[3])[1:] == [
        "0.0550 ± 0.0050",
        "0.0330 ± 0.0030",
        "0.0210 ± 0.0010",
        "0.0700 ± 0.0000",
    ]
    assert len({len(line) for line in lines[:4]}) == 1
    assert "bars are one standard error" in lines[-1]
    runs = [make_run(weight=w, lr=lr) for w in (0, 1, 2) for lr in (0.1, 0.2)]
    head = re.split(" {2,}", text_tradeoff(runs).splitlines()[0])
    assert head[0] == "Test split"
    assert head[1:3] == ["icnn, lr 0.1, filter_loss_weight 0", "icnn, lr 0.1, filter_loss_weight 1"]


def test_the_first_sentence_tells_the_best_known_figures_alone():
    runs = make_sweep()
    for run in runs:
        run.metrics |= {
            f"test/{name}": 0.5 for name in ("part_purity", "part_consistency", "part_stability")
        }
        run.metrics |= {"test/insertion_auc": 0.5, "test/deletion_auc": 0.5}
    (first, twin) = make_summary(find_tradeoff(runs))
    assert "location instability goes from" in first
    assert "part consistency goes from" in first
    assert "insertion" not in first
    assert first.endswith("(the table has 2 more figures).")
    assert "part consistency 0.5000" in twin
    assert "insertion" not in twin


def test_the_table_is_for_many_runs():
    assert text_tradeoff([make_run(weight=0), make_run(weight=1)]) == ""
    assert text_tradeoff([make_run(seed=seed) for seed in range(6)]) == ""
