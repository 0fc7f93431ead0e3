import json

import pytest
import torch

from pellucid.callbacks import FiniteLoss, Stopwatch
from pellucid.errors import RunFailure
from tests.helpers import MeanPeak, TinyModel, call, only_run, write_config


class FakeTrainer:
    current_epoch, global_step, checkpoint_callbacks = 1, 7, ()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("term", ["filter_loss", "loss", "classification_loss"])
def test_a_term_that_is_not_finite_is_named(term, value):
    outputs = {name: torch.tensor(1.0) for name in ("loss", "classification_loss", "filter_loss")}
    outputs["logits"] = torch.full((2, 3), torch.nan)  # Only scalars are looked at.
    FiniteLoss().check(FakeTrainer(), outputs)
    outputs[term] = torch.tensor(value)
    with pytest.raises(RunFailure, match=rf"{term} is {value} \(epoch 1, step 7\)"):
        FiniteLoss().check(FakeTrainer(), outputs)


def test_the_term_is_blamed_not_the_sum():
    outputs = {"loss": torch.tensor(torch.nan), "filter_loss": torch.tensor(torch.nan)}
    with pytest.raises(RunFailure) as error:
        FiniteLoss().check(FakeTrainer(), outputs)
    assert "filter_loss is nan" in str(error.value)
    assert " loss is" not in str(error.value).split(":", 1)[1]


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--model.filter_loss_weight=0.1", "the loss is not finite: filter_loss is nan"),
        ("--model.poison_gradient=true", "the gradient is not finite: features.weight"),
    ],
)
def test_the_run_stops_and_keeps_the_last_good_checkpoint(tmp_path, capsys, option, says):
    words = ["--config", write_config(tmp_path), "--run_root", tmp_path / "runs", option]
    # Three steps an epoch: the second epoch goes wrong in its second step.
    assert call("fit", *words, "--model.poison_step=4", "--trainer.max_epochs=3") == 1
    err = capsys.readouterr().err
    last = only_run(tmp_path / "runs") / "checkpoints/last.ckpt"
    assert says in err
    assert "epoch 1, step 4" in err
    assert str(last) in err
    assert len(err.strip().splitlines()) <= 2
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["epoch"] == 0
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


def test_the_weights_never_see_it(tmp_path, monkeypatch):
    """The model object itself, not only its checkpoint, is as it was before the bad step."""
    models = []
    monkeypatch.setattr(TinyModel, "on_fit_start", lambda self: models.append(self), raising=False)
    words = ["--config", write_config(tmp_path), "--run_root", tmp_path / "runs"]
    for gradient in ("true", "false"):
        options = ["--model.poison_step=1", f"--model.poison_gradient={gradient}"]
        assert call("fit", *words, *options) == 1
    assert len(models) == 2
    for model in models:
        assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_the_term_is_named_before_a_metric_sees_it(tmp_path, monkeypatch, capsys):
    """A metric may refuse what is not finite, and its words would not say which term it was."""

    def refuse(self, metrics, outputs, batch):
        assert outputs["loss"].isfinite(), "the metric was asked first"

    monkeypatch.setattr(TinyModel, "update_metrics", refuse)
    words = ["--config", write_config(tmp_path), "--run_root", tmp_path / "runs"]
    assert call("fit", *words, "--model.poison_step=1") == 1
    assert "filter_loss is nan" in capsys.readouterr().err


def test_only_training_stops_at_a_loss_that_is_not_finite():
    outputs = {"loss": torch.tensor(torch.nan)}
    for stage in ("val", "test", "all"):
        FiniteLoss().on_step(FakeTrainer(), outputs, stage)
    with pytest.raises(RunFailure, match="loss is nan"):
        FiniteLoss().on_step(FakeTrainer(), outputs, "train")


def test_stopwatch_counts_the_training_images(tmp_path):
    words = ["--config", write_config(tmp_path), "--run_root", tmp_path / "runs"]
    assert call("run", *words) == 0
    results = json.loads((only_run(tmp_path / "runs") / "results.json").read_text())
    assert results["images_per_second"] > 2 * 24 / results["fit_seconds"] > 0
    assert Stopwatch().images_per_second is None


def test_unit_figures_reach_the_files_of_the_report(tmp_path):
    words = ["--config", write_config(tmp_path), "--run_root", tmp_path / "runs"]
    assert call("run", *words, "--model.measure_units=true") == 0
    units = json.loads((only_run(tmp_path / "runs") / "units.json").read_text())
    assert [unit["mean_peak"] > 0 for unit in units] == [True] * 4


@pytest.mark.parametrize("dead", [lambda self: 3, property(lambda self: torch.arange(5) > 1)])
def test_unit_figures_keep_the_stages_apart(tmp_path, monkeypatch, dead):
    """The cards show pictures of the test split, so the figures beside them are of it too."""
    monkeypatch.setattr(MeanPeak, "dead_units", dead, raising=False)
    words = ["--config", write_config(tmp_path), "--run_root", tmp_path / "runs"]
    assert call("run", *words, "--model.measure_units=true") == 0
    run = only_run(tmp_path / "runs")
    units = json.loads((run / "units.json").read_text())
    metrics = json.loads((run / "results.json").read_text())["metrics"]
    mean = sum(unit["mean_peak"] for unit in units) / len(units)
    assert mean == pytest.approx(metrics["test/mean_peak"])
    assert mean != pytest.approx(metrics["all/mean_peak"])
    assert metrics["test/dead_units"] == metrics["all/dead_units"] == 3


def test_units_of_a_layer_are_named_measured_and_counted(tmp_path):
    """From the option to the results, the unit pictures and the page."""
    words = ["--config", "cnn_parts", "--run_root", tmp_path, "--data.image_size=32"]
    words += [f"--data.{split}_size=16" for split in ("train", "val", "test")]
    words += ["--metrics.layer=backbone.stages.1", "--trainer.max_epochs=1"]
    words += ["--metrics.names=[network_dissection,decision_sparsity,location_instability]"]
    assert call("run", *words, "--trainer.enable_progress_bar=false") == 0
    run = only_run(tmp_path, "cnn_parts")
    results = json.loads((run / "results.json").read_text())
    assert results["metrics_layer"] == "backbone.stages.1"
    found = {key for key in results["metrics"] if key.startswith("test/")}
    assert {"test/network_dissection", "test/detectors", "test/location_instability"} <= found
    assert "test/part_purity" not in found
    assert results["skipped"].keys() == {"decision_sparsity"}
    units = json.loads((run / "units.json").read_text())
    # Its own layer has 64 units, the measured one 48.
    assert [unit["name"] for unit in units] == [f"backbone.stages.1 {i}" for i in range(48)]
    assert all("network_dissection_by_part" in unit for unit in units)
    assert not (run / "categories.json").exists()
    assert "units of backbone.stages.1" in (run / "report.html").read_text()


def test_votes_of_units_are_written_and_drawn(tmp_path):
    words = ["--config", "icnn_parts", "--run_root", tmp_path, "--data.image_size=32"]
    words += [f"--data.{split}_size=16" for split in ("train", "val", "test")]
    words += ["--metrics.names=[category_balance]", "--trainer.max_epochs=1"]
    assert call("run", *words, "--trainer.enable_progress_bar=false") == 0
    run = only_run(tmp_path, "icnn_parts")
    content = json.loads((run / "categories.json").read_text())
    assert content["assigned"] is True
    assert sum(content["units"].values()) == 64
    units = json.loads((run / "units.json").read_text())
    chosen = [unit["category"] for unit in units]
    assert {name: chosen.count(name) for name in content["units"]} == content["units"]
    assert list((run / "images" / "test").glob("categories_*.png"))
    # The balance is of the layer and not of each unit, but has a picture all the same.
    for stage in ("test", "all"):
        assert len(list((run / "images" / stage).glob("category_balance_*.png"))) == 1
        assert not list((run / "images" / stage).glob("accuracy_*.png"))
