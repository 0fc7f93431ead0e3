"""A stack of images that shapes are painted on, each shape in a small window of its image."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pellucid.datamodules.figures.shapes import Array, PartKind

OUTLINE = 0.032
"""Width of the dark edge of parts in figure units."""


@dataclass(frozen=True)
class Frame:
    """Where N parts are: each a coordinate system in its image. All fields are (N,) float32.

    A point ``q`` of the frame is at ``(x, y) + unit * M R q``, where R turns by the angle and M
    mirrors left and right; pixels, with the corner (not the centre) of the first pixel at 0.
    """

    x: Array
    y: Array
    angle: Array
    unit: Array
    mirror: Array

    def at(self, qx: float, qy: float) -> tuple[Array, Array]:
        """Where a point of the frames is in the images: x and y, each (N,)."""
        cos, sin = self.direction()
        x = self.x + self.unit * self.mirror * (cos * qx - sin * qy)
        return x, self.y + self.unit * (sin * qx + cos * qy)

    def direction(self) -> tuple[Array, Array]:
        """Cosine and sine of the angle."""
        radians = np.radians(self.angle.astype(np.float64))
        return np.cos(radians).astype(np.float32), np.sin(radians).astype(np.float32)

    def joint(self, qx: float, qy: float, turn: Array | float = 0.0) -> Self:
        """Frames that begin at a point of these ones and are turned by degrees against them."""
        x, y = self.at(qx, qy)
        return replace(self, x=x, y=y, angle=(self.angle + turn).astype(np.float32))

    def __getitem__(self, rows: NDArray[np.int64]) -> Self:
        return replace(
            self,
            x=self.x[rows],
            y=self.y[rows],
            angle=self.angle[rows],
            unit=self.unit[rows],
            mirror=self.mirror[rows],
        )


class Canvas:
    """N images and, for each pixel, the part that is in front there.

    Arithmetic on pixels is limited to operations that IEEE 754 rounds exactly, so that an image
    has the same bytes alone and among others.

    Args:
        count: Number of images, N.
        size: Height and width in pixels.
    """

    def __init__(self, count: int, size: int) -> None:
        self.size = size
        self.image: Array = np.empty((count, 3, size, size), dtype=np.float32)
        """(N, 3, size, size) RGB in about [0, 1]."""
        self.front = np.zeros((count, size, size), dtype=np.uint8)
        """(N, size, size) 0 where there is background, else 1 + number of the part."""

    def frame(
        self,
        x: Array,
        y: Array,
        angle: Array,
        unit: Array,
        mirror: Array | None = None,
    ) -> Frame:
        """Frames from (N,) numbers of any type."""
        mirror = np.ones_like(x) if mirror is None else mirror
        return Frame(*(np.asarray(v, dtype=np.float32) for v in (x, y, angle, unit, mirror)))

    def paint(
        self,
        kind: PartKind,
        *,
        rows: NDArray[np.int64],
        shape: NDArray[np.int64],
        colour: Array,
        frame: Frame,
        unit_max: float,
        number: int | None = None,
        outline: float = OUTLINE,
    ) -> None:
        """Paint one part on some of the images, in front of whatever they show.

        Args:
            kind: Kind of the part.
            rows: (n,) the images, each at most once.
            shape: (n,) which of the kind's shapes.
            colour: (n, 3) RGB.
            frame: The n frames of the part.
            unit_max: Largest unit that frames can have, in pixels; sets the window's side.
            number: Number of the part, for :attr:`front`; None: the part counts as background.
            outline: Width of the dark edge in figure units.
        """
        side = min(self.size, 2 * int(np.ceil(kind.reach * unit_max)) + 3)
        for variant, distance in enumerate(kind.shapes.values()):
            chosen = np.flatnonzero(shape == variant)
            if not len(chosen):
                continue
            here = frame[chosen]
            left, top = (
                np.clip(np.floor(centre - side / 2), 0, self.size - side).astype(np.int64)
                for centre in here.at(*kind.centre)
            )
            x, y, height = self._coordinates(here, left, top, side)
            unit = here.unit[:, None]
            inside = distance(x, y)
            inside *= -unit
            cover = np.clip(inside + 0.5, 0, 1)
            tone = 1.05 - 0.35 * height
            if outline:
                # Never thinner than a pixel, or small images lose it.
                edge = np.maximum(outline * unit, 0.8)
                tone *= 0.42 + 0.58 * np.clip(inside + (0.5 - edge), 0, 1)
            place = (rows[chosen], top, left)
            self._blend(place, side, cover, tone, colour[chosen], number)

    def _coordinates(
        self, frame: Frame, left: NDArray[np.int64], top: NDArray[np.int64], side: int
    ) -> tuple[Array, Array, Array]:
        """Where the pixels of windows are, in figure units.

        Returns:
            Coordinates x and y in the frame, and how far the pixel is below the frame's origin in
            the image; each (n, side * side).
        """
        steps = np.arange(side, dtype=np.float32) + 0.5
        per_unit = 1 / frame.unit
        across = (left[:, None] + steps - frame.x[:, None]) * (per_unit * frame.mirror)[:, None]
        down = (top[:, None] + steps - frame.y[:, None]) * per_unit[:, None]
        dx = across.astype(np.float32)[:, None, :]
        dy = down.astype(np.float32)[:, :, None]
        cos, sin = (v[:, None, None] for v in frame.direction())
        shape = (len(left), side * side)
        height = np.broadcast_to(dy, (len(left), side, side)).reshape(shape)
        return (cos * dx + sin * dy).reshape(shape), (cos * dy - sin * dx).reshape(shape), height

    def _blend(
        self,
        place: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
        side: int,
        cover: Array,
        tone: Array,
        colour: Array,
        number: int | None,
    ) -> None:
        """Lay a colour, (n, 3), times a tone over windows at (row, top, left)."""
        row, top, left = place
        n = len(row)
        windows = np.lib.stride_tricks.sliding_window_view(
            self.image, (side, side), axis=(2, 3), writeable=True
        )
        patch = windows[row, :, top, left].reshape(n, 3, side * side)
        paint = colour[:, :, None] * tone[:, None]
        paint -= patch
        paint *= cover[:, None]
        paint += patch
        windows[row, :, top, left] = paint.reshape(n, 3, side, side)
        if number is not None:
            fronts = np.lib.stride_tricks.sliding_window_view(
                self.front, (side, side), axis=(1, 2), writeable=True
            )
            front = fronts[row, top, left]
            front[cover.reshape(n, side, side) > 0.5] = number + 1
            fronts[row, top, left] = front
