"""The command evaluate, on a tiny model and on built-in figures."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.analysis.submodular_pick import heat_features, submodular_pick
from pellucid.attribution.method import ClassScores
from pellucid.cli import evaluate as module
from pellucid.cli.trained import open_trained
from pellucid.datamodules.synthetic_parts import SyntheticParts
from pellucid.models.interpretable_cnn import InterpretableCNN
from tests.attribution.test_evaluation import Broken, Gradient, Refused
from tests.helpers import call, only_run, write_config

FIGURES = """\
trainer:
  max_epochs: 1
  accelerator: cpu
  devices: 1
  enable_progress_bar: false
model:
  class_path: pellucid.models.interpretable_cnn.InterpretableCNN
  init_args:
    backbone: small
    num_units: 8
data:
  class_path: pellucid.datamodules.synthetic_parts.SyntheticParts
  init_args:
    image_size: 32
    train_size: 16
    val_size: 8
    test_size: 12
"""


class Needy(Gradient):
    """Needs to be told something that nobody told it."""

    name = "needy"

    def __init__(self) -> None:
        raise ValueError("explainer must be given")


METHODS = {each.name: each for each in (Gradient, Refused, Broken, Needy)}


@pytest.fixture(autouse=True)
def few_methods(monkeypatch):
    """Methods of the test's own, so that only the command is tested."""
    monkeypatch.setattr(module, "METHODS", METHODS)
    monkeypatch.setattr(module, "make_method", lambda name, **options: METHODS[name](**options))


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """A run on the built-in figures."""
    root = tmp_path_factory.mktemp("figures")
    config = write_config(root, FIGURES)
    words = ["--trainer.limit_train_batches", 1, "--run_root", root]
    assert call("fit", "--config", config, *words) == 0
    return only_run(root)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    assert call("fit", "--config", write_config(root), "--run_root", root) == 0
    return only_run(root)


def read(run):
    return json.loads((Path(run) / "explanations.json").read_text())


def test_the_file_and_the_pictures_are_as_promised(figures, tmp_path, capsys):
    run = shutil.copytree(figures, tmp_path / "run")
    words = ["--methods", "own", "gradient", "refused", "--images", 6, "--show", 2]
    assert call("evaluate", run, *words) == 0
    found = read(run)
    assert found["version"] == 1
    assert (found["images"], found["split"], found["seed"]) == (6, "test", 0)
    assert found["checkpoint"] == "best.ckpt"
    assert {"python", "pellucid", "torch"} <= set(found["versions"])
    assert found["target"] == "predicted class"
    assert 0 < found["seconds"] < 600
    assert [each["method"] for each in found["rows"]] == [
        "own",
        "gradient",
        "refused",
        "random_map",
        "edge_detector",
    ]
    assert found["rows"][0]["cells"]["relevance_mass"]["count"] <= 6
    assert found["rows"][2]["note"].startswith("refused: layer 'head'")
    assert len(found["shown"]) == 2
    data = SyntheticParts(image_size=32, test_size=12)
    for entry in found["shown"]:
        assert entry["why"].startswith("picked: ")
        assert entry["label"] in data.class_names
        assert [each["method"] for each in entry["overlays"]] == [
            "own",
            "gradient",
            "random_map",
            "edge_detector",
        ]
        for name in [entry["image"], *(each["file"] for each in entry["overlays"])]:
            with Image.open(run / name) as picture:
                assert picture.size == (32, 32)
        with Image.open(run / entry["image"]) as picture:
            drawn = data.render("test", [entry["index"]])["image"][0]
            pixels = drawn.permute(1, 2, 0) * torch.tensor(data.std) + torch.tensor(data.mean)
            wanted = (pixels * 255).round().numpy()
            assert np.abs(np.asarray(picture).astype(float) - wanted).max() <= 1
    assert (run / "explanations" / "overview.png").is_file()
    assert set(found["units"]) == {str(unit) for unit in range(8)}
    assert set(found["part_effects"]["parts"]) == set(data.part_names)
    printed = capsys.readouterr().out
    assert "Own explanation" in printed
    assert "relevance" in printed
    assert "Refused: refused: layer 'head'" in printed
    assert str(run / "explanations.json") in printed


def test_data_without_masks_and_too_few_images(tiny, tmp_path, capsys):
    run = shutil.copytree(tiny, tmp_path / "run")
    words = ["--methods", "own", "broken", "--images", 500, "--show", 1, "--seed", 3]
    assert call("evaluate", run, *words) == 0
    found = read(run)
    assert found["images"] == 24
    assert "500 were asked for, the test split has 24" in found["skipped"]["more images"]
    assert "needs mask" in found["skipped"]["relevance_mass"]
    assert found["part_effects"] is None
    assert found["rows"][1]["note"] == "failed: RuntimeError: the library fell over"
    assert "500 were asked for" in capsys.readouterr().out


def test_a_plain_network_beside_it(figures, tmp_path):
    twin = shutil.copytree(figures, tmp_path / "cnn_parts" / "run")
    output = tmp_path / "here"
    words = ["--methods", "own", "gradient", "--images", 3, "--show", 1, "--twin", twin]
    assert call("evaluate", figures, *words, "--output", output) == 0
    found = read(output)
    last = found["rows"][-1]
    assert last["method"] == "cnn_parts/gradient"
    assert last["label"] == "Gradient of cnn_parts"
    assert found["twin"] == {"name": "cnn_parts", "run": "run"}
    # It is the same network, so that its figures are the same.
    same = found["rows"][1]["cells"]
    assert last["cells"]["deletion_auc"] == same["deletion_auc"]
    assert last["cells"]["relevance_mass"] == same["relevance_mass"]
    files = [each["file"] for each in found["shown"][0]["overlays"]]
    assert len(set(files)) == 5
    assert all((output / name).is_file() for name in files)
    assert not (figures / "explanations.json").exists()


def test_a_model_that_gives_nan_still_has_a_file(figures, tmp_path, capsys):
    run = shutil.copytree(figures, tmp_path / "run")
    path = run / "checkpoints" / "best.ckpt"
    content = torch.load(path, weights_only=True)
    for value in content["state_dict"].values():
        if value.is_floating_point():
            value.fill_(torch.nan)
    torch.save(content, path)
    assert call("evaluate", run, "--methods", "own", "gradient", "--images", 3) == 0
    found = read(run)
    assert found["rows"] == []
    assert found["shown"] == []
    assert "no image is left" in found["skipped"]["rows"]
    assert "3 of 3 are left out" in capsys.readouterr().out


def test_sigmoid_heads_explain_both_classes():
    torch.manual_seed(0)
    model = InterpretableCNN(2, backbone="small", num_units=4, head="sigmoid").eval()
    scores = model.class_scores(torch.randn(2, 3, 32, 32))
    assert scores.shape == (2, 2)
    assert float(scores[:, 0].detach().abs().max()) == 0


def test_another_method_picks_the_images(tiny, tmp_path):
    words = ["--methods", "own", "--images", 2, "--show", 3, "--output", tmp_path]
    assert call("evaluate", tiny, *words) == 0
    own = read(tmp_path)
    assert call("evaluate", tiny, *words, "--pick_by", "gradient") == 0
    found = read(tmp_path)
    assert (own["picked_by"], found["picked_by"]) == ("own", "gradient")
    trained = open_trained("evaluate", tiny)
    dataset = trained.data.dataset("test")
    image = torch.stack([dataset[i]["image"] for i in range(len(dataset))])
    network = ClassScores(trained.model)
    target = network(image).argmax(1)
    heat = METHODS["gradient"]().attribute(network, image, target).heat
    wanted = submodular_pick(heat_features(heat), 3).images
    assert [each["index"] for each in found["shown"]] == wanted
    assert [each["index"] for each in own["shown"]] != wanted
    # Units are those of the model, whoever picks.
    assert found["units"] == own["units"]


def test_of_all_methods_those_that_cannot_be_made_are_left_out(tiny, tmp_path):
    words = ["--methods", "all", "--images", 2, "--show", 0, "--output", tmp_path]
    assert call("evaluate", tiny, *words) == 0
    found = read(tmp_path)
    assert [each["method"] for each in found["rows"]][:2] == ["own", "gradient"]
    assert "needy" not in {each["method"] for each in found["rows"]}
    assert found["skipped"]["needy"] == "explainer must be given"
    assert found["shown"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "needy"], "--methods: needy: explainer must be given"),
        (["--methods", "gradiant"], "no method 'gradiant'; did you mean 'gradient'?"),
        (["--pick_by", "gradiant"], "--pick_by: no method 'gradiant'; did you mean 'gradient'?"),
        (["--pick_by", "needy"], "--pick_by: needy: explainer must be given"),
        (["--pick_by", "refused"], "--pick_by: refused refused: layer 'head'"),
        (["--pick_by", "broken"], "--pick_by: broken failed: RuntimeError: the library fell over"),
        (["--images", "0"], "--images: must be at least 1, got 0"),
        (["--seed", "-1"], "--seed: must be at least 0, got -1"),
        (["--show", "-1"], "--show: must be at least 0, got -1"),
        (["--split", "tset"], "--split: must be one of train, val, test, all"),
        (["--device", "warp"], "--device: 'warp' cannot be used"),
        (["--twin", "nowhere"], "--twin: there is no run directory and no checkpoint nowhere"),
    ],
)
def test_wrong_words_are_named(words, message, tiny, capsys):
    assert call("evaluate", tiny, *words) == 2
    assert message in capsys.readouterr().err


def test_runs_that_cannot_be_read_or_compared_are_named(tiny, figures, tmp_path, capsys):
    assert call("evaluate", tmp_path) == 2
    assert "is not a run directory: it has no config.yaml" in capsys.readouterr().err
    assert call("evaluate", tiny, "--twin", figures) == 2
    assert "they cannot be compared" in capsys.readouterr().err
    blocked = tmp_path / "file"
    blocked.write_text("")
    words = ["--methods", "own", "--images", 1, "--output", blocked]
    assert call("evaluate", tiny, *words) == 2
    assert f"--output: cannot write to {blocked}" in capsys.readouterr().err
