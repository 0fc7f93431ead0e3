"""Pictures of maps: what is red, what is untouched, and what becomes of old files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.report.explanation_pictures import (
    Shown,
    ShownImage,
    caption,
    draw_heat,
    draw_sheet,
    full_colour,
    save_shown,
)


def grey(size=(20, 20)):
    return np.full((*size, 3), 120, np.uint8)


def image(index=17, size=(20, 20)):
    return ShownImage(index, grey(size), "fox", "a/<b>", 3.2, "picked: because")


def test_colours_say_for_and_against():
    heat = torch.zeros(20, 20)
    heat[2:8, 2:8], heat[12:18, 12:18] = 1.0, -1.0
    red, green, blue = draw_heat(grey(), heat)[5, 5].tolist()
    assert red > 180 > 80 > max(green, blue) - 20
    red, green, blue = draw_heat(grey(), heat)[15, 15].tolist()
    assert blue > 150 > red
    assert draw_heat(grey(), heat)[5, 15].tolist() == [120, 120, 120]
    positive = draw_heat(grey(), heat.clamp(min=0))
    assert positive[15, 15].tolist() == [120, 120, 120]
    assert positive[5, 5].tolist() != [120, 120, 120]


def test_the_image_is_drawn_grey_and_a_map_of_zeros_changes_nothing():
    colourful = np.zeros((8, 8, 3), np.uint8)
    colourful[..., 0] = 200
    found = draw_heat(colourful, torch.zeros(2, 2))
    assert np.ptp(found, axis=2).max() == 0
    assert found[0, 0, 0] == round(200 * 0.299)


def test_one_pixel_does_not_leave_all_others_pale():
    heat = torch.ones(50, 50)
    heat[0, 0] = 1000.0
    assert full_colour(heat) == 1.0
    few = torch.zeros(20, 20)
    few[0, 0] = 3.0
    assert full_colour(few) == 3.0
    assert full_colour(torch.zeros(3, 3)) == 0.0


def test_captions_have_a_legend():
    heat = torch.rand(1, 4, 5)
    assert "the brighter" in caption(Shown("own", "Own", heat), 0, image())
    assert "4 x 5 cells" in caption(Shown("own", "Own", heat), 0, image())
    signed = caption(Shown("g", "Gradient", heat - 0.5, torch.tensor([0.002])), 0, image())
    assert "red speaks for it, blue against it" in signed
    assert "zero everywhere" in caption(Shown("g", "Gradient", 0 * heat), 0, image())


def test_files_are_written_and_listed(tmp_path):
    methods = [
        Shown("own", "Own explanation", torch.rand(2, 5, 5), torch.tensor([1e-4, torch.nan])),
        Shown("cnn/grad_cam", "Grad-CAM of cnn", torch.rand(2, 5, 5)),
    ]
    found = save_shown(tmp_path, [image(17), image(4, (300, 600))], methods)
    json.dumps(found, allow_nan=False)
    assert found[0]["image"] == "explanations/00017.png"
    files = [each["file"] for each in found[0]["overlays"]]
    assert files == ["explanations/00017_own.png", "explanations/00017_twin-cnn-grad_cam.png"]
    assert [each["completeness_error"] for each in found[0]["overlays"]] == [
        pytest.approx(1e-4),
        None,
    ]
    assert found[1]["overlays"][0]["completeness_error"] is None
    sizes = {}
    for entry in found:
        for name in [entry["image"], *(each["file"] for each in entry["overlays"])]:
            with Image.open(tmp_path / name) as picture:
                sizes.setdefault(entry["index"], set()).add(picture.size)
    assert sizes == {17: {(20, 20)}, 4: {(256, 128)}}
    with Image.open(tmp_path / found[0]["overlays"][0]["file"]) as picture:
        wanted = draw_heat(grey(), methods[0].heat[0])
        assert np.array_equal(np.asarray(picture.convert("RGB")), wanted)
    with Image.open(tmp_path / "explanations" / "overview.png") as sheet:
        assert sheet.size[0] > 3 * 160
        assert sheet.size[1] > 2 * 160
        assert np.asarray(sheet).std() > 10


def test_pictures_of_an_earlier_evaluation_go_and_no_others(tmp_path):
    folder = tmp_path / "explanations"
    shown = save_shown(tmp_path, [image(17)], [Shown("own", "Own", torch.rand(1, 3, 3))])
    for name in ("test_00000.png", "00099.png"):
        Image.fromarray(grey()).save(folder / name)
    Image.fromarray(grey()).save(tmp_path / "precious.png")
    shown[0]["overlays"].append({"file": "explanations/../precious.png"})
    shown[0]["overlays"].append({"file": 3})
    (tmp_path / "explanations.json").write_text(json.dumps({"shown": shown}))
    save_shown(tmp_path, [image(5)], [])
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["00005.png", "00099.png", "overview.png", "test_00000.png"]
    assert (tmp_path / "precious.png").is_file()
    (tmp_path / "explanations.json").write_text("{")
    assert save_shown(tmp_path, [], []) == []


def test_long_names_do_not_run_into_each_other():
    pictures = [[grey(), grey(), grey()]]
    long = "Meaningful perturbation of residual_attention_network with a very long name indeed"
    found = draw_sheet(pictures, ["Image", long, "Occlusion"], ["17: a class of many words"])
    assert found.shape[1] == 3 * 166 + 6
    # Between the columns nothing is written.
    for column in (1, 2):
        left = 6 + column * 166
        assert found[:50, left - 6 : left].min() == 255
