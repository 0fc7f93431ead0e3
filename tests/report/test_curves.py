"""Training curves: places of points and round numbers."""

from pathlib import Path

import pytest

from pellucid.report.curves import HEIGHT, WIDTH, make_charts, nice_ticks
from pellucid.report.runs import Run


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.5, 1.0]),
        (0.0, 0.8, [0.0, 0.2, 0.4, 0.6, 0.8]),
        (-3.0, 9.0, [-5.0, 0.0, 5.0, 10.0]),
        (0.061, 0.129, [0.06, 0.08, 0.1, 0.12, 0.14]),
        (1e-9, 4e-9, [1e-9, 2e-9, 3e-9, 4e-9]),
    ],
)
def test_nice_ticks(low: float, high: float, expected: list[float]) -> None:
    assert nice_ticks(low, high, 4) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 5.0, -0.3])
def test_nice_ticks_of_one_value_surround_it(value: float) -> None:
    marks = nice_ticks(value, value, 4)
    assert marks[0] < value < marks[-1]


def run_with(history: dict[str, dict[int, float]], label: str = "a") -> Run:
    return Run(Path("runs/a"), label=label, history=history)


def test_points_are_where_the_values_are() -> None:
    (chart,) = make_charts([run_with({"val/loss": {0: 1.0, 1: 0.0, 2: 0.5}})])
    ((x0, y0), (x1, y1), (x2, y2)) = chart.curves[0].points
    assert x1 == pytest.approx((x0 + x2) / 2)
    assert y2 == pytest.approx((y0 + y1) / 2)
    # Down the page is up in the figure.
    assert 0 < y0 < y2 < y1 < HEIGHT
    assert 0 < x0 < x2 < WIDTH
    ticks = {tick.text: tick.at for tick in chart.y_ticks}
    assert ticks["1.0"] == pytest.approx(y0)
    assert ticks["0.0"] == pytest.approx(y1)
    assert [tick.text for tick in chart.x_ticks] == ["0", "1", "2"]


def test_runs_and_stages_share_a_chart() -> None:
    runs = [
        run_with({"train/loss": {0: 1.0, 1: 0.5}, "val/loss": {0: 2.0, 1: 1.5}}, "a"),
        run_with({"val/loss": {0: 3.0, 4: 1.0}, "val/accuracy": {4: 0.5}}, "b"),
    ]
    loss, accuracy = make_charts(runs)
    assert (loss.label, accuracy.label) == ("Loss", "Accuracy")
    assert [(c.run, c.stage) for c in loss.curves] == [(0, "train"), (0, "val"), (1, "val")]
    assert loss.curves[2].title == "b, val, epoch 4: 1.000"
    # Epoch 1 of run a is a quarter of the way to epoch 4 of run b.
    (left, _), (quarter, _) = loss.curves[0].points
    right = loss.curves[2].points[1][0]
    assert quarter - left == pytest.approx((right - left) / 4)


def test_a_single_epoch_is_one_point_in_the_middle() -> None:
    (chart,) = make_charts([run_with({"val/accuracy": {0: 0.25}})])
    ((x, y),) = chart.curves[0].points
    assert 0 < x < WIDTH
    assert 0 < y < HEIGHT
    assert [tick.text for tick in chart.x_ticks] == ["0"]


def test_a_figure_logged_by_step_and_by_epoch_is_drawn_once() -> None:
    values = {0: 1.0, 1: 2.0}
    charts = make_charts([run_with({"train/loss": values, "train/loss_step": values})])
    assert [chart.label for chart in charts] == ["Loss"]


def test_no_history_no_chart() -> None:
    assert make_charts([run_with({})]) == []
