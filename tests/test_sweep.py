"""The sweep command: the file, its runs, and what is done when it is started again."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import pellucid.cli.sweep as sweeping
from pellucid.cli import shipped_sweeps
from pellucid.cli.options import PellucidCLI
from pellucid.cli.sweep import plan
from pellucid.cli.sweep_file import read_sweep
from pellucid.errors import UserError
from tests.helpers import call, write_config

COMMAND = ["${env}", "${interpreter}", "${program}", "run", "--config", "CONFIG", "${args}"]
SMALL = ["--data.image_size=64", "--data.batch_size=6"]
SMALL += [f"--data.{split}_size=12" for split in ("train", "val", "test")]
SMALL += ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.accelerator=cpu"]
SMALL += ["--trainer.enable_progress_bar=false", "--model.num_units=6"]


def write_sweep(folder: Path, config="CONFIG", name="grid.yaml", **changes) -> Path:
    content = {
        "program": "train.py",
        "method": "grid",
        "command": [str(config) if word == "CONFIG" else word for word in COMMAND],
        "parameters": {"seed_everything": {"values": [0, 1]}, "model.lr": {"values": [0.1, 0.2]}},
    }
    content |= changes
    path = folder / name
    content = {key: value for key, value in content.items() if value is not None}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """A sweep of four runs of the tiny model, in a directory where nothing else is."""
    monkeypatch.chdir(tmp_path)
    return write_sweep(tmp_path, write_config(tmp_path))


@pytest.fixture
def started(monkeypatch):
    """Words of the runs that were started; each leaves a finished run, or the status given."""
    words, statuses, stamps = [], {}, itertools.count()

    def start(given):
        words.append(given)
        if (status := statuses.get(len(words), 0)) == 0:
            cli = PellucidCLI("run", given)
            folder = Path(cli.config.run_root) / "tiny" / f"2026-01-02_03-04-{next(stamps):02d}"
            folder.mkdir(parents=True)
            config = cli.complete_config() | {"experiment": "tiny"}
            (folder / "config.yaml").write_text(yaml.safe_dump(config))
            results = {"experiment": "tiny", "metrics": {"test/accuracy": 0.5}}
            (folder / "results.json").write_text(json.dumps(results))
        return status

    monkeypatch.setattr(sweeping, "start", start)
    start.words, start.statuses = words, statuses
    return start


def options(words):
    """Seed and learning rate of a run."""
    given = dict(word.removeprefix("--").split("=") for word in words if "=" in word)
    return given["seed_everything"], given["model.lr"]


# The shipped files.


@pytest.mark.parametrize("name", shipped_sweeps())
def test_a_shipped_sweep_is_one_of_weights_and_biases(name):
    content = yaml.safe_load(shipped_sweeps()[name].read_text())
    assert content["program"] == "train.py"
    assert content["method"] == "grid"
    assert set(content) <= {"program", "method", "metric", "command", "parameters"}
    # Without the logger no figure reaches the sweep.
    command = content["command"]
    assert command[:4] == ["${env}", "${interpreter}", "${program}", "run"]
    assert command[-3:] == ["--logger", "wandb", "${args}"]
    assert all(set(spec) == {"values"} for spec in content["parameters"].values())


@pytest.mark.parametrize("name", shipped_sweeps())
def test_the_words_of_an_agent_parse(name):
    """As Weights & Biases puts them together."""
    content = yaml.safe_load(shipped_sweeps()[name].read_text())
    for end in (0, -1):
        own = [f"--{key}={spec['values'][end]}" for key, spec in content["parameters"].items()]
        cli = PellucidCLI("run", [*content["command"][4:-1], *own])
        assert cli.config.logger == ["wandb"]


def test_every_point_of_the_trade_off_is_a_config():
    points, root = plan(["icnn_tradeoff", "icnn_tradeoff_twin"])
    assert root == Path("runs/icnn_tradeoff")
    settings = [
        (
            point.folder.name,
            point.config["seed_everything"],
            point.config["model"]["init_args"]["templates"],
            point.config["model"]["init_args"]["filter_loss_weight"],
        )
        for point in points
    ]
    ours = [("icnn_parts", s, True, w) for s in (0, 1, 2) for w in (0, 0.3, 1, 3, 10)]
    assert settings == ours + [("cnn_parts", s, False, 0) for s in (0, 1, 2)]
    # The dashboard is the agent's.
    assert all(point.config["logger"] == [] for point in points)


def test_weight_three_is_the_shipped_experiment():
    points, _ = plan(["icnn_tradeoff"])
    shipped = PellucidCLI("run", ["--config", "icnn_parts"]).complete_config()
    (point,) = (p for p in points if p.name.endswith("everything 0, model.filter_loss_weight 3"))
    assert point.config["model"] == shipped["model"]
    assert point.config["data"] == shipped["data"]
    assert point.config["trainer"] == shipped["trainer"]


# The runs.


def test_the_grid_runs_in_its_order_and_tells_how_far_it_is(grid, started, tmp_path, capsys):
    assert call("sweep", grid, "--", "--trainer.max_epochs", "1") == 0
    assert [options(words) for words in started.words] == [
        ("0", "0.1"),
        ("0", "0.2"),
        ("1", "0.1"),
        ("1", "0.2"),
    ]
    assert all(words[-2:] == ("--trainer.max_epochs", "1") for words in started.words)
    out = capsys.readouterr().out
    assert "run 1 of 4: tiny, seed_everything 0, model.lr 0.1\n" in out
    assert "run 4 of 4: tiny, seed_everything 1, model.lr 0.2\n" in out
    assert "report: runs/grid/report.html" in out
    assert (tmp_path / "runs/grid/report.html").is_file()


def test_finished_runs_are_not_repeated(grid, started, capsys):
    started.statuses[3] = 130
    assert call("sweep", grid) == 130
    assert len(started.words) == 3
    assert "started again" in capsys.readouterr().out
    # A directory of a run that was stopped, and one that is broken.
    for name, text in (("stopped", None), ("broken", "{[")):
        folder = Path("runs/grid/tiny") / name
        folder.mkdir()
        if text is not None:
            (folder / "config.yaml").write_text(text)
            (folder / "results.json").write_text("{}")
    started.words.clear()
    started.statuses.clear()
    assert call("sweep", grid, "--logger", "tensorboard") == 0
    assert [options(words) for words in started.words] == [("1", "0.1"), ("1", "0.2")]
    assert capsys.readouterr().out.count("finished before: ") == 2
    # Other settings are other runs.
    started.words.clear()
    assert call("sweep", grid, "--trainer.max_epochs=1") == 0
    assert len(started.words) == 4


def test_a_run_that_fails_does_not_stop_the_others(grid, started, capsys):
    started.statuses[2] = 1
    assert call("sweep", grid) == 1
    assert len(started.words) == 4
    captured = capsys.readouterr()
    assert "run 2 of 4 failed" in captured.err
    assert f"pellucid sweep {grid}" in captured.err
    assert "report: " in captured.out


def test_a_run_whose_options_are_refused_stops_them(grid, started, capsys):
    started.statuses[2] = 2
    assert call("sweep", grid) == 2
    assert len(started.words) == 2
    assert "run 2 of 4" in capsys.readouterr().err


def test_two_sweeps_share_a_directory(tmp_path, grid, started):
    one = {"seed_everything": {"value": 5}, "model.lr": {"values": [0.3]}}
    other = write_sweep(tmp_path, tmp_path / "tiny.yaml", "other.yaml", parameters=one)
    assert call("sweep", grid, other, "--run_root", "elsewhere") == 0
    assert len(started.words) == 5
    assert options(started.words[4]) == ("5", "0.3")
    assert Path("elsewhere/report.html").is_file()
    assert len(list(Path("elsewhere/tiny").iterdir())) == 5


def test_help(capsys):
    assert call("sweep", "--help") == 0
    assert "not repeated" in capsys.readouterr().out


def test_a_run_has_a_process_of_its_own(tmp_path, monkeypatch, capfd):
    """Anything that answers like Python: importing the package takes seconds."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\necho "$PYTHONPATH"\nexit 7\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PYTHONPATH", "mine")
    assert sweeping.start(["--config", "a"]) == 7
    words, path = capfd.readouterr().out.splitlines()
    assert words == "-m pellucid.cli run --config a"
    # A clone that is not installed is found, and the user's own modules as before.
    assert path.split(os.pathsep) == [str(Path(sweeping.__file__).parents[2]), "mine"]


def test_ctrl_c_waits_for_the_run_to_keep_its_checkpoint(monkeypatch):
    waits = []

    class Process:
        def __init__(self, command, env):
            pass

        def wait(self):
            waits.append(1)
            if len(waits) == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Process)
    assert sweeping.start(["--config=a"]) == 130
    assert len(waits) == 2


@pytest.mark.slow
def test_from_the_file_to_the_picture(tmp_path, monkeypatch, capfd):
    """Two runs of the interpretable CNN, in this process to save time, and the page of both."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweeping, "start", lambda words: call("run", *words))
    weights = {"model.filter_loss_weight": {"values": [0, 1]}}
    words = [write_sweep(tmp_path, "icnn_parts", parameters=weights), *SMALL]
    assert call("sweep", *words) == 0
    out = capfd.readouterr().out
    assert len(list(Path("runs/grid/icnn_parts").glob("*/results.json"))) == 2
    page = Path("runs/grid/report.html").read_text()
    assert page.count('class="chart scatter"') >= 2
    assert "filter_loss_weight 0" in page
    assert "run 2 of 2" in out
    monkeypatch.setattr(sweeping, "start", lambda words: pytest.fail(f"run again: {words}"))
    assert call("sweep", *words) == 0
    assert capfd.readouterr().out.count("finished before") == 2


# Wrong input.


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "bayes"}, ("method", "'bayes'", "grid")),
        ({"method": None}, ("method", "None", "grid")),
        ({"command": None}, ("command", "None", "${program}")),
        ({"command": ["${program}", "run"]}, ("command", "${args}")),
        ({"command": ["${program}", "fit", "${args}"]}, ("command", "run", "fit")),
        ({"command": ["nice", "${program}", "run", "${args}"]}, ("command", "nice")),
        ({"command": ["${program}", "run", "${args_json}", "${args}"]}, ("${args_json}",)),
        ({"parameters": None}, ("parameters", "None")),
        ({"parameters": {"model.lr": {"min": 0, "max": 1}}}, ("model.lr", "min", "values")),
        ({"parameters": {"model.lr": {"values": []}}}, ("model.lr", "values", "[]")),
        ({"parameters": {"model.lr": 3}}, ("model.lr", "values", "3")),
        ({"parameters": {"model.lr": {"values": [0.1, -1]}}}, ("model.lr", "-1")),
        ({"parameters": {"model.rl": {"values": [0.1]}}}, ("model.rl", "'lr'")),
        ({"parameters": {"model.lr": {"values": [0.1, 0.1]}}}, ("runs 1", "2", "the same")),
    ],
)
def test_a_wrong_file(tmp_path, monkeypatch, capsys, started, changes, says):
    monkeypatch.chdir(tmp_path)
    path = write_sweep(tmp_path, write_config(tmp_path), **changes)
    assert call("sweep", path) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in says), error
    assert len(error.splitlines()) == 1
    assert not started.words
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["icnn_tradof"], ("'icnn_tradof'", "did you mean 'icnn_tradeoff'?")),
        (["--trainer.max_epochs=1"], ("name a sweep", "sweeps/icnn_tradeoff")),
        (["GRID", "--model.lr=0.3"], ("the same", "an option after the sweeps", "configs cp")),
        (["GRID", "--model.rate=0.3"], ("model.rate", "no such option")),
        (["GRID", "loose"], ("'loose'", "no shipped sweep")),
    ],
)
def test_wrong_words(grid, started, capsys, words, says):
    assert call("sweep", *[str(grid) if word == "GRID" else word for word in words]) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in says), error
    assert len(error.splitlines()) == 1
    assert not started.words


def test_a_file_that_is_no_yaml(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("a: [")
    with pytest.raises(UserError, match=r"^sweep .*not valid YAML"):
        read_sweep(path)


def test_a_sweep_is_listed_and_copied_but_is_no_config(tmp_path, capsys):
    assert call("configs", "ls") == 0
    assert "sweeps/icnn_tradeoff " in capsys.readouterr().out
    assert call("configs", "cp", "sweeps/icnn_tradeoff", tmp_path) == 0
    assert f"pellucid sweep {tmp_path / 'icnn_tradeoff.yaml'}" in capsys.readouterr().out
    assert call("fit", "--config", "sweeps/icnn_tradeoff") == 2
