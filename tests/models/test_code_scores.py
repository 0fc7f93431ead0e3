"""A model without maps, units or labels, through the whole command line, and its scores."""

import json
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from pellucid.batch import Batch
from pellucid.datamodules.base import Split
from pellucid.metrics.disentanglement import udr_of_runs
from pellucid.models.base import InterpretableModel, Stage
from pellucid.models.code_scores import CodeScores
from pellucid.models.explanation import Explanation
from tests.helpers import TinyData, TinyModel, call, only_run, write_config

FACTORS = ["mig", "dci_disentanglement", "dci_completeness", "dci_informativeness"]
FACTORS += ["factor_vae_score", "beta_vae_score", "sap", "modularity", "explicitness", "irs"]
ALONE = ["active_units", "total_correlation", "pairwise_mutual_information"]


class Squares(Dataset[Batch]):
    """A square whose place is the two factors, on noise."""

    def __init__(self, length: int, offset: int) -> None:
        self.length, self.offset = length, offset

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Batch:
        generator = torch.Generator().manual_seed(self.offset + index)
        image = 0.1 * torch.randn(3, 8, 8, generator=generator)
        x, y = torch.randint(0, 4, (2,), generator=generator).tolist()
        image[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2] += 1
        return {"image": image, "factors": torch.tensor([x, y]), "index": torch.tensor(index)}


class SquareData(TinyData):
    provides: ClassVar[frozenset[str]] = frozenset({"image", "factors", "index"})

    def __init__(self, length: int = 120, known: bool = True, batch_size: int = 32) -> None:
        super().__init__(length=length, batch_size=batch_size)
        if not known:
            self.provides = frozenset({"image", "index"})  # type: ignore[misc]

    def make_dataset(self, split: Split) -> Dataset[Batch]:
        if split == "all":
            raise AssertionError("nobody asked for it")
        return Squares(self.length, {"train": 0, "val": 10_000, "test": 20_000}[split])


class TinyCodes(InterpretableModel):
    """A linear autoencoder of four codes."""

    tests_all: ClassVar[bool] = False
    num_codes = 4

    def __init__(self, collapsed: bool = False, tells_kl: bool = True) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.collapsed, self.tells_kl = collapsed, tells_kl
        self.encoder, self.decoder = nn.Linear(192, 4), nn.Linear(4, 192)

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        image = batch["image"].flatten(1)
        codes = self.encoder(image) * (not self.collapsed)
        loss = (self.decoder(codes) - image).square().sum(1).mean()
        if stage == "train":
            return {"loss": loss}
        return {"loss": loss, "codes": codes} | (
            {"kl_per_latent": codes.square() / 2} if self.tells_kl else {}
        )

    def explain(self, batch: Batch, target: Tensor | None = None) -> Explanation:
        codes = self.encoder(batch["image"].flatten(1))
        size = len(codes)
        return Explanation(
            scores=codes.new_zeros(size, 0),
            target=torch.zeros(size, dtype=torch.int64),
            codes=codes,
            reconstruction=self.decoder(codes).view(batch["image"].shape).clamp(0, 1),
        )

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-3)


CONFIG = """\
# Squares at places, for tests.
trainer:
  max_epochs: 2
  accelerator: cpu
  devices: 1
  enable_progress_bar: false
model:
  class_path: tests.models.test_code_scores.TinyCodes
data:
  class_path: tests.models.test_code_scores.SquareData
scores:
  num_train: 80
  num_test: 40
  batch_size: 16
  resamplings: 2
"""


def run(tmp_path, *words):
    config = write_config(tmp_path, CONFIG)
    assert call("run", "--config", config, "--run_root", tmp_path / "runs", *words) == 0
    return max((tmp_path / "runs" / "tiny").iterdir(), key=lambda path: path.stat().st_mtime_ns)


def test_a_run_of_a_model_with_codes(tmp_path, capsys):
    directory = run(tmp_path, "--monitor=val/active_units", "--mode=max")
    results = json.loads((directory / "results.json").read_text())
    metrics = results["metrics"]
    assert {f"test/{key}" for key in FACTORS + ALONE} <= metrics.keys()
    assert not any(key.startswith("all/") for key in metrics)
    scores = results["scores"]
    assert scores["settings"] == {
        "num_train": 80,
        "num_test": 40,
        "num_bins": 20,
        "batch_size": 16,
        "booster": "exact",
        "dci_stages": 100,
        "logistic_penalty": 1.0,
        "factor_vae_rows": 10_000,
        "factor_vae_least_std": 0.05,
        "sap_penalty": 0.01,
        "irs_quantile": 0.99,
        "active_variance": 0.01,
        "seed": 0,
        "resamplings": 2,
    }
    assert scores["images"] == 120
    assert scores["std"].keys() == scores["values"].keys() == set(FACTORS + ALONE)
    assert scores["values"]["mig"] == metrics["test/mig"]
    assert len(scores["kl_per_latent"]) == len(scores["kl_per_latent_std"]) == 4
    assert scores["samples"].keys() == scores["values"].keys()
    assert scores["samples"]["sap"] == {"train_rows": 80, "test_rows": 40}
    head = (directory / "metrics.csv").read_text().partition("\n")[0]
    assert {"test/dci_completeness", "val/active_units"} <= set(head.split(","))
    assert "mig" in capsys.readouterr().out
    assert (directory / "report.html").is_file()
    with np.load(directory / "codes.npz") as content:
        assert content["codes"].shape == (120, 4)
        assert content["index"].tolist() == list(range(120))
        np.testing.assert_allclose(content["kl_per_latent"], scores["kl_per_latent"], rtol=1e-6)
    other = run(tmp_path, "--seed_everything=1")
    assert udr_of_runs([directory, other]).keys() == {str(directory), str(other)}


def test_without_factors_there_are_fewer_scores(tmp_path):
    directory = run(tmp_path, "--data.known=false", "--model.tells_kl=false")
    results = json.loads((directory / "results.json").read_text())
    found = {key.removeprefix("test/") for key in results["metrics"] if key.startswith("test/")}
    assert set(ALONE) <= found
    assert not set(FACTORS) & found
    assert set(results["skipped"]) == set(FACTORS)
    assert results["skipped"]["mig"] == "needs factors, which SquareData does not provide"
    assert results["scores"]["kl_per_latent"] is None


def test_a_model_whose_codes_ignore_the_image_is_told_so(tmp_path):
    directory = run(tmp_path, "--model.collapsed=true")
    results = json.loads((directory / "results.json").read_text())
    assert results["metrics"]["test/active_units"] == 0
    assert "constant" in results["skipped"]["mig"]
    assert results["metrics"]["test/loss"] > 0


def test_a_layer_of_a_classifier(tmp_path):
    """Maps are averaged; the model says nothing of codes."""
    words = ["--config", write_config(tmp_path), "--run_root", tmp_path / "runs"]
    words += ["--scores.layer=features", "--trainer.max_epochs=1"]
    assert call("run", *words) == 0
    results = json.loads((only_run(tmp_path / "runs") / "results.json").read_text())
    assert results["scores"]["layer"] == "features"
    assert results["scores"]["codes"] == 4
    assert {"test/active_units", "test/total_correlation"} <= results["metrics"].keys()
    model, batch = TinyModel(3).eval(), {"image": torch.randn(5, 3, 8, 8)}
    codes = CodeScores(layer="features")
    codes.find_layer(model, TinyData())
    assert codes._width == 4
    assert codes.score_keys(model, TinyData(), "test") == ALONE
    assert not codes.score_keys(model, TinyData(), "all")
    assert batch["image"].shape[0] == 5


def test_a_model_without_codes_has_no_scores(tmp_path):
    words = ["--config", write_config(tmp_path), "--run_root", tmp_path / "runs"]
    assert call("run", *words, "--trainer.max_epochs=1") == 0
    directory = only_run(tmp_path / "runs")
    results = json.loads((directory / "results.json").read_text())
    assert results["scores"] is None
    assert not (directory / "codes.npz").exists()


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("--scores.names=[migg]", ("scores.names", "'migg'", "'mig'")),
        ("--scores.layer=encodr", ("scores.layer", "'encodr'", "'encoder'")),
        ("--scores.num_bins=1", ("scores.num_bins", "at least 2, got 1")),
        ("--scores.booster=fast", ("scores.booster", "fast", "histogram")),
        ("--scores.sed=1", ("scores.sed", "no such option", "'seed'")),
        ("--scores.resamplings=1", ("scores.resamplings", "0 or at least 2, got 1")),
    ],
)
def test_wrong_options(tmp_path, capsys, word, says):
    config = write_config(tmp_path, CONFIG)
    assert call("run", "--config", config, "--run_root", tmp_path / "runs", word) == 2
    err = capsys.readouterr().err
    assert all(part in err for part in says), err
    assert len(err.strip().splitlines()) <= 2
