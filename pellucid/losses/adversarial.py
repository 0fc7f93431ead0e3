"""The game of generator and discriminator, with the generator's loss that does not saturate."""

from torch import Tensor, nn
from torch.nn import functional as F


def discriminator_loss(real: Tensor, generated: Tensor) -> Tensor:
    r"""What the discriminator minimises: :math:`-\log D(x) - \log(1 - D(G(z)))`.

    Args:
        real: (B,) logits of real images to be real.
        generated: (B,) likewise of generated images.

    Returns:
        Scalar, mean over images, in nats; log 4 where it cannot tell them apart. Source:
        Goodfellow et al., *Generative Adversarial Networks*, NeurIPS 2014 (arXiv 1406.2661),
        equation 1.
    """
    return F.softplus(-real.float()).mean() + F.softplus(generated.float()).mean()


def generator_loss(generated: Tensor) -> Tensor:
    r"""What the generator minimises: :math:`-\log D(G(z))`.

    Unlike equation 1's :math:`\log(1 - D(G(z)))` it has a gradient where the discriminator is sure.

    Args:
        generated: (B,) logits of generated images to be real.

    Returns:
        Scalar, mean over images, in nats. Source: Goodfellow et al. 2014, section 3.
    """
    return F.softplus(-generated.float()).mean()


class DiscriminatorLoss(nn.Module):
    """See :func:`discriminator_loss`."""

    def forward(self, real: Tensor, generated: Tensor) -> Tensor:
        """See :func:`discriminator_loss`."""
        return discriminator_loss(real, generated)


class GeneratorLoss(nn.Module):
    """See :func:`generator_loss`."""

    def forward(self, generated: Tensor) -> Tensor:
        """See :func:`generator_loss`."""
        return generator_loss(generated)
