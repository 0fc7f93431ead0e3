"""The interpretable CNN: its parts, its twin, freezing, the cache, its explanation."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from pellucid.batch import Batch
from pellucid.datamodules.synthetic_parts import SyntheticParts
from pellucid.models.backbones import BACKBONES
from pellucid.models.interpretable_cnn import InterpretableCNN


def small(**options: Any) -> InterpretableCNN:
    torch.manual_seed(0)
    return InterpretableCNN(**({"num_classes": 3, "backbone": "small", "num_units": 8} | options))


def batch_of(size: int = 6, classes: int = 3, pixels: int = 32) -> Batch:
    generator = torch.Generator().manual_seed(3)
    return {
        "image": torch.randn(size, 3, pixels, pixels, generator=generator),
        "label": torch.arange(size) % classes,
    }


def trainer(**options: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return pl.Trainer(**(quiet | options))


@pytest.fixture(scope="module")
def data() -> SyntheticParts:
    return SyntheticParts(
        image_size=32, num_classes=3, train_size=48, val_size=16, test_size=16, batch_size=16
    )


def test_twin_differs_by_templates_and_loss_only() -> None:
    model, twin = small(), small(templates=False, filter_loss_weight=0)
    twin.load_state_dict(model.state_dict())
    batch = batch_of()
    assert not torch.allclose(model(batch["image"]), twin(batch["image"]))
    model.added_template = model.top_template = nn.Identity()  # type: ignore[assignment]
    torch.testing.assert_close(model(batch["image"]), twin(batch["image"]))
    outputs = twin.step(batch, "train")
    assert torch.equal(outputs["loss"], outputs["classification_loss"])
    assert "filter_loss" not in outputs


def test_loss_is_the_sum_of_its_terms() -> None:
    outputs = small(filter_loss_weight=0.5, top_filter_loss_weight=2.0).step(batch_of(), "train")
    total = (
        outputs["classification_loss"]
        + 0.5 * outputs["filter_loss"]
        + 2.0 * outputs["top_filter_loss"]
    )
    torch.testing.assert_close(outputs["loss"], total)


def test_training_assigns_categories_in_the_category_form_alone() -> None:
    assigned = small().assigned_categories()
    assert assigned is not None
    assert assigned.shape == (8,)
    assert small(filter_loss_weight=0).assigned_categories() is None
    assert small(assignment="exact").assigned_categories() is None


def test_the_best_checkpoint_is_chosen_by_a_figure_that_the_twin_has_too() -> None:
    model, twin = small(filter_loss_weight=3.0), small(templates=False, filter_loss_weight=0)
    stage, _, name = InterpretableCNN.monitor.partition("/")
    assert (stage, InterpretableCNN.mode) == ("val", "min")
    for network in (model, twin):
        outputs = network.step(batch_of(), "val")
        wanted = nn.functional.cross_entropy(outputs["scores"], batch_of()["label"])
        torch.testing.assert_close(outputs[name], wanted)
    assert not torch.isclose(model.step(batch_of(), "val")["loss"], outputs[name])


def test_heads() -> None:
    batch = batch_of(classes=2)
    model = small(num_classes=2, head="sigmoid")
    outputs = model.step(batch, "train")
    assert (outputs["scores"][:, 0] == 0).all()
    torch.testing.assert_close(
        outputs["classification_loss"],
        nn.functional.binary_cross_entropy_with_logits(
            outputs["scores"][:, 1], batch["label"].float()
        ),
    )
    outputs = small(head="logistic").step(batch_of(), "train")
    wanted = nn.functional.one_hot(batch_of()["label"], 3).float()
    torch.testing.assert_close(
        outputs["classification_loss"],
        nn.functional.binary_cross_entropy_with_logits(outputs["scores"], wanted),
    )


@pytest.mark.parametrize("head", ["sigmoid", "softmax"])
def test_explanation_adds_up_to_the_score(head: Any) -> None:
    model = small(num_classes=2, head=head)
    for _ in range(3):  # move the statistics away from their start
        model.step(batch_of(classes=2), "train")
    model.eval()
    batch = batch_of(classes=2)
    for target in (None, torch.tensor([0, 1] * 3)):
        explanation = model.explain(batch, target)
        assert explanation.contributions is not None
        assert explanation.bias is not None
        assert explanation.maps is not None
        assert explanation.positions is not None
        scores = explanation.scores.gather(1, explanation.target[:, None])[:, 0]
        torch.testing.assert_close(explanation.contributions.sum(1) + explanation.bias, scores)
        torch.testing.assert_close(explanation.scores, model(batch["image"]))
        assert explanation.maps.shape == (6, 8, 8, 8)
        cell = int(explanation.maps[2, 3].argmax())
        wanted = [(cell % 8 + 0.5) * 4 - 0.5, (cell // 8 + 0.5) * 4 - 0.5]
        assert explanation.positions[2, 3].tolist() == wanted


def test_silencing_a_unit_takes_its_contribution_away() -> None:
    model = small()
    model.step(batch_of(), "train")
    model.eval()
    batch = batch_of()
    before = model.explain(batch)
    with torch.no_grad():
        norm = model.added[1]
        assert isinstance(norm, nn.BatchNorm2d)
        norm.weight[5] = 0
        norm.bias[5] = -1
    after = model.explain(batch, before.target)
    assert before.contributions is not None
    lost = before.scores - after.scores
    torch.testing.assert_close(
        lost.gather(1, before.target[:, None])[:, 0],
        before.contributions[:, 5],
        atol=1e-5,
        rtol=1e-4,
    )


def test_every_parameter_is_optimised_once(data: SyntheticParts) -> None:
    model = small()
    fit = trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    fit.fit(model, datamodule=data)
    groups = fit.optimizers[0].param_groups
    optimised = [id(p) for group in groups for p in group["params"]]
    assert sorted(optimised) == sorted(id(p) for p in model.parameters())
    ratio = groups[1]["max_lr"] / groups[0]["max_lr"]
    assert ratio == pytest.approx(0.1)


def snapshot(model: InterpretableCNN) -> list[dict[str, Tensor]]:
    return [{k: v.clone() for k, v in s.state_dict().items()} for s in model.backbone.stages]


@pytest.mark.parametrize(("trainable", "frozen"), [(None, 0), (1, 3), (0, 4)])
def test_frozen_stages_do_not_move(
    data: SyntheticParts, trainable: int | None, frozen: int
) -> None:
    model = small(trainable_stages=trainable)
    before = snapshot(model)
    trainer(max_epochs=1).fit(model, datamodule=data)
    for number, (was, now) in enumerate(zip(before, snapshot(model), strict=True)):
        same = all(torch.equal(was[key], now[key]) for key in was)
        assert same == (number < frozen)


def test_unfreezing_at_an_epoch(data: SyntheticParts) -> None:
    model = small(trainable_stages=0, unfreeze_epoch=1)
    before = snapshot(model)
    trainer(max_epochs=1).fit(model, datamodule=data)
    assert all(
        torch.equal(a[k], b[k]) for a, b in zip(before, snapshot(model), strict=True) for k in a
    )
    model = small(trainable_stages=0, unfreeze_epoch=1)
    trainer(max_epochs=2).fit(model, datamodule=data)
    first = snapshot(model)[0]
    assert not torch.equal(before[0]["0.weight"], first["0.weight"])
    assert not torch.equal(before[0]["1.running_mean"], first["1.running_mean"])


def test_cached_features_train_to_the_same_weights(data: SyntheticParts) -> None:
    calls: list[int] = []
    states = []
    for cache in (False, True):
        model = small(trainable_stages=1, cache_frozen=cache)
        calls.append(0)

        def count(module: nn.Module, inputs: Any, output: Any, at: int = len(calls) - 1) -> None:
            calls[at] += len(output)

        model.backbone.stages[0].register_forward_hook(count)
        pl.seed_everything(0)
        trainer(max_epochs=3).fit(model, datamodule=data)
        states.append(model.state_dict())
    assert calls == [3 * (48 + 16), 48 + 16]
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=1e-4, atol=1e-5)


def test_the_cache_does_not_take_one_data_set_for_another(data: SyntheticParts) -> None:
    model = small(trainable_stages=1)
    fit = trainer(max_epochs=1)
    fit.fit(model, datamodule=data)
    options: dict[str, Any] = {"image_size": 32, "num_classes": 3, "test_size": 16}
    headless = SyntheticParts(**options, train_size=16, val_size=16, remove_parts=["head"])
    found = [fit.test(model, d, verbose=False)[0]["test/loss"] for d in (data, headless)]
    loader = headless.test_dataloader()
    found.append(fit.test(model, loader, verbose=False)[0]["test/loss"])
    fresh = small(trainable_stages=1, cache_frozen=False)
    fresh.load_state_dict(model.state_dict())
    wanted = trainer().test(fresh, headless, verbose=False)[0]["test/loss"]
    assert found[0] != found[1]
    assert found[1:] == pytest.approx([wanted, wanted])


def test_metrics_are_logged_or_their_absence_explained(data: SyntheticParts) -> None:
    fit = trainer(max_epochs=1)
    fit.fit(small(), datamodule=data)
    assert {"val/accuracy", "val/location_instability", "val/part_interpretability"} <= set(
        fit.callback_metrics
    )
    bare = SyntheticParts(image_size=32, num_classes=3, train_size=16, val_size=16, test_size=16)
    bare.provides = frozenset({"image", "label", "index"})  # type: ignore[misc]
    model = small()
    fit = trainer(max_epochs=1)
    fit.fit(model, datamodule=bare)
    assert "val/location_instability" not in fit.callback_metrics
    assert "parts" in model.skipped_metrics["location_instability"]


def test_checkpoint_alone_rebuilds_the_model(data: SyntheticParts, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    source = small()
    torch.save(
        {
            f"{i}.{k}": v
            for i, s in enumerate(source.backbone.stages)
            for k, v in s.state_dict().items()
        },
        weights,
    )
    model = small(weights=str(weights), trainable_stages=1)
    fit = trainer(max_epochs=1)
    fit.fit(model, datamodule=data)
    path = tmp_path / "model.ckpt"
    fit.save_checkpoint(path)
    weights.unlink()  # its weights are in the checkpoint; the file is not needed again
    torch.load(path, weights_only=True)
    again = InterpretableCNN.load_from_checkpoint(path, weights_only=True)
    image = batch_of()["image"]
    model.eval()
    again.eval()
    assert torch.equal(again(image), model(image))
    assert torch.equal(again.filter_loss.categories, model.filter_loss.categories)


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "small"])
def test_every_backbone_trains(name: str) -> None:
    model = InterpretableCNN(num_classes=2, backbone=name, num_units=4)
    batch = batch_of(2, 2, 64)
    model.step(batch, "train")["loss"].backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert not missing
    model.eval()
    assert model.explain(batch).maps.shape[1] == 4  # type: ignore[union-attr]


def test_mixed_precision(data: SyntheticParts) -> None:
    fit = trainer(max_epochs=1, precision="bf16-mixed")
    fit.fit(small(trainable_stages=1), datamodule=data)
    assert all(torch.as_tensor(v).isfinite() for v in fit.callback_metrics.values())


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_classes": 1},
        {"num_units": 0},
        {"filter_loss_weight": -1.0},
        {"top_filter_loss_weight": -1.0},
        {"trainable_stages": 9},
        {"unfreeze_epoch": -1},
        {"lr": -0.1},
        {"backbone_lr_factor": -0.5},
        {"weight_decay": -1.0},
        {"head": "sigmoid"},
        {"assignment": "none"},
        {"schedule": "step"},
    ],
)
def test_wrong_arguments_name_themselves(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        small(**wrong)


def test_filter_losses_warm_up(data: SyntheticParts) -> None:
    shares: list[float] = []

    class Watch(pl.Callback):
        def on_train_batch_end(
            self, trainer: pl.Trainer, model: pl.LightningModule, outputs: Any, *_: Any
        ) -> None:
            terms = outputs["filter_loss"] + outputs["top_filter_loss"]
            added = outputs["loss"] - outputs["classification_loss"]
            shares.append((added / terms).item())

    fit = trainer(max_epochs=6, callbacks=[Watch()])  # three batches an epoch
    fit.fit(small(filter_loss_warmup=4), datamodule=data)
    wanted = [max(0.0, min(1.0, 2 * step / 12 - 1)) for step in range(18)]
    assert shares == pytest.approx(wanted, abs=1e-3)
