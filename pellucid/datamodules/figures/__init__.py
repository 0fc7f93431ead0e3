"""Little creatures drawn from parts: what they are made of, and the renderer that draws them."""

from pellucid.datamodules.figures.render import RenderedFigures, render_figures
from pellucid.datamodules.figures.shapes import COLOURS, PARTS, SHAPES
from pellucid.datamodules.figures.specs import FACTOR_NAMES, FACTORS, FigureSpecs, draw_specs

__all__ = [
    "COLOURS",
    "FACTORS",
    "FACTOR_NAMES",
    "PARTS",
    "SHAPES",
    "FigureSpecs",
    "RenderedFigures",
    "draw_specs",
    "render_figures",
]
