"""Pictures of adversarial examples: the image, what was added to it, and what came out."""

import textwrap

from einops import rearrange
from matplotlib.figure import Figure
from torch import Tensor

from pellucid.logging import figure_picture
from pellucid.report.drawing import Picture

_PANEL = 200
_TITLE = 46
_GREY = 0.5


def magnification(image: Tensor, adversarial: Tensor) -> float:
    """By how much a change is magnified until its largest value spans half of the image range.

    Args:
        image: (C, H, W) in [0, 1].
        adversarial: Likewise.

    Returns:
        At least 1; 1 also where nothing has changed.
    """
    largest = float((adversarial - image).abs().max())
    return max(1.0, _GREY / largest) if largest > 0 else 1.0


def draw_adversarial(image: Tensor, adversarial: Tensor, before: str, after: str) -> Picture:
    """Draw image, magnified change (grey: none) and adversarial image, with predicted classes.

    Args:
        image: (C, H, W) in [0, 1], of one or three channels.
        adversarial: Likewise.
        before: Predicted class of the image.
        after: That of the adversarial image.

    Raises:
        ValueError: The two differ in shape, or have neither one channel nor three.
    """
    if image.shape != adversarial.shape or image.ndim != 3 or len(image) not in (1, 3):
        raise ValueError(
            "image and adversarial must be (C, H, W) of one shape, with 1 or 3 channels, got "
            f"{tuple(image.shape)} and {tuple(adversarial.shape)}"
        )
    own, fooled = image.detach().float().cpu(), adversarial.detach().float().cpu()
    factor = magnification(own, fooled)
    panels = (own, (_GREY + factor * (fooled - own)).clamp(0, 1), fooled)
    titles = (f"image: {before}", f"change, {factor:.3g} times", f"adversarial: {after}")
    page = Figure(figsize=(3 * _PANEL / 72, (_PANEL + _TITLE) / 72), dpi=72)
    for number, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        height = _PANEL / (_PANEL + _TITLE)
        axes = page.add_axes((number / 3 + 0.005, 0.0, 1 / 3 - 0.01, height))
        pixels = rearrange(panel.expand(3, -1, -1), "c h w -> h w c")
        axes.imshow(pixels.numpy(), interpolation="nearest")
        axes.set_axis_off()
        shown = textwrap.fill(textwrap.shorten(title, 80, placeholder=" ..."), 32)
        # Names of classes are the user's, and "$" is no formula there.
        axes.set_title(shown, fontsize=10, parse_math=False)
    return figure_picture(page)
