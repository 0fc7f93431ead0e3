"""FactorVAE: a total correlation that a discriminator estimates, weighted by gamma.

Kim and Mnih, "Disentangling by Factorising", ICML 2018 (arXiv 1802.05983), algorithm 2.

Where this differs from the paper:

- The two batches of an update, one for the VAE and one whose codes are permuted, are the two halves
  of a batch of the data module: the paper's 64 and 64 are ``data.batch_size: 128``.
- Each device permutes the codes of its own images.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pellucid.arguments import check_at_least, check_positive
from pellucid.batch import Batch
from pellucid.errors import UserError
from pellucid.losses.reconstruction import Likelihood
from pellucid.losses.total_correlation import (
    density_ratio_total_correlation,
    discriminator_loss,
    permute_codes,
)
from pellucid.models.adversarial import AdversarialModel, Turn, check_clip
from pellucid.models.base import Stage
from pellucid.models.layers.encoders import EncoderName
from pellucid.models.layers.glorot import glorot_start
from pellucid.models.vae import VAE, Bound


class FactorVAE(VAE, AdversarialModel):
    """VAE and a discriminator that tells its codes from permuted ones.

    The VAE minimises ``reconstruction + KL + gamma TC`` with the discriminator's estimate of the
    total correlation of the sampled codes (``total_correlation_estimate``, nats); it is reported
    as ``loss``, also outside of training. Every update counts twice in ``trainer.max_steps``, see
    :mod:`pellucid.models.adversarial`.

    Args:
        image_size: Height and width of the images in pixels.
        channels: Channels of the images.
        gamma: Weight of the total correlation, at least 0.
        discriminator_lr: Learning rate of the discriminator's Adam.
        discriminator_width: Units in each hidden layer of the discriminator.
        discriminator_layers: Hidden layers of the discriminator.
        num_latents: Dimensions of the code.
        encoder: See :class:`VAE`.
        decoder: See :class:`VAE`.
        likelihood: Of a pixel: ``bernoulli`` or ``gaussian``.
        decoder_std: Standard deviation of a Gaussian pixel.
        lr: Learning rate of the VAE's Adam.
        gradient_clip: See :class:`pellucid.models.adversarial.AdversarialModel`.
        traversal_range: Traversals show each latent from minus to plus this.
        traversal_steps: At so many values.
        judge: See :class:`VAE`.
        updates_per_batch: See :class:`VAE`.
        restart_step: See :class:`VAE`.

    Raises:
        ValueError: An argument is outside its range.
    """

    monitor: ClassVar[str | None] = None
    objective: ClassVar[str] = "vae"
    counts_by_hand: ClassVar[bool] = True
    steps_per_update: ClassVar[int] = 2

    def __init__(
        self,
        image_size: int,
        channels: int,
        gamma: float = 40.0,
        discriminator_lr: float = 1e-4,
        discriminator_width: int = 1000,
        discriminator_layers: int = 6,
        num_latents: int = 10,
        encoder: EncoderName = "locatello",
        decoder: EncoderName | None = None,
        likelihood: Likelihood = "bernoulli",
        decoder_std: float = 1.0,
        lr: float = 1e-4,
        gradient_clip: float | None = None,
        traversal_range: float = 3.0,
        traversal_steps: int = 11,
        judge: str = "none",
        updates_per_batch: int = 1,
        restart_step: int = 0,
    ) -> None:
        check_at_least(0, gamma=gamma)
        check_positive(discriminator_lr=discriminator_lr)
        check_clip(gradient_clip)
        super().__init__(
            image_size,
            channels,
            num_latents,
            encoder,
            decoder,
            likelihood,
            decoder_std,
            lr,
            traversal_range,
            traversal_steps,
            judge,
            updates_per_batch,
            restart_step,
        )
        self.save_hyperparameters()
        self.gamma, self.gradient_clip = gamma, gradient_clip
        self.discriminator_lr = discriminator_lr
        self.discriminator = make_discriminator(
            num_latents, discriminator_width, discriminator_layers
        )

    def turns(self) -> Sequence[Turn]:
        """The VAE, then the discriminator."""
        networks, judge = (self.encoder, self.decoder), (self.discriminator,)
        return (
            Turn(name="vae", loss=self._vae_loss, modules=networks, lr=self.lr),
            Turn(
                name="discriminator",
                loss=self._discriminator_loss,
                modules=judge,
                lr=self.discriminator_lr,
                betas=(0.5, 0.9),
            ),
        )

    def setup(self, stage: str) -> None:
        """Check that training batches have two halves; see :meth:`VAE.setup`.

        Raises:
            UserError: They have one image.
        """
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and data is not None:
            size = min(data.batch_size // self.updates_per_batch, len(data.dataset("train")))
            if size < 2:
                each = " for each of model.updates_per_batch" if self.updates_per_batch > 1 else ""
                raise UserError(
                    "data.batch_size",
                    f"FactorVAE halves each batch: it must have at least 2 images{each}, "
                    f"got {size}",
                )

    def criterion(self, bound: Bound) -> dict[str, Tensor]:
        """See :meth:`VAE.criterion`."""
        correlation = density_ratio_total_correlation(self.discriminator(bound.codes))
        return {
            "loss": bound.reconstruction + bound.kl + self.gamma * correlation,
            "total_correlation_estimate": correlation,
        }

    def _vae_loss(self, batch: Batch) -> dict[str, Tensor]:
        image = self.image_range(batch["image"])
        if len(image) < 2:
            raise ValueError("FactorVAE halves each batch: data.batch_size must be at least 2")
        first, self._other_image = image.tensor_split(2)
        bound = self.bound(first)
        self._codes = bound.codes.detach()
        return {**self.criterion(bound), **self.figures(bound, "train")}

    def _discriminator_loss(self, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            other = self.encode(self._other_image).sample()
        sampled = self.discriminator(self._codes)
        return {"loss": discriminator_loss(sampled, self.discriminator(permute_codes(other)))}

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """In training an update of both, else the figures of a VAE."""
        if stage == "train":
            if self.repeats:
                return self.update_by_parts(batch["image"])
            self.before_update(batch["image"])
        return AdversarialModel.step(self, batch, stage)

    def bare_update(self, image: Tensor) -> dict[str, Tensor]:
        """See :meth:`VAE.bare_update`."""
        return self.bare_turns({"image": image})

    def evaluate(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """See :meth:`AdversarialModel.evaluate`."""
        return VAE.step(self, batch, stage)

    def configure_optimizers(self) -> Any:
        """Adam for both."""
        return AdversarialModel.configure_optimizers(self)


def make_discriminator(num_latents: int, width: int, layers: int) -> nn.Sequential:
    """The discriminator of Kim and Mnih, appendix A: six layers of 1,000, leaky with slope 0.2.

    Args:
        num_latents: Dimensions of the code.
        width: Units in each hidden layer, at least 1.
        layers: Hidden layers, at least 1.

    Returns:
        A network with Glorot's weights from codes (B, num_latents) to logits (B, 2): sampled,
        permuted.

    Raises:
        ValueError: An argument is outside its range.
    """
    for name, value in (("discriminator_width", width), ("discriminator_layers", layers)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    hidden: list[nn.Module] = []
    for number in range(layers):
        hidden += [nn.Linear(width if number else num_latents, width), nn.LeakyReLU(0.2)]
    return nn.Sequential(*hidden, nn.Linear(width, 2)).apply(glorot_start)
