"""The one map of a model that metrics judge, and what a run reports of it."""

import json

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor

from pellucid.batch import Batch
from pellucid.datamodules.synthetic_parts import SyntheticParts
from pellucid.metrics import maps as judge
from pellucid.models.base import Stage
from pellucid.models.explanation import Explanation, heat_of
from pellucid.models.map_metrics import MapMetrics
from tests.helpers import TinyModel, call, only_run

JUDGED = {
    "relevance_mass",
    "relevance_mass_parts",
    "relevance_mass_label_parts",
    "relevance_rank",
    "relevance_rank_parts",
    "relevance_rank_label_parts",
    "pointing_game",
    "iou_best",
    "gini",
    "entropy",
}


# The map.


def test_the_heat_map_agrees_with_a_loop_over_units():
    torch.manual_seed(0)
    for _ in range(20):
        maps, parts = torch.randn(3, 5, 4, 6), torch.randn(3, 5)
        maps[:, 2] = -1.0
        wanted = torch.zeros(3, 4, 6)
        for b in range(3):
            for u in range(5):
                positive = [max(0.0, v) for v in maps[b, u].flatten().tolist()]
                for i, value in enumerate(positive):
                    if sum(positive) and parts[b, u] > 0:
                        share = float(parts[b, u]) * value / sum(positive)
                        wanted[b, i // 6, i % 6] += share
        torch.testing.assert_close(heat_of(maps, parts), wanted, atol=1e-5, rtol=1e-5)
        mean = sum(maps[:, u].clamp(min=0) for u in range(5)) / 5
        torch.testing.assert_close(heat_of(maps), mean)


def test_a_units_contribution_is_kept_whole():
    maps, parts = torch.rand(2, 3, 4, 4), torch.tensor([[1.0, 2, -5], [-1, -1, -1]])
    found = heat_of(maps.half(), parts)
    assert found.sum((1, 2)).tolist() == pytest.approx([3.0, 0.0])
    assert found.dtype == torch.float32


def test_a_model_may_give_its_own_heat_map_or_none():
    scores, target, heat = torch.zeros(2, 3), torch.zeros(2).long(), torch.rand(2, 4, 4)
    bare = Explanation(scores=scores, target=target)
    assert bare.heat_map() is None
    own = Explanation(scores=scores, target=target, heat=heat, maps=torch.rand(2, 3, 4, 4))
    assert own.heat_map() is heat
    maps = Explanation(scores=scores, target=target, maps=own.maps)
    torch.testing.assert_close(maps.heat_map(), own.maps.mean(1))
    assert own.to("cpu").heat is not None


# The tests of a model.


class Explains(TinyModel):
    """A tiny model whose maps are judged."""

    explains_by_map = True


class Silent(Explains):
    """It returns no maps from its step."""

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        return {k: v for k, v in super().step(batch, stage).items() if k != "maps"}


class OwnHeat(Explains):
    """It explains by a heat map of its own, of which its step says nothing."""

    def explain(self, batch: Batch, target: Tensor | None = None) -> Explanation:
        found = super().explain(batch, target)
        return Explanation(scores=found.scores, target=found.target, heat=found.maps.amax(1))


class KeptHeat(OwnHeat):
    """Its step returns it."""

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        outputs = super().step(batch, stage)
        return outputs | {"heat": outputs["maps"].amax(1)}


def figures(make):
    torch.manual_seed(0)
    model = make(4)
    data = SyntheticParts(image_size=32, train_size=8, val_size=8, test_size=24, batch_size=10)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    found = trainer.test(model, data, verbose=False)[0]
    return model, data, {key.removeprefix("test/"): value for key, value in found.items()}


class Tells(Explains):
    """Its step returns all that the map is made of."""

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        outputs = super().step(batch, stage)
        weight = self.head.weight[self.head(outputs["maps"].mean((2, 3))).argmax(1)]
        return outputs | {"contributions": weight * outputs["maps"].mean((2, 3))}


@pytest.mark.parametrize("make", [Explains, Silent, OwnHeat, KeptHeat, Tells])
def test_tests_report_what_the_functions_find(make):
    model, data, found = figures(make)
    assert found.keys() >= JUDGED
    batch = data.render("test", range(24))
    heat = model.explain(batch).heat_map()
    wanted = judge.evaluate_maps(heat, batch, label_parts=(0, 6))
    assert data.part_names[0] == "head"
    assert data.part_names[6] == "tail"
    assert {name: found[name] for name in JUDGED} == pytest.approx(wanted, abs=1e-5)
    report = model.map_metrics.report()
    assert report["judged"]["relevance_mass"] + report["left_out"]["relevance_mass"] == 24


def test_models_that_explain_by_no_map_are_as_before():
    model, data, found = figures(TinyModel)
    assert not found.keys() & JUDGED
    assert model.map_metrics.report() is None
    assert model.map_metrics.perturb(model, data, "cpu") == {}


def test_what_the_step_tells_is_not_computed_again():
    looks = []

    class Counts(Tells):
        def explain(self, batch: Batch, target: Tensor | None = None) -> Explanation:
            looks.append(len(batch["image"]))
            return super().explain(batch, target)

    figures(Counts)
    assert looks == [1]


class Fails(Explains):
    """It returns NaN for some images, those with an even label."""

    def maps(self, batch: Batch) -> Tensor:
        even = (batch["image"][:, 0, 0, 0] > 0).view(-1, 1, 1, 1)
        return super().maps(batch).masked_fill(even, torch.nan)


def test_images_on_which_the_model_fails_are_left_out_and_counted():
    model, data, found = figures(Fails)
    batch = data.render("test", range(24))
    known = ~(batch["image"][:, 0, 0, 0] > 0)
    assert 0 < int(known.sum()) < 24
    kept = {name: value[known] for name, value in batch.items()}
    wanted = judge.evaluate_maps(model.explain(kept).heat_map(), kept, label_parts=(0, 6))
    assert {name: found[name] for name in JUDGED} == pytest.approx(wanted, abs=1e-5)
    assert model.map_metrics.report()["left_out"]["gini"] == int(
        (~known).sum() + judge.map_gini(model.explain(kept).heat_map()).isnan().sum()
    )
    looked = model.map_metrics.perturb(model, data, "cpu")
    heat, scores = model.explain(kept).heat_map(), model.class_scores
    wanted = judge.evaluate_maps(heat, kept, scores, names=["deletion_auc"], steps=16)
    assert looked["deletion_auc"] == pytest.approx(wanted["deletion_auc"], abs=1e-5)


def test_deletion_and_insertion_look_at_images_spread_over_the_split():
    model, data, _ = figures(Explains)
    model.map_metrics = MapMetrics(images=6, steps=5)
    found = model.map_metrics.perturb(model, data, "cpu", tested=20)
    batch = data.render("test", [0, 3, 6, 10, 13, 16])
    explanation = model.explain(batch)
    for name, function in (
        ("deletion_auc", judge.deletion_auc),
        ("insertion_auc", judge.insertion_auc),
    ):
        each = function(
            model.class_scores, batch["image"], explanation.heat_map(), explanation.target, steps=5
        )
        assert found[name] == pytest.approx(float(each.mean()), abs=1e-5)
    for settings in ({"images": 0}, {"names": ["gini"]}):
        model.map_metrics = MapMetrics(**settings)
        assert model.map_metrics.perturb(model, data, "cpu") == {}
    model.map_metrics = MapMetrics(["deletion_auc"], images=2, steps=2)
    assert model.map_metrics.perturb(model, data, "cpu").keys() == {"deletion_auc"}


def test_wrong_settings_are_named():
    with pytest.raises(
        ValueError, match=r"names: there is no metric 'gini_index'; did you mean 'gini'"
    ):
        MapMetrics(["gini_index"])
    with pytest.raises(ValueError, match="images must be at least 0, got -1"):
        MapMetrics(images=-1)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        MapMetrics(steps=0)


# A run.

CONFIG = """\
trainer: {max_epochs: 1, accelerator: cpu, devices: 1, enable_progress_bar: false}
model:
  class_path: tests.models.test_map_metrics.Explains
data:
  class_path: pellucid.datamodules.synthetic_parts.SyntheticParts
  init_args: {image_size: 32, train_size: 16, val_size: 8, test_size: 12, confound: 0.9}
maps: {images: 4, steps: 3}
"""


def test_a_run_reports_maps_and_bias(tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text(CONFIG)
    assert call("run", "--config", config, "--run_root", tmp_path) == 0
    results = json.loads((only_run(tmp_path) / "results.json").read_text())
    keys = {f"test/{name}" for name in (*JUDGED, "accuracy", "deletion_auc", "insertion_auc")}
    keys |= {
        "confounded/accuracy",
        "deconfounded/accuracy",
        "bias/swap_background",
        "bias/background_relevance",
    }
    keys |= {f"bias/remove_{part}" for part in ("head", "tail", "body")}
    assert keys <= results["metrics"].keys()
    assert results["maps"]["settings"] == {"names": None, "images": 4, "steps": 3}
    page = (only_run(tmp_path) / "report.html").read_text()
    assert "Relevance mass" in page
    assert "Removing the head" in page


def test_a_run_in_half_precision_is_looked_at_in_single(tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text(CONFIG)
    words = ["--trainer.precision", "bf16-true"]
    assert call("run", "--config", config, "--run_root", tmp_path, *words) == 0
    results = json.loads((only_run(tmp_path) / "results.json").read_text())
    assert 0 <= results["metrics"]["test/deletion_auc"] <= 1
    assert 0 <= results["metrics"]["deconfounded/accuracy"] <= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--maps.names", "[mass]"], "maps.names"),
        (["--maps.images", "-1"], "maps.images must be at least 0, got -1"),
        (["--maps.step", "3"], "maps.step: no such option; did you mean 'steps'"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, capsys, words, message):
    config = tmp_path / "tiny.yaml"
    config.write_text(CONFIG)
    assert call("fit", "--config", config, "--run_root", tmp_path, *words) == 2
    assert message in capsys.readouterr().err
