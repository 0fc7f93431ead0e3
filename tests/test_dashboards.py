"""What reaches the dashboards, read back from the files that they would upload."""

import io
import json
import math
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pytorch_lightning.loggers.logger import DummyLogger
from torch import Tensor

from pellucid.batch import Batch
from pellucid.dashboards import (
    best_of_history,
    explanations_table,
    hand_over,
    hand_over_explanations,
    units_table,
)
from pellucid.logging import RunCSVLogger, make_loggers, reopen_loggers
from pellucid.models.base import Stage
from tests.helpers import TinyModel, call, only_run, write_config
from tests.report.conftest import make_run
from tests.report.evaluated import write_explanations


class Scores(TinyModel):
    """Names its logits as the classifiers of the house do."""

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        outputs = super().step(batch, stage)
        return outputs | {"scores": outputs["logits"]}


def wandb_records(run: Path) -> list[Any]:
    """The records of the one offline run in a run directory, as `wandb sync` would send them."""
    wandb = pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    wandb.finish()
    (path,) = (run / "wandb").glob("offline-run-*/*.wandb")
    # Another process writes the file, and may do so a moment after the run is finished.
    for _ in range(100):
        found = []
        for message in log_messages(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(message)
            found.append(record)
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        time.sleep(0.1)
    raise AssertionError(f"{path} was not written to its end")


def log_messages(data: bytes) -> Iterator[bytes]:
    """Messages of a log of LevelDB's kind, after a header of seven bytes.

    A message lies in pieces that no block of 32 KiB divides, each with checksum, length and place
    (1: whole, 2: first, 3: middle, 4: last) before it.
    """
    assert data.startswith(b":W&B")
    place, pieces = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        piece = data[place + 7 : place + 7 + length]
        place += 7 + length
        pieces = piece if kind in (1, 2) else pieces + piece
        if kind in (1, 4):
            yield pieces


def put(found: dict[str, Any], item: Any) -> None:
    """Add a value, which may lie some keys deep."""
    *outer, last = item.nested_key or [item.key]
    for key in outer:
        found = found.setdefault(key, {})
    found[last] = json.loads(item.value_json)


def history_of(records: list[Any]) -> dict[str, Any]:
    """The last value of each key that was logged."""
    found: dict[str, Any] = {}
    for record in records:
        if record.WhichOneof("record_type") == "history":
            for item in record.history.item:
                put(found, item)
    return found


def summary_of(records: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for record in records:
        if record.WhichOneof("record_type") == "summary":
            for item in record.summary.update:
                put(found, item)
    return found


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    # Files of tables and artifacts wait there until they are uploaded.
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield
    # A run that is still open would take the figures of the next test.
    import wandb

    wandb.finish()


@pytest.mark.slow
def test_an_offline_run_of_weights_and_biases(tmp_path: Path, offline: None) -> None:
    run = make_run(tmp_path)
    write_explanations(run, images=2)
    (run / "report.html").write_text("<p>the page</p>")
    loggers = make_loggers(["wandb"], run, "icnn_parts")
    figures = {"test/accuracy": 0.977, "test/nothing": math.nan}
    hand_over(loggers, run, figures, {"model.lr": 0.1}, {"val/accuracy": 0.9})
    (files,) = run.glob("wandb/offline-run-*/files")
    records = wandb_records(run)

    summary = summary_of(records)
    assert summary["test/accuracy"] == 0.977
    assert summary["best/val/accuracy"] == 0.9
    assert "test/nothing" not in summary

    history = history_of(records)
    artifacts = [r.artifact for r in records if r.WhichOneof("record_type") == "artifact"]
    assert history["tables/units"]["nrows"] == 5
    # What would be uploaded of the table: its rows, and the pictures in its cells.
    (parts,) = [
        {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
        for artifact in artifacts
        if "tablesunits" in artifact.name
    ]
    units = json.loads(parts["tables/units.table.json"].read_text())
    entries = json.loads((run / "units.json").read_text())
    assert units["columns"][:2] == ["unit", "strongest images"]
    assert [row[0] for row in units["data"]] == [entry["unit"] for entry in entries]
    place = units["columns"].index("location_instability")
    for row, entry in zip(units["data"], entries, strict=True):
        assert row[place] == pytest.approx(entry["location_instability"])
        # The picture in the cell is that of the unit, pixel by pixel.
        with Image.open(parts[row[1]["path"]]) as logged, Image.open(run / entry["images"]) as own:
            assert np.array_equal(np.asarray(logged), np.asarray(own.convert("RGB")))
        assert row[1]["caption"] == f"unit {entry['unit']}"

    table = json.loads((files / history["tables/explanations"]["path"]).read_text())
    assert table["columns"][:4] == ["method", "kind", "relevance_mass", "relevance_mass low"]
    assert table["data"][0][:2] == ["Own explanation", "own"]
    assert table["data"][0][2:5] == pytest.approx([0.72, 0.67, 0.77])
    # Below Grad-CAM and integrated gradients stand their maps of a random network.
    assert [row[0] for row in table["data"]][1:3] == ["Grad-CAM", "Grad-CAM, random network"]
    assert table["data"][5][0] == "LIME"
    assert table["data"][5][2] is None

    shown = history["explanations/17"]
    assert shown["captions"][:2] == [
        "image: bear, predicted fox",
        "Own explanation: bear, predicted fox",
    ]
    for name, file in zip(("", "_own", "_grad_cam"), shown["filenames"], strict=False):
        with (
            Image.open(files / file) as logged,
            Image.open(run / f"explanations/00001{name}.png") as own,
        ):
            assert np.array_equal(np.asarray(logged.convert("RGB")), np.asarray(own.convert("RGB")))

    reports = [artifact for artifact in artifacts if artifact.type == "report"]
    assert [entry.path for entry in reports[0].manifest.contents] == ["report.html"]


def test_the_events_of_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = make_run(tmp_path)
    write_explanations(run, images=2)
    loggers = make_loggers(["tensorboard"], run, "icnn_parts")
    hand_over(loggers, run, {"test/accuracy": 0.977}, {"model.lr": 0.1, "list": [1]}, {})
    for logger in loggers:
        logger.finalize("success")
    events = EventAccumulator(str(run / "tensorboard"), {"images": 0, "tensors": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    assert "explanations/17/Grad-CAM" in tags["images"]
    (image,) = events.Images("explanations/17/Grad-CAM")
    with (
        Image.open(io.BytesIO(image.encoded_image_string)) as logged,
        Image.open(run / "explanations/00001_grad_cam.png") as own,
    ):
        assert np.array_equal(np.asarray(logged.convert("RGB")), np.asarray(own.convert("RGB")))
    text = events.Tensors("tables/explanations/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| Own explanation | own | 0.72 | 0.67 | 0.77 |" in text
    assert "tables/units/text_summary" in tags["tensors"]
    assert events.Scalars("test/accuracy")[0].value == pytest.approx(0.977)
    assert (run / "tensorboard").is_dir()
    # Beside the settings, in the run's own folder.
    assert not [path for path in (run / "tensorboard").iterdir() if path.is_dir()]


def test_explanations_that_come_later_reach_the_dashboards_that_a_run_has(
    tmp_path: Path, offline: None
) -> None:
    pytest.importorskip("tensorboard")
    import wandb
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = make_run(tmp_path)
    assert reopen_loggers(run) == []
    for logger in make_loggers(["wandb", "tensorboard"], run, "icnn_parts"):
        logger.log_metrics({"val/accuracy": 0.5}, 3)
        logger.finalize("success")
    wandb.finish()
    before = set((run / "wandb").glob("offline-run-*"))
    write_explanations(run, images=1)
    loggers = reopen_loggers(run)
    assert [type(each).__name__ for each in loggers] == ["WandbLogger", "TensorBoardLogger"]
    hand_over_explanations(loggers, run)
    for logger in loggers:
        logger.finalize("success")
    wandb.finish()
    (added,) = set((run / "wandb").glob("offline-run-*")) - before
    (table,) = added.glob("files/media/table/tables/explanations*")
    assert json.loads(table.read_text())["data"][0][:2] == ["Own explanation", "own"]
    events = EventAccumulator(str(run / "tensorboard"), {"images": 0, "tensors": 0, "scalars": 0})
    events.Reload()
    assert "explanations/0/Grad-CAM" in events.Tags()["images"]
    assert events.Scalars("val/accuracy")[0].step == 3


def test_a_logger_that_takes_nothing_is_left_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    csv = RunCSVLogger(run)
    before = csv.path.read_text()
    hand_over([csv, DummyLogger(), SimpleNamespace()], run, {"test/x": 1.0}, {})  # type: ignore[list-item]
    assert csv.path.read_text() == before


@pytest.mark.parametrize("content", [None, "[", "3", '{"rows": 3}', '[{"unit": [1]}, 4]'])
def test_broken_files_have_no_tables(tmp_path: Path, content: str | None) -> None:
    for name in ("units.json", "explanations.json"):
        if content is not None:
            (tmp_path / name).write_text(content)
    columns, rows = units_table(tmp_path)
    assert columns == ["unit", "strongest images"]
    assert len(rows) == (content == '[{"unit": [1]}, 4]')
    assert explanations_table(tmp_path)[1] == []


def test_the_best_of_validation(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,val/loss,val/accuracy\n0,2.0,0.5\n1,,0.8\n2,nan,0.7\n3,3.0,x\n")
    modes = {"val/loss": "min", "val/accuracy": "max", "val/other": "max"}
    assert best_of_history(path, modes) == {"val/loss": 2.0, "val/accuracy": 0.8}
    assert best_of_history(tmp_path / "none.csv", modes) == {}


def test_a_run_keeps_its_confusions_and_hands_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr("pellucid.cli.run.hand_over", lambda *args: given.append(args))
    config = write_config(tmp_path)
    text = config.read_text().replace("tests.helpers.TinyModel", "tests.test_dashboards.Scores")
    config.write_text(text)
    assert call("run", "--config", config, "--run_root", tmp_path / "runs") == 0
    run = only_run(tmp_path / "runs")
    found = json.loads((run / "confusion.json").read_text())
    assert np.sum(found["counts"]) == 24
    assert found["class_names"] == ["class 0", "class 1", "class 2"]
    assert found["index"] == list(range(24))
    right = np.equal(found["label"], found["predicted"]).mean()
    results = json.loads((run / "results.json").read_text())
    assert right == pytest.approx(results["metrics"]["test/accuracy"])
    table = np.zeros((3, 3), dtype=int)
    for label, predicted in zip(found["label"], found["predicted"], strict=True):
        table[label, predicted] += 1
    assert table.tolist() == found["counts"]
    ((_, directory, figures, settings, best),) = given
    assert directory == run
    assert figures["test/accuracy"] == results["metrics"]["test/accuracy"]
    assert "model.class_path" in settings
    assert "val/accuracy" in best
    assert "Confusion" in (run / "report.html").read_text()
