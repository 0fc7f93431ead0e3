"""The networks of generators and discriminators, by name.

- ``infogan_mnist``: 28 x 28, Chen et al., InfoGAN, NeurIPS 2016 (arXiv 1606.03657), table 1.
- ``infogan_svhn``: 32 x 32, likewise, table 2, which the paper also uses for faces.
- ``dcgan``: 64 x 64, Radford et al., ICLR 2016 (arXiv 1511.06434), at half its width.

All draw in [0, 1] with a sigmoid; the papers' networks for colours draw in [-1, 1] with tanh.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from pellucid.errors import nearest


@dataclass(frozen=True)
class NetworkSpec:
    """Widths of a generator and of its discriminator."""

    image_size: int
    """Height and width in pixels."""
    start: tuple[int, int]
    """Channels and side of the map from which the generator draws."""
    up: tuple[int, ...]
    """Channels of its transposed convolutions, without the last, which gives the image."""
    down: tuple[int, ...]
    """Channels of the discriminator's convolutions; the first has no batch normalisation."""
    hidden: int | None
    """Width of the fully connected layer beside them in both networks; None: there is none."""
    slope: float
    """Of the discriminator's leaky ReLUs."""

    @property
    def num_features(self) -> int:
        """Width of what the discriminator's trunk gives."""
        side = self.image_size // 2 ** len(self.down)
        return self.hidden or self.down[-1] * side**2


NETWORKS: Mapping[str, NetworkSpec] = {
    "infogan_mnist": NetworkSpec(28, (128, 7), (64,), (64, 128), 1024, 0.01),
    "infogan_svhn": NetworkSpec(32, (448, 2), (256, 128, 64), (64, 128, 256), None, 0.1),
    "dcgan": NetworkSpec(64, (512, 4), (256, 128, 64), (64, 128, 256, 512), None, 0.2),
}


def network_spec(name: str) -> NetworkSpec:
    """Look a network up.

    Args:
        name: Key of :data:`NETWORKS`.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in NETWORKS:
        raise ValueError(f"network {name!r} does not exist; {nearest(name, NETWORKS)}")
    return NETWORKS[name]


def make_generator(name: str, num_latents: int, channels: int) -> nn.Sequential:
    """A generator: (B, num_latents) to images (B, channels, H, W) in [0, 1].

    Weights are from N(0, 0.02^2), gains of batch normalisation from N(1, 0.02^2), as published.

    Args:
        name: Key of :data:`NETWORKS`.
        num_latents: Width of its input.
        channels: 1 for greys, 3 for colours.

    Raises:
        ValueError: There is no such network.
    """
    spec = network_spec(name)
    width, side = spec.start
    layers: list[nn.Module] = []
    if spec.hidden is not None:
        layers += [nn.Linear(num_latents, spec.hidden, bias=False), nn.BatchNorm1d(spec.hidden)]
        layers += [nn.ReLU()]
    inputs = spec.hidden or num_latents
    layers += [nn.Linear(inputs, width * side**2, bias=False), nn.BatchNorm1d(width * side**2)]
    layers += [nn.ReLU(), nn.Unflatten(1, (width, side, side))]
    for before, after in zip((width, *spec.up), spec.up, strict=False):
        layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(after), nn.ReLU()]
    layers += [nn.ConvTranspose2d(spec.up[-1], channels, 4, 2, 1), nn.Sigmoid()]
    return nn.Sequential(*layers).apply(published_start)


def make_trunk(name: str, channels: int) -> nn.Sequential:
    """A discriminator without its last layer: images (B, channels, H, W) to (B, num_features).

    Args:
        name: Key of :data:`NETWORKS`.
        channels: 1 for greys, 3 for colours.

    Raises:
        ValueError: There is no such network.
    """
    spec = network_spec(name)
    layers: list[nn.Module] = [nn.Conv2d(channels, spec.down[0], 4, 2, 1), nn.LeakyReLU(spec.slope)]
    for before, after in zip(spec.down, spec.down[1:], strict=False):
        layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after)]
        layers += [nn.LeakyReLU(spec.slope)]
    layers.append(nn.Flatten())
    if spec.hidden is not None:
        side = spec.image_size // 2 ** len(spec.down)
        layers += [nn.Linear(spec.down[-1] * side**2, spec.hidden, bias=False)]
        layers += [nn.BatchNorm1d(spec.hidden), nn.LeakyReLU(spec.slope)]
    return nn.Sequential(*layers).apply(published_start)


def make_head(name: str, outputs: int, hidden: int | None = None) -> nn.Sequential:
    """A head on a discriminator's trunk: (B, num_features) to (B, outputs).

    Args:
        name: Key of :data:`NETWORKS`.
        outputs: Width of what it gives.
        hidden: Width of a layer in between, with batch normalisation; None: there is none.

    Raises:
        ValueError: There is no such network.
    """
    spec = network_spec(name)
    layers: list[nn.Module] = []
    if hidden is not None:
        layers += [nn.Linear(spec.num_features, hidden, bias=False), nn.BatchNorm1d(hidden)]
        layers += [nn.LeakyReLU(spec.slope)]
    layers.append(nn.Linear(hidden or spec.num_features, outputs))
    return nn.Sequential(*layers).apply(published_start)


def published_start(module: nn.Module) -> None:
    """Draw the weights of one layer as InfoGAN and DCGAN do.

    Args:
        module: The layer; those that are neither linear nor normalise are left alone.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
