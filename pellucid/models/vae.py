"""Variational autoencoder, and what its disentangling kin add to or change in its objective.

Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014 (arXiv 1312.6114).

Where this differs from the paper: networks, optimiser and learning rate are those of Locatello et
al., "Challenging Common Assumptions in the Unsupervised Learning of Disentangled Representations",
ICML 2019, so that all models of the family differ in their objective alone.
"""

import logging
from typing import Any, ClassVar, NamedTuple

import torch
from einops import rearrange, repeat
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Adam

from pellucid.arguments import check_at_least, check_positive, check_whole
from pellucid.batch import Batch
from pellucid.errors import UserError
from pellucid.losses.kl_divergence import GaussianKL
from pellucid.losses.reconstruction import Likelihood, ReconstructionLoss
from pellucid.models.base import Stage
from pellucid.models.explanation import Explanation, Traversals
from pellucid.models.judged import JudgedGenerator, pixel_error
from pellucid.models.layers.decoders import make_decoder
from pellucid.models.layers.encoders import EncoderName, make_encoder
from pellucid.models.layers.image_range import ImageRange, follow_the_data
from pellucid.models.repeating import RepeatingModel
from pellucid.models.silent_latents import LEAST_IMAGES, restart_silent

log = logging.getLogger(__name__)

KL_MEMORY = 0.99
"""What the running KL of each latent keeps at a training step: it is of the last 100 or so, as a
quick run has a thousand, and what its first steps were says nothing of its end."""


class Posterior(NamedTuple):
    """A diagonal Gaussian over the latents of each image."""

    mean: Tensor
    """(B, L)."""
    log_variance: Tensor
    """(B, L)."""

    def sample(self) -> Tensor:
        """(B, L) one code of each image, differentiable in mean and variance."""
        return self.mean + (self.log_variance / 2).exp() * torch.randn_like(self.mean)


class Bound(NamedTuple):
    """The terms of the evidence lower bound of a batch, from one code sampled of each image."""

    posterior: Posterior
    codes: Tensor
    """(B, L) sampled from the posterior."""
    reconstruction: Tensor
    """Minus the log-likelihood of the images, nats per image; a scalar, the batch's mean."""
    kl_per_latent: Tensor
    """(B, L) nats."""
    kl: Tensor
    """Their sum over latents; a scalar, the batch's mean."""


class VAE(RepeatingModel, JudgedGenerator):
    """Encoder and decoder that maximise the evidence lower bound (Eq. 10 of the paper).

    ``loss``, ``reconstruction``, ``kl`` and ``elbo`` are nats per image and, for one likelihood,
    comparable between the models of the family. ``best.ckpt`` is that of the last epoch, as in
    published protocols: the bound of most of them is not what they minimise, and the objective of
    some changes with the step.

    Args:
        image_size: Height and width of the images in pixels.
        channels: Channels of the images.
        num_latents: Dimensions of the code.
        encoder: ``burgess``, ``locatello``, ``infogan_mnist`` or ``mlp``, see
            :func:`pellucid.models.layers.encoders.make_encoder`.
        decoder: Likewise; None: the mirror of the encoder.
        likelihood: Of a pixel: ``bernoulli`` or ``gaussian``.
        decoder_std: Standard deviation of a Gaussian pixel, whose values are in [0, 1]. A smaller
            one makes reconstructions count more against the KL divergence.
        lr: Learning rate of Adam.
        traversal_range: Traversals show each latent from minus to plus this.
        traversal_steps: At so many values.
        judge: Checkpoint of a classifier of the data that judges, in tests, what is drawn of codes
            from the prior, or ``none``.
        updates_per_batch: Parts that a training batch is cut into, with an update of each. More
            than 1 makes training on a GPU many times faster, since updates are then replayed from a
            CUDA graph: with ``data.on_device`` and 100 of 64 images, ``data.batch_size`` is 6400.
            ``trainer.max_steps`` and schedules count updates as ever. For one device only.
        restart_step: Training step at which latents that have fallen silent start anew, see
            :func:`pellucid.models.silent_latents.restart_silent`, and Adam forgets, counted as
            ``trainer.max_steps`` are; 0: they stay silent, as published. They are judged by the
            images of one update, of which there must be at least 8.

    Raises:
        ValueError: An argument is outside its range.
    """

    monitor: ClassVar[str | None] = None
    tests_all: ClassVar[bool] = False
    steps_per_update: ClassVar[int] = 1
    """By how much an update of all weights raises ``global_step``."""
    running_kl: Tensor
    running_weight: Tensor

    def __init__(
        self,
        image_size: int,
        channels: int,
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
        check_at_least(0, restart_step=restart_step)
        check_whole(restart_step=restart_step)
        check_at_least(1, num_latents=num_latents)
        check_at_least(2, traversal_steps=traversal_steps)
        check_positive(lr=lr, traversal_range=traversal_range)
        super().__init__()
        self.save_hyperparameters()
        self.image_size, self.channels, self.num_codes = image_size, channels, num_latents
        self.lr, self.traversal_range, self.traversal_steps = lr, traversal_range, traversal_steps
        self.judge_path, self.restart_step = judge, restart_step
        self._restarted: bool | None = None
        self.repeat_updates(updates_per_batch)
        self.encoder = make_encoder(encoder, image_size, channels, 2 * num_latents)
        self.decoder = make_decoder(decoder or encoder, image_size, channels, num_latents)
        for network in (self.encoder, self.decoder):
            # The same sums in another layout, in which a CPU trains 1.15 times faster.
            network.to(memory_format=torch.channels_last)
        self.reconstruction_loss = ReconstructionLoss(likelihood, decoder_std)
        self.kl_divergence = GaussianKL()
        self.image_range = ImageRange(channels)
        self.register_buffer("running_kl", torch.zeros(num_latents))
        self.register_buffer("running_weight", torch.zeros(()))
        self.register_load_state_dict_post_hook(follow_the_data)  # type: ignore[no-untyped-call]

    def encode(self, image: Tensor) -> Posterior:
        """The posterior of images (B, C, H, W) in [0, 1]."""
        outputs = rearrange(self.encoder(image).float(), "b (kind l) -> kind b l", kind=2)
        return Posterior(*outputs.unbind())

    def decode(self, codes: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1], the means of their pixels, of codes (B, L)."""
        return self.reconstruction_loss.picture(self.decoder(codes))

    def bound(self, image: Tensor) -> Bound:
        """The terms of the evidence lower bound of images (B, C, H, W) in [0, 1]."""
        posterior = self.encode(image)
        codes = posterior.sample()
        reconstruction = self.reconstruction_loss(self.decoder(codes), image).mean()
        kl_per_latent = self.kl_divergence(*posterior)
        return Bound(posterior, codes, reconstruction, kl_per_latent, kl_per_latent.sum(1).mean())

    def criterion(self, bound: Bound) -> dict[str, Tensor]:
        """What the model minimises; what the kin of this model change.

        Args:
            bound: The terms of a batch.

        Returns:
            ``loss`` and other scalars, in nats per image.
        """
        return {"loss": bound.reconstruction + bound.kl}

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """See :meth:`InterpretableModel.step`.

        Returns:
            Outside of training also ``reconstruction_error`` (B,), the mean squared error of a
            pixel of what is drawn of the posterior means.
        """
        if stage == "train":
            if self.repeats:
                return self.update_by_parts(batch["image"])
            self.before_update(batch["image"])
        image = self.image_range(batch["image"])
        bound = self.bound(image)
        outputs = {**self.criterion(bound), **self.figures(bound, stage)}
        if stage != "train":
            drawn = self.decode(bound.posterior.mean)
            outputs["reconstruction_error"] = pixel_error(drawn, image)
        if self.judges(stage):
            outputs |= self.judged(image, self.draw(batch), stage)
        return outputs

    def before_update(self, image: Tensor) -> None:
        """Let silent latents start anew at ``restart_step``; see :class:`RepeatingModel`."""
        if not self.restart_step:
            return
        late = self.global_step - self.restart_step
        if self._restarted is None:  # A resumed run may have done so.
            self._restarted = late >= self.steps_per_update
        few = len(image) * self.trainer.world_size < LEAST_IMAGES
        if late < 0 or self._restarted or few:
            return
        pixels, optimizers = self.image_range(image), self.trainer.optimizers
        latents = restart_silent(self.encoder, self.decoder, pixels, optimizers)
        self._restarted = True
        if self.trainer.is_global_zero:
            log.info("step %d: silent latents that start anew: %s", self.global_step, latents)

    def bare_update(self, image: Tensor) -> dict[str, Tensor]:
        """See :meth:`RepeatingModel.bare_update`."""
        (optimizer,) = self.trainer.optimizers
        optimizer.zero_grad(set_to_none=True)
        bound = self.bound(self.image_range(image))
        outputs = {**self.criterion(bound), **self.figures(bound, "train")}
        outputs["loss"].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return {name: value.detach() for name, value in outputs.items()}

    def draw(self, batch: Batch) -> Tensor:
        """(B, C, H, W) in [0, 1], of codes from the prior, for as many images as a batch has."""
        image, source = batch["image"], self.evaluation_source(batch)
        codes = torch.randn(len(image), len(self.running_kl), generator=source)
        return self.decode(codes.to(image.device))

    def figures(self, bound: Bound, stage: Stage) -> dict[str, Tensor]:
        """What is told of a batch whatever is minimised.

        Args:
            bound: The terms of the batch.
            stage: The stage.

        Returns:
            ``reconstruction``, ``kl`` and ``elbo`` in nats per image; outside of training also
            ``codes`` (B, L), the posterior means, and ``kl_per_latent`` (B, L) nats.
        """
        reconstruction, kl = bound.reconstruction.detach(), bound.kl.detach()
        outputs = {"reconstruction": reconstruction, "kl": kl, "elbo": -reconstruction - kl}
        if stage == "train":
            self._remember(bound.kl_per_latent.detach().mean(0))
        else:
            outputs |= {"codes": bound.posterior.mean, "kl_per_latent": bound.kl_per_latent}
        return outputs

    def _remember(self, kl: Tensor) -> None:
        self.running_kl.mul_(KL_MEMORY).add_(kl)
        self.running_weight.mul_(KL_MEMORY).add_(1)

    def mean_kl(self, otherwise: Tensor) -> Tensor:
        """Mean KL divergence of each latent over the training images of late, (L,) nats.

        Args:
            otherwise: (L,) what to give where the model has not been trained.
        """
        mean = self.running_kl / self.running_weight.clamp(min=1)
        return torch.where(self.running_weight > 0, mean, otherwise)

    @torch.no_grad()
    def explain(self, batch: Batch, target: Tensor | None = None) -> Explanation:
        """The code of each image, what is drawn of it, and what each latent changes.

        Latents are sorted by their mean KL divergence over the training images of late.

        Args:
            batch: The batch; needs ``image`` only.
            target: Without meaning here: a VAE has no classes.
        """
        posterior = self.encode(self.image_range(batch["image"]))
        codes = posterior.mean
        importance = self.mean_kl(self.kl_divergence(*posterior).mean(0))
        order = importance.argsort(descending=True, stable=True)
        traversals = Traversals(
            images=torch.stack([self._traverse(codes, int(latent)) for latent in order], dim=1),
            values=repeat(self._values(), "s -> b u s", b=len(codes), u=len(order)),
            names=tuple(f"latent {int(latent)}" for latent in order),
            kinds=tuple("continuous" for _ in order),
            importance=importance[order],
            importance_name="KL",
            codes=codes[:, order],
        )
        return self._explanation(codes, reconstruction=self.decode(codes), traversals=traversals)

    def _values(self) -> Tensor:
        """(S,) the values of a latent in its traversal, in standard deviations of the prior."""
        reach, steps = self.traversal_range, self.traversal_steps
        return torch.linspace(-reach, reach, steps, device=self.running_kl.device)

    def _traverse(self, codes: Tensor, latent: int) -> Tensor:
        """(B, S, C, H, W) images of codes (B, L) with one latent at each of its values."""
        values = self._values()
        moved = repeat(codes, "b l -> s b l", s=len(values)).clone()
        moved[:, :, latent] = rearrange(values, "s -> s 1")
        images = self.decode(rearrange(moved, "s b l -> (b s) l"))
        return rearrange(images, "(b s) c h w -> b s c h w", s=len(values))

    def _explanation(
        self,
        codes: Tensor,
        reconstruction: Tensor | None = None,
        traversals: Traversals | None = None,
    ) -> Explanation:
        return Explanation(
            scores=codes.new_zeros(len(codes), 0),
            target=torch.zeros(len(codes), dtype=torch.int64, device=codes.device),
            codes=codes,
            reconstruction=reconstruction,
            traversals=traversals,
        )

    @torch.no_grad()
    def predict_step(self, batch: Batch, batch_idx: int) -> Explanation:
        """Lightning's hook: codes alone, as traversals of a whole split would fill the memory."""
        codes = self.encode(self.image_range(batch["image"])).mean
        return self._explanation(codes).to("cpu")

    def setup(self, stage: str) -> None:
        """Check that model and data are of one size, and take over how the data normalise.

        Raises:
            UserError: The data's images are of another size than the model's, the judge cannot be
                read or used, or an update has too few images to judge latents by.
        """
        self.read_judge(self.channels, self.image_size)
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if data is None:
            return
        size = getattr(data, "image_size", self.image_size)
        if size != self.image_size:
            raise UserError(
                "model.image_size",
                f"is {self.image_size}, but {type(data).__name__} makes images of {size} pixels: "
                f"give --data.image_size {self.image_size}",
            )
        images = getattr(data, "batch_size", LEAST_IMAGES * self.updates_per_batch)
        images = images * self.trainer.world_size // self.updates_per_batch
        if stage == "fit" and self.restart_step and images < LEAST_IMAGES:
            raise UserError(
                "model.restart_step",
                f"judges latents by the images of one update, at least {LEAST_IMAGES}, got "
                f"{images}: give a larger data.batch_size",
            )
        self.image_range.use(data.mean, data.std)

    def on_fit_start(self) -> None:
        """See :meth:`RepeatingModel.on_fit_start`; a fit may be another's that was resumed."""
        super().on_fit_start()
        self._restarted = None

    def on_train_end(self) -> None:
        """Say so if the training ended before silent latents could start anew."""
        super().on_train_end()
        if self._restarted is False:
            rank_zero_warn(
                f"model.restart_step {self.restart_step} did not come: training ended at step "
                f"{self.global_step}, and silent latents stayed so"
            )

    def configure_optimizers(self) -> Any:
        """Adam."""
        # A fused step unscales half-precision gradients itself, too late for clipping them.
        fused = getattr(self.trainer.precision_plugin, "scaler", None) is None
        return Adam(self.parameters(), self.lr, fused=fused)
