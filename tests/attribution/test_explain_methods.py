"""``pellucid explain --methods``: pictures, promises and refusals."""

import pytest
import torch
from PIL import Image

from pellucid.cli.attributions import chosen_methods, draw_attributions
from pellucid.datamodules.synthetic_parts import SyntheticParts
from pellucid.errors import UserError
from pellucid.models.interpretable_cnn import InterpretableCNN
from tests.helpers import call, only_run, write_config


def test_methods_are_chosen_by_name():
    assert chosen_methods(["lrp", "cam", "lrp"]) == ["lrp", "cam"]
    assert {"saliency", "occlusion"} <= set(chosen_methods(["all"]))
    assert chosen_methods([]) == []
    with pytest.raises(UserError, match=r"--methods: .* 'gradcam'; did you mean 'grad_cam'"):
        chosen_methods(["lrp", "gradcam"])


def test_maps_are_drawn_and_refusals_named(tmp_path, capsys):
    torch.manual_seed(0)
    model = InterpretableCNN(4, backbone="small").eval()
    images, target = torch.randn(18, 3, 32, 32), torch.arange(18) % 4
    names = [f"image_{i}" for i in range(18)]
    methods = ["deep_lift", "integrated_gradients", "grad_cam"]
    draw_attributions(model, SyntheticParts(), names, images, target, methods, tmp_path)
    out = capsys.readouterr().out
    assert out.count("completeness error") == 18
    assert "integrated_gradients\n  refused: layer 'top_template': detach() makes" in out
    written = sorted(path.name for path in tmp_path.iterdir())
    wanted = [f"{name}_{method}.png" for name in names for method in ("deep_lift", "grad_cam")]
    assert written == sorted(wanted)
    with Image.open(tmp_path / "image_17_grad_cam.png") as picture:
        assert max(picture.size) == 420


def test_a_network_that_gives_no_numbers_is_said_so(tmp_path, capsys):
    model = InterpretableCNN(4, backbone="small").eval()
    model.classifier.bias.data[0] = float("nan")
    images, target = torch.randn(2, 3, 32, 32), torch.tensor([1, 2])
    draw_attributions(model, SyntheticParts(), ["a", "b"], images, target, ["saliency"], tmp_path)
    assert "refused: the network's scores of images [0, 1] are NaN" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path, capsys):
    words = ["--config", write_config(tmp_path), "--run_root", tmp_path / "runs"]
    assert call("fit", *words, "--trainer.max_epochs=1") == 0
    run = only_run(tmp_path / "runs")
    capsys.readouterr()
    # What TinyModel scores has no gradient, as its own explanation makes them.
    assert call("explain", run, "--methods", "occlusion", "saliency", "--output", tmp_path) == 0
    out = capsys.readouterr().out
    assert "Occlusion (occlusion)" in out
    assert "saliency\n  refused: layer 'network': the scores do not depend on the image" in out
    own = [p for p in tmp_path.glob("test_*.png") if "occlusion" not in p.name]
    assert own
    assert len(list(tmp_path.glob("test_*_occlusion.png"))) == len(own)
    assert call("explain", run, "--methods", "ocllusion") == 2
    assert "did you mean 'occlusion'" in capsys.readouterr().err
