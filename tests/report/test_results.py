"""The results table and the sentences over it."""

from pathlib import Path

import pytest

from pellucid.report.glossary import figure
from pellucid.report.results import (
    make_headlines,
    make_skipped,
    make_table,
    make_verdict,
    text_table,
)
from pellucid.report.runs import Run

PLAIN = {
    "test/accuracy": 0.981,
    "test/location_instability": 0.111,
    "test/part_interpretability": 0.348,
    "test/loss": 0.1,
}
OURS = {
    "test/accuracy": 0.977,
    "test/location_instability": 0.064,
    "test/part_interpretability": 0.654,
    "test/loss": 0.4,
}


def run(label: str, metrics: dict[str, float], **fields: object) -> Run:
    return Run(Path(label), label=label, metrics=metrics, **fields)  # type: ignore[arg-type]


def test_the_verdict_of_two_runs() -> None:
    (sentence,) = make_verdict([run("cnn", PLAIN), run("icnn", OURS)])
    assert sentence == (
        "icnn compared with cnn on the test split: its units' location instability is 0.58 times "
        "as large (0.064 against 0.111: better), its units' part interpretability is 1.88 times "
        "as large (0.654 against 0.348: better), and its accuracy is 0.4 points lower "
        "(97.7 % against 98.1 %)."
    )


def test_the_verdict_says_what_is_worse() -> None:
    (sentence,) = make_verdict([run("icnn", OURS), run("cnn", PLAIN)])
    assert "1.73 times as large (0.111 against 0.064: worse)" in sentence
    assert "accuracy is 0.4 points higher" in sentence


def test_the_verdict_of_equal_runs() -> None:
    (sentence,) = make_verdict([run("a", OURS), run("b", OURS)])
    assert sentence.count("equal") == 2
    assert "accuracy is the same" in sentence


def test_the_verdict_of_one_run() -> None:
    (sentence,) = make_verdict([run("icnn", OURS, units=[{}] * 128)])
    assert sentence == (
        "On the test split, icnn is right on 97.7 % of the images, the place where its 128 units "
        "fire varies by 0.064 of the image diagonal against the landmarks, and a unit hits its "
        "best part on 65.4 % of them."
    )


def test_the_verdict_falls_back_to_a_stage_that_all_runs_have() -> None:
    (sentence,) = make_verdict(
        [run("a", PLAIN | {"val/accuracy": 0.5}), run("b", {"val/accuracy": 0.75})]
    )
    assert "on the validation split: its accuracy is 25.0 points higher" in sentence


@pytest.mark.parametrize("metrics", [{}, {"test/accuracy": float("nan")}, {"test/loss": 1.0}])
def test_no_verdict_without_figures(metrics: dict[str, float]) -> None:
    assert make_verdict([run("a", metrics)]) == []
    assert make_headlines([run("a", metrics)]) == []


def test_every_other_run_is_compared_with_the_first() -> None:
    sentences = make_verdict([run("a", PLAIN), run("b", OURS), run("c", PLAIN)])
    assert [sentence[:15] for sentence in sentences] == ["b compared with", "c compared with"]


def test_the_better_value_is_marked_and_its_ratio_given() -> None:
    (stage,) = make_table([run("cnn", PLAIN), run("icnn", OURS)])
    assert stage.name == "Test split"
    rows = {row.figure.label: row.cells for row in stage.rows}
    assert list(rows) == ["Accuracy", "Location instability", "Part interpretability", "Loss"]
    assert [(c.text, c.best, c.ratio) for c in rows["Location instability"]] == [
        ("0.111", False, ""),
        ("0.064", True, "\N{MULTIPLICATION SIGN} 0.58"),
    ]
    assert [(c.text, c.best, c.ratio) for c in rows["Accuracy"]] == [
        ("98.1 %", True, ""),
        ("97.7 %", False, "\N{MULTIPLICATION SIGN} 0.996"),
    ]
    # Losses with other terms cannot be judged against each other.
    assert [(c.text, c.best, c.ratio) for c in rows["Loss"]] == [
        ("0.100", False, ""),
        ("0.400", False, ""),
    ]


def test_two_runs_side_by_side_as_text() -> None:
    everywhere = {f"all/{key.split('/')[1]}": value for key, value in OURS.items()}
    text = text_table([run("cnn", PLAIN), run("icnn", OURS | everywhere)])
    assert text.replace("\N{MULTIPLICATION SIGN}", "x").splitlines() == [
        "Test split                                   cnn              icnn",
        "Accuracy (higher is better)               98.1 %  97.7 % (x 0.996)",
        "Location instability (lower is better)     0.111    0.064 (x 0.58)",
        "Part interpretability (higher is better)   0.348    0.654 (x 1.88)",
        "",
        "All images                                   cnn              icnn",
        "Accuracy (higher is better)                    —            97.7 %",
        "Location instability (lower is better)         —             0.064",
        "Part interpretability (higher is better)       —             0.654",
    ]


@pytest.mark.parametrize("metrics", [{}, {"test/loss": 1.0}, {"val/accuracy": 0.5}])
def test_no_text_without_figures_of_a_test(metrics: dict[str, float]) -> None:
    assert text_table([run("a", metrics), run("b", metrics)]) == ""


def test_a_value_that_is_missing_or_no_number() -> None:
    (stage,) = make_table(
        [run("a", {"test/accuracy": 0.5}), run("b", {"test/accuracy": float("nan")}), run("c", {})]
    )
    assert [cell.text for cell in stage.rows[0].cells] == ["50.0 %", "—", "—"]
    assert not any(cell.best or cell.ratio for cell in stage.rows[0].cells)


def test_stages_are_in_order() -> None:
    metrics = {"train/loss": 1.0, "all/accuracy": 1.0, "test/loss": 1.0, "odd": 1.0, "val/x": 1.0}
    names = [stage.name for stage in make_table([run("a", metrics)])]
    assert names == ["Test split", "All images", "Validation split", "Training split", "Other"]


def test_headlines_compare_with_the_first_run() -> None:
    found = {h.label: h for h in make_headlines([run("cnn", PLAIN), run("icnn", OURS)])}
    assert list(found) == ["Accuracy ↑", "Location instability ↓", "Part interpretability ↑"]
    assert found["Accuracy ↑"].good is False
    assert found["Location instability ↓"].good is True
    assert found["Location instability ↓"].note == "0.111 for cnn"


def test_skipped_metrics_name_their_runs_only_where_they_differ() -> None:
    runs = [
        run("a", {}, skipped={"purity": "no boxes", "part_interpretability": "no masks"}),
        run("b", {}, skipped={"purity": "no boxes"}),
    ]
    assert make_skipped(runs) == [
        ("Purity", "no boxes", ""),
        ("Part interpretability", "no masks", "a"),
    ]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("test/accuracy", 0.9774, "97.7 %"),
        ("location_instability", 0.06449, "0.064"),
        ("test/dead_units", 3.0, "3"),
        ("test/dead_units", None, "—"),
        ("odd", 1234.56, "1,234.6"),
        ("odd", 1e-7, "1.00e-07"),
        ("odd", 2e9, "2.00e+09"),
        ("odd", -0.0, "0.000"),
        ("odd", None, "—"),
        ("odd", float("nan"), "—"),
        ("odd", "text", "text"),
    ],
)
def test_figures_as_text(name: str, value: object, text: str) -> None:
    assert figure(name).write(value) == text
