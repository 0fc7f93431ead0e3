"""Decoders by name: from codes to the parameters of pixels, each the mirror of its encoder.

Sources: see :mod:`pellucid.models.layers.encoders`.
"""

from collections.abc import Callable

from torch import nn

from pellucid.models.layers.encoders import EncoderName, check_network
from pellucid.models.layers.glorot import glorot_start
from pellucid.models.layers.transposed_convolution import TransposedConvolution


def make_decoder(name: EncoderName, image_size: int, channels: int, inputs: int) -> nn.Sequential:
    """A decoder of codes (B, inputs).

    Args:
        name: ``burgess`` (32 or 64 pixels), ``locatello`` (64), ``infogan_mnist`` (28 or 32) or
            ``mlp`` (any).
        image_size: Height and width of the images in pixels.
        channels: Channels of the images.
        inputs: Numbers per image.

    Returns:
        A network with Glorot's weights and an output of shape (B, channels, image_size,
        image_size), unbounded: log-odds of Bernoulli pixels, or means of Gaussian ones.

    Raises:
        ValueError: There is no such decoder, or none of that size.
    """
    check_network("decoder", name, image_size, channels)
    return DECODERS[name](image_size, channels, inputs).apply(glorot_start)


def burgess_decoder(image_size: int, channels: int, inputs: int) -> nn.Sequential:
    """Two layers of 256, then transposed convolutions with 32 channels from 4 x 4."""
    doublings = {32: 3, 64: 4}[image_size]
    convolutions: list[nn.Module] = []
    for _ in range(doublings - 1):
        convolutions += [nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.ReLU()]
    return nn.Sequential(
        *(nn.Linear(inputs, 256), nn.ReLU()),
        *(nn.Linear(256, 256), nn.ReLU()),
        *(nn.Linear(256, 32 * 4 * 4), nn.ReLU()),
        nn.Unflatten(1, (32, 4, 4)),
        *convolutions,
        TransposedConvolution(32, channels, 4, 2, 1),
    )


def locatello_decoder(image_size: int, channels: int, inputs: int) -> nn.Sequential:
    """Layers of 256 and 4 x 4 x 64, then four transposed convolutions 4 x 4."""
    return nn.Sequential(
        *(nn.Linear(inputs, 256), nn.ReLU()),
        *(nn.Linear(256, 64 * 4 * 4), nn.ReLU()),
        nn.Unflatten(1, (64, 4, 4)),
        *(nn.ConvTranspose2d(64, 64, 4, 2, 1), nn.ReLU()),
        *(nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU()),
        *(nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.ReLU()),
        TransposedConvolution(32, channels, 4, 2, 1),
    )


def infogan_mnist_decoder(image_size: int, channels: int, inputs: int) -> nn.Sequential:
    """InfoGAN's generator, without its batch normalisation and its sigmoid."""
    side = image_size // 4
    return nn.Sequential(
        *(nn.Linear(inputs, 1024), nn.ReLU()),
        *(nn.Linear(1024, 128 * side * side), nn.ReLU()),
        nn.Unflatten(1, (128, side, side)),
        *(nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.ReLU()),
        TransposedConvolution(64, channels, 4, 2, 1),
    )


def mlp_decoder(image_size: int, channels: int, inputs: int) -> nn.Sequential:
    """Three layers of 1200 with tanh."""
    return nn.Sequential(
        *(nn.Linear(inputs, 1200), nn.Tanh()),
        *(nn.Linear(1200, 1200), nn.Tanh()),
        *(nn.Linear(1200, 1200), nn.Tanh()),
        nn.Linear(1200, channels * image_size**2),
        nn.Unflatten(1, (channels, image_size, image_size)),
    )


DECODERS: dict[str, Callable[[int, int, int], nn.Sequential]] = {
    "burgess": burgess_decoder,
    "locatello": locatello_decoder,
    "infogan_mnist": infogan_mnist_decoder,
    "mlp": mlp_decoder,
}
