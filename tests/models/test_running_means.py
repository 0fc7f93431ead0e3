import csv

import pytest
import torch

from pellucid.models.running_means import RunningMeans
from tests.helpers import TinyModel, call, only_run, write_config


def test_means_are_weighted_by_the_size_of_the_batch():
    means = RunningMeans()
    assert means.take() == {}
    means.add({}, 4)
    steps = [
        (3, {"a": 1.0, "b": 4.0}),
        (5, {"a": 2.0, "b": -1.0}),
        (2, {"b": 8.0}),
        (1, {"a": 9.0}),
    ]
    for size, values in steps:
        means.add({name: torch.tensor(value).bfloat16() for name, value in values.items()}, size)
    found = means.take()
    for name in ("a", "b"):
        having = [(size, values[name]) for size, values in steps if name in values]
        images = sum(size for size, _ in having)
        mean, size = found[name]
        assert size == images
        assert float(mean) == pytest.approx(sum(s * v for s, v in having) / images)
    assert means.take() == {}


def test_an_epoch_has_the_mean_of_its_steps(tmp_path, monkeypatch):
    seen = []
    step = TinyModel.step

    def recording(self, batch, stage):
        outputs = step(self, batch, stage)
        if stage == "train":
            seen.append((len(batch["image"]), float(outputs["loss"].detach())))
        return outputs

    monkeypatch.setattr(TinyModel, "step", recording)
    words = ["--config", write_config(tmp_path), "--run_root", tmp_path / "runs"]
    # Batches of 10, 10 and 4; the last epoch ends after its first step.
    assert call("fit", *words, "--data.batch_size=10", "--trainer.max_steps=4") == 0
    with (only_run(tmp_path / "runs") / "metrics.csv").open() as file:
        rows = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert [size for size, _ in seen] == [10, 10, 4, 10]
    first = sum(size * loss for size, loss in seen[:3]) / 24
    assert rows == pytest.approx([first, seen[3][1]])
