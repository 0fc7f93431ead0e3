"""The table as text."""

import copy

import pytest

from pellucid.report.explanation_table import text_evaluation


def cell(mean, low=None, high=None):
    return {"mean": mean, "low": low, "high": high, "count": 5}


EVALUATION = {
    "images": 5,
    "split": "test",
    "target": "predicted class",
    "columns": [
        {"key": "relevance_mass_label_parts", "higher_is_better": True, "unit": "fraction"},
        {"key": "deletion_auc", "higher_is_better": False, "unit": "probability"},
        {"key": "gini", "higher_is_better": None, "unit": ""},
    ],
    "rows": [
        {
            "method": "own",
            "label": "Own explanation",
            "cells": {
                "relevance_mass_label_parts": cell(0.5, 0.4, 0.62),
                "deletion_auc": cell(0.0004, 0.0003, 0.0005),
                "gini": None,
            },
            "note": "",
        },
        {"method": "lrp", "label": "LRP", "cells": {}, "note": "refused: layer 'x': no"},
    ],
    "part_effects": {
        "parts": ["head"],
        "rows": [{"method": "own", "correlation": cell(0.75, 0.7, 0.8)}],
    },
    "skipped": {"infidelity": "nothing has an effect"},
}


def test_cells_arrows_and_reasons():
    lines = text_evaluation(EVALUATION).splitlines()
    own = next(line for line in lines if line.startswith("Own explanation"))
    assert own.split() == [
        "Own",
        "explanation",
        "0.50",
        "±0.11",
        "4e-4",
        "±1e-4",
        "-",
        "0.75",
        "±0.05",
    ]
    lrp = next(line for line in lines if line.startswith("LRP "))
    assert lrp.split() == ["LRP", "-", "-", "-", "-"]
    heading = "\n".join(lines[:4])
    for text in ("mass label", "parts ↑", "auc ↓", "effects ↑"):
        assert text in heading
    for unit in ("(probability)", "(fraction)", "(0 to 1)"):
        assert unit in heading
    assert "infidelity: nothing has an effect" in lines
    assert "LRP: refused: layer 'x': no" in lines
    assert any("5 images of the test split" in line for line in lines)
    assert max(map(len, lines)) <= 100


def test_a_narrow_window_has_blocks():
    wide = copy.deepcopy(EVALUATION)
    wide["columns"] *= 4
    lines = text_evaluation(wide, 60).splitlines()
    assert sum(line.startswith("Own explanation") for line in lines) > 2
    assert max(map(len, lines[:20])) <= 60
    with pytest.raises(ValueError, match="width must be at least 60 characters, got 20"):
        text_evaluation(EVALUATION, 20)


def test_a_method_on_a_random_network_stands_below_it_and_fewer_images_are_said():
    some = copy.deepcopy(EVALUATION)
    some["rows"][0]["randomised"] = {"gini": {**cell(0.3, 0.2, 0.4), "count": 2}}
    lines = text_evaluation(some).splitlines()
    place = next(n for n, line in enumerate(lines) if line.startswith("Own explanation "))
    assert lines[place + 1].startswith("Own explanation, random network")
    assert lines[place + 1].split()[4:] == ["-", "-", "0.30", "±0.10", "n=2", "-"]
    assert "n=" not in lines[place]


def test_without_parts_and_without_rows():
    some = {**EVALUATION, "part_effects": None}
    assert "effects" not in text_evaluation(some).split("infidelity")[0]
    none = {**EVALUATION, "rows": [], "skipped": {"rows": "no image is left"}}
    assert text_evaluation(none) == "rows: no image is left"
