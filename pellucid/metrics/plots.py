"""Pictures of units and parts that several metrics draw.

They use matplotlib's objects without its global state, so they work in any process or thread.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by people with any kind of colour vision (Okabe and Ito, 2008).
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
HIGHLIGHT = "#FF7A1A"


def unit_rows(
    figures: Tensor, names: Sequence[str], label: str, limit: float | None = None
) -> tuple["Figure", "Axes"]:
    """One row of dots for each column of a table, with the row's mean.

    Args:
        figures: (U, P) float, on the CPU; NaN is left out.
        names: Name of each row.
        label: What the figures are, with their unit.
        limit: Greatest value that a figure can have; None: as the figures have it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 1.3 + 0.55 * len(names)), layout="constrained")
    axes = figure.subplots()
    # The same jitter at each call: a golden-ratio sequence fills the row evenly.
    jitter = (torch.arange(len(figures)) * 0.6180339887 % 1 - 0.5) * 0.5
    for row, name in enumerate(names):
        column = figures[:, row]
        real = ~column.isnan()
        colour = COLOURS[row % len(COLOURS)]
        axes.scatter(column[real], row + jitter[real], s=9, alpha=0.5, color=colour, lw=0)
        if not real.any():
            axes.text(0.01, row, f"{name}: too few images", va="center", fontsize=8)
            continue
        mean = float(column[real].mean())
        axes.plot([mean, mean], [row - 0.38, row + 0.38], color="black", lw=1.5)
        axes.annotate(
            f"mean {mean:.3f}",
            (mean, row - 0.38),
            xytext=(3, 1),
            textcoords="offset points",
            fontsize=8,
            va="center",
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.6)
    if limit is None:
        axes.set_xlim(left=0)
    else:
        # Half a dot of room on either side.
        axes.set_xlim(-0.015 * limit, 1.015 * limit)
    axes.set_xlabel(label)
    axes.set_title(f"{len(figures)} units, one dot each", fontsize=9)
    _open_frame(axes)
    return figure, axes


def position_spread(positions: Tensor, image: Tensor | None) -> tuple["Figure", "Axes"]:
    """Positions, their mean, and the ellipses of 1 and 2 standard deviations.

    Args:
        positions: (N, 2) float, on the CPU, (x, y) as shares of the image's width and height.
        image: (3, H, W) or (1, H, W), uint8 or float in [0, 1], drawn pale; None: an empty square.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 4.6), layout="constrained")
    axes = figure.subplots()
    width, height = show_image(axes, image, pale=True)
    points = positions.double() * torch.tensor([width, height], dtype=torch.float64)
    nothing = torch.full((2, 2), torch.nan)
    mean = points.mean(0) if len(points) else nothing[0]
    draw_spread(axes, mean, points.T.cov() if len(points) > 1 else nothing, points, scale=2.0)
    if len(points):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=3, fontsize=8)
    return figure, axes


def draw_spread(
    axes: "Axes", mean: Tensor, covariance: Tensor, points: Tensor | None, *, scale: float = 1.0
) -> None:
    """Draw positions, their mean, and the ellipses of 1 and 2 standard deviations.

    A dot lets shine through what is below it: the darker a place, the more positions lie there.

    Args:
        axes: Where to draw.
        mean: (2,) float, on the CPU, (x, y) in the units of the axes; NaN: none.
        covariance: (2, 2), in their square; NaN: no ellipse.
        points: (N, 2) single positions; NaN where there is none.
        scale: Width of the thinnest line, in points.
    """
    from matplotlib.patches import Ellipse
    from matplotlib.patheffects import Normal, Stroke

    if points is not None:
        x, y = points[points.isfinite().all(-1)].T.tolist()
        # Moved to whole pixels, small dots would miss their place by as much as they are wide.
        style: dict[str, Any] = {"color": "#141820", "alpha": 0.43, "lw": 0, "snap": False}
        axes.scatter(x, y, s=(2.2 * scale) ** 2, **style)
    if not mean.isfinite().all():
        return
    style = {"color": HIGHLIGHT, "markeredgecolor": "white", "mew": scale}
    axes.plot(*mean.tolist(), "o", ms=5.8 * scale, label="mean", zorder=4, **style)
    if covariance.isfinite().all():
        # Principal axes of the covariance; rounding may leave a tiny negative variance.
        variances, directions = torch.linalg.eigh(covariance.double())
        low, high = variances.clamp(min=0).sqrt().tolist()
        angle = float(torch.rad2deg(torch.atan2(directions[1, 1], directions[0, 1])))
        for sigmas, width in ((1, 2 * scale), (2, scale)):
            casing = Stroke(linewidth=width + scale, foreground="white", alpha=0.67)
            axes.add_patch(
                Ellipse(
                    (float(mean[0]), float(mean[1])),
                    2 * sigmas * high,
                    2 * sigmas * low,
                    angle=angle,
                    fill=False,
                    color=HIGHLIGHT,
                    lw=width,
                    label=f"{sigmas} sigma",
                    path_effects=[casing, Normal()],
                    zorder=2 + 1 / sigmas,
                )
            )


def part_bars(
    rates: Sequence[float], names: Sequence[str], label: str, image: Tensor | None
) -> tuple["Figure", "Axes"]:
    """A horizontal bar for each part, to the right of an image if there is one.

    Args:
        rates: Share of images for each part, in [0, 1] or NaN.
        names: Names of the parts.
        label: What the shares are.
        image: (3, H, W) or (1, H, W), uint8 or float in [0, 1], for ``figure.axes[0]``; None: the
            bars alone.
    """
    from matplotlib.figure import Figure

    height = max(1.5 + 0.4 * len(names), 0.0 if image is None else 3.2)
    figure = Figure(figsize=(4.2 if image is None else 7.6, height), layout="constrained")
    if image is None:
        axes = figure.subplots()
    else:
        left, axes = figure.subplots(1, 2, width_ratios=(3, 4))
        show_image(left, image)
    for row, rate in enumerate(rates):
        shown = rate == rate
        axes.barh(row, rate if shown else 0.0, 0.7, color=COLOURS[row % len(COLOURS)])
        axes.annotate(
            f"{rate:.2f}" if shown else "never shown",
            (rate if shown else 0.0, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    # Room for the figure beside a full bar.
    axes.set_xlim(0, 1.15)
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.set_xlabel(label)
    _open_frame(axes)
    return figure, axes


def draw_region(
    axes: "Axes",
    image: Tensor,
    unit_map: Tensor | None,
    threshold: float,
    part_masks: Tensor | None,
) -> None:
    """Darken an image where a unit does not fire, and outline the parts in their bars' colours.

    Args:
        axes: Where :func:`show_image` has shown the image.
        image: (C, H, W).
        unit_map: (h, w) the unit's map; None: nothing is darkened.
        threshold: The unit fires where the map, upsampled bilinearly, is above it.
        part_masks: (P, H, W) bool; None: no outlines.
    """
    height, width = image.shape[-2:]
    if unit_map is not None:
        large = F.interpolate(
            unit_map.detach().cpu().float()[None, None], size=(height, width), mode="bilinear"
        )[0, 0]
        shade = torch.zeros(height, width, 4)
        shade[..., 3] = 0.65 * (large <= threshold)
        axes.imshow(shade.numpy(), extent=(0, width, height, 0))
    for number, mask in enumerate(() if part_masks is None else part_masks.cpu()):
        # A frame of zeros closes outlines at the image's edge.
        framed = F.pad(mask.float(), (1, 1, 1, 1))
        if mask.any():
            axes.contour(
                torch.arange(width + 2) - 0.5,
                torch.arange(height + 2) - 0.5,
                framed.numpy(),
                levels=[0.5],
                colors=[COLOURS[number % len(COLOURS)]],
                linewidths=1.8,
            )


def show_image(axes: "Axes", image: Tensor | None, *, pale: bool = False) -> tuple[float, float]:
    """Show an image, or an empty square, without ticks.

    Args:
        axes: Where to draw; x runs from 0 to the image's width, y downwards to its height.
        image: (3, H, W) or (1, H, W), uint8 or float in [0, 1]; None: nothing, of size 1.
        pale: Whether to take colour and contrast back, for what is drawn on top.

    Returns:
        Width and height in the units of the axes.

    Raises:
        ValueError: If the image has another shape.
    """
    width, height = 1.0, 1.0
    if image is not None:
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise ValueError(
                f"image must have shape (3, H, W) or (1, H, W), got {tuple(image.shape)}"
            )
        pixels = image.detach().cpu()
        pixels = pixels.float().clamp(0, 1) if pixels.is_floating_point() else pixels / 255
        if pale:
            grey = reduce(pixels, "c h w -> 1 h w", "mean")
            pixels = 0.35 * pixels + 0.65 * (0.5 * grey + 0.43)
        height, width = (float(size) for size in pixels.shape[1:])
        shown: Any = rearrange(pixels, "c h w -> h w c").squeeze(-1).numpy()
        axes.imshow(shown, cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    return width, height


def _open_frame(axes: "Axes") -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
