"""Backgrounds: a sky, a ground, texture and clutter."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pellucid.datamodules.figures.canvas import Canvas
from pellucid.datamodules.figures.shapes import COLOURS, Array, PartKind, box, disc, limb, ring

Colour = tuple[float, float, float]

SCENES: dict[str, tuple[Colour, Colour, Colour]] = {
    "meadow": ((0.52, 0.74, 0.90), (0.86, 0.93, 0.92), (0.46, 0.66, 0.34)),
    "desert": ((0.93, 0.72, 0.52), (0.98, 0.90, 0.74), (0.84, 0.66, 0.44)),
    "night": ((0.10, 0.12, 0.28), (0.30, 0.28, 0.50), (0.16, 0.24, 0.30)),
    "snow": ((0.68, 0.78, 0.86), (0.90, 0.93, 0.96), (0.84, 0.88, 0.93)),
    "sea": ((0.30, 0.58, 0.74), (0.62, 0.84, 0.86), (0.14, 0.38, 0.58)),
    "dusk": ((0.44, 0.28, 0.52), (0.96, 0.60, 0.48), (0.36, 0.24, 0.34)),
    "forest": ((0.30, 0.46, 0.36), (0.62, 0.74, 0.52), (0.22, 0.34, 0.22)),
    "cave": ((0.26, 0.24, 0.26), (0.46, 0.42, 0.40), (0.36, 0.30, 0.26)),
}
"""RGB in [0, 1] of the top of the sky, the horizon and the ground, by name."""

CLUTTER = 9
"""Distracting shapes per image, 4 to 9 of them drawn."""
_PER_SHAPE = 8
CLUTTER_DRAWS = 16 + CLUTTER * _PER_SHAPE

_SHAPES = PartKind(
    {
        "disc": lambda x, y: disc(x, y, 0, 0, 0.2),
        "bush": lambda x, y: np.minimum(
            np.minimum(disc(x, y, -0.12, 0.04, 0.12), disc(x, y, 0.12, 0.04, 0.12)),
            disc(x, y, 0, -0.06, 0.14),
        ),
        "box": lambda x, y: box(x, y, 0, 0, 0.19, 0.14, 0.02),
        "cone": lambda x, y: np.maximum(np.abs(x) * 0.91 - (y + 0.2) * 0.41, y - 0.16),
        "bar": lambda x, y: limb(x, y, (-0.2, 0, 0.045), (0.2, 0, 0.045)),
        "ring": lambda x, y: ring(x, y, 0, 0, 0.16, 0.04),
    },
    anchor=(0, 0),
    centre=(0, 0),
    reach=0.27,
)


@lru_cache(maxsize=4)
def _texture(size: int) -> Array:
    """(2 size, 2 size) float32 in about [-1, 1]: smooth noise, from which images cut windows."""
    generator = np.random.Generator(np.random.Philox(key=7))
    total = np.zeros((2 * size, 2 * size))
    for cells, weight in ((6, 0.4), (14, 0.35), (40, 0.25)):
        grid = generator.uniform(-1, 1, (cells + 1, cells + 1))
        at = np.arange(2 * size) / (2 * size) * cells
        low = at.astype(int)
        part = at - low
        part = part * part * (3 - 2 * part)
        rows = grid[low] * (1 - part)[:, None] + grid[low + 1] * part[:, None]
        total += weight * (rows[:, low] * (1 - part) + rows[:, low + 1] * part)
    return total.astype(np.float32)


def paint_scenes(canvas: Canvas, scene: NDArray[np.int64], draws: NDArray[np.float64]) -> None:
    """Fill a canvas with backgrounds.

    Args:
        canvas: Where to; whatever it held is lost.
        scene: (N,) which scene.
        draws: (N, CLUTTER_DRAWS) in [0, 1), the choices.
    """
    size, u = canvas.size, draws[:, :16].astype(np.float32)
    palette = np.array(list(SCENES.values()), dtype=np.float32)[scene]
    palette = palette + 0.10 * (u[:, None, 0:3] - 0.5) + 0.10 * (u[:, 3, None, None] - 0.5)
    at = (np.arange(size, dtype=np.float32) + 0.5) / size
    top, horizon, ground = (palette[:, i, :, None, None] for i in range(3))
    sky = top + (horizon - top) * at[None, None, :, None]
    # The land's edge is a parabola: its height at the centre, its slope and its bend are random.
    across = at - 0.5
    bend = 1.2 * (u[:, 6, None] - 0.5) * across**2
    height = 0.45 + 0.4 * u[:, 4, None] + 0.5 * (u[:, 5, None] - 0.5) * across + bend
    cover = np.clip(0.5 + size * (at[None, :, None] - height[:, None, :]), 0, 1)[:, None]
    np.multiply(ground - sky, cover, out=canvas.image)
    canvas.image += sky
    windows = np.lib.stride_tricks.sliding_window_view(_texture(size), (size, size))
    offset = np.floor(u[:, 7:9] * size).astype(np.int64)
    contrast = 0.05 + 0.14 * u[:, 9, None, None]
    canvas.image += (contrast * windows[offset[:, 0], offset[:, 1]])[:, None]
    _paint_clutter(canvas, palette, draws[:, 16:])


def _paint_clutter(canvas: Canvas, palette: Array, draws: NDArray[np.float64]) -> None:
    """Scatter shapes, half of them in the colours of parts, half in those of the scene."""
    count = len(draws)
    part_colours = np.array(list(COLOURS.values()), dtype=np.float32)
    every = np.arange(count)
    present = np.floor(4 + draws[:, 0] * (CLUTTER - 3))
    for number in range(CLUTTER):
        u = draws[:, number * _PER_SHAPE : (number + 1) * _PER_SHAPE]
        rows = np.flatnonzero(number < present)
        own = part_colours[(u[:, 1] * len(part_colours)).astype(int)]
        of_scene = palette[every, (u[:, 2] * 3).astype(int)]
        of_scene = of_scene + (0.5 * (u[:, 3] - 0.5))[:, None].astype(np.float32)
        colour = np.where(u[:, 4, None] < 0.5, own, np.clip(of_scene, 0.05, 0.95))
        canvas.paint(
            _SHAPES,
            rows=rows,
            shape=(u[:, 5] * len(_SHAPES.shapes)).astype(np.int64)[rows],
            colour=colour[rows].astype(np.float32),
            frame=canvas.frame(
                u[rows, 6] * canvas.size,
                u[rows, 7] * canvas.size,
                np.degrees(0.8) * (u[rows, 3] - 0.5),
                canvas.size * (0.3 + 0.3 * u[rows, 2]),
            ),
            unit_max=canvas.size * 0.6,
            outline=0.0,
        )
