import csv
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pellucid.logging import RunCSVLogger
from pellucid.resume import Checkpoint, random_state, set_random_state
from tests.helpers import CONFIG, TinyData, TinyModel, call, only_run, write_config

REPOSITORY = Path(__file__).resolve().parent.parent
EPOCHS = "--trainer.max_epochs=4"
SMALL = ["--data.image_size=32", "--data.batch_size=8", "--model.num_units=8"]
SMALL += ["--data.train_size=24", "--data.val_size=12", "--data.test_size=12"]
SMALL += ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
KILLED = """
import os, signal, sys
from pellucid.cli import main
from pellucid.models.base import InterpretableModel

training_step = InterpretableModel.training_step

def killing(self, batch, batch_idx):
    if self.global_step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return training_step(self, batch, batch_idx)

InterpretableModel.training_step = killing
main(sys.argv[1:])
"""
"""The command line, killed at its eighth step: with three an epoch, in the middle of the third."""


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def assert_same_weights(path, other):
    a, b = weights(path), weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def assert_same_run(run, other):
    """Weights of both checkpoints, the best score, all rows of figures and the results."""
    for name in ("best", "last"):
        assert_same_weights(run / f"checkpoints/{name}.ckpt", other / f"checkpoints/{name}.ckpt")
    assert (run / "metrics.csv").read_text() == (other / "metrics.csv").read_text()
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def best_score(run):
    states = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["callbacks"]
    (score,) = (s["best_model_score"] for s in states.values() if s.get("monitor"))
    return score


def interrupt(monkeypatch, capsys, config, root, step, name="SIGINT"):
    """Ctrl-C, or another signal, at an optimiser step, in this process."""
    monkeypatch.setenv("TINY_SIGNAL", name)
    monkeypatch.setenv("TINY_SIGNAL_AT_STEP", str(step))
    status = call("fit", "--config", config, EPOCHS, "--run_root", root)
    monkeypatch.delenv("TINY_SIGNAL_AT_STEP")
    return status, capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tiny", []),
        ("icnn_parts", [*SMALL, "--model.filter_loss_warmup=2", "--model.trainable_stages=1"]),
        ("icnn_parts", [*SMALL, "--model.trainable_stages=0", "--model.unfreeze_epoch=2"]),
    ],
    ids=["tiny", "frozen", "unfrozen"],
)
def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path, name, options):
    config = write_config(tmp_path) if name == "tiny" else name
    words = [str(word) for word in ("run", "--config", config, EPOCHS, *options)]
    # Sums over another number of threads differ in the last bit.
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *words, "--run_root", tmp_path / "killed"],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | threads,
        timeout=120,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    run = only_run(tmp_path / "killed", name)
    assert not (run / "results.json").exists()

    last = run / "checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 6
    assert call("run", "--config", run / "config.yaml", "--ckpt_path", last) == 0
    assert call(*words, "--run_root", tmp_path / "whole") == 0
    whole = only_run(tmp_path / "whole", name)
    assert only_run(tmp_path / "killed", name) == run  # It went on in its own directory.
    assert torch.load(last, weights_only=True)["global_step"] == 12
    assert_same_run(run, whole)
    assert best_score(run) == best_score(whole)
    results = [json.loads((r / "results.json").read_text())["metrics"] for r in (run, whole)]
    assert results[0] == results[1]
    metrics = ["accuracy", "loss"]
    assert {f"{stage}/{m}" for stage in ("test", "all") for m in metrics} <= results[0].keys()


@pytest.mark.parametrize(
    ("step", "model", "workers"),
    [(3, "TinyModel", 0), (5, "TinyModel", 0), (5, "TinyModel", 1), (7, "OneCycle", 1)],
)
def test_ctrl_c_says_how_to_go_on_and_the_words_work(
    tmp_path, monkeypatch, capsys, step, model, workers
):
    text = CONFIG.replace("TinyModel", model) + f"  init_args: {{num_workers: {workers}}}\n"
    config = write_config(tmp_path, text)
    status, out = interrupt(monkeypatch, capsys, config, tmp_path / "stopped", step)
    assert status == 130
    run = only_run(tmp_path / "stopped")
    command = out.strip().splitlines()[-1].split()
    assert command[:2] == ["pellucid", "fit"]
    assert str(run / "checkpoints/last.ckpt") in command
    assert call(*command[1:]) == 0
    assert call("fit", "--config", config, EPOCHS, "--run_root", tmp_path / "whole") == 0
    assert_same_run(run, only_run(tmp_path / "whole"))


def test_a_cluster_that_ends_the_job_is_told_the_same(tmp_path, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    config, root = write_config(tmp_path), tmp_path / "runs"
    status, out = interrupt(monkeypatch, capsys, config, root, 5, "SIGTERM")
    assert status == 128 + signal.SIGTERM
    assert f"--ckpt_path {only_run(root) / 'checkpoints/last.ckpt'}" in out
    assert signal.getsignal(signal.SIGTERM) == before


def test_ctrl_c_before_the_first_checkpoint(tmp_path, monkeypatch, capsys):
    config = write_config(tmp_path)
    status, out = interrupt(monkeypatch, capsys, config, tmp_path / "runs", 1)
    assert status == 130
    assert "nothing to go on from" in out


def test_without_the_random_state_the_runs_would_differ(tmp_path, monkeypatch, capsys):
    """The comparison above can fail."""
    monkeypatch.setattr("pellucid.resume.set_random_state", lambda state: None)
    config = write_config(tmp_path)
    interrupt(monkeypatch, capsys, config, tmp_path / "stopped", 5)
    run = only_run(tmp_path / "stopped")
    last = run / "checkpoints/last.ckpt"
    assert call("fit", "--config", run / "config.yaml", "--ckpt_path", last) == 0
    assert call("fit", "--config", config, EPOCHS, "--run_root", tmp_path / "whole") == 0
    ours, whole = weights(last), weights(only_run(tmp_path / "whole") / "checkpoints/last.ckpt")
    assert any(not torch.equal(ours[name], whole[name]) for name in ours)


def test_going_on_for_more_epochs_is_the_longer_run(tmp_path):
    config, root = write_config(tmp_path), tmp_path / "runs"
    assert call("fit", "--config", config, "--run_root", root) == 0
    run = only_run(root)
    last = run / "checkpoints/last.ckpt"
    assert call("fit", "--config", run / "config.yaml", "--ckpt_path", last, EPOCHS) == 0
    assert call("fit", "--config", config, EPOCHS, "--run_root", tmp_path / "whole") == 0
    assert_same_run(run, only_run(tmp_path / "whole"))


def test_a_run_killed_in_its_tests_only_tests_again(tmp_path):
    root = tmp_path / "runs"
    assert call("run", "--config", write_config(tmp_path), "--run_root", root) == 0
    run = only_run(root)
    rows, results = (
        (run / "metrics.csv").read_text(),
        json.loads((run / "results.json").read_text()),
    )
    (run / "results.json").unlink()
    last = run / "checkpoints/last.ckpt"
    assert call("run", "--config", run / "config.yaml", "--ckpt_path", last) == 0
    assert (run / "metrics.csv").read_text() == rows
    again = json.loads((run / "results.json").read_text())
    assert again["metrics"] == results["metrics"]
    # The time of the fit comes from the checkpoint, which was written just before its end.
    assert 0 < again["fit_seconds"] <= results["fit_seconds"] + 1
    assert again["images_per_second"] == pytest.approx(results["images_per_second"])


def test_a_schedule_that_would_end_too_early_is_refused(tmp_path, capsys):
    config = write_config(tmp_path, CONFIG.replace("helpers.TinyModel", "helpers.OneCycle"))
    assert call("fit", "--config", config, "--run_root", tmp_path / "runs") == 0
    run = only_run(tmp_path / "runs")
    words = ["--config", run / "config.yaml", "--ckpt_path", run / "checkpoints/last.ckpt"]
    rows = (run / "metrics.csv").read_text()
    assert call("fit", *words, EPOCHS) == 2
    assert "trainer.max_epochs" in capsys.readouterr().err
    assert (run / "metrics.csv").read_text() == rows
    assert (run / "config.yaml").is_file()


def test_a_moved_run_keeps_its_best_score(tmp_path):
    root = tmp_path / "runs"
    assert call("fit", "--config", write_config(tmp_path), "--run_root", root) == 0
    run = only_run(root)
    score = best_score(run)
    moved = run.rename(tmp_path / "moved")
    last = moved / "checkpoints/last.ckpt"
    words = ["--config", moved / "config.yaml", "--ckpt_path", last, "--trainer.max_epochs=3"]
    # So bad a learning rate that the third epoch cannot be the best.
    before = weights(moved / "checkpoints/best.ckpt")
    checkpoint = torch.load(last, weights_only=True)
    for group in checkpoint["optimizer_states"][0]["param_groups"]:
        group["lr"] = 1e3
    torch.save(checkpoint, last)
    assert call("fit", *words) == 0
    assert best_score(moved) == score
    after = weights(moved / "checkpoints/best.ckpt")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_last_is_written_when_the_epoch_was_not_the_best(tmp_path):
    # The first epoch's loss is the largest.
    words = ["--config", write_config(tmp_path), "--run_root", tmp_path, EPOCHS]
    assert call("fit", *words, "--monitor=val/loss", "--mode=max") == 0
    last = torch.load(only_run(tmp_path) / "checkpoints/last.ckpt", weights_only=True)
    best = torch.load(only_run(tmp_path) / "checkpoints/best.ckpt", weights_only=True)
    assert (last["epoch"], best["epoch"]) == (3, 0)


def test_a_kill_while_writing_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    words = ["--config", write_config(tmp_path), "--run_root", tmp_path]
    assert call("fit", *words) == 0
    run = only_run(tmp_path)
    last = run / "checkpoints/last.ckpt"
    before = {path.name: path.read_bytes() for path in last.parent.iterdir()}

    def die_half_way(self, path, weights_only=False):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("pytorch_lightning.Trainer.save_checkpoint", die_half_way)
    status = call("fit", "--config", run / "config.yaml", "--ckpt_path", last, EPOCHS)
    assert status == 130
    for name, content in before.items():
        assert (last.parent / name).read_bytes() == content


def test_checkpoint_alone_rebuilds_its_model(tmp_path):
    words = ["--config", write_config(tmp_path), "--run_root", tmp_path]
    assert call("fit", *words, "--model.width=5", "--data.classes=4") == 0
    path = only_run(tmp_path) / "checkpoints/best.ckpt"
    model = TinyModel.load_from_checkpoint(path, weights_only=True, map_location="cpu")
    assert (model.features.out_channels, model.num_classes) == (5, 4)
    expected = weights(path)
    assert all(torch.equal(v, expected[k]) for k, v in model.state_dict().items())
    assert TinyData().num_classes == 3


def test_random_state_comes_back_from_a_file(tmp_path):
    torch.save(random_state(), tmp_path / "state.pt")
    first = torch.rand(3), np.random.rand(3), random.random(), np.random.standard_normal()
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    again = torch.rand(3), np.random.rand(3), random.random(), np.random.standard_normal()
    assert torch.equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert first[2:] == again[2:]


def test_rows_after_the_checkpoint_are_dropped(tmp_path):
    logger = RunCSVLogger(tmp_path)
    for epoch in range(3):
        logger.log_metrics({"val/loss": epoch / 10, "epoch": epoch}, step=epoch)
    logger.log_metrics({"test/loss": 9.0, "epoch": 2}, step=2)
    again = RunCSVLogger(tmp_path)
    again.keep(2, {"epoch": "1", "step": "1", "train/loss": "0.5"})
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["val/loss"] for row in rows] == ["0.0", "0.1", ""]
    assert rows[2]["train/loss"] == "0.5"
    assert "test/loss" not in rows[0]


def test_checkpoint_from_elsewhere_does_not_bring_its_best_path(tmp_path):
    callback = Checkpoint(tmp_path / "new", "best", "val/loss")
    state = Checkpoint(tmp_path / "old", "best", "val/loss").state_dict()
    state |= {"best_model_score": torch.tensor(0.1), "best_model_path": str(tmp_path / "old")}
    callback.load_state_dict(state)
    assert callback.best_k_models == {}
    assert callback.best_model_score is None
