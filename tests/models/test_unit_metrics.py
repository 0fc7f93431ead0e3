from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from pellucid.datamodules.synthetic_parts import SyntheticParts
from pellucid.metrics import (
    DecisionSparsity,
    LocationInstability,
    NetworkDissection,
    PartPurity,
    PartStability,
    category_balance,
    category_purity,
    decision_sparsity,
    location_instability,
    network_dissection,
    part_consistency,
    part_interpretability,
    part_purity,
    part_stability,
    perturb,
    suite,
)
from pellucid.metrics.suite import METRICS, Units, make_suite, update_suite
from pellucid.models.backbones import Backbone
from pellucid.models.interpretable_cnn import InterpretableCNN
from pellucid.models.unit_metrics import Layer, UnitMetrics, watch
from tests.helpers import TinyModel

EVERY = set(METRICS)


@pytest.fixture(scope="module")
def data() -> SyntheticParts:
    sizes = {"train_size": 16, "val_size": 8, "test_size": 40}
    return SyntheticParts(image_size=32, num_classes=3, batch_size=16, **sizes)


def small(**options: Any) -> InterpretableCNN:
    torch.manual_seed(0)
    return InterpretableCNN(**({"num_classes": 3, "backbone": "small", "num_units": 8} | options))


def run_test(model: pl.LightningModule, data: SyntheticParts) -> dict[str, float]:
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    (figures,) = trainer.test(model, data, verbose=False)
    return {key.removeprefix("test/"): value for key, value in figures.items()}


def whole(data: SyntheticParts) -> dict[str, Tensor]:
    items = [data.dataset("test")[i] for i in range(40)]
    return {name: torch.stack([torch.as_tensor(i[name]) for i in items]) for name in items[0]}  # type: ignore[literal-required]


def noisy(image: Tensor) -> Tensor:
    generators = [torch.Generator().manual_seed(i) for i in range(len(image))]
    return torch.stack([perturb(x, generator=g) for x, g in zip(image, generators, strict=True)])


@torch.no_grad()
def by_functions(
    maps: Tensor, noisy_maps: Tensor, batch: dict[str, Tensor], grid: tuple[float, float]
) -> dict[str, Tensor]:
    """Every figure from the pure functions, on all images at once."""
    parts, visible, label = batch["parts"], batch["part_visible"], batch["label"]
    where: dict[str, Any] = {"image_size": (32, 32), "grid": grid}
    iou = network_dissection(maps, batch["part_masks"], visible)
    return {
        "location_instability": location_instability(maps, parts, visible, **where),
        "part_purity": part_purity(maps, parts, visible, **where),
        "part_consistency": part_consistency(maps, parts, visible, label=label, **where),
        "part_stability": part_stability(maps, noisy_maps, parts, visible, label=label, **where),
        "category_purity": category_purity(maps, label, 3),
        "category_balance": category_balance(maps, label, 3),
        # One look tells thresholds apart to 6 % alone: the test data leave no doubt.
        "network_dissection": torch.tensor(len(set(iou.argmax(1)[iou.amax(1) > 0.04].tolist()))),
    }


def check(found: dict[str, float], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-4), name


def test_a_test_reports_what_the_functions_give(data: SyntheticParts) -> None:
    model = small()
    found = run_test(model, data)
    assert found.keys() >= EVERY
    batch = whole(data)
    explanation = model.eval().explain(batch)  # type: ignore[arg-type]
    again = model.explain({"image": noisy(batch["image"])})
    assert explanation.maps is not None
    assert again.maps is not None
    assert model.backbone.grid is not None
    check(found, by_functions(explanation.maps, again.maps, batch, model.backbone.grid))
    assert explanation.contributions is not None
    carriers = decision_sparsity(explanation.contributions).float().mean()
    assert found["decision_sparsity"] == pytest.approx(float(carriers), rel=1e-4)
    exact = part_interpretability(explanation.maps, batch["part_masks"], batch["part_visible"])
    assert found["part_interpretability"] == pytest.approx(float(exact), abs=0.05)
    # The noise is the images' own: a second test, and other batches, find the same.
    assert run_test(model, data) == found


def test_a_layer_by_name_is_what_its_hook_sees(data: SyntheticParts) -> None:
    model = small()
    model.unit_metrics = UnitMetrics("backbone.stages.1")
    found = run_test(model, data)
    assert found.keys() >= EVERY - {"decision_sparsity"}
    assert "the layer backbone.stages.1" in model.skipped_metrics["decision_sparsity"]
    batch = whole(data)
    with torch.no_grad():
        maps, noisy_maps = (
            model.eval().backbone.run(image, 0, 2)
            for image in (batch["image"], noisy(batch["image"]))
        )
    # Two 3 x 3 convolutions with a pooling of 2 between them: as far apart as two pixels, the
    # first between the first two.
    check(found, by_functions(maps, noisy_maps, batch, (2, 0.5)))
    explanation = model.unit_metrics.explain(model, batch["image"])
    assert explanation.maps is not None
    assert torch.equal(explanation.maps, maps)
    assert explanation.contributions is None
    assert explanation.unit_names[3] == "backbone.stages.1 3"


def test_cached_features_do_not_hide_a_layer(data: SyntheticParts) -> None:
    figures = []
    for cache in (True, False):
        model = small(trainable_stages=1, cache_frozen=cache)
        model.unit_metrics = UnitMetrics("backbone.stages.0")
        trainer = pl.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
        )
        # The second test reads the features of the frozen stages from the cache.
        for _ in range(2):
            (found,) = trainer.test(model, data, verbose=False)
        figures.append(found)
    assert figures[0].keys() == figures[1].keys()
    for name, value in figures[1].items():
        assert figures[0][name] == pytest.approx(value, rel=1e-4), name


def test_a_model_without_units_is_measured_by_layer(data: SyntheticParts) -> None:
    plain = TinyModel(num_classes=3)
    assert not run_test(plain, data).keys() & EVERY
    plain = TinyModel(num_classes=3)
    plain.unit_metrics = UnitMetrics("features", ["part_purity", "part_interpretability"])
    assert run_test(plain, data).keys() & EVERY == {"part_purity"}
    # The convolution alone, before its ReLU.
    assert "some below: choose the layer after it" in plain.skipped_metrics["part_interpretability"]


def test_each_epoch_has_the_quick_ones_and_training_none(data: SyntheticParts) -> None:
    model, choice = small(), UnitMetrics()
    assert choice.make(model, data, "train") == ({}, {})
    assert choice.make(model, data, "val")[0].keys() == {
        "location_instability",
        "part_interpretability",
    }
    assert choice.make(model, data, "all")[0].keys() == EVERY


def test_a_sigmoid_has_no_balance(data: SyntheticParts) -> None:
    built, skipped = UnitMetrics().make(small(num_classes=2, head="sigmoid"), data, "test")
    assert built.keys() == EVERY - {"category_balance"}
    assert "sigmoid" in skipped["category_balance"]


class Bare:
    provides = frozenset({"image", "label"})
    part_names, instability_parts, num_classes = (), (), 1


def test_what_is_not_built_has_a_reason() -> None:
    built, skipped = make_suite(4, Bare(), lacking={"decision_sparsity": "no terms"})
    assert built == {}
    assert skipped.keys() == EVERY
    assert skipped["part_purity"] == "needs part_visible, parts, which Bare does not provide"
    assert skipped["category_purity"] == "needs several categories, Bare has one"
    assert skipped["decision_sparsity"] == "no terms"
    assert make_suite(4, Bare(), names=["part_purity"])[1].keys() == {"part_purity"}


def test_stability_looks_at_images_evenly_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "NOISY_IMAGES", 100)
    seen: list[Tensor] = []

    def respond(image: Tensor) -> Tensor:
        seen.append(image)
        return torch.rand(len(image), 2, 3, 3)

    metric = PartStability(2)
    for start in range(0, 400, 40):
        index = torch.arange(start, start + 40)
        batch: Any = {
            # An image holds its number, in whose noise no digit is lost.
            "image": index.double().view(-1, 1, 1, 1).expand(-1, 1, 4, 4),
            "parts": torch.rand(40, 1, 2),
            "part_visible": torch.ones(40, 1).bool(),
            "index": index,
        }
        units = Units(batch=batch, maps=torch.rand(40, 2, 3, 3), respond=respond, num_images=400)
        update_suite({"part_stability": metric}, units)
    chosen = torch.cat(seen).mean((1, 2, 3)).round().long()
    assert 95 <= len(chosen) == int(metric.images[0, 0]) <= 105
    # Every fourth, but not always of the same category where four of them take turns.
    assert (chosen % 4).bincount(minlength=4).tolist() == pytest.approx([25] * 4, abs=3)
    assert chosen.diff().max() <= 10


class Animals:
    provides = frozenset({"image", "label", "part_masks", "part_visible"})
    class_names, part_names, num_classes = ("fox", "dog"), ("head", "legs"), 2
    parts_by_category = True


def test_parts_of_a_category_are_concepts_of_their_own() -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.tensor([0, 1, 1, 0, 1, 0])
    maps = torch.rand(6, 3, 8, 8, generator=generator)
    maps[:, 0] = 0.0
    maps[label == 0, 0, 2, 2] = 5.0  # The head of every fox, and of no dog.
    masks = torch.rand(6, 2, 32, 32, generator=generator) < 0.2
    masks[:, 0, 8:12, 8:12] = True
    visible = torch.rand(6, 2, generator=generator) < 0.8
    visible[:, 0] = True
    fields = {"label": label, "part_masks": masks, "part_visible": visible}
    batch: Any = {"image": torch.randn(6, 3, 32, 32), **fields}
    built, _ = make_suite(3, Animals(), names=["network_dissection"])
    (metric,) = built.values()
    assert isinstance(metric, NetworkDissection)
    metric.quantile = 0.01
    update_suite(built, Units(batch=batch, maps=maps, respond=torch.abs))
    assert metric.part_names == ("fox head", "fox legs", "dog head", "dog legs")
    # A loop over images: category by category, the part is where the image is of the category.
    own = torch.zeros(6, 4, 32, 32, dtype=torch.bool)
    for image in range(6):
        for part in range(2):
            if visible[image, part]:
                own[image, 2 * int(label[image]) + part] = masks[image, part]
    expected = network_dissection(maps, own, quantile=0.01)
    torch.testing.assert_close(metric.iou(), expected, rtol=0.2, atol=0.01, equal_nan=True)
    assert metric.iou()[0, 0] > 10 * metric.iou()[0, 2]


class Birds:
    provides = frozenset({"image", "parts", "part_visible", "index"})
    class_names, num_classes, parts_by_category = ("wren", "tern"), 2, False
    part_names, instability_parts = ("back", "beak", "tail"), ("tail", "back")


def test_location_instability_can_look_at_some_of_the_parts() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(9, 4, 5, 5, generator=generator)
    batch: Any = {
        "image": torch.zeros(9, 3, 40, 40),
        "parts": 40 * torch.rand(9, 3, 2, generator=generator),
        "part_visible": torch.rand(9, 3, generator=generator) < 0.8,
        "index": torch.arange(9),
    }
    built, _ = make_suite(4, Birds(), names=["location_instability", "part_purity"])
    update_suite(built, Units(batch=batch, maps=maps, respond=torch.abs))
    metric, purity = built["location_instability"], built["part_purity"]
    assert isinstance(metric, LocationInstability)
    assert isinstance(purity, PartPurity)
    assert metric.part_names == ("tail", "back")
    assert purity.part_names == Birds.part_names
    parts, visible = batch["parts"][:, [2, 0]], batch["part_visible"][:, [2, 0]]
    expected = location_instability(maps, parts, visible, (40, 40))
    assert torch.equal(metric.compute(), expected)
    assert not torch.equal(
        expected, location_instability(maps, batch["parts"], batch["part_visible"], (40, 40))
    )
    assert metric.per_unit().shape == (4, 2)


def test_shared_parts_are_concepts_of_all_categories(data: SyntheticParts) -> None:
    metric = make_suite(3, data, names=["network_dissection"])[0]["network_dissection"]
    assert isinstance(metric, NetworkDissection)
    assert metric.part_names == tuple(data.part_names)


def test_sparsity_without_contributions_is_refused() -> None:
    batch: Any = {"image": torch.randn(1, 3, 8, 8)}
    units = Units(batch=batch, maps=torch.rand(1, 2, 3, 3), respond=torch.abs)
    with pytest.raises(ValueError, match="needs contributions"):
        update_suite({"decision_sparsity": DecisionSparsity(2)}, units)


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ("backbone.stage.1", "there is no layer 'backbone.stage.1'; did you mean 'backbone.stages"),
        ("", "there is no layer ''"),
        ("classifier", r"gives no maps \(B, U, h, w\) but \(2, 3\); choose .* 'added.0'"),
        ("filter_loss", "does not run when the model explains"),
    ],
)
def test_a_wrong_layer_is_named(layer: str, says: str) -> None:
    model = small()
    model.backbone.stages[0].eval()
    with pytest.raises(ValueError, match=says):
        Layer.find(model, layer, 3, 32)
    # Nothing is left behind: neither modes nor hooks.
    assert model.training
    assert not model.backbone.stages[0].training
    assert not any(module._forward_hooks for module in model.modules())


def test_a_wrong_metric_is_named() -> None:
    with pytest.raises(ValueError, match="no metric 'part_puritty'; did you mean 'part_purity'"):
        UnitMetrics(names=["part_puritty"])


@pytest.mark.parametrize("name", ["small", "resnet18", "mobilenet_v2"])
def test_the_last_stage_has_the_grid_of_the_backbone(name: str) -> None:
    class Whole(TinyModel):
        def __init__(self) -> None:
            super().__init__(num_classes=3)
            self.backbone = Backbone(name)
            self.top = nn.Conv2d(self.backbone.channels, 4, 3, padding=1)

        def maps(self, batch: Any) -> Tensor:
            return self.top(self.backbone(batch["image"]))

    model = Whole()
    last = len(model.backbone.stages) - 1
    inside = Layer.find(model, f"backbone.stages.{last}", 3, 64)
    assert inside.grid == model.backbone.grid
    assert inside.num_units == model.backbone.channels
    assert not inside.signed
    above = Layer.find(model, "top", 3, 64)
    assert above.grid == model.backbone.grid
    assert above.signed
    first = Layer.find(model, "backbone.stages.0", 3, 64)
    assert first.grid is not None
    assert first.grid[0] <= inside.grid[0]


def test_finding_a_layer_leaves_the_mode_of_each_module() -> None:
    model = small(trainable_stages=1).train()
    before = {name: module.training for name, module in model.named_modules()}
    assert set(before.values()) == {True, False}
    layer = Layer.find(model, "backbone.stages.0", 3, 32)
    assert layer.grid is not None  # the graph was made
    assert {name: module.training for name, module in model.named_modules()} == before


def test_watch_takes_its_hook_away_after_an_error() -> None:
    layer = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), watch(layer, "0"):
        layer(torch.ones(1, 3))
    assert not layer[0]._forward_hooks


def test_images_on_which_the_model_fails_are_left_out(data: SyntheticParts) -> None:
    model = small()
    batch = whole(data)
    failing = batch["image"][:, 0, 0, 0] > 0
    assert 0 < int(failing.sum()) < 40
    step = model.step

    def fails(given: Any, stage: Any) -> dict[str, Tensor]:
        outputs = step(given, stage)
        bad = (given["image"][:, 0, 0, 0] > 0).view(-1, 1, 1, 1)
        return outputs | {"maps": outputs["maps"].masked_fill(bad, torch.nan)}

    model.step = fails  # type: ignore[method-assign]
    found = run_test(model, data)
    kept = {name: value[~failing] for name, value in batch.items()}
    explanation = model.eval().explain(kept)  # type: ignore[arg-type]
    assert explanation.maps is not None
    assert model.backbone.grid is not None
    maps, grid = explanation.maps, model.backbone.grid
    exact = location_instability(
        maps, kept["parts"], kept["part_visible"], (32, 32), grid=grid, index=kept["index"]
    )
    check(found, {"location_instability": exact})
    check(found, {"category_balance": category_balance(maps, kept["label"], 3)})
