"""Draws figures: the same ones at any size, whole or without chosen parts."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from pellucid.datamodules.figures.canvas import Canvas, Frame
from pellucid.datamodules.figures.scenes import paint_scenes
from pellucid.datamodules.figures.shapes import (
    COLOURS,
    EYE,
    KINDS,
    PARTS,
    PUPIL,
    SHAPES,
    Array,
)
from pellucid.datamodules.figures.specs import FACTORS, TINT_DRAWS, FigureSpecs

SIZE_MIN, SIZE_MAX = 32, 256
_PIXELS_PER_CHUNK = 192 * 64 * 64
_SCALE_MAX = FACTORS["scale"].high / 1000


@dataclass(frozen=True)
class RenderedFigures:
    """N figures as pictures.

    Attributes:
        images: (N, 3, H, W) uint8, RGB.
        front: (N, H, W) uint8: 0 for background, else 1 + the part that is in front there, that
            is, that covers more than half of the pixel and that nothing hides.
        landmarks: (N, P, 2) float32, anatomical centre of each part as (x, y) in pixels, with the
            centre of the first pixel at (0, 0). Known for hidden and removed parts too.
        visible: (N, P) bool: some of the part is seen and its landmark is inside the image.
    """

    images: Tensor
    front: Tensor
    landmarks: Tensor
    visible: Tensor

    @property
    def part_masks(self) -> Tensor:
        """(N, P, H, W) bool, the visible pixels of each part; they do not overlap."""
        return part_masks(self.front)

    @property
    def mask(self) -> Tensor:
        """(N, H, W) bool, the figure: all its parts together."""
        return self.front > 0


def part_masks(front: Tensor) -> Tensor:
    """(..., P, H, W) bool, the mask of each part, from :attr:`RenderedFigures.front`."""
    numbers = torch.arange(1, len(PARTS) + 1, dtype=torch.uint8)
    return front.unsqueeze(-3) == numbers[:, None, None]


def check_parts(remove_parts: Sequence[str]) -> tuple[str, ...]:
    """Check names of parts.

    Raises:
        ValueError: There is no such part.
    """
    if isinstance(remove_parts, str):
        raise ValueError(f"remove_parts must be a list of names, got {remove_parts!r}: write one")
    for name in remove_parts:
        if name not in PARTS:
            raise ValueError(
                f"remove_parts has {name!r}, which is no part; choose from {', '.join(PARTS)}"
            )
    return tuple(remove_parts)


def render_figures(
    specs: FigureSpecs, size: int, remove_parts: Sequence[str] = ()
) -> RenderedFigures:
    """Draw figures.

    Args:
        specs: The figures.
        size: Height and width in pixels, 32 to 256.
        remove_parts: Parts to leave out; all else stays as it is.

    Returns:
        The pictures. Each depends on its own figure alone, not on the others.

    Raises:
        ValueError: The size is out of range, or there is no such part.
    """
    removed = check_parts(remove_parts)
    if not SIZE_MIN <= size <= SIZE_MAX:
        raise ValueError(
            f"size must be from {SIZE_MIN} to {SIZE_MAX} pixels, got {size}: choose one of these"
        )
    step = max(1, _PIXELS_PER_CHUNK // size**2)
    chunks = [specs[slice(start, start + step)] for start in range(0, len(specs), step)]
    shape = (len(specs), size, size)
    rendered = RenderedFigures(
        images=torch.empty((len(specs), 3, size, size), dtype=torch.uint8),
        front=torch.empty(shape, dtype=torch.uint8),
        landmarks=torch.empty((len(specs), len(PARTS), 2)),
        visible=torch.empty((len(specs), len(PARTS)), dtype=torch.bool),
    )

    def draw(number: int) -> int:
        done = _render_chunk(chunks[number], size, removed)
        for field in fields(RenderedFigures):
            whole = getattr(rendered, field.name)
            whole[number * step : (number + 1) * step] = getattr(done, field.name)
        return len(chunks[number])

    if len(chunks) < 2:
        for number in range(len(chunks)):
            draw(number)
        return rendered
    # NumPy lets go of the interpreter while it computes, so threads share the work.
    with (
        ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool,
        tqdm(total=len(specs), desc="drawing figures", unit="image", delay=2, leave=False) as bar,
    ):
        for count in pool.map(draw, range(len(chunks))):
            bar.update(count)
    return rendered


def _render_chunk(specs: FigureSpecs, size: int, removed: tuple[str, ...]) -> RenderedFigures:
    canvas = Canvas(len(specs), size)
    paint_scenes(canvas, specs.factor("scene"), specs.nuisance[:, TINT_DRAWS:])
    frames = _frames(canvas, specs)
    _paint_figures(canvas, specs, frames, removed)
    image = canvas.image
    np.clip(image, 0, 1, out=image)
    image *= 255
    image += 0.5
    # The corner of the first pixel is at 0 in frames, its centre in landmarks.
    points = [np.stack(frames[name].at(*KINDS[name].anchor), axis=-1) - 0.5 for name in PARTS]
    landmarks = np.stack(points, axis=1)
    inside = ((landmarks >= -0.5) & (landmarks < size - 0.5)).all(axis=-1)
    flat = canvas.front.reshape(len(specs), -1)
    seen = np.stack([(flat == number + 1).any(axis=1) for number in range(len(PARTS))], axis=1)
    return RenderedFigures(
        images=torch.from_numpy(image.astype(np.uint8)),
        front=torch.from_numpy(canvas.front),
        landmarks=torch.from_numpy(landmarks),
        visible=torch.from_numpy(inside & seen),
    )


def _frames(canvas: Canvas, specs: FigureSpecs) -> dict[str, Frame]:
    """The skeleton: the frame of each part, of the eye, and of the far legs."""

    def turn(name: str) -> Array:
        return specs.factor(f"{name}_angle").astype(np.float32)

    size = canvas.size
    mirror = 1.0 - 2.0 * specs.factor("mirror")
    unit = specs.factor("scale") / 1000 * size / 2
    middle = canvas.frame(
        (0.5 + specs.factor("x") / 1000) * size,
        (0.5 + specs.factor("y") / 1000) * size,
        specs.factor("rotation").astype(np.float64),
        unit,
        mirror,
    )
    # The figure's middle is not its body's: heads and legs balance it.
    body = middle.joint(0.06, 0.12)
    head = body.joint(0.3, -0.16, turn("head")).joint(0.16, -0.2)
    return {
        "head": head,
        "eye": head.joint(0.07, -0.06),
        "ears": head.joint(-0.06, -0.18, turn("ears")),
        "body": body,
        "back": body.joint(0.04, -0.17, turn("back")),
        "front_legs": body.joint(0.22, 0.13, turn("front_legs")),
        "far_front_legs": body.joint(0.32, 0.11, -turn("front_legs")),
        "hind_legs": body.joint(-0.26, 0.13, turn("hind_legs")),
        "far_hind_legs": body.joint(-0.15, 0.11, -turn("hind_legs")),
        "tail": body.joint(-0.36, -0.08, turn("tail")),
    }


def _paint_figures(
    canvas: Canvas, specs: FigureSpecs, frames: dict[str, Frame], removed: tuple[str, ...]
) -> None:
    """Paint all parts, the farthest first."""
    rows = np.arange(len(specs))
    colours = _colours(specs)

    def paint(name: str, frame: str = "", shade: float = 1.0) -> None:
        if name in removed:
            return
        look = "legs" if name.endswith("_legs") else name
        canvas.paint(
            KINDS[name],
            rows=rows,
            shape=specs.factor(f"{look}_shape"),
            colour=shade * colours[look],
            frame=frames[frame or name],
            unit_max=_SCALE_MAX * canvas.size / 2,
            number=PARTS.index(name),
        )

    paint("tail")
    paint("front_legs", "far_front_legs", shade=0.75)
    paint("hind_legs", "far_hind_legs", shade=0.75)
    for name in ("body", "back", "hind_legs", "front_legs", "ears", "head"):
        paint(name)
    if "head" not in removed:
        for kind, grey in ((EYE, 1.0), (PUPIL, 0.08)):
            canvas.paint(
                kind,
                rows=rows,
                shape=np.zeros_like(rows),
                colour=np.full((len(rows), 3), grey, dtype=np.float32),
                frame=frames["eye"],
                unit_max=_SCALE_MAX * canvas.size / 2,
                number=PARTS.index("head"),
                outline=0.0,
            )


def _colours(specs: FigureSpecs) -> dict[str, NDArray[np.float32]]:
    """(N, 3) RGB by part, each a little off its name's colour."""
    palette = np.array(list(COLOURS.values()), dtype=np.float32)
    tints = 0.1 * (specs.nuisance[:, :TINT_DRAWS].astype(np.float32) - 0.5)
    return {
        part: palette[specs.factor(f"{part}_colour")] + tints[:, 3 * i : 3 * i + 3]
        for i, part in enumerate(SHAPES)
    }
