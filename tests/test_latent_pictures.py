"""Generators on the command line: pictures in training, and the files and tables at the end."""

import csv
import json
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid.latent_pictures import LatentPictures, epochs_between, spread_images
from tests.generators import GENERATOR
from tests.helpers import TinyData, call, only_run, write_config


def words(folder: Path, *more: object) -> list[object]:
    return ["--config", write_config(folder, GENERATOR), "--run_root", folder / "runs", *more]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generator")
    assert call("run", *words(folder)) == 0
    return only_run(folder / "runs")


def test_a_run_keeps_pictures_of_its_latents(run: Path) -> None:
    content = json.loads((run / "traversals.json").read_text())
    assert len(content["images"]) == 4
    assert len(content["latents"]) == 3
    importance = [latent["importance"] for latent in content["latents"]]
    assert importance == sorted(importance, reverse=True)
    for latent in content["latents"]:
        for strip in latent["strips"]:
            with Image.open(run / strip) as picture:
                assert picture.size == (5 * 8, 8)
    page = (run / "report.html").read_text()
    assert "What each latent does" in page
    assert "Not in this report" not in page
    assert "There are no units" not in page


def test_pictures_of_training(run: Path) -> None:
    # Two epochs of three steps: fewer than ten, so each has its picture.
    for name in ("traversals", "reconstructions"):
        found = sorted(path.name for path in (run / "images" / "val").glob(f"{name}_*"))
        assert found == [f"{name}_00003.png", f"{name}_00006.png"]


def test_pictures_of_training_reach_the_dashboards(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert call("fit", *words(tmp_path, "--logger=tensorboard")) == 0
    run = only_run(tmp_path / "runs")
    events = EventAccumulator(str(run / "tensorboard"), {"images": 0})
    events.Reload()
    for name in ("traversals", "reconstructions"):
        shown = events.Images(f"val/{name}")
        assert [event.step for event in shown] == [3, 6]
        for event in shown:
            own = run / "images" / "val" / f"{name}_{event.step:05d}.png"
            with Image.open(BytesIO(event.encoded_image_string)) as logged, Image.open(own) as kept:
                assert np.array_equal(np.asarray(logged.convert("RGB")), np.asarray(kept))


@pytest.mark.parametrize(("every", "steps"), [(0, []), (2, [6]), (3, [])])
def test_pictures_every_n_epochs(tmp_path: Path, every: int, steps: list[int]) -> None:
    assert call("fit", *words(tmp_path, f"--pictures.every_n_epochs={every}")) == 0
    folder = only_run(tmp_path / "runs") / "images" / "val"
    found = sorted(folder.glob("traversals_*")) if folder.exists() else []
    assert [path.name for path in found] == [f"traversals_{step:05d}.png" for step in steps]


def test_training_goes_on_as_if_nothing_had_been_drawn(run: Path, tmp_path: Path) -> None:
    assert call("fit", *words(tmp_path, "--pictures.every_n_epochs=0")) == 0
    kept = [only_run(tmp_path / "runs"), run]
    drawn, plain = (
        torch.load(path / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for path in kept
    )
    assert drawn.keys() == plain.keys()
    assert all(torch.equal(drawn[name], plain[name]) for name in drawn)


def test_models_without_traversals_have_no_such_pictures(tmp_path: Path) -> None:
    base = ["--config", write_config(tmp_path), "--run_root", tmp_path / "runs"]
    assert call("run", *base) == 0
    run = only_run(tmp_path / "runs")
    assert not list(run.glob("images/val/*"))
    assert not (run / "traversals.json").exists()
    assert "What each latent does" not in (run / "report.html").read_text()


def test_what_a_model_draws_from_noise_is_shown_without_images(tmp_path: Path) -> None:
    assert call("run", *words(tmp_path, "--model.from_noise=true")) == 0
    run = only_run(tmp_path / "runs")
    content = json.loads((run / "traversals.json").read_text())
    assert all(entry.keys() == {"overview"} for entry in content["images"])
    assert not list((run / "images" / "val").glob("reconstructions_*"))
    assert list((run / "images" / "val").glob("traversals_*"))


def test_wrong_numbers_of_epochs_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("fit", *words(tmp_path, "--pictures.every_n_epochs=-1")) == 2
    error = capsys.readouterr().err
    assert "pictures.every_n_epochs: must be at least 0 (no pictures), got -1" in error
    assert call("fit", *words(tmp_path, "--pictures.every_epoch=1")) == 2
    assert "every_n_epochs" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ValueError, match="got -2"):
        LatentPictures(-2)


def test_explain_lists_and_draws_latents(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("explain", run) == 0
    out = capsys.readouterr().out
    assert out.count("what each latent does") == 6
    assert "KL (nats)" in out
    # Three latents an image, each with its code and the range that is drawn.
    assert out.count("-2 to 2") == 18
    pictures = sorted((run / "explanations").glob("test_*.png"))
    assert len(pictures) == 6
    with Image.open(pictures[0]) as picture:
        assert picture.width > 5 * 64


def test_predict_writes_codes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = run / "checkpoints" / "best.ckpt"
    more = ["--run_root", tmp_path, "--ckpt_path", checkpoint]
    assert call("predict", "--config", run, *more) == 0
    assert "codes of 24 images" in capsys.readouterr().out
    with (only_run(tmp_path) / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    images = torch.stack([TinyData().dataset("test")[i]["image"] for i in range(24)])
    codes = images.flatten(1) @ state["encoder.weight"].T + state["encoder.bias"]
    found = torch.tensor([[float(row[f"code {i}"]) for i in range(3)] for row in rows])
    assert list(rows[0]) == ["index", "code 0", "code 1", "code 2"]
    torch.testing.assert_close(found, codes)


def test_predict_says_that_there_is_nothing_to_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("predict", *words(tmp_path, "--model.from_noise=true")) == 2
    assert "neither classes nor codes" in capsys.readouterr().err


def test_images_are_from_all_over_the_split() -> None:
    data = TinyData(length=24)
    chosen, images = spread_images(data, "val", 4)
    assert chosen == [0, 6, 12, 18]
    assert torch.equal(images[1], data.dataset("val")[6]["image"])
    assert spread_images(TinyData(length=3), "val", 4)[0] == [0, 1, 2]


@pytest.mark.parametrize(
    ("max_epochs", "max_steps", "batches", "every"),
    [
        (2, -1, 3, 1),
        (100, -1, 3, 10),
        (101, -1, 3, 11),
        (-1, 300_000, 11_520, 3),
        (40, 1_000, 100, 1),
        (-1, -1, 100, 10),
        (None, -1, float("inf"), 10),
    ],
)
def test_a_fit_has_about_ten_pictures(
    max_epochs: int | None, max_steps: int, batches: float, every: int
) -> None:
    trainer = SimpleNamespace(
        max_epochs=max_epochs, max_steps=max_steps, num_training_batches=batches
    )
    assert epochs_between(trainer) == every


def test_only_the_first_process_draws() -> None:
    trainer = SimpleNamespace(is_global_zero=False, datamodule=TinyData())
    # Neither the trainer's epoch nor the model is asked for anything.
    LatentPictures(1).on_train_epoch_end(trainer, object())
