"""Attention classifiers: exact explanations, supervision, and what they share with others."""

import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from pellucid.batch import Batch, BatchError
from pellucid.cli.settings import check_fields
from pellucid.datamodules.mnist import MNIST
from pellucid.datamodules.synthetic_parts import SyntheticParts
from pellucid.errors import UserError
from pellucid.models.attention_classifier import AttentionClassifier
from pellucid.models.interpretable_cnn import InterpretableCNN
from pellucid.models.map_metrics import MapMetrics

KINDS: dict[str, dict[str, Any]] = {
    "one head": {},
    "three heads": {"heads": 3, "score": "dot", "temperature": 0.5},
    "multiplicative": {"heads": 2, "score": "multiplicative"},
    "reinforce": {"attention": "hard", "glimpses": 3},
    "gumbel": {"attention": "hard", "glimpses": 3, "estimator": "gumbel"},
    "cam": {"attention": "cam"},
    "none": {"attention": "none"},
}


def small(**options: Any) -> AttentionClassifier:
    torch.manual_seed(0)
    return AttentionClassifier(3, "small", **options)


def batch_of(size: int = 4, pixels: int = 32) -> Batch:
    generator = torch.Generator().manual_seed(3)
    mask = torch.zeros(size, pixels, pixels, dtype=torch.bool)
    mask[:, 8:20, 4:16] = True
    return {
        "image": torch.randn(size, 3, pixels, pixels, generator=generator),
        "label": torch.arange(size) % 3,
        "mask": mask,
    }


def trainer(**options: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return pl.Trainer(**(quiet | options))


@pytest.fixture(scope="module")
def data() -> SyntheticParts:
    sizes = {"train_size": 16, "val_size": 8, "test_size": 8}
    return SyntheticParts(image_size=32, num_classes=3, batch_size=8, **sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_explanation_adds_up_to_the_score(kind: str) -> None:
    model, batch = small(**KINDS[kind]).eval(), batch_of()
    for target in (None, torch.tensor([2, 0, 1, 1])):
        found = model.explain(batch, target)
        assert found.maps is not None
        assert found.contributions is not None
        assert found.bias is not None
        assert found.positions is not None
        scores = found.scores.gather(1, found.target[:, None])[:, 0]
        torch.testing.assert_close(found.contributions.sum(1) + found.bias, scores)
        assert found.heat is not None
        torch.testing.assert_close(found.heat.sum((1, 2)) + found.bias, scores)
        torch.testing.assert_close(found.scores, model(batch["image"]))
        units = {"three heads": 3, "multiplicative": 2, "reinforce": 3, "gumbel": 3, "cam": 3}
        assert found.maps.shape == (4, units.get(kind, 1), 8, 8)
        assert len(found.unit_names) == found.maps.shape[1]
        cell = int(found.maps[1, 0].argmax())
        wanted = [(cell % 8 + 0.5) * 4 - 0.5, (cell // 8 + 0.5) * 4 - 0.5]
        assert found.positions[1, 0].tolist() == wanted
        if kind != "cam":
            assert (found.maps >= 0).all()
            torch.testing.assert_close(found.maps.sum((2, 3)), torch.ones(found.maps.shape[:2]))


def test_blinding_a_head_takes_its_contribution_away() -> None:
    model, batch = small(heads=2).eval(), batch_of()
    before = model.explain(batch)
    channels = model.backbone.channels
    with torch.no_grad():
        model.classifier.weight[:, :channels] = 0
    after = model.explain(batch, before.target)
    assert before.contributions is not None
    lost = (before.scores - after.scores).gather(1, before.target[:, None])[:, 0]
    torch.testing.assert_close(lost, before.contributions[:, 0])


def test_hard_attention_sees_nothing_beyond_its_glimpses() -> None:
    model = small(attention="hard", glimpses=3).eval()
    features = torch.rand(2, model.backbone.channels, 8, 8)
    seen = model.look(features)
    assert ((seen.pooled.weights > 0).flatten(1).sum(1) == 3).all()
    assert model.pooling.hard is not None
    model.pooling.hard.forward = lambda _: seen.pooled.glimpses  # type: ignore[method-assign, return-value, assignment]
    blind = features * (seen.pooled.weights > 0)
    torch.testing.assert_close(model.look(blind).scores, seen.scores)


def test_class_maps_are_the_classifier() -> None:
    model, batch = small(attention="cam").eval(), batch_of()
    found = model.explain(batch)
    assert found.maps is not None
    assert found.map_sign == "signed"
    torch.testing.assert_close(found.maps.mean((2, 3)) + model.classifier.bias, found.scores)
    twin = small(attention="none").eval()
    twin.load_state_dict(model.state_dict())
    torch.testing.assert_close(twin(batch["image"]), found.scores)


def test_uniform_attention_is_average_pooling() -> None:
    model, twin = small().eval(), small(attention="none").eval()
    assert model.pooling.soft is not None
    with torch.no_grad():
        model.pooling.soft.direction.zero_()
    shared = {k: v for k, v in model.state_dict().items() if not k.startswith("pooling")}
    twin.load_state_dict(shared)
    image = batch_of()["image"]
    torch.testing.assert_close(model(image), twin(image))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_the_loss_is_the_sum_of_its_terms_and_teaches_every_parameter(kind: str) -> None:
    sharp = {} if kind == "cam" else {"entropy_weight": 0.3}
    weights = {"right_reasons_weight": 2.0, "attention_weight": 0.5} | sharp
    model = small(**KINDS[kind], **weights)
    found = model.step(batch_of(), "train")
    total = found["classification_loss"] + 0.5 * found["attention_loss"]
    total = total + 2.0 * found["right_reasons_loss"]
    if sharp:
        total = total + 0.3 * found["attention_entropy"]
    if kind == "reinforce":
        total = total + found["policy_loss"] + found["baseline_loss"]
    torch.testing.assert_close(found["loss"], total)
    found["loss"].backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_right_reasons_are_those_of_the_network() -> None:
    """Against a loop over images; batch statistics put aside, so that images are on their own."""
    model, batch = small(right_reasons_weight=1.0).eval(), batch_of()
    batch["mask"][1] = False
    total = 0.0
    for number in (0, 2, 3):
        image = batch["image"][number : number + 1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(image).log_softmax(1).sum(), image)
        total += float(gradient[0, :, ~batch["mask"][number]].square().sum())
    found = model.step(batch, "train")["right_reasons_loss"]
    assert float(found.detach()) == pytest.approx(total / 4, rel=1e-4)
    assert not batch["image"].requires_grad
    assert "right_reasons_loss" not in model.step(batch, "val")


def test_human_attention_says_how_irrelevant_a_pixel_is() -> None:
    model, batch = small(right_reasons_weight=1.0, relevant="attention").eval(), batch_of()
    mask = batch["mask"].float()
    batch["attention"] = 4 * mask
    of_mask = small(right_reasons_weight=1.0).eval().step(batch, "train")["right_reasons_loss"]
    found = model.step(batch, "train")["right_reasons_loss"]
    torch.testing.assert_close(found, of_mask)
    batch["attention"] = 1e-12 * mask
    torch.testing.assert_close(model.step(batch, "train")["right_reasons_loss"], of_mask)
    batch["attention"] = 4 * mask + 2 * (1 - mask)
    half = model.step(batch, "train")["right_reasons_loss"]
    torch.testing.assert_close(half, of_mask / 4)


def test_parts_are_relevant_together() -> None:
    batch = batch_of()
    first, second = batch["mask"].clone(), batch["mask"].clone()
    first[:, :12], second[:, 12:] = False, False
    batch["part_masks"] = torch.stack((first, second), 1)
    for options in ({"attention_weight": 1.0}, {"right_reasons_weight": 1.0}):
        losses = [
            small(relevant=relevant, **options).eval().step(batch, "train")["loss"]
            for relevant in ("object", "parts")
        ]
        torch.testing.assert_close(losses[0], losses[1])


@pytest.mark.parametrize("head", ["sigmoid", "softmax", "logistic"])
def test_the_interpretable_cnn_is_supervised_too(head: Any) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"right_reasons_weight": 2.0, "attention_weight": 0.5}
    model = InterpretableCNN(2, "small", num_units=6, head=head, **options)
    batch = batch_of()
    batch["label"] = batch["label"] % 2
    found = model.step(batch, "train")
    total = sum(found[name] for name in ("classification_loss", "filter_loss", "top_filter_loss"))
    total = total + 2.0 * found["right_reasons_loss"] + 0.5 * found["attention_loss"]
    torch.testing.assert_close(found["loss"], total)
    found["loss"].backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_what_the_data_must_have() -> None:
    assert small().requires == {"image", "label"}
    model = small(attention_weight=1.0, relevant="parts")
    assert model.requires == {"image", "label", "part_masks"}
    with pytest.raises(UserError, match="part_masks, which MNIST does not provide"):
        check_fields(model, MNIST)
    check_fields(model, SyntheticParts)
    with pytest.raises(BatchError, match="no field 'attention'"):
        small(right_reasons_weight=1.0, relevant="attention").training_step(batch_of(), 0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"attention": "firm"}, "attention must be one of soft, hard, cam, none, got 'firm'"),
        ({"attention": "hard", "heads": 2}, "heads must be 1 .*got 2; more glimpses"),
        ({"attention": "cam", "entropy_weight": 0.1}, "entropy_weight must be 0 .*got 0.1"),
        ({"attention": "none", "attention_weight": 0.1}, "attention_weight must be 0 .*got 0.1"),
        ({"right_reasons_weight": -1.0}, "right_reasons_weight must be at least 0, got -1.0"),
        ({"relevant": "mask"}, "relevant must be one of object, parts, attention, got 'mask'"),
        ({"policy_weight": -1.0}, "policy_weight must be at least 0, got -1.0"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        AttentionClassifier(**({"num_classes": 3, "backbone": "small"} | options))


def test_right_reasons_pass_the_cache_by(
    data: SyntheticParts, caplog: pytest.LogCaptureFixture
) -> None:
    """Two epochs with frozen stages: their features are made anew in training, kept in tests."""
    options: dict[str, Any] = {"trainable_stages": 0, "schedule": "constant"}
    counts = []
    for weight in (0.0, 1.0):
        model, seen = small(right_reasons_weight=weight, **options), [0]

        def count(module: nn.Module, inputs: Any, output: Tensor, seen: list[int] = seen) -> None:
            seen[0] += len(output)

        model.backbone.stages[0].register_forward_hook(count)
        with caplog.at_level(logging.INFO, logger="pellucid"):
            trainer(max_epochs=2).fit(model, datamodule=data)
        counts.append(seen[0])
    assert counts == [16 + 8, 2 * 16 + 8]
    told = [r.message for r in caplog.records if "right_reasons_weight" in r.message]
    assert len(told) == 1
    assert "not cached in training" in told[0]


@pytest.mark.parametrize("kind", ["three heads", "reinforce", "gumbel"])
def test_mixed_precision_trains_to_finite_weights(kind: str, data: SyntheticParts) -> None:
    model = small(**KINDS[kind], right_reasons_weight=1.0, attention_weight=1.0)
    trainer(precision="bf16-mixed").fit(model, datamodule=data)
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_checkpoint_alone_rebuilds_the_model(tmp_path: Path, data: SyntheticParts) -> None:
    model = small(attention="hard", glimpses=2, attention_weight=1.0, relevant="parts")
    run = trainer()
    run.fit(model, datamodule=data)
    run.save_checkpoint(tmp_path / "model.ckpt")
    again = AttentionClassifier.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    image = batch_of()["image"]
    torch.testing.assert_close(again.eval()(image), model.eval()(image), rtol=0, atol=0)
    assert again.requires == model.requires


def test_attention_is_drawn_to_its_masks() -> None:
    batch = batch_of()
    model = small(attention_weight=1.0, heads=2)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    inside = []
    for _ in range(25):
        found = model.step(batch, "train")
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        with torch.no_grad():
            weights = model.look(model.backbone(batch["image"])).pooled.weights.mean(1)
            cells = nn.functional.adaptive_avg_pool2d(batch["mask"].float(), (8, 8))
            inside.append(float((weights * cells).sum((1, 2)).mean()))
    assert inside[-1] > 2 * inside[0]


@pytest.mark.parametrize("kind", KINDS)
def test_another_attention_can_take_the_place_of_its_own(kind: str) -> None:
    model, image = small(**KINDS[kind]).eval(), batch_of()["image"]
    attended = model.attended(image)
    if kind in ("cam", "none"):
        assert attended is None
        return
    assert attended is not None
    own = attended.scores(attended.features, attended.attention)
    torch.testing.assert_close(own, model(image))
    even = torch.full_like(attended.attention, 1 / 64)
    average = attended.features.mean((2, 3)).repeat(1, even.shape[1])
    found = attended.scores(attended.features, even)
    torch.testing.assert_close(found, model.classifier(average))


def test_a_run_says_whether_the_attention_matters(data: SyntheticParts) -> None:
    """Against a loop over images and positions; without attention there is no such figure."""
    model = small(heads=2, temperature=0.2).eval()
    model.map_metrics = MapMetrics(images=8)
    found = model.map_metrics.perturb(model, data, "cpu")
    distances: dict[str, list[float]] = {"even": [], "strongest": []}
    for number in range(8):
        image = data.render("test", [number])["image"]
        features, maps = model.backbone(image)[0].detach(), model.explain({"image": image}).maps
        assert maps is not None
        for name, each in distances.items():
            vectors = []
            for head in maps[0]:
                other = head.clone()
                if name == "strongest":
                    other.view(-1)[int(head.argmax())] = 0
                else:
                    other[:] = 1
                vectors.append((features * other / other.sum()).sum((1, 2)))
            after = model.classifier(torch.cat(vectors)).softmax(0)
            each.append(float((model(image)[0].softmax(0) - after).abs().sum().detach()) / 2)
    for name, each in distances.items():
        assert min(each) > 0
        figure = found[f"attention_faithfulness_{name}"]
        assert figure == pytest.approx(sum(each) / 8, rel=1e-3, abs=1e-6)
    assert 0 < found["attention_faithfulness"] < 1
    blind = small(attention="cam").eval()
    assert blind.map_metrics.perturb(blind, data, "cpu").keys() == {"deletion_auc", "insertion_auc"}
    model.map_metrics = MapMetrics(["attention_faithfulness"], images=2)
    assert model.map_metrics.perturb(model, data, "cpu").keys() == {"attention_faithfulness"}


def accuracy_metric(model: nn.Module, scores: Tensor, batch: Batch, data: Any) -> float:
    metrics = model.make_metrics(data, "test")  # type: ignore[operator]
    model.update_metrics(metrics, {"scores": scores}, batch)  # type: ignore[operator]
    return float(metrics["accuracy"].compute())


def test_evidence_is_found_by_blinding_positions() -> None:
    """With the attention held, a score falls by a position's evidence where its features vanish."""
    model = small(heads=2).eval()
    features = torch.rand(1, model.backbone.channels, 3, 3)
    seen = model.look(features)
    heat = model._evidence(seen, torch.tensor([1]))
    assert model.pooling.soft is not None
    model.pooling.soft.forward = lambda _: seen.pooled.weights  # type: ignore[method-assign, assignment]
    for row in range(3):
        blind = features.clone()
        blind[:, :, row, 2] = 0
        lost = (seen.scores - model.look(blind).scores)[0, 1]
        torch.testing.assert_close(lost, heat[0, row, 2], rtol=1e-4, atol=1e-6)


def test_accuracy_is_shared(data: SyntheticParts) -> None:
    batch = batch_of()
    scores = nn.functional.one_hot(torch.tensor([0, 1, 2, 1]), 3).float()  # the last one wrong
    for model in (small(), InterpretableCNN(3, "small", num_units=4)):
        assert accuracy_metric(model, scores, batch, data) == 0.75
