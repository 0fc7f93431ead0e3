"""Saliency and input x gradient: what a small change of each input value does to the score.

Sources: Simonyan, Vedaldi and Zisserman, *Deep Inside Convolutional Networks*, ICLR Workshop 2014
(arXiv 1312.6034), section 3; Shrikumar et al., *Not Just a Black Box*, 2016 (arXiv 1605.01713).

Where this differs from the papers:

- The map of saliency is the sum of the gradient's sizes over channels; Simonyan et al. take the
  largest. All methods here sum over channels, so that maps can be compared.
"""

from torch import Tensor, nn, ones_like
from torch.autograd import grad

from pellucid.attribution.functions import without_gradient
from pellucid.attribution.method import AttributionMethod, Finding, check_scores


def score_gradient(
    network: nn.Module, image: Tensor, target: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The gradient of each image's score with respect to the image.

    Args:
        network: Maps images (B, C, H, W) to logits (B, K), in evaluation mode.
        image: (B, C, H, W) float.
        target: (B,) int64; None: the predicted class.

    Returns:
        (B, C, H, W) in logits per unit of the input, and (B, K) logits.

    Raises:
        UnsupportedNetwork: The scores do not depend on the image by a gradient.
        ValueError: They are not what they must be.
    """
    image = image.detach().requires_grad_()
    scores = check_scores(network(image), len(image), target)
    chosen = scores.argmax(1) if target is None else target
    picked = scores.gather(1, chosen.unsqueeze(1))
    gradient = None
    if picked.requires_grad:
        (gradient,) = grad(picked, image, ones_like(picked), allow_unused=True)
    if gradient is None:
        raise without_gradient()
    return gradient, scores.detach()


class Saliency(AttributionMethod):
    """The size of the gradient, ``|d f / d x|``, from 0 on; no completeness."""

    name = "saliency"
    label = "Saliency"
    sign = "positive"

    def explain(self, network: nn.Module, image: Tensor, target: Tensor | None) -> Finding:
        """See :meth:`AttributionMethod.explain`."""
        gradient, scores = score_gradient(network, image, target)
        return Finding(pixels=gradient.abs(), scores=scores)


class InputXGradient(AttributionMethod):
    """Gradient times input; complete for networks without biases alone, so nothing is promised."""

    name = "input_x_gradient"
    label = "Input x gradient"
    sign = "signed"

    def explain(self, network: nn.Module, image: Tensor, target: Tensor | None) -> Finding:
        """See :meth:`AttributionMethod.explain`."""
        gradient, scores = score_gradient(network, image, target)
        return Finding(pixels=image.detach() * gradient, scores=scores)
