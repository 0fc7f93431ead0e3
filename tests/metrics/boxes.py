"""The parts of a unit in loops, as Huang et al. define them, and data to try them on."""

import math
from typing import Any

import torch
from torch import Tensor

SIZE = (18, 24)
NAMES = ("head", "leg", "tail")


def images(count: int = 13, units: int = 4, seed: int = 0) -> dict[str, Any]:
    """Landmarks about the peaks of three units, some hidden; an image without; a dead unit."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(count, units, 4, 5, generator=generator)
    maps[:, 1] = 0.0
    cell = maps[:, [0, 2, 3]].flatten(2).argmax(2)
    parts = torch.stack((cell % 5 * 4.8 + 1.9, cell // 5 * 4.5 + 1.75), 2)
    spread = torch.tensor([1.0, 3.0, 9.0])[:, None]
    parts = parts + spread * torch.randn(count, 3, 2, generator=generator)
    visible = torch.rand(count, 3, generator=generator) < 0.7
    visible[5] = False
    parts[~visible] = torch.nan
    return {"maps": maps, "parts": parts, "part_visible": visible, "image_size": SIZE}


def rows(data: dict[str, Any], chosen: Any) -> dict[str, Any]:
    return {k: v[chosen] if isinstance(v, Tensor) else v for k, v in data.items()}


def own_category(data: dict[str, Any], label: list[int]) -> list[list[bool]]:
    """For each image and unit, whether the image is of the unit's category.

    It is the one with the greatest mean of the map, of those with an image that shows a part.
    """
    known = sorted({label[i] for i, seen in enumerate(data["part_visible"]) if seen.any()})
    own = [[] for _ in label]
    for unit in range(data["maps"].shape[1]):
        means = {}
        for category in known:
            chosen = [i for i, k in enumerate(label) if k == category]
            means[category] = sum(float(data["maps"][i, unit].mean()) for i in chosen) / len(chosen)
        best = max(known, key=lambda k: (means[k], -k))
        for image, k in enumerate(label):
            own[image].append(k == best)
    return own


def keys_weights(place: float, cells: int) -> list[float]:
    """Weight of each cell at a place between cells: cubic convolution with a = -0.75."""
    weights = [0.0] * cells
    first = math.floor(place) - 1
    for cell in range(first, first + 4):
        d = abs(place - cell)
        if d <= 1:
            weight = 1.25 * d**3 - 2.25 * d**2 + 1
        else:
            weight = -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
        weights[min(max(cell, 0), cells - 1)] += weight
    return weights


def bicubic(grid: list[list[float]], height: int, width: int) -> list[list[float]]:
    """A map enlarged to the image."""
    h, w = len(grid), len(grid[0])
    down = [keys_weights((y + 0.5) * h / height - 0.5, h) for y in range(height)]
    across = [keys_weights((x + 0.5) * w / width - 0.5, w) for x in range(width)]
    lines = [[sum(a * v for a, v in zip(xs, r, strict=True)) for xs in across] for r in grid]
    return [[sum(ys[i] * lines[i][x] for i in range(h)) for x in range(width)] for ys in down]


def cubic_peak(grid: list[list[float]], height: int, width: int) -> tuple[int, int]:
    """(x, y) of the first of the greatest pixels of the enlarged map."""
    large = bicubic(grid, height, width)
    most = max(max(line) for line in large)
    y, x = next((y, x) for y in range(height) for x in range(width) if large[y][x] == most)
    return x, y


def presence(data: dict[str, Any], maps: Tensor, box: float) -> list[list[list[bool | None]]]:
    """For each image, unit and part whether it is in the box; None where it is hidden."""
    height, width = data["image_size"]
    found = []
    for image, per_unit in enumerate(maps.tolist()):
        found.append([])
        for grid in per_unit:
            x, y = cubic_peak(grid, height, width)
            line = []
            for part, (px, py) in enumerate(data["parts"][image].tolist()):
                inside = abs(px - x) <= box * width / 2 and abs(py - y) <= box * height / 2
                line.append(inside if data["part_visible"][image, part] else None)
            found[-1].append(line)
    return found
