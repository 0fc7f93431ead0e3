"""What fine-tuned models share, on a model other than the interpretable CNN."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pellucid.batch import Batch
from pellucid.datamodules.synthetic_parts import SyntheticParts
from pellucid.models.base import Stage
from pellucid.models.explanation import Explanation
from pellucid.models.fine_tuning import FineTunedModel
from pellucid.models.interpretable_cnn import InterpretableCNN


class Linear(FineTunedModel):
    """Mean features and a linear layer."""

    def __init__(self, num_classes: int, trainable_stages: int | None, cache_frozen: bool) -> None:
        options: dict[str, Any] = {"cache_frozen": cache_frozen, "schedule": "constant"}
        super().__init__("small", trainable_stages=trainable_stages, lr=0.01, **options)
        self.save_hyperparameters()
        self.classifier = nn.Linear(self.backbone.channels, num_classes)

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        scores = self.classifier(self.features(batch, stage).mean((2, 3)))
        return {"loss": nn.functional.cross_entropy(scores, batch["label"])}

    def explain(self, batch: Batch, target: Tensor | None = None) -> Explanation:
        raise NotImplementedError


def quiet_trainer(max_epochs: int = 1) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def fit(trainable_stages: int | None, cache_frozen: bool) -> tuple[Linear, list[int], Any]:
    """A trained model, how many images its first stage saw, and the learning rates."""
    data = SyntheticParts(image_size=32, num_classes=3, train_size=24, val_size=8, test_size=8)
    pl.seed_everything(0, verbose=False)
    model, seen = Linear(3, trainable_stages, cache_frozen), [0]

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen[0] += len(output)

    model.backbone.stages[0].register_forward_hook(count)
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(model, datamodule=data)
    return model, seen, [group["lr"] for group in trainer.optimizers[0].param_groups]


def test_another_model_gets_frozen_stages_their_cache_and_two_rates() -> None:
    (plain, seen, rates), (cached, seen_once, _) = (fit(1, cache) for cache in (False, True))
    assert (seen, seen_once) == ([2 * (24 + 8)], [24 + 8])
    assert rates == pytest.approx([0.01, 0.001])
    for ours, theirs in zip(plain.parameters(), cached.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    frozen = [not p.requires_grad for p in plain.backbone.stages[0].parameters()]
    assert all(frozen)
    assert not plain.train().backbone.stages[0].training
    assert plain.backbone.stages[-1].training


def test_features_are_the_backbones_maps() -> None:
    model = Linear(3, 2, True).eval()
    image = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model.features({"image": image}, "val"), model.backbone(image))


def test_a_checkpoint_does_not_name_the_weights_file() -> None:
    checkpoint: dict[str, Any] = {"hyper_parameters": {"weights": "of_this_machine.pth"}}
    Linear(3, 1, True).on_save_checkpoint(checkpoint)
    assert checkpoint["hyper_parameters"]["weights"] == "none"


def test_features_of_other_weights_are_forgotten(tmp_path: Path) -> None:
    data = SyntheticParts(image_size=32, num_classes=3, train_size=8, val_size=8, test_size=8)
    torch.manual_seed(0)
    donor, model, trainer = Linear(3, 1, True), Linear(3, 1, True), quiet_trainer()
    trainer.validate(donor, data, verbose=False)
    trainer.save_checkpoint(tmp_path / "donor.ckpt")
    wanted = float(trainer.callback_metrics["val/loss"])
    trainer.validate(model, data, verbose=False)
    assert model._cache is not None
    assert data.dataset("val") in model._cache
    assert float(trainer.callback_metrics["val/loss"]) != pytest.approx(wanted, rel=1e-4)
    trainer.validate(model, data, ckpt_path=str(tmp_path / "donor.ckpt"), verbose=False)
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(wanted, rel=1e-6)


def test_frozen_stages_train_on_loaders_without_a_data_module() -> None:
    data = SyntheticParts(image_size=32, num_classes=3, train_size=24, val_size=8, test_size=8)
    dataset = data.dataset("train")
    torch.manual_seed(0)
    model = Linear(3, 1, True)
    before = model.classifier.weight.detach().clone()
    quiet_trainer().fit(model, DataLoader(dataset, batch_size=8))
    assert not torch.equal(model.classifier.weight, before)
    assert model._cache is not None
    assert dataset in model._cache  # filled by the steps


def test_defaults_agree_with_those_of_the_model() -> None:
    """Each is written twice, as constructors name all their options."""
    ours = inspect.signature(FineTunedModel).parameters
    theirs = inspect.signature(InterpretableCNN).parameters
    assert ours.keys() <= theirs.keys()
    for name in ours.keys() - {"backbone"}:
        assert ours[name].default == theirs[name].default
