"""What `pellucid evaluate` and attacks leave in a run directory, made without any model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

METHODS = (
    ("own", "Own explanation", "own", 0.72),
    ("grad_cam", "Grad-CAM", "post_hoc", 0.58),
    ("integrated_gradients", "Integrated gradients", "post_hoc", 0.41),
    ("lime", "LIME", "post_hoc", None),
    ("random_map", "Random map", "baseline", 0.22),
    ("edge_detector", "Edge detector", "baseline", 0.37),
)
COLUMNS = (
    ("relevance_mass", True, "fraction"),
    ("deletion_auc", False, "probability"),
    ("infidelity", False, ""),
    ("sparseness", None, ""),
)


def cell(mean: float | None, spread: float = 0.05) -> dict[str, Any] | None:
    if mean is None:
        return None
    return {"mean": mean, "low": mean - spread, "high": mean + spread, "count": 64}


def draw(size: int, seed: int) -> tuple[Image.Image, np.ndarray]:
    """A picture with two blobs on a striped ground, and where the blobs are."""
    noise = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    ground = 150 + 40 * np.sin(18 * (x + y * noise.uniform(-1, 1)))
    picture = np.stack([ground, ground * 0.95, ground * 0.85], -1)
    blob = np.zeros((size, size))
    for _ in range(2):
        cx, cy = noise.uniform(0.25, 0.75, 2)
        spot = ((x - cx) ** 2 + (y - cy) ** 2) < 0.018
        picture[spot] = noise.integers(30, 240, 3)
        blob = np.maximum(blob, np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 0.02))
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8)), blob


def heat(picture: Image.Image, blob: np.ndarray, shift: int) -> Image.Image:
    """A map over the grey image, moved aside so that methods look different."""
    grey = np.asarray(picture.convert("L").convert("RGB"), dtype=np.float32)
    strength = np.roll(blob, shift, 1)[..., None]
    hot = np.array([250, 110 - 10 * shift % 100, 30])
    return Image.fromarray((grey * (1 - 0.75 * strength) + hot * 0.75 * strength).astype(np.uint8))


def write_explanations(
    run: Path,
    *,
    images: int = 4,
    size: int = 64,
    labels: Sequence[str] = ("fox", "bear"),
    methods: Sequence[tuple[str, str, str, float | None]] = METHODS,
    **changes: Any,
) -> Path:
    """Write ``explanations.json`` and its pictures."""
    folder = run / "explanations"
    folder.mkdir(exist_ok=True)
    shown = []
    for index in range(images):
        picture, blob = draw(size, index)
        picture.save(folder / f"{index:05d}.png")
        overlays = []
        for place, (name, label, kind, _) in enumerate(methods):
            if kind == "baseline":
                continue
            file = f"explanations/{index:05d}_{name}.png"
            heat(picture, blob, 4 * place).save(run / file)
            overlays.append(
                {
                    "method": name,
                    "label": label,
                    "file": file,
                    "caption": "Warm colours speak for the class; cut at the 99th percentile.",
                    "completeness_error": 2.5e-4 if name == "integrated_gradients" else None,
                }
            )
        label = labels[index % len(labels)]
        shown.append(
            {
                "index": 17 * index,
                "image": f"explanations/{index:05d}.png",
                "label": label,
                "predicted": labels[0] if index == 1 else label,
                "score": 3.2 - index,
                "why": "picked: covers the units that no other image shows",
                "overlays": overlays,
            }
        )
    names = [name for name, *_ in methods]
    rows = [
        {
            "method": name,
            "label": label,
            "kind": kind,
            "cells": {
                "relevance_mass": cell(value),
                "deletion_auc": cell(None if value is None else 0.9 - value),
                "infidelity": cell(None if value is None else 0.01 / value, 0.002),
                "sparseness": cell(value),
            },
            "randomised": {"relevance_mass": cell(0.3)} if kind == "post_hoc" and value else {},
            "seconds_per_image": 0.002 * (place + 1),
            "note": "refused: layer features.3 has no gradient" if value is None else "",
        }
        for place, (name, label, kind, value) in enumerate(methods)
    ]
    correlation = [
        [1.0 if i == j else round(0.9 - 0.25 * abs(i - j), 2) for j in range(len(names))]
        for i in range(len(names))
    ]
    content = {
        "version": 1,
        "images": 64,
        "split": "test",
        "seed": 0,
        "checkpoint": "best.ckpt",
        "versions": {"torch": "2.99.1"},
        "seconds": 41.2,
        "target": "predicted class",
        "columns": [
            {"key": key, "higher_is_better": better, "unit": unit} for key, better, unit in COLUMNS
        ],
        "rows": rows,
        "agreement": {"methods": names, "rank_correlation": correlation},
        "part_effects": {
            "parts": ["head", "legs"],
            "rows": [
                {"method": name, "correlation": cell(value - 0.1, 0.1)}
                for name, _, _, value in methods
                if value is not None
            ],
            "true_effect": {"head": 1.9, "legs": 0.4},
            "true_effect_unit": "probability",
        },
        "skipped": {"max_sensitivity": "turned off by --metrics"},
        "shown": shown,
    }
    path = run / "explanations.json"
    path.write_text(json.dumps(content | changes))
    return path


def write_adversarial(run: Path, caption: str = "fox becomes bear") -> Path:
    """Write ``adversarial.json`` and its pictures."""
    folder = run / "adversarial"
    folder.mkdir(exist_ok=True)
    attacks = []
    for place, (name, label) in enumerate((("fgsm", "FGSM"), ("one_pixel", "One pixel"))):
        file = f"adversarial/{name}.png"
        draw(64, 50 + place)[0].save(run / file)
        attacks.append(
            {
                "name": name,
                "label": label,
                "success_rate": 0.75 - 0.5 * place,
                "norms": {"l0": 3000 if not place else 1, "l2": 0.8, "linf": 0.03 + place},
                "settings": {"epsilon": 0.03, "steps": 10},
                "seconds": 1.5 + place,
                "shown": [{"index": 3, "file": file, "caption": caption}],
            }
        )
    path = run / "adversarial.json"
    path.write_text(json.dumps({"attacks": attacks}))
    return path


def write_confusion(run: Path, names: Sequence[str] = ("fox", "bear"), wrong: int = 3) -> Path:
    """Write ``confusion.json`` of 40 test images, of which some are taken for the next class."""
    label = [i % len(names) for i in range(40)]
    predicted = [(n + 1) % len(names) if i < wrong else n for i, n in enumerate(label)]
    counts = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(counts, (label, predicted), 1)
    content = {
        "split": "test",
        "class_names": list(names),
        "counts": counts.tolist(),
        "index": list(range(40)),
        "label": label,
        "predicted": predicted,
    }
    path = run / "confusion.json"
    path.write_text(json.dumps(content))
    return path
