import builtins
import csv
import importlib.util
import logging as standard_logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.errors import UserError
from pellucid.logging import RunCSVLogger, log_image, make_loggers
from tests.helpers import call, only_run, write_config

PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Dashboard:
    """Takes pictures as WandbLogger does."""

    def __init__(self):
        self.pictures = []

    def log_image(self, key, images, step=None, **kwargs):
        self.pictures.append((key, images, step, kwargs))


class Board:
    """Takes pictures as TensorBoard's writer does."""

    def __init__(self):
        self.pictures = []
        self.experiment = self

    def add_image(self, key, image, step, dataformats):
        self.pictures.append((key, image, step, dataformats))


def trainer_with(*loggers, first=True):
    return SimpleNamespace(loggers=list(loggers), global_step=12, is_global_zero=first)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_a_picture_goes_to_the_directory_and_to_every_logger(tmp_path, kind):
    dashboard, board = Dashboard(), Board()
    trainer = trainer_with(RunCSVLogger(tmp_path), dashboard, board, SimpleNamespace())
    path = log_image(trainer, "val/units", kind(PICTURE.copy()), "six pixels")
    assert path == tmp_path / "images/val/units_00012.png"
    assert np.array_equal(np.asarray(Image.open(path)), PICTURE)
    ((key, (image,), step, options),) = dashboard.pictures
    assert (key, step, options) == ("val/units", 12, {"caption": ["six pixels"]})
    assert image.dtype == np.uint8
    assert np.array_equal(image, PICTURE)
    ((key, image, step, order),) = board.pictures
    assert (key, step, order) == ("val/units", 12, "HWC")
    assert np.array_equal(image, PICTURE)


def test_only_the_first_process_writes(tmp_path):
    board = Board()
    assert log_image(trainer_with(RunCSVLogger(tmp_path), board, first=False), "x", PICTURE) is None
    assert not board.pictures
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (PICTURE / 255, "uint8"),
        (torch.rand(4, 6, 3), "uint8"),
        (PICTURE.transpose(2, 0, 1), r"\(H, W, 3\)"),
        (PICTURE[..., 0], r"\(H, W, 3\)"),
    ],
)
def test_a_picture_of_another_type_or_shape_is_refused(tmp_path, image, says):
    with pytest.raises(ValueError, match=says):
        log_image(trainer_with(RunCSVLogger(tmp_path)), "x", image)


@pytest.mark.parametrize("key", ["", "/etc/x", "../x", "a/../../x", "a//b"])
def test_a_key_cannot_leave_the_directory(tmp_path, key):
    with pytest.raises(ValueError, match="key"):
        log_image(trainer_with(RunCSVLogger(tmp_path)), key, PICTURE)


def test_rows_survive_a_new_column_and_a_new_process(tmp_path):
    logger = RunCSVLogger(tmp_path)
    logger.log_metrics({"val/loss": 1.5, "epoch": 0}, step=3)
    logger.log_metrics({"train/loss": torch.tensor(0.1), "epoch": 0}, step=3)
    RunCSVLogger(tmp_path).log_metrics({"test/accuracy": 0.5, "epoch": 1}, step=4)
    found = rows(tmp_path / "metrics.csv")
    assert [row["step"] for row in found] == ["3", "3", "4"]
    assert found[0]["val/loss"] == "1.5"
    assert found[0]["train/loss"] == ""
    assert float(found[1]["train/loss"]) == float(torch.tensor(0.1))
    assert found[2]["test/accuracy"] == "0.5"


def test_a_row_cut_short_by_a_kill_is_left_out(tmp_path):
    logger = RunCSVLogger(tmp_path)
    logger.log_metrics({"a": 1.0, "b": 2.0, "epoch": 0}, step=0)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("1,1")
    assert len(RunCSVLogger(tmp_path).rows) == 1


def test_unknown_and_missing_loggers(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="'tensorboard'"):
        make_loggers(["tensorbord"], tmp_path, "x")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        make_loggers(["wandb"], tmp_path, "x")
    with pytest.raises(UserError, match=r"pip install 'pellucid\[tensorboard\]'"):
        make_loggers(["tensorboard"], tmp_path, "x")


def test_two_of_a_kind_are_one(tmp_path):
    assert len(make_loggers(["csv", "csv"], tmp_path, "x")) == 2 - 1


@pytest.mark.parametrize(
    ("key", "mode", "expected"),
    [(None, None, "offline"), ("k" * 40, None, None), (None, "disabled", None)],
)
def test_wandb_is_offline_unless_logged_in(tmp_path, monkeypatch, key, mode, expected):
    pytest.importorskip("wandb")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name, value in (("WANDB_API_KEY", key), ("WANDB_MODE", mode)):
        monkeypatch.delenv(name, raising=False)
        if value:
            monkeypatch.setenv(name, value)
    logger = make_loggers(["wandb"], tmp_path, "icnn_parts")[1]
    assert logger._wandb_init.get("mode") == expected
    assert logger.save_dir == str(tmp_path)
    assert logger._wandb_init["project"] == "pellucid"


def test_a_login_by_netrc_counts(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password abc\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert "mode" not in make_loggers(["wandb"], tmp_path, "x")[1]._wandb_init


def test_tensorboard_beside_csv(tmp_path):
    pytest.importorskip("tensorboard")
    words = ["--config", write_config(tmp_path), "--config", "logger/tensorboard"]
    assert call("fit", *words, "--run_root", tmp_path / "runs") == 0
    run = only_run(tmp_path / "runs")
    assert list((run / "tensorboard").glob("events.*"))
    assert len(rows(run / "metrics.csv")) == 4
    assert (run / "config.yaml").is_file()


def test_wandb_offline_keeps_its_files_in_the_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path)
    assert call("fit", "--config", config, "--logger", "wandb", "--logger", "tensorboard") == 0
    import wandb

    wandb.finish()
    run = only_run(tmp_path / "runs")
    assert list((run / "wandb").glob("offline-run-*/*.wandb"))
    assert (run / "tensorboard").is_dir()
    assert not (tmp_path / "wandb").exists()


def test_importing_needs_no_optional_package(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        assert name.split(".")[0] not in ("wandb", "tensorboard")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    spec = importlib.util.find_spec("pellucid.logging")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert standard_logging.getLogger("pellucid")  # The standard module keeps its name.
