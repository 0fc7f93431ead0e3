"""Backbones of every kind, from the command line to an explanation, and what wrong weights do."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from pellucid.datamodules.synthetic_parts import SyntheticParts
from pellucid.models.backbones import BACKBONES
from pellucid.models.interpretable_cnn import InterpretableCNN
from tests.helpers import call, only_run

TIMM = ("timm/test_resnet", "timm/mobilenetv3_small_050", "timm/tf_mobilenetv3_small_minimal_100")
TRACED = ("shufflenet_v2_x0_5",)

QUICK = ("accelerator=cpu", "enable_progress_bar=false", "max_epochs=1", "limit_train_batches=2")


def words_for(backbone: str, root: Path) -> list[str]:
    sizes = [f"--data.{split}_size=4" for split in ("train", "val", "test")]
    words = ["--config", "icnn_parts", f"--model.backbone={backbone}", "--model.num_units=8"]
    words += ["--data.batch_size=2", *sizes, f"--run_root={root}"]
    return words + [f"--trainer.{option}" for option in (*QUICK, "limit_val_batches=1")]


@pytest.mark.parametrize("backbone", [*BACKBONES, *TRACED, *TIMM])
@pytest.mark.usefixtures("quick_classifiers")
def test_two_batches_a_checkpoint_and_an_explanation(backbone: str, tmp_path: Path) -> None:
    if backbone.startswith("timm/"):
        pytest.importorskip("timm")
    assert call("fit", *words_for(backbone, tmp_path)) == 0
    checkpoint = only_run(tmp_path, "icnn_parts") / "checkpoints" / "last.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["global_step"] == 2
    model = InterpretableCNN.load_from_checkpoint(
        checkpoint, weights_only=True, map_location="cpu"
    ).eval()
    for key, value in model.state_dict().items():
        assert torch.equal(value, saved["state_dict"][key]), key
    image = torch.randn(2, 3, 64, 64)
    explanation = model.explain({"image": image})
    assert explanation.maps is not None
    assert explanation.maps.shape[:2] == (2, 8)
    assert explanation.positions is not None
    assert explanation.positions.isfinite().all()
    assert explanation.contributions is not None
    total = explanation.contributions.sum(1) + explanation.bias
    scores = explanation.scores.gather(1, explanation.target[:, None])[:, 0]
    torch.testing.assert_close(total, scores, rtol=1e-4, atol=1e-4)


def test_what_weights_want_reaches_data_results_and_explanations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = pytest.importorskip("timm")
    name, half = "timm/inception_v3.tf_in1k", [0.5, 0.5, 0.5]
    backbone = [f"--model.backbone={name}", "--model.node=Conv2d_2a_3x3", "--model.stride=null"]
    torch.manual_seed(0)
    network = timm.create_model("inception_v3")
    torch.save(network.state_dict(), tmp_path / "inception.pth")
    words = words_for(name, tmp_path / "runs") + backbone
    assert call("run", *words, f"--model.weights={tmp_path / 'inception.pth'}") == 0
    said = capsys.readouterr().out
    (line,) = (line for line in said.splitlines() if line.startswith("weights: "))
    count = len(network.state_dict())
    assert f"loaded 12 of {count} tensors of {tmp_path / 'inception.pth'}; {count - 12} be" in line
    run = only_run(tmp_path / "runs", "icnn_parts")
    results = json.loads((run / "results.json").read_text())["weights"]
    assert (results["mean"], results["std"]) == (half, half)
    assert (results["tensors"], results["total"], results["unexpected"]) == (12, count, [])
    checkpoint = run / "checkpoints" / "best.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["normalisation"] == {"mean": half, "std": half}
    assert saved["hyper_parameters"]["weights"] == "none"
    # Neither the weights nor timm's record are there any more: the checkpoint remembers.
    (tmp_path / "inception.pth").unlink()
    model = InterpretableCNN.load_from_checkpoint(checkpoint, weights_only=True)
    assert model.normalisation == (tuple(half), tuple(half))
    assert call("explain", run) == 0
    used = []
    monkeypatch.setattr(SyntheticParts, "use_normalisation", lambda _, *them: used.append(them))
    plain = ["--model.backbone=timm/inception_v3", "--model.weights=none"]
    assert call("test", f"--config={run}", f"--ckpt_path={checkpoint}", *plain) == 0
    assert used == [(tuple(half), tuple(half))]
    monkeypatch.undo()
    # And so does a network that begins with it.
    words = [*words_for(name, tmp_path / "more"), *backbone, f"--model.weights={checkpoint}"]
    assert call("fit", *words) == 0
    again = only_run(tmp_path / "more", "icnn_parts") / "checkpoints" / "last.ckpt"
    assert torch.load(again, weights_only=True)["normalisation"]["mean"] == half


def test_layers_that_stay_as_they_were_drawn_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Configs for pretrained networks freeze them; without weights nothing useful is frozen."""
    words, frozen = words_for("small", tmp_path), "--model.trainable_stages=1"
    assert call("fit", *words, frozen) == 0
    said = capsys.readouterr().out
    assert "weights: none; 3 of the backbone's 4 stages stay as they were drawn" in said
    assert "model.trainable_stages null trains all" in said
    checkpoint = only_run(tmp_path, "icnn_parts") / "checkpoints" / "last.ckpt"
    # What comes from a checkpoint or is trained is not as it was drawn.
    assert call("test", *words, frozen, f"--ckpt_path={checkpoint}") == 0
    assert call("fit", *words) == 0
    assert "weights: none" not in capsys.readouterr().out


class Trap:
    def __reduce__(self) -> Any:
        return os.system, ("touch trapped",)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: torch.save({"layer9.weight": torch.ones(2)}, path), "not of a small"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(90)), "truncated or damaged"),
        (lambda path: path.write_bytes(pickle.dumps({"w": Trap()})), "none of it was run"),
        (lambda path: None, "there is no file"),
    ],
    ids=["another network", "truncated", "code", "missing"],
)
def test_wrong_weights_end_with_one_line(
    write: Any,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "w.pth")
    assert call("run", *words_for("small", tmp_path / "runs"), "--model.weights=w.pth") == 2
    error = capsys.readouterr().err
    assert "weights" in error
    assert "w.pth" in error
    assert reason in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "trapped").exists()
    assert not (tmp_path / "runs").exists()
