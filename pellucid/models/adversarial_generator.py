"""What the adversarial generators share: networks, drawing, a judge, traversals."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from pellucid.arguments import check_at_least, check_positive
from pellucid.batch import Batch
from pellucid.errors import UserError
from pellucid.losses.adversarial import discriminator_loss, generator_loss
from pellucid.models.adversarial import AdversarialModel, Decay, Turn
from pellucid.models.explanation import Traversals
from pellucid.models.judged import JudgedGenerator
from pellucid.models.layers.codes import Codes, CodeSpace
from pellucid.models.layers.ema import EMA
from pellucid.models.layers.gan_networks import (
    make_generator,
    make_head,
    make_trunk,
    network_spec,
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One latent of a traversal, and the values that it takes."""

    name: str
    kind: Literal["continuous", "categorical"]
    field: Literal["noise", "continuous", "categories"]
    """Where it stands in :class:`~pellucid.models.layers.codes.Codes`."""
    column: int
    values: Tensor
    """(S,)."""


class AdversarialGenerator(JudgedGenerator, AdversarialModel):
    """Base of GAN, InfoGAN and AC-GAN.

    A subclass takes the same arguments in its own constructor, hands them on, gives the losses of
    its two turns, and adds heads to the discriminator's trunk.

    Args:
        codes: What the generator draws from.
        network: Name of the networks, see :mod:`pellucid.models.layers.gan_networks`; it decides
            on the images' size.
        channels: 1 for greys, 3 for colours.
        lr: Adam's learning rate of the generator.
        discriminator_lr: Likewise of the discriminator.
        beta1: Adam's weight of the mean gradient so far.
        decay: ``linear``: learning rates fall to zero over the second half of the training.
        ema_decay: Weight of the average so far in a running mean of the generator's weights, which
            then draws in evaluation; None: the weights themselves do.
        gradient_clip: Largest norm of the gradient of either network; None: not clipped.
        judge: Checkpoint of a classifier of the data that judges what the generator draws in
            tests, or ``none``.
        traversal_steps: Values of each latent in ``explain``, at least 2.

    Raises:
        ValueError: An argument is outside its range.
    """

    def __init__(
        self,
        codes: CodeSpace,
        network: str,
        channels: int,
        lr: float,
        discriminator_lr: float,
        beta1: float,
        decay: Decay,
        ema_decay: float | None,
        gradient_clip: float | None,
        judge: str,
        traversal_steps: int,
    ) -> None:
        _check(channels, lr, discriminator_lr, beta1, traversal_steps)
        super().__init__(channels, gradient_clip, decay)
        self.codes, self.network, self.traversal_steps = codes, network, traversal_steps
        self.lr, self.discriminator_lr, self.betas = lr, discriminator_lr, (beta1, 0.999)
        self.judge_path = judge
        self.generator = make_generator(network, codes.num_latents, channels)
        self.trunk = make_trunk(network, channels)
        self.real_or_generated = make_head(network, 1)
        self.ema = None if ema_decay is None else EMA(self.generator, ema_decay)

    @abstractmethod
    def discriminator_turn(self, batch: Batch) -> dict[str, Tensor]:
        """What the discriminator minimises, see :class:`~pellucid.models.adversarial.Turn`."""

    @abstractmethod
    def generator_turn(self, batch: Batch) -> dict[str, Tensor]:
        """What the generator minimises, likewise."""

    def heads(self) -> Sequence[nn.Module]:
        """What is trained with the discriminator beside its own head."""
        return ()

    def turns(self) -> Sequence[Turn]:
        """The discriminator, then the generator."""
        discriminator = (self.trunk, self.real_or_generated, *self.heads())
        return (
            Turn(
                name="discriminator",
                loss=self.discriminator_turn,
                modules=discriminator,
                lr=self.discriminator_lr,
                betas=self.betas,
            ),
            Turn(
                name="generator",
                loss=self.generator_turn,
                modules=(self.generator,),
                lr=self.lr,
                betas=self.betas,
            ),
        )

    def sample(self, batch: Batch) -> Codes:
        """Fresh latents for as many images as a batch has."""
        return self.codes.sample(len(batch["image"]), batch["image"].device)

    def logit(self, features: Tensor) -> Tensor:
        """(B,) logit of images to be real, by the trunk's features of them."""
        logit: Tensor = rearrange(self.real_or_generated(features), "b 1 -> b")
        return logit

    def on_update(self) -> None:
        """Move the running mean of the generator."""
        if self.ema is not None:
            self.ema.update(self.generator)

    @torch.no_grad()
    def draw(self, codes: Codes) -> Tensor:
        """Draw images from latents, with the running mean of the weights where there is one.

        Args:
            codes: Of B images.

        Returns:
            (B, C, H, W) float in [0, 1].
        """
        generator = self.generator if self.ema is None else self.ema
        images: Tensor = generator(self.codes.join(codes)).float()
        return images

    def evaluation_codes(self, batch: Batch) -> Codes:
        """Latents for one batch of an evaluation, the same whenever it comes."""
        image = batch["image"]
        return self.codes.sample(len(image), image.device, self.evaluation_source(batch))

    def game(self, real: Tensor, generated: Tensor) -> dict[str, Tensor]:
        """The losses of the game of real and generated images, by the trunk's features of them."""
        logit = self.logit(generated)
        loss, game = generator_loss(logit), discriminator_loss(self.logit(real), logit)
        return {"loss": loss, "generator_loss": loss, "discriminator_loss": game}

    def setup(self, stage: str) -> None:
        """Check the images' size and read the judge; see :meth:`InterpretableModel.setup`.

        Raises:
            UserError: The size is not that of the networks, or the judge cannot be read or used.
        """
        data, size = (
            getattr(self.trainer, "datamodule", None),
            network_spec(self.network).image_size,
        )
        if data is not None and data.image_size != size:
            raise UserError(
                "model.network",
                f"{self.network!r} draws images of {size} pixels, the data have {data.image_size}: "
                f"give data.image_size {size}, or another network",
            )
        self.read_judge(len(self.image_range.mean), size)
        super().setup(stage)

    def fixed_codes(self, count: int, device: torch.device) -> Codes:
        """Latents whose noise is the same for all of ``count`` images, and at each call."""
        source = torch.Generator().manual_seed(0)
        return self.codes.sample(1, device, source).repeated(count)

    def traverse(
        self, codes: Codes, rows: Sequence[Row], importance: Tensor, name: str
    ) -> Traversals:
        """Draw what changes with one latent at a time.

        Args:
            codes: Of B images.
            rows: U latents, all with as many values.
            importance: (U,), by which they are sorted.
            name: What ``importance`` is.
        """
        order = importance.argsort(descending=True, stable=True).tolist()
        drawn, count = [], len(codes.noise)
        for row in (rows[i] for i in order):
            changed = codes.repeated(len(row.values))
            getattr(changed, row.field)[:, row.column] = row.values.repeat(count)
            drawn.append(rearrange(self.draw(changed), "(b s) c h w -> b s c h w", b=count))
        values = torch.stack([rows[i].values.to(codes.noise.dtype) for i in order])
        # Noise cannot be read from an image.
        known = all(row.field != "noise" for row in rows)
        read = [getattr(codes, rows[i].field)[:, rows[i].column] for i in order]
        return Traversals(
            images=torch.stack(drawn, 1),
            values=repeat(values, "u s -> b u s", b=count),
            names=tuple(rows[i].name for i in order),
            kinds=tuple(rows[i].kind for i in order),
            importance=importance[order],
            importance_name=name,
            codes=torch.stack(read, 1).to(values.dtype) if known else None,
        )

    def rows(self, reach: float, names: Sequence[str]) -> list[Row]:
        """One row for each code: the continuous ones, then the categorical ones.

        A categorical code with fewer categories than there are values begins again.

        Args:
            reach: Continuous codes go from ``-reach`` to ``reach``.
            names: Of all codes.
        """
        steps = max(self.traversal_steps, *self.codes.categorical, 0)
        line = torch.linspace(-reach, reach, steps, device=self.device)
        number = self.codes.num_continuous
        rows = [
            Row(name=names[i], kind="continuous", field="continuous", column=i, values=line)
            for i in range(number)
        ]
        for i, size in enumerate(self.codes.categorical):
            values = torch.arange(steps, device=self.device) % size
            name = names[number + i]
            row = Row(name=name, kind="categorical", field="categories", column=i, values=values)
            rows.append(row)
        return rows


def _check(
    channels: int, lr: float, discriminator_lr: float, beta1: float, traversal_steps: int
) -> None:
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (greys) or 3 (colours), got {channels}")
    check_positive(lr=lr, discriminator_lr=discriminator_lr)
    if not 0 <= beta1 < 1:
        raise ValueError(f"beta1 must be in [0, 1), got {beta1}; InfoGAN has 0.5")
    check_at_least(2, traversal_steps=traversal_steps)
