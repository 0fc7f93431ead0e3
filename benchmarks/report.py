"""Time and size of the report: one run, and three runs of 128 units each.

    python benchmarks/report.py

The runs are made up: pictures are smooth noise, about as hard to compress as photographs with much
texture, with explanations of eight images by seven methods, confusions and attacks beside them. The
time is that of ``build_report``, from files to file, on the clock and on the processor; the limits
are 30 seconds and 15 MB for three runs, and 5 MB for one. What a page says that it lacks is
printed: a page is quick that leaves things out.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from pellucid.report.page import build_report

KINDS = ("representative", "surprising")
METHODS = (
    ("own", "Own explanation", "own"),
    ("grad_cam", "Grad-CAM", "post_hoc"),
    ("integrated_gradients", "Integrated gradients", "post_hoc"),
    ("smooth_grad", "SmoothGrad", "post_hoc"),
    ("lrp", "LRP", "post_hoc"),
    ("lime", "LIME", "post_hoc"),
    ("occlusion", "Occlusion", "post_hoc"),
    ("random_map", "Random map", "baseline"),
)
ATTACKS = ("FGSM", "PGD", "L-BFGS", "One pixel")
CLASSES = 10
KEYS = ("relevance_mass", "deletion_auc", "insertion_auc", "infidelity", "gini")


def texture(noise: np.random.Generator, width: int, height: int) -> Image.Image:
    """Smooth noise."""
    coarse = noise.integers(0, 256, (height // 3, width // 3, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def make_run(folder: Path, seed: int, units: int, images: int) -> Path:
    """A run directory with everything that a page can show."""
    noise = np.random.default_rng(seed)
    run = folder / f"run-{seed}" / "2026-01-02_03-04-05"
    (run / "images" / "units").mkdir(parents=True)
    (run / "explanations").mkdir()
    entries = []
    for unit in range(units):
        sheet, place = f"images/units/unit_{unit:03d}.jpg", f"images/units/position_{unit:03d}.jpg"
        picture = texture(noise, 340, 226)
        picture.save(run / sheet, quality=82)
        picture.crop((0, 0, 112, 112)).save(run / place, quality=82)
        strips = {kind: f"images/units/{kind}_{unit:03d}.jpg" for kind in KINDS}
        for strip in strips.values():
            texture(noise, 256, 84).save(run / strip, quality=82)
        entries.append(
            {
                "unit": unit,
                "category": f"class {unit % CLASSES}",
                "images": sheet,
                "position_image": place,
                **{f"{kind}_image": strip for kind, strip in strips.items()},
                **{kind: [{"label": f"class {unit % CLASSES}"}] * 3 for kind in KINDS},
                "location_instability": float(noise.random()),
                "part_interpretability": float(noise.random()),
                "mean_activation": {f"class {c}": float(noise.random()) for c in range(CLASSES)},
            }
        )
    (run / "units.json").write_text(json.dumps(entries))
    (run / "results.json").write_text(
        json.dumps(
            {
                "experiment": f"run-{seed}",
                "seed": seed,
                "metrics": {
                    "test/accuracy": 0.9 + 0.01 * seed,
                    "test/location_instability": 0.05,
                },
            }
        )
    )
    (run / "config.yaml").write_text(f"model:\n  lr: {seed + 1}\n")
    rows = [f"{epoch},{1 / (epoch + 1)},{1.1 / (epoch + 1)}" for epoch in range(50)]
    (run / "metrics.csv").write_text("\n".join(["epoch,train/loss,val/loss", *rows]))
    (run / "explanations.json").write_text(json.dumps(explain(run, noise, images)))
    (run / "adversarial.json").write_text(json.dumps(attack(run, noise, images)))
    counts = noise.integers(0, 50, (CLASSES, CLASSES)).tolist()
    names = [f"class {c}" for c in range(CLASSES)]
    (run / "confusion.json").write_text(json.dumps({"class_names": names, "counts": counts}))
    return run


def explain(run: Path, noise: np.random.Generator, images: int) -> dict[str, object]:
    """The evaluation of made-up explanations."""
    shown = []
    for index in range(images):
        files = [f"explanations/{index:05d}{end}.png" for end in ("", *(m[0] for m in METHODS))]
        for file in files:
            texture(noise, 224, 224).save(run / file)
        overlays = [
            {"method": name, "label": label, "file": file, "caption": "noise"}
            for (name, label, _), file in zip(METHODS, files[1:], strict=True)
        ]
        shown.append({"index": index, "image": files[0], "label": "a", "overlays": overlays})
    cell = {"mean": 0.5, "low": 0.4, "high": 0.6, "count": 64}
    return {
        "version": 1,
        "columns": [{"key": key, "higher_is_better": True, "unit": ""} for key in KEYS],
        "rows": [
            {"method": name, "label": label, "kind": kind, "cells": dict.fromkeys(KEYS, cell)}
            for name, label, kind in METHODS
        ],
        "shown": shown,
    }


def attack(run: Path, noise: np.random.Generator, images: int) -> dict[str, object]:
    """Made-up adversarial examples: image, change and what came out, side by side."""
    (run / "adversarial").mkdir()
    attacks = []
    for label in ATTACKS:
        files = [f"adversarial/{label}_{index:05d}.png" for index in range(images)]
        for file in files:
            texture(noise, 600, 246).save(run / file)
        shown = [{"file": file, "caption": "noise"} for file in files]
        norms = {"l0": 4096.0, "l2": 1.5, "linf": 0.03}
        found = {"label": label, "norms": norms, "success_rate": 0.9, "seconds": 1.0}
        attacks.append(found | {"settings": {"epsilon": 0.03}, "shown": shown})
    return {"attacks": attacks}


def main() -> None:
    """Print one line per page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--images", type=int, default=8)
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        runs = [make_run(Path(folder), s, options.units, options.images) for s in range(3)]
        for count in (1, 3):
            start, busy = time.perf_counter(), time.process_time()
            page = build_report(runs[:count], Path(folder) / f"{count}.html")
            seconds, busy = time.perf_counter() - start, time.process_time() - busy
            size, text = page.stat().st_size / 1e6, page.read_text(encoding="utf-8")
            print(
                f"{count} x {options.units} units: {seconds:.1f} s, {busy:.1f} s of processor, "
                f"{size:.2f} MB, {text.count('data:image/')} pictures"
            )
            # Piece by piece: a search over megabytes of pictures takes minutes.
            for piece in text.split("<"):
                said = piece.rpartition(">")[2].strip()
                if "left out" in said or "cannot be shown" in said:
                    print(f"  {said[:200]}")


if __name__ == "__main__":
    main()
