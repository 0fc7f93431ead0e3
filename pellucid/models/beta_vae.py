"""beta-VAE: a heavier KL divergence, or one that is held to a capacity which rises.

Higgins et al., "beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework",
ICLR 2017; Burgess et al., "Understanding disentangling in beta-VAE", 2018 (arXiv 1804.03599).

Where this differs from the papers:

- Networks and optimiser default to those of Locatello et al. 2019; ``burgess`` and ``mlp`` are the
  papers' own. Higgins trains with Adagrad on dSprites.
- beta may rise to its weight over the first steps (``warmup_steps``), as in public codes: a large
  one from the start can silence latents that would have learned something, at times all of them.
- The capacity holds the mean KL divergence of the batch, ``gamma |mean KL - C|``, as public codes
  do, and rises with every step; the paper's Eq. 8 has the absolute value of each image's.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from pellucid.arguments import check_at_least
from pellucid.distributed import gather_with_gradient
from pellucid.losses.reconstruction import Likelihood
from pellucid.models.layers.encoders import EncoderName
from pellucid.models.vae import VAE, Bound

Objective = Literal["higgins", "capacity"]


def capacity_at(step: int, capacity_max: float, capacity_steps: int) -> float:
    """The capacity C at a step, in nats: from 0 at step 0 straight to its maximum.

    Args:
        step: Training steps so far, at least 0.
        capacity_max: C from step ``capacity_steps`` on.
        capacity_steps: Steps of the rise, at least 1.
    """
    return capacity_max * min(1.0, step / capacity_steps)


class BetaVAE(VAE):
    """VAE whose KL divergence is weighted by beta, or held to a capacity.

    ``higgins`` minimises ``reconstruction + beta KL`` (Higgins, Eq. 4), ``capacity`` minimises
    ``reconstruction + gamma |KL - C|`` (Burgess, Eq. 8), both sums over pixels and latents in nats
    per image: where the reconstruction is a mean over pixels, a public code's beta is to be
    multiplied with their number. A posterior that ignores its input can hold to a capacity too:
    look at active units and ``reconstruction``, and not at ``kl`` alone.

    Args:
        image_size: Height and width of the images in pixels.
        channels: Channels of the images.
        objective: ``higgins`` or ``capacity``.
        beta: Weight of the KL divergence in ``higgins``, at least 0; 1 is a VAE.
        warmup_steps: Training steps over which that weight rises from 0, at least 0, which is as
            published; validation and tests have it in full.
        gamma: Weight of the distance from the capacity in ``capacity``, at least 0.
        capacity_max: Capacity at the end of its rise, in nats per image, at least 0.
        capacity_steps: Training steps of the rise, at least 1.
        num_latents: Dimensions of the code.
        encoder: See :class:`VAE`.
        decoder: See :class:`VAE`.
        likelihood: Of a pixel: ``bernoulli`` or ``gaussian``.
        decoder_std: Standard deviation of a Gaussian pixel.
        lr: Learning rate of Adam.
        traversal_range: Traversals show each latent from minus to plus this.
        traversal_steps: At so many values.
        judge: See :class:`VAE`.
        updates_per_batch: See :class:`VAE`.
        restart_step: See :class:`VAE`.

    Raises:
        ValueError: An argument is outside its range.
    """

    capacity: Tensor
    rising_beta: Tensor

    def __init__(
        self,
        image_size: int,
        channels: int,
        objective: Objective = "higgins",
        beta: float = 4.0,
        warmup_steps: int = 0,
        gamma: float = 1000.0,
        capacity_max: float = 25.0,
        capacity_steps: int = 100_000,
        num_latents: int = 10,
        encoder: EncoderName = "locatello",
        decoder: EncoderName | None = None,
        likelihood: Likelihood = "bernoulli",
        decoder_std: float = 1.0,
        lr: float = 1e-4,
        traversal_range: float = 3.0,
        traversal_steps: int = 11,
        judge: str = "none",
        updates_per_batch: int = 1,
        restart_step: int = 0,
    ) -> None:
        if objective not in get_args(Objective):
            raise ValueError(f"objective must be higgins or capacity, got {objective!r}")
        check_at_least(
            0, beta=beta, warmup_steps=warmup_steps, gamma=gamma, capacity_max=capacity_max
        )
        check_at_least(1, capacity_steps=capacity_steps)
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
        self.objective, self.beta, self.gamma = objective, beta, gamma
        self.warmup_steps = warmup_steps
        self.capacity_max, self.capacity_steps = capacity_max, capacity_steps
        # In the checkpoint, for a test knows no training step.
        self.register_buffer("capacity", torch.zeros(()))
        at_first = torch.tensor(0.0 if warmup_steps else float(beta))
        self.register_buffer("rising_beta", at_first, persistent=False)

    def before_update(self, image: Tensor) -> None:
        """Raise the capacity, or beta; see :meth:`VAE.before_update`."""
        super().before_update(image)
        step = self.global_step
        if self.objective == "capacity":
            self.capacity.fill_(capacity_at(step, self.capacity_max, self.capacity_steps))
        elif self.warmup_steps:
            self.rising_beta.fill_(self.beta * min(1.0, step / self.warmup_steps))

    def criterion(self, bound: Bound) -> dict[str, Tensor]:
        """See :meth:`VAE.criterion`."""
        if self.objective == "higgins":
            beta = self.rising_beta if self.training else self.beta
            return {"loss": bound.reconstruction + beta * bound.kl}
        # The absolute value of a mean: over the images of all devices, or it is another loss.
        kl = gather_with_gradient(bound.kl_per_latent.sum(1)).mean()
        held = self.gamma * (kl - self.capacity).abs()
        return {"loss": bound.reconstruction + held, "capacity": self.capacity.clone()}
