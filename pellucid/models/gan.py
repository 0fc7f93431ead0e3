"""Generative adversarial network: a generator learns to draw what a discriminator takes for real.

Goodfellow et al., "Generative Adversarial Networks", NeurIPS 2014 (arXiv 1406.2661).

It has no codes, so it is the black-box twin of InfoGAN and AC-GAN: the same networks and the same
training without the terms that make latents mean something.

Where this differs from the paper:

- Convolutional networks with batch normalisation, and Adam, as in DCGAN (Radford et al., 2016) and
  InfoGAN; the paper's are fully connected.
- One step of the discriminator for each step of the generator, which is the paper's k = 1.
- Real and generated images pass through the discriminator one after the other, each with batch
  statistics of its own.
"""

import torch
from torch import Tensor

from pellucid.batch import Batch
from pellucid.losses.adversarial import discriminator_loss, generator_loss
from pellucid.models.adversarial import Decay
from pellucid.models.adversarial_generator import AdversarialGenerator, Row
from pellucid.models.base import Stage
from pellucid.models.explanation import Explanation
from pellucid.models.layers.codes import CodeSpace

SHOWN = 10
"""Noise variables that ``explain`` shows."""


class GAN(AdversarialGenerator):
    """Generator and discriminator.

    Args:
        network: Name of the networks, see :mod:`pellucid.models.layers.gan_networks`; it decides
            on the images' size.
        channels: 1 for greys, 3 for colours.
        num_noise: Noise variables, uniform on [-1, 1].
        lr: Adam's learning rate of the generator.
        discriminator_lr: Likewise of the discriminator.
        beta1: Adam's weight of the mean gradient so far.
        decay: ``linear``: learning rates fall to zero over the second half of the training.
        ema_decay: Weight of the average so far in a running mean of the generator's weights, which
            then draws in evaluation; None: the weights themselves do.
        gradient_clip: Largest norm of the gradient of either network; None: not clipped.
        judge: Checkpoint of a classifier of the data that judges what the generator draws in
            tests, or ``none``.
        traversal_steps: Values of each noise variable in :meth:`explain`, at least 2.

    Raises:
        ValueError: An argument is outside its range.
    """

    requires = frozenset({"image"})
    reconstructs = False

    def __init__(
        self,
        network: str = "infogan_mnist",
        channels: int = 1,
        num_noise: int = 74,
        lr: float = 1e-3,
        discriminator_lr: float = 2e-4,
        beta1: float = 0.5,
        decay: Decay = "none",
        ema_decay: float | None = None,
        gradient_clip: float | None = None,
        judge: str = "none",
        traversal_steps: int = 10,
    ) -> None:
        super().__init__(
            CodeSpace(num_noise),
            network,
            channels,
            lr,
            discriminator_lr,
            beta1,
            decay,
            ema_decay,
            gradient_clip,
            judge,
            traversal_steps,
        )
        self.save_hyperparameters()

    def discriminator_turn(self, batch: Batch) -> dict[str, Tensor]:
        """Equation 1, for the discriminator."""
        real = self.logit(self.trunk(self.pixels(batch)))
        with torch.no_grad():
            image = self.generator(self.codes.join(self.sample(batch)))
        return {"loss": discriminator_loss(real, self.logit(self.trunk(image)))}

    def generator_turn(self, batch: Batch) -> dict[str, Tensor]:
        """The loss that does not saturate, with fresh noise."""
        image = self.generator(self.codes.join(self.sample(batch)))
        return {"loss": generator_loss(self.logit(self.trunk(image)))}

    def evaluate(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """The losses on fresh images, and in tests what the judge says of them."""
        real, generated = self.pixels(batch), self.draw(self.evaluation_codes(batch))
        losses = self.game(self.trunk(real), self.trunk(generated))
        return losses | self.judged(real, generated, stage)

    @torch.no_grad()
    def explain(self, batch: Batch, target: Tensor | None = None) -> Explanation:
        """What changes along the first noise variables, from -1 to 1.

        A plain GAN infers nothing from an image, so each has the same rows.
        """
        image = batch["image"]
        line = torch.linspace(-1, 1, self.traversal_steps, device=image.device)
        rows = [
            Row(name=f"noise {i}", kind="continuous", field="noise", column=i, values=line)
            for i in range(min(SHOWN, self.codes.num_noise))
        ]
        # Noise has no meaning, so that nothing says which variable matters.
        unknown = torch.full((len(rows),), torch.nan, device=image.device)
        codes = self.fixed_codes(len(image), image.device)
        return Explanation(
            scores=image.new_zeros(len(image), 0),
            target=torch.zeros(len(image), dtype=torch.int64, device=image.device),
            traversals=self.traverse(codes, rows, unknown, "importance"),
        )
