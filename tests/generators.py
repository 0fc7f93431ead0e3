"""A generator small enough to be trained inside a test, with explanations made by hand."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pellucid.batch import Batch
from pellucid.models.base import InterpretableModel, Stage
from pellucid.models.explanation import Explanation, Traversals
from tests.helpers import CONFIG

STEPS = 5


def make_traversals(
    images: int = 2, latents: int = 3, steps: int = STEPS, channels: int = 1, size: int = 8
) -> Traversals:
    """Traversals in which each frame is of a shade of its own; the last latent is a code."""
    count = images * latents * steps
    shades = torch.arange(count).reshape(images, latents, steps, 1, 1, 1) / (count - 1)
    values = torch.linspace(-2, 2, steps).expand(images, latents, steps).clone()
    values[:, -1] = torch.arange(steps)
    kinds: list[Any] = ["continuous"] * latents
    kinds[-1] = "categorical"
    importance = torch.linspace(1, 0.001, latents)
    return Traversals(
        images=shades.expand(images, latents, steps, channels, size, size).clone(),
        values=values,
        names=tuple(f"z{i}" for i in range(latents)),
        kinds=tuple(kinds),
        importance=importance,
        importance_name="KL",
        codes=torch.arange(images * latents).reshape(images, latents) * 0.5,
    )


def make_explanation(traversals: Traversals | None = None, **changes: Any) -> Explanation:
    traversals = make_traversals() if traversals is None else traversals
    size, _, _, channels, high, wide = traversals.images.shape
    fields: dict[str, Any] = {
        "scores": torch.zeros(size, 0),
        "target": torch.zeros(size, dtype=torch.int64),
        "codes": traversals.codes,
        "reconstruction": torch.full((size, channels, high, wide), 0.5),
        "traversals": traversals,
    }
    return Explanation(**(fields | changes))


class TinyGenerator(InterpretableModel):
    """A linear autoencoder with noise in its codes and dropout, of RGB images of 8 x 8."""

    requires: ClassVar[frozenset[str]] = frozenset({"image"})

    def __init__(self, latents: int = 3, lr: float = 0.01, from_noise: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.num_codes = None if from_noise else latents
        self.latents, self.lr, self.from_noise = latents, lr, from_noise
        self.encoder, self.decoder = nn.Linear(192, latents), nn.Linear(latents, 192)
        self.dropout = nn.Dropout(0.2)

    def draw(self, codes: Tensor) -> Tensor:
        return self.decoder(self.dropout(codes)).sigmoid().unflatten(-1, (3, 8, 8))

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        codes = self.encoder(batch["image"].flatten(1))
        drawn = self.draw(codes + torch.randn_like(codes))
        return {"loss": (drawn - batch["image"]).square().sum((1, 2, 3)).mean(), "codes": codes}

    def explain(self, batch: Batch, target: Tensor | None = None) -> Explanation:
        # Careless with the random state on purpose: nobody may notice.
        codes = self.encoder(batch["image"].flatten(1)) + 1e-3 * torch.randn(1)
        size = len(codes)
        if self.from_noise:
            codes = torch.randn_like(codes)
        values = torch.linspace(-2, 2, STEPS).expand(size, self.latents, STEPS)
        tried = codes[:, None, None].repeat(1, self.latents, STEPS, 1)
        for latent in range(self.latents):
            tried[:, latent, :, latent] = values[:, latent]
        traversals = Traversals(
            images=self.draw(tried),
            values=values,
            names=tuple(f"z{i}" for i in range(self.latents)),
            kinds=("continuous",) * self.latents,
            importance=self.encoder.weight.norm(dim=1),
            importance_name="KL",
            codes=None if self.from_noise else codes,
        )
        return Explanation(
            scores=codes.new_zeros(size, 0),
            target=torch.zeros(size, dtype=torch.int64),
            codes=None if self.from_noise else codes,
            reconstruction=None if self.from_noise else self.draw(codes),
            traversals=traversals,
        )

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), self.lr)


GENERATOR = CONFIG.replace("tests.helpers.TinyModel", "tests.generators.TinyGenerator")
