"""Run directories as `pellucid run` leaves them, made in milliseconds."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pellucid.analysis.unit_examples import Examples
from pellucid.analysis.units import UnitSummary
from pellucid.report.unit_pictures import save_units

SIZE = 40


def make_summary(units: int = 5, shown: int = 4, **changes: Any) -> UnitSummary:
    generator = torch.Generator().manual_seed(units)
    images = {
        index: torch.randint(0, 256, (SIZE, SIZE, 3), generator=generator).byte()
        for index in range(10)
    }
    indices = torch.stack([torch.randperm(10, generator=generator)[:shown] for _ in range(units)])
    maps = torch.rand(units, shown, 5, 5, generator=generator)
    positions = torch.rand(units, 8, 2, generator=generator) * (SIZE - 1)
    centred = positions - positions.mean(1, keepdim=True)
    fields: dict[str, Any] = {
        "num_seen": 10,
        "indices": indices,
        "labels": indices % 2,
        "peaks": maps.amax((2, 3)).sort(1, descending=True).values,
        "positions": positions,
        "maps": maps,
        "images": images,
        "class_activation": torch.rand(units, 2, generator=generator),
        "share_fired": torch.rand(units, generator=generator),
        "position_mean": positions.mean(1),
        "position_covariance": centred.mT @ centred / 7,
        "class_names": ("fox", "bear"),
        "representative": tuple(
            # The last unit is silent.
            Examples(
                indices=(9, 8, 7)[: 3 * (unit < units - 1)],
                labels=(0, 0, 0)[: 3 * (unit < units - 1)],
                peaks=(0.9, 0.8, 0.7)[: 3 * (unit < units - 1)],
                maps=tuple(maps[unit, :3])[: 3 * (unit < units - 1)],
            )
            for unit in range(units)
        ),
        "surprising": tuple(
            # Unit u has u of them, but three at most.
            Examples(
                indices=tuple(range(unit))[:3],
                labels=(1, 0, 1)[:unit],
                peaks=(0.5, 0.4, 0.3)[:unit],
                maps=tuple(maps[unit, :3])[:unit],
            )
            for unit in range(units)
        ),
    }
    return UnitSummary(**(fields | changes))


def make_run(
    folder: Path,
    experiment: str = "icnn_parts",
    *,
    metrics: dict[str, Any] | None = None,
    summary: UnitSummary | None = None,
    per_unit: dict[str, torch.Tensor] | None = None,
    part_names: tuple[str, ...] = ("head", "legs"),
    **results: Any,
) -> Path:
    """Write a complete run."""
    run = folder / experiment / "2026-01-02_03-04-05"
    run.mkdir(parents=True)
    summary = summary or make_summary()
    units = len(summary.peaks)
    if per_unit is None:
        values = torch.linspace(0.1, 0.9, 2 * units).reshape(units, 2)
        per_unit = {"location_instability": values / 5, "part_interpretability": values}
    save_units(summary, run, per_unit, part_names, size=32, progress=False)
    content = {
        "experiment": experiment,
        "model": "pellucid.models.interpretable_cnn.InterpretableCNN",
        "data": "pellucid.datamodules.synthetic_parts.SyntheticParts",
        "seed": 0,
        "metrics": {
            "test/accuracy": 0.977,
            "test/location_instability": 0.064,
            "test/part_interpretability": 0.654,
            "all/accuracy": 0.981,
        }
        if metrics is None
        else metrics,
        "skipped": {"purity": "the data has no part boxes"},
        "fit_seconds": 61.25,
        "images_per_second": 812.5,
        "parameters": 1234567,
        "versions": {"torch": "2.99.1"},
        "config_sha256": "0123abcd" * 8,
    }
    (run / "results.json").write_text(json.dumps(content | results))
    (run / "config.yaml").write_text("model:\n  lr: 0.001\n")
    with (run / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "step", "train/loss", "val/loss", "val/accuracy", "lr-AdamW"])
        for epoch in range(3):
            writer.writerow([epoch, 10 * epoch, 1 / (epoch + 1), "", "", 0.1])
            writer.writerow([epoch, 10 * epoch + 9, "", 1.2 / (epoch + 1), 0.5 + 0.2 * epoch, ""])
    return run


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes a run in the test's folder."""
    return lambda *args, **changes: make_run(tmp_path, *args, **changes)
