"""The one-pixel attack: differential evolution over places and colours of a single pixel.

Source: Su, Vargas and Sakurai, *One Pixel Attack for Fooling Deep Neural Networks*, IEEE
Transactions on Evolutionary Computation 2019 (arXiv 1710.08864), section III.

Where this differs from the paper: an image of which the prediction has changed is left at once, so
that the generations are the most that it takes. The paper does so too, but for a fixed confidence.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn
from tqdm.auto import tqdm

from pellucid.attribution.adversarial.attack import Attack

POPULATION = 400
GENERATIONS = 100
SCALE = 0.5
"""Of the difference of two candidates that is added to a third, ``F``."""
COLOUR_MEAN = 128 / 255
COLOUR_STD = 127 / 255
"""Of the first candidates' colours."""
_LEAST_POPULATION = 4


class OnePixel(Attack):
    """A few pixels of other colours, found without any gradient.

    A candidate is a place and a colour for each pixel. Its child is ``a + F (b - c)`` of three
    others, without crossover, and takes its place if it lowers the probability of the predicted
    class. What leaves the image or [0, 1] is cut.

    Args:
        pixels: How many pixels may change; the paper has 1, 3 and 5.
        population: Number of candidates.
        generations: Most rounds of children.
        batch_size: Images that the network looks at at once.
        seed: Of all that is drawn; each image has the same numbers.

    Raises:
        ValueError: An argument is outside its range.
    """

    name: ClassVar[str] = "one_pixel"
    label: ClassVar[str] = "One pixel"

    def __init__(
        self,
        pixels: int = 1,
        population: int = POPULATION,
        generations: int = GENERATIONS,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        for name, value, least in (
            ("pixels", pixels, 1),
            ("population", population, _LEAST_POPULATION),
            ("generations", generations, 1),
            ("batch_size", batch_size, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.pixels, self.population = pixels, population
        self.generations, self.batch_size, self.seed = generations, batch_size, seed

    @property
    def settings(self) -> Mapping[str, float | int | str]:
        """See :class:`Attack`."""
        return {
            "pixels": self.pixels,
            "population": self.population,
            "generations": self.generations,
            "seed": self.seed,
        }

    @torch.no_grad()
    def perturb(self, network: nn.Module, pixels: Tensor, predicted: Tensor) -> Tensor:
        """See :class:`Attack`."""
        bar = tqdm(
            zip(pixels, predicted.tolist(), strict=True),
            self.label,
            len(pixels),
            delay=2,
            leave=False,
        )
        return torch.stack([self._one(network, image, target) for image, target in bar])

    def _one(self, network: nn.Module, image: Tensor, predicted: int) -> Tensor:
        """The image (C, H, W) with the pixels that hurt the predicted class most."""
        generator = torch.Generator().manual_seed(self.seed)
        now = self._first(image, generator)
        cost, fooled = self._judge(network, image, now, predicted)
        for _ in range(self.generations):
            if fooled.any():
                break
            child = _cut(self._children(now, generator))
            costs, fooled_by = self._judge(network, image, child, predicted)
            better = costs < cost
            now = torch.where(rearrange(better, "n -> n 1 1"), child, now)
            cost = torch.where(better, costs, cost)
            fooled = fooled_by & better
        best = int(torch.where(fooled, cost, cost + 1).argmin())
        return painted(image, now[best : best + 1])[0]

    def _first(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """(N, P, 2 + C) candidates: row and column as shares of the image, and a colour."""
        shape = (self.population, self.pixels)
        place = torch.rand(*shape, 2, generator=generator)
        colour = torch.randn(*shape, len(image), generator=generator) * COLOUR_STD + COLOUR_MEAN
        return _cut(torch.cat((place, colour), 2)).to(image)

    def _children(self, now: Tensor, generator: torch.Generator) -> Tensor:
        """One child of each candidate, of three others that are drawn without repetition."""
        count = len(now)
        chance = torch.rand(count, count, generator=generator)
        chance.fill_diagonal_(-1)
        a, b, c = chance.topk(3, dim=1).indices.to(now.device).unbind(1)
        return now[a] + SCALE * (now[b] - now[c])

    def _judge(
        self, network: nn.Module, image: Tensor, candidates: Tensor, predicted: int
    ) -> tuple[Tensor, Tensor]:
        """(N,) probability of the predicted class, and (N,) whether another one is predicted."""
        found = [
            network(painted(image, some)).float()
            for some in torch.split(candidates, self.batch_size)
        ]
        scores = torch.cat(found)
        return scores.softmax(1)[:, predicted], scores.argmax(1) != predicted


def painted(image: Tensor, candidates: Tensor) -> Tensor:
    """Paint pixels.

    Args:
        image: (C, H, W).
        candidates: (N, P, 2 + C), for N images P pixels: row and column as shares of the image in
            [0, 1], and the colour.

    Returns:
        (N, C, H, W).
    """
    height, width = image.shape[-2:]
    row = (candidates[..., 0] * height).long().clamp(max=height - 1)
    column = (candidates[..., 1] * width).long().clamp(max=width - 1)
    painting = image.expand(len(candidates), -1, -1, -1).clone()
    number = torch.arange(len(candidates), device=image.device)[:, None]
    painting[number, :, row, column] = candidates[..., 2:].to(image)
    return painting


def _cut(candidates: Tensor) -> Tensor:
    return candidates.clamp(0, 1)
