"""Encoders by name: from images to the parameters of a posterior, as the papers' tables say.

Sources: Burgess et al., Understanding disentangling in beta-VAE, 2018, appendix A; Locatello et
al., Challenging Common Assumptions, ICML 2019, table 1; Higgins et al., beta-VAE, ICLR 2017,
table A1 (``mlp``, theirs for dSprites); Chen et al., InfoGAN, NeurIPS 2016, table 1.
"""

from collections.abc import Callable
from typing import Literal

from torch import nn

from pellucid.models.layers.glorot import glorot_start

EncoderName = Literal["burgess", "locatello", "infogan_mnist", "mlp"]


def make_encoder(name: EncoderName, image_size: int, channels: int, outputs: int) -> nn.Sequential:
    """An encoder of images (B, channels, image_size, image_size) in [0, 1].

    Args:
        name: ``burgess`` (32 or 64 pixels), ``locatello`` (64), ``infogan_mnist`` (28 or 32) or
            ``mlp`` (any).
        image_size: Height and width of the images in pixels.
        channels: Channels of the images.
        outputs: Numbers per image.

    Returns:
        A network with Glorot's weights and an output of shape (B, outputs).

    Raises:
        ValueError: There is no such encoder, or none of that size.
    """
    check_network("encoder", name, image_size, channels)
    return ENCODERS[name](image_size, channels, outputs).apply(glorot_start)


def burgess_encoder(image_size: int, channels: int, outputs: int) -> nn.Sequential:
    """Convolutions with 32 channels down to 4 x 4, then two layers of 256."""
    halvings = {32: 3, 64: 4}[image_size]
    convolutions: list[nn.Module] = []
    for number in range(halvings):
        convolutions += [nn.Conv2d(32 if number else channels, 32, 4, 2, 1), nn.ReLU()]
    return nn.Sequential(
        *convolutions,
        nn.Flatten(),
        *(nn.Linear(32 * 4 * 4, 256), nn.ReLU()),
        *(nn.Linear(256, 256), nn.ReLU()),
        nn.Linear(256, outputs),
    )


def locatello_encoder(image_size: int, channels: int, outputs: int) -> nn.Sequential:
    """Two convolutions 4 x 4 with 32 channels, two 2 x 2 with 64, then one layer of 256."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 32, 4, 2, 1), nn.ReLU()),
        *(nn.Conv2d(32, 32, 4, 2, 1), nn.ReLU()),
        *(nn.Conv2d(32, 64, 2, 2), nn.ReLU()),
        *(nn.Conv2d(64, 64, 2, 2), nn.ReLU()),
        nn.Flatten(),
        *(nn.Linear(64 * 4 * 4, 256), nn.ReLU()),
        nn.Linear(256, outputs),
    )


def infogan_mnist_encoder(image_size: int, channels: int, outputs: int) -> nn.Sequential:
    """The trunk of InfoGAN's discriminator, without its batch normalisation.

    With it the posterior of an image would depend on the other images of its batch.
    """
    side = image_size // 4
    return nn.Sequential(
        *(nn.Conv2d(channels, 64, 4, 2, 1), nn.LeakyReLU(0.01)),
        *(nn.Conv2d(64, 128, 4, 2, 1), nn.LeakyReLU(0.01)),
        nn.Flatten(),
        *(nn.Linear(128 * side * side, 1024), nn.LeakyReLU(0.01)),
        nn.Linear(1024, outputs),
    )


def mlp_encoder(image_size: int, channels: int, outputs: int) -> nn.Sequential:
    """Two layers of 1200."""
    return nn.Sequential(
        nn.Flatten(),
        *(nn.Linear(channels * image_size**2, 1200), nn.ReLU()),
        *(nn.Linear(1200, 1200), nn.ReLU()),
        nn.Linear(1200, outputs),
    )


ENCODERS: dict[str, Callable[[int, int, int], nn.Sequential]] = {
    "burgess": burgess_encoder,
    "locatello": locatello_encoder,
    "infogan_mnist": infogan_mnist_encoder,
    "mlp": mlp_encoder,
}

IMAGE_SIZES: dict[str, tuple[int, ...]] = {
    "burgess": (32, 64),
    "locatello": (64,),
    "infogan_mnist": (28, 32),
}
"""Sizes in pixels of the images that an encoder takes and the decoder of its name draws; those that
are not listed do so for any."""


def check_network(argument: str, name: str, image_size: int, channels: int) -> None:
    """Check the arguments that encoders and decoders share.

    Args:
        argument: Name of the argument that ``name`` was given by.
        name: Of the network.
        image_size: Height and width of the images in pixels.
        channels: Channels of the images.

    Raises:
        ValueError: Names what is wrong, and what is allowed.
    """
    if name not in ENCODERS:
        raise ValueError(f"{argument} must be one of {', '.join(ENCODERS)}, got {name!r}")
    for key, value in (("image_size", image_size), ("channels", channels)):
        if value < 1:
            raise ValueError(f"{key} must be at least 1, got {value}")
    sizes = IMAGE_SIZES.get(name)
    if sizes is not None and image_size not in sizes:
        fitting = [n for n in ENCODERS if image_size in IMAGE_SIZES.get(n, (image_size,))]
        raise ValueError(
            f"{argument} {name!r} is for images of {' or '.join(map(str, sizes))} pixels, got "
            f"image_size {image_size}; for that size there are: {', '.join(fitting)}"
        )
