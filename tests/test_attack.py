"""``pellucid attack``: its file, its pictures, and what it refuses."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.report.attack_pictures import draw_adversarial, magnification
from tests.helpers import CONFIG, call, only_run, write_config

QUICK = ("--images", 4, "--generations", 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attack")
    path = write_config(folder, CONFIG.replace("max_epochs: 2", "max_epochs: 1"))
    assert call("fit", "--config", path, "--run_root", folder) == 0
    return only_run(folder)


def test_it_writes_figures_and_pictures(run, capsys):
    assert call("attack", run, *QUICK, "--epsilon", "8/255", "--data.length=12") == 0
    found = json.loads((run / "adversarial.json").read_text())
    assert (found["version"], found["images"], found["split"]) == (1, 4, "test")
    entries = {entry["name"]: entry for entry in found["attacks"]}
    assert list(entries) == ["fgsm", "pgd", "lbfgs", "one_pixel"]
    for name, entry in entries.items():
        assert 0 <= entry["success_rate"] <= 1
        assert (entry["norms"] is None) == (entry["success_rate"] == 0)
        assert len(entry["shown"]) == 4
        for shown in entry["shown"]:
            assert shown["file"] == f"adversarial/{shown['index']:05d}_{name}.png"
            assert shown["index"] in (0, 3, 6, 9)
            assert "class " in shown["caption"]
            with Image.open(run / shown["file"]) as picture:
                assert picture.size == (600, 246)
    for name in ("fgsm", "pgd"):
        assert entries[name]["settings"]["epsilon"] == pytest.approx(8 / 255)
        if entries[name]["norms"]:
            assert entries[name]["norms"]["linf"] <= 8 / 255 + 1e-6
    assert entries["lbfgs"]["norms"]["l2"] > 0
    assert entries["one_pixel"]["settings"]["generations"] == 1
    printed = capsys.readouterr().out
    assert "L-BFGS" in printed
    assert str(run / "adversarial.json") in printed


def test_a_checkpoint_is_attacked_as_asked(run, capsys):
    checkpoint = run / "checkpoints" / "last.ckpt"
    words = ["--attacks", "fgsm", "fgsm", "--images", 3, "--split", "val", "--epsilon", 0.5]
    assert call("attack", checkpoint, *words) == 0
    found = json.loads((run / "adversarial.json").read_text())
    assert (found["checkpoint"], found["split"], found["images"]) == ("last.ckpt", "val", 3)
    (entry,) = found["attacks"]
    assert entry["settings"] == {"epsilon": 0.5}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--epsilon", 8), "--epsilon: must be above 0 and at most 1"),
        (("--epsilon", 0), "--epsilon: must be above 0"),
        (("--epsilon", "nan"), "must be a number such as 0.03 or 8/255, got 'nan'"),
        (("--epsilon", "1e400"), "must be a number such as 0.03 or 8/255, got '1e400'"),
        (("--seed", 2**31), "--seed: must be below 2147483648, got 2147483648"),
        (("--device", "warp"), "--device: 'warp' cannot be used"),
        (("--epsilon", "8/0"), "must be a number such as 0.03 or 8/255, got '8/0'"),
        (("--attacks", "pdg"), "--attacks: there is no 'pdg'; did you mean 'pgd'?"),
        (("--images", 0), "--images: must be at least 1, got 0"),
        (("--generations", 0), "--generations: must be at least 1, got 0"),
        (("--seed", -1), "--seed: must be at least 0, got -1"),
        (("--split", "tset"), "--split: must be one of train, val, test, all"),
        (("--data.lenght=3",), "'length'"),
    ],
)
def test_wrong_words_are_named(run, words, says, capsys):
    assert call("attack", run, *words) == 2
    assert says in capsys.readouterr().err


def test_what_is_no_run_is_named(tmp_path, capsys):
    assert call("attack", tmp_path) == 2
    assert f"attack: {tmp_path} is not a run directory" in capsys.readouterr().err
    assert call("attack", tmp_path / "nothing.ckpt") == 2
    assert "attack: there is no run directory and no checkpoint" in capsys.readouterr().err


def test_the_picture_shows_image_change_and_outcome():
    image = torch.full((3, 8, 8), 0.25)
    adversarial = image.clone()
    adversarial[0, :, :4] += 0.05
    assert magnification(image, adversarial) == pytest.approx(10)
    assert magnification(image, image) == 1
    picture = draw_adversarial(image, adversarial, "a $ b", "$x")
    assert picture.shape == (246, 600, 3)
    row = picture[150].astype(int)
    assert abs(row[100] - 64).max() <= 2
    assert abs(row[250] - np.array([255, 128, 128])).max() <= 2
    assert abs(row[350] - 128).max() <= 2
    assert abs(row[450] - np.array([76, 64, 64])).max() <= 2
    grey = draw_adversarial(image[:1], adversarial[:1], "a", "b")
    assert grey.shape == picture.shape
    with pytest.raises(ValueError, match="of one shape, with 1 or 3 channels"):
        draw_adversarial(image, adversarial[:1], "a", "b")
