"""Networks of known answers, whose every score a test can work out by itself."""

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """Scores that are weighted sums of all values of an image."""

    def __init__(self, shape=(3, 8, 8), classes=3, seed=0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, *shape, generator=generator))
        self.bias = nn.Parameter(torch.randn(classes, generator=generator))

    def forward(self, image: Tensor) -> Tensor:
        return torch.einsum("bchw,kchw->bk", image, self.weight) + self.bias


class LooksAt(nn.Module):
    """Class 1 by the mean brightness of one square, class 0 at a score of 0."""

    def __init__(self, top: int, left: int, size: int, gain: float = 8.0, at: float = 0.5) -> None:
        super().__init__()
        self.rows, self.columns = slice(top, top + size), slice(left, left + size)
        self.gain, self.at = gain, at

    def forward(self, image: Tensor) -> Tensor:
        bright = image[..., self.rows, self.columns].mean((1, 2, 3))
        score = self.gain * (bright - self.at)
        return torch.stack((torch.zeros_like(score), score), 1)


class Curved(nn.Module):
    """A small network with interactions between all places."""

    def __init__(self, pixels: int = 3 * 8 * 8, classes: int = 4) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.layers = nn.Sequential(
                nn.Linear(pixels, 24), nn.ReLU(), nn.Dropout(0.5), nn.Linear(24, classes)
            )

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image.flatten(1))


def images(count: int = 3, seed: int = 0, shape=(3, 8, 8)) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))
