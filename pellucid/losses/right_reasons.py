"""Right for the right reasons: small input gradients where an annotation says "irrelevant".

Ross, Hughes and Doshi-Velez, "Right for the Right Reasons: Training Differentiable Models by
Constraining their Explanations", IJCAI 2017 (arXiv 1703.03717).
"""

import math

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from pellucid.distributed import gather_with_gradient

_GREATEST = 2.0**10
"""To which the gradients of scores may be enlarged on their way back to the image: layers in half
precision lose what is below 6e-8, and overflow above 65504."""


def input_gradients(log_probabilities: Tensor, image: Tensor) -> Tensor:
    """Gradients of each image's summed log-probabilities, which can be differentiated again.

    Where batch normalisation lets images see each other, the gradient of an image also holds what
    it does to the others of its batch.

    Args:
        log_probabilities: (B, K) nats, computed from ``image``.
        image: (B, C, H, W), of which gradients are known.

    Returns:
        (B, C, H, W) ``d/dx sum_k log p_k``, in nats per unit of a normalised pixel.

    Raises:
        ValueError: There is no way back from the log-probabilities to the images.
    """
    if not (image.requires_grad and log_probabilities.requires_grad):
        raise ValueError(
            "right reasons need the gradient of the image, and there is none (image.requires_grad "
            f"{image.requires_grad}, log_probabilities.requires_grad "
            f"{log_probabilities.requires_grad}): call image.requires_grad_() before the network, "
            "outside of torch.no_grad() and inference_mode(), and without cached features"
        )
    # A score's gradient, 1 - K p_k, is below the number K of classes. A power of two changes no
    # digit.
    scale: float = _GREATEST / 2 ** math.ceil(math.log2(max(log_probabilities.shape[1], 1)))
    (gradients,) = torch.autograd.grad(scale * log_probabilities.sum(), image, create_graph=True)
    return gradients / scale


def check_irrelevant(image: Tensor, irrelevant: Tensor) -> None:
    """Check that an annotation has the pixels of its images.

    Args:
        image: (B, C, H, W).
        irrelevant: (B, H, W).

    Raises:
        ValueError: It has another shape.
    """
    wanted = (len(image), *image.shape[2:])
    if tuple(irrelevant.shape) != wanted:
        raise ValueError(
            f"irrelevant must have shape (B, H, W) of the images, {wanted}, got "
            f"{tuple(irrelevant.shape)}: scale it with its image"
        )


def right_reasons_loss(log_probabilities: Tensor, image: Tensor, irrelevant: Tensor) -> Tensor:
    """Squared input gradients where they should be zero, per image.

    ``sum_d (A_d d/dx_d sum_k log p_k)^2`` with ``d`` over channels and pixels, neither divided by
    their number nor by that of the annotated ones: the paper sums over all of them and over the
    images, for cross-entropy and explanation alike, and leaves the balance of the two to the weight
    ("similar orders of magnitude").

    Args:
        log_probabilities: (B, K) nats, computed from ``image``.
        image: (B, C, H, W), of which gradients are known.
        irrelevant: (B, H, W) bool, or float in [0, 1], ``A``; zero in images without annotation.

    Returns:
        (B,) squared nats per squared unit of a pixel. Source: Ross et al. 2017, Eq. 1, second term.

    Raises:
        ValueError: A shape is wrong, or there is no gradient of the image.
    """
    check_irrelevant(image, irrelevant)
    gradients = input_gradients(log_probabilities, image).float()
    weighted = gradients * rearrange(irrelevant.to(gradients), "b h w -> b 1 h w")
    return reduce(weighted.square(), "b c h w -> b", "sum")


class RightReasonsLoss(nn.Module):
    """Mean of :func:`right_reasons_loss` over the batch, in single precision.

    Images without annotation count in the mean with zero, as in the paper: the weight of the loss
    then stands for the same balance per annotated image, however many of them there are.

    Args:
        gather: Whether the mean is over the images of all devices, with exact gradients.
    """

    def __init__(self, gather: bool = True) -> None:
        super().__init__()
        self.gather = gather

    def forward(self, log_probabilities: Tensor, image: Tensor, irrelevant: Tensor) -> Tensor:
        """Mean over the images.

        Args:
            log_probabilities: (B, K) nats, computed from ``image``.
            image: (B, C, H, W), of which gradients are known.
            irrelevant: (B, H, W) bool, or float in [0, 1]; zero in images without annotation.

        Returns:
            Scalar, squared nats per squared unit of a pixel and image.
        """
        # Squares of half-precision gradients would vanish or overflow.
        with torch.autocast(image.device.type, enabled=False):
            each = right_reasons_loss(log_probabilities, image, irrelevant)
            return (gather_with_gradient(each) if self.gather else each).mean()
