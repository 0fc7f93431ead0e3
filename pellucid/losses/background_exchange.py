"""Right reasons without gradients: the same label before another background.

For backgrounds that give the class away, where :mod:`pellucid.losses.right_reasons` fails.
Gradients tell what an infinitely small change of a background does; a network that has learned a
few backgrounds by heart has none there, and goes by them all the same (figures in
``benchmarks/RESULTS.md``). Exchanged backgrounds as training data: Xiao et al., "Noise or Signal:
The Role of Image Backgrounds in Object Recognition", ICLR 2021 (*mixed-rand*); Chang, Adam and
Goldenberg, "Towards Robust Classification Model by Counterfactual and Invariant Data Generation",
CVPR 2021.
"""

from einops import rearrange, reduce
from torch import Tensor

from pellucid.losses.right_reasons import check_irrelevant


def exchange_background(image: Tensor, irrelevant: Tensor) -> Tensor:
    """Images with what is irrelevant of the next image of the batch in place of their own.

    ``(1 - A) x + A y`` where ``y`` is the next image with its own object painted over, in each row
    of pixels by the mean colour of what is irrelevant there (zero where nothing is), so that no
    object gets a second one beside it. The last image takes from the first.

    Args:
        image: (B, C, H, W).
        irrelevant: (B, H, W) bool, or float in [0, 1], ``A``; zero in images without annotation,
            which stay as they are and give nothing: what would take from them stays, too.

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: A shape is wrong.
    """
    check_irrelevant(image, irrelevant)
    own = rearrange(irrelevant.to(image.dtype), "b h w -> b 1 h w")
    area = reduce(own, "b 1 h w -> b 1 h 1", "sum")
    colour = reduce(own * image, "b c h w -> b c h 1", "sum") / area.clamp(min=1)
    alone = (own * image + (1 - own) * colour).roll(-1, 0)
    share = own * (area.amax((2, 3), keepdim=True) > 0).roll(-1, 0)
    return image + share * (alone - image)
