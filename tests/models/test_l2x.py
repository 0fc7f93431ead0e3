"""L2X on a made task, its draws, and what its checkpoint rebuilds; the method that uses it."""

import shutil

import pytest
import torch

from pellucid.attribution import l2x as post_hoc
from pellucid.attribution.method import ClassScores, UnsupportedNetwork
from pellucid.attribution.methods import make_method
from pellucid.errors import UserError
from pellucid.models.l2x import L2X, draw_cells, masked, over_cells, pick_cells
from tests.attribution.known_answers import Curved
from tests.helpers import CONFIG, TinyData, TinyModel, call, only_run, write_config

L2X_CONFIG = """\
# Cells of coloured squares, for tests.
trainer:
  max_epochs: 1
  accelerator: cpu
  devices: 1
  enable_progress_bar: false
model:
  class_path: pellucid.models.l2x.L2X
  init_args:
    cells: 2
data:
  class_path: tests.helpers.TinyData
"""


def coloured(count, generator):
    """Faint noise with one bright cell of 8 pixels; its channel is the class, its place is not."""
    image = torch.randn(count, 3, 16, 16, generator=generator) * 0.1
    label = torch.randint(0, 2, (count,), generator=generator)
    place = torch.randint(0, 4, (count,), generator=generator)
    for one, kind, cell in zip(image, label.tolist(), place.tolist(), strict=True):
        row, column = divmod(cell, 2)
        one[kind, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] += 2.0
    return image, label, place


def test_it_finds_the_cells_that_decide():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = L2X(2, pool=2, cells=1, lr=3e-3, temperature=0.5).train()
        generator = torch.Generator().manual_seed(0)
        optimizer = model.configure_optimizers()
        for _ in range(100):
            image, label, _ = coloured(24, generator)
            optimizer.zero_grad()
            model.step({"image": image, "label": label}, "train")["loss"].backward()
            optimizer.step()
    image, label, place = coloured(64, generator)
    explanation = model.eval().explain({"image": image})
    picked = explanation.maps.flatten(2).argmax(2)[:, 0]
    assert float((picked == place).float().mean()) > 0.9
    assert float((explanation.target == label).float().mean()) > 0.9
    heat = explanation.heat.flatten(1)
    assert torch.equal(heat.argmax(1), picked)
    torch.testing.assert_close(heat.sum(1), torch.ones(64))
    column, row = picked % 2, picked.div(2, rounding_mode="floor")
    wanted = torch.stack((column, row), 1) * 8 + 3.5
    torch.testing.assert_close(explanation.positions[:, 0], wanted)


def test_draws_are_the_largest_of_concrete_variables():
    logits = torch.tensor([[[0.0, 1.0], [2.0, -1.0]]]).log_softmax(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = draw_cells(logits, 3, 0.5)
        torch.manual_seed(0)
        uniform = torch.rand(1, 3, 4)[0]
    flat = logits.flatten().log_softmax(0)
    wanted = torch.zeros(4)
    for row in uniform:
        noisy = [(float(p) - float((-u.log()).log())) / 0.5 for p, u in zip(flat, row, strict=True)]
        total = sum(torch.tensor(noisy).exp().tolist())
        share = torch.tensor(noisy).exp() / total
        wanted = torch.maximum(wanted, share)
    torch.testing.assert_close(found.flatten(), wanted)


def test_cold_draws_pick_as_often_as_cells_are_likely():
    logits = torch.tensor([0.5, 0.3, 0.2, 1e-9]).log().reshape(1, 2, 2).expand(4000, -1, -1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        share = draw_cells(logits, 1, 1e-3).mean(0).flatten()
    assert share.tolist() == pytest.approx([0.5, 0.3, 0.2, 0.0], abs=0.03)


def test_draws_have_gradients():
    logits = torch.randn(2, 3, 3, requires_grad=True)
    with torch.random.fork_rng(devices=[]):
        draw_cells(logits, 2, 0.1).square().sum().backward()
    assert float(logits.grad.abs().max()) > 0


def test_the_likeliest_cells_are_picked_and_shown():
    logits = torch.tensor([[[0.0, 3.0], [2.0, -1.0]]])
    maps = pick_cells(logits, 2)
    assert maps[0].tolist() == [[[0, 1], [0, 0]], [[0, 0], [1, 0]]]
    assert over_cells(logits).flatten().tolist() == pytest.approx(
        logits.flatten().softmax(0).tolist()
    )
    shown = masked(torch.ones(1, 3, 4, 4), maps.sum(1))
    assert shown[0, 2].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A classifier, a model that explains it, and a copy of that when the classifier is gone."""
    folder = tmp_path_factory.mktemp("l2x")
    path = write_config(folder, CONFIG.replace("max_epochs: 2", "max_epochs: 1"))
    assert call("fit", "--config", path, "--run_root", folder / "first") == 0
    classifier = only_run(folder / "first")
    (folder / "second").mkdir()
    path = write_config(folder / "second", L2X_CONFIG)
    words = ["--config", path, "--run_root", folder, "--experiment", "l2x"]
    assert call("fit", *words, f"--model.explained={classifier}") == 0
    return classifier, only_run(folder, "l2x")


def test_a_checkpoint_rebuilds_the_classifier_too(runs, tmp_path):
    classifier, run = runs
    hidden = shutil.move(classifier, tmp_path / "gone")
    try:
        file = run / "checkpoints" / "best.ckpt"
        model = L2X.load_from_checkpoint(file, weights_only=True, map_location="cpu").eval()
    finally:
        shutil.move(hidden, classifier)
    first = TinyModel.load_from_checkpoint(
        classifier / "checkpoints" / "best.ckpt", weights_only=True
    )
    assert isinstance(model.explained_model, TinyModel)
    for name, value in first.state_dict().items():
        assert torch.equal(model.explained_model.state_dict()[name], value)
    image = torch.randn(3, 3, 8, 8)
    explanation = model.explain({"image": image})
    torch.testing.assert_close(explanation.scores, first.eval().class_scores(image))
    assert explanation.maps.shape == (3, 2, 2, 2)
    rows = (run / "metrics.csv").read_text()
    for name in ("val/fidelity", "val/post_hoc_accuracy", "val/accuracy"):
        assert name in rows


def test_the_classifier_is_frozen(runs):
    model = L2X(3, explained=str(runs[0]), cells=2).train()
    assert not model.explained_model.training
    optimised = {
        id(p) for group in model.configure_optimizers().param_groups for p in group["params"]
    }
    assert optimised
    assert not optimised & {id(p) for p in model.explained_model.parameters()}
    batch = next(iter(TinyData().test_dataloader()))
    outputs = model.eval().step({"image": batch["image"]}, "test")
    whole = model.explained_model.class_scores(batch["image"])
    wanted = -(whole.softmax(1) * outputs["scores"].log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(outputs["loss"], wanted)
    shown = masked(batch["image"], pick_cells(model.cell_logits(batch["image"]), 2).sum(1))
    torch.testing.assert_close(
        outputs["scores_of_cells"], model.explained_model.class_scores(shown)
    )


def test_the_method_explains_its_classifier_and_no_other(runs):
    classifier, run = runs
    method = make_method("l2x", explainer=str(run))
    image = torch.randn(2, 3, 8, 8)
    network = ClassScores(method.explainer.explained_model)
    found = method.attribute(network, image)
    assert found.heat.shape == (2, 2, 2)
    torch.testing.assert_close(found.heat.sum((1, 2)), torch.ones(2))
    with pytest.raises(UnsupportedNetwork, match=r"Curved.*trained for another network"):
        method.attribute(Curved(classes=3), image)
    with pytest.raises(ValueError, match="explainer must be of L2X, got a TinyModel"):
        post_hoc.L2X(str(classifier))
    with pytest.raises(ValueError, match=r"got none; train one: pellucid run .*l2x_parts"):
        make_method("l2x")
    with pytest.raises(UserError, match="explainer: no checkpoint"):
        post_hoc.L2X(str(run / "nothing.ckpt"))


def test_explain_draws_what_an_explainer_picks(runs, tmp_path, capsys):
    classifier, run = runs
    words = ["--methods", "l2x", "--explainer", run, "--output", tmp_path]
    assert call("explain", classifier, *words) == 0
    assert (tmp_path / "test_00000_l2x.png").is_file()
    assert call("explain", classifier, *words[:2], "--output", tmp_path) == 0
    assert "refused: explainer must be a run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cells": 0}, "cells must be at least 1, got 0"),
        ({"pool": 0}, "pool must be at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0"),
        ({"lr": -1.0}, "lr must be above 0, got -1"),
        ({"explained": {"init_args": {}}}, "explained must be a run, a checkpoint, none, or a map"),
    ],
)
def test_wrong_options_are_named(options, says):
    with pytest.raises(ValueError, match=says):
        L2X(3, **options)


def test_a_wrong_classifier_is_named(runs, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"explained must be a classifier of 4 .* TinyModel of 3"):
        L2X(4, explained=str(runs[0]))
    model = L2X(3, cells=5)
    with pytest.raises(ValueError, match="cells must be at most 4"):
        model.explain({"image": torch.randn(1, 3, 8, 8)})
    path = write_config(tmp_path, L2X_CONFIG)
    words = ["fit", "--config", path, "--run_root", tmp_path]
    assert call(*words, f"--model.explained={tmp_path / 'none.ckpt'}") == 2
    assert "model.explained: no checkpoint" in capsys.readouterr().err
