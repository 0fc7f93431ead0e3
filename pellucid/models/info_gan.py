"""InfoGAN: a generator whose codes can be read from what it draws.

Chen, Duan, Houthooft, Schulman, Sutskever, Abbeel, "InfoGAN", NeurIPS 2016 (arXiv 1606.03657). With
``pairs_weight=0``, ``decay="none"`` and ``ema_decay=None``, networks, codes, optimisers and
initial weights are those of the paper's MNIST experiment and its code.

Where this differs from the paper:

- ``pairs_weight`` adds, for real images, the mutual information of the category that Q gives to an
  image and to a slightly turned and shifted copy of it (Ji, Henriques, Vedaldi, ICCV 2019). The
  paper's Q is trained on generated images alone: two kinds of image can share a category while a
  third has two, by its slant, and nothing mends it (MNIST, seed 0: 20 % of test images wrong
  after 5,064 updates without pairs, 2.5 % with them and ``pairs_balance`` 2, which is also the
  median of five seeds).
- ``decay`` lets the learning rates fall to zero; the paper's are constant.
- ``categorical_weight`` and ``continuous_weight`` are the paper's lambda for each kind of code.
- The mutual information of a continuous code that :meth:`InfoGAN.explain` reports is the bound with
  the best fitting standard deviation of Q; training has the paper's fixed one of 1.
- Codes are uniform on [-1, 1], as in the paper's MNIST experiment; traversals show -2 to 2, as the
  paper's figures do.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from pellucid.arguments import check_at_least
from pellucid.batch import Batch
from pellucid.losses.adversarial import discriminator_loss, generator_loss
from pellucid.losses.mutual_information import (
    categorical_information,
    continuous_information,
    fitted_information,
    paired_information,
)
from pellucid.metrics.code_error import CodeErrorHungarian, CodeErrorMajority
from pellucid.models.adversarial import Decay
from pellucid.models.adversarial_generator import AdversarialGenerator
from pellucid.models.base import Stage
from pellucid.models.explanation import Explanation
from pellucid.models.judged import pixel_error
from pellucid.models.layers.codes import Codes, CodeSpace
from pellucid.models.layers.gan_networks import make_head
from pellucid.models.layers.random_affine import random_affine

REACH = 2.0
"""Continuous codes are shown from minus this to this, as in the paper's figure 2."""

MOMENTUM = 0.01
"""Weight of the last batch in the running means of what Q knows of each code."""


class InfoGAN(AdversarialGenerator):
    """A GAN with codes, and a network Q that reads them from images, on the discriminator's trunk.

    Args:
        network: Name of the networks, see :mod:`pellucid.models.layers.gan_networks`; it decides
            on the images' size.
        channels: 1 for greys, 3 for colours.
        num_noise: Noise variables, uniform on [-1, 1].
        num_continuous: Continuous codes, likewise.
        categorical: Number of categories of each categorical code.
        categorical_weight: Weight of the mutual information of the categorical codes, at least 0.
        continuous_weight: Likewise of the continuous ones.
        pairs_weight: Weight of the mutual information of the categories of real images and of their
            copies, at least 0; 0 in the paper.
        pairs_balance: Weight in it of the entropy of the categories, at least 0. Above 1, fewer
            runs end with a category that no real image has while two kinds share another.
        pairs_strength: How far copies are turned, scaled, sheared and shifted; see
            :func:`pellucid.models.layers.random_affine.random_affine`.
        q_hidden: Width of the layer between the trunk and Q's codes.
        lr: Adam's learning rate of the generator.
        discriminator_lr: Likewise of the discriminator and Q.
        beta1: Adam's weight of the mean gradient so far.
        decay: ``linear``: learning rates fall to zero over the second half of the training.
        ema_decay: Weight of the average so far in a running mean of the generator's weights, which
            then draws in evaluation; None: the weights themselves do.
        gradient_clip: Largest norm of the gradient of either player; None: not clipped.
        judge: Checkpoint of a classifier of the data that judges what the generator draws in
            tests, or ``none``.
        traversal_steps: Values of each code in :meth:`explain`, at least 2; no fewer are shown than
            a code has categories.

    Raises:
        ValueError: An argument is outside its range.
    """

    requires = frozenset({"image"})
    missed: Tensor

    def __init__(
        self,
        network: str = "infogan_mnist",
        channels: int = 1,
        num_noise: int = 62,
        num_continuous: int = 2,
        categorical: Sequence[int] = (10,),
        categorical_weight: float = 1.0,
        continuous_weight: float = 1.0,
        pairs_weight: float = 0.0,
        pairs_balance: float = 1.0,
        pairs_strength: float = 0.15,
        q_hidden: int = 128,
        lr: float = 1e-3,
        discriminator_lr: float = 2e-4,
        beta1: float = 0.5,
        decay: Decay = "none",
        ema_decay: float | None = None,
        gradient_clip: float | None = None,
        judge: str = "none",
        traversal_steps: int = 10,
    ) -> None:
        check_at_least(
            0,
            categorical_weight=categorical_weight,
            continuous_weight=continuous_weight,
            pairs_weight=pairs_weight,
            pairs_balance=pairs_balance,
            pairs_strength=pairs_strength,
        )
        if q_hidden < 1:
            raise ValueError(f"q_hidden must be at least 1, got {q_hidden}; the paper has 128")
        codes = CodeSpace(num_noise, num_continuous, categorical)
        if not codes.num_codes:
            raise ValueError("num_continuous must be above 0 where categorical is empty, got 0")
        if pairs_weight and not categorical:
            raise ValueError(
                f"pairs_weight is for categorical codes, got {pairs_weight} without any; give 0"
            )
        super().__init__(
            codes,
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
        self.categorical_weight, self.continuous_weight = categorical_weight, continuous_weight
        self.pairs_weight, self.pairs_balance = pairs_weight, pairs_balance
        self.pairs_strength = pairs_strength
        self.num_codes = codes.num_codes
        self.q = make_head(network, codes.num_codes, q_hidden)
        # What Q missed of each code in late updates: mean squared errors, then cross-entropies.
        missed = [1 / 3] * num_continuous + [math.log(n) for n in codes.categorical]
        self.register_buffer("missed", torch.tensor(missed))

    def heads(self) -> Sequence[nn.Module]:
        """Q belongs to the discriminator's optimiser, as in the paper's code."""
        return (self.q,)

    def discriminator_turn(self, batch: Batch) -> dict[str, Tensor]:
        """Equation 6, for D and Q: the game, less what Q knows of the codes."""
        pixels, codes = self.pixels(batch), self.sample(batch)
        with torch.no_grad():
            image = self.generator(self.codes.join(codes))
        # One after the other, so that each has batch statistics of its own.
        real, generated = self.trunk(pixels), self.trunk(image)
        game = discriminator_loss(self.logit(real), self.logit(generated))
        read = self.q(generated)
        known, information = self.known(read, codes)
        self._remember(read.detach(), codes)
        loss = game - known
        if self.pairs_weight:
            copies = self.trunk(random_affine(pixels, self.pairs_strength))
            pairs = self._paired(self.q(real), self.q(copies))
            loss, information["paired_information"] = loss - self.pairs_weight * pairs, pairs
        return {"loss": loss, **information}

    def generator_turn(self, batch: Batch) -> dict[str, Tensor]:
        """Equation 6, for G, with fresh codes."""
        codes = self.sample(batch)
        features = self.trunk(self.generator(self.codes.join(codes)))
        known, _ = self.known(self.q(features), codes)
        return {"loss": generator_loss(self.logit(features)) - known}

    def split(self, outputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Means (B, C) of the continuous codes, and logits (B, K) of each categorical one."""
        sizes = [self.codes.num_continuous, *self.codes.categorical]
        continuous, *logits = torch.split(outputs, sizes, 1)
        return continuous, logits

    def known(self, outputs: Tensor, codes: Codes) -> tuple[Tensor, dict[str, Tensor]]:
        """Equation 5: lower bounds of the mutual information of codes and image.

        Args:
            outputs: (B, num_codes) what Q makes of the images.
            codes: Of which they were drawn.

        Returns:
            The weighted sum, and each kind's bound in nats.
        """
        mean, logits = self.split(outputs)
        bounds = {}
        total = outputs.new_zeros((), dtype=torch.float32)
        if logits:
            each = [
                categorical_information(q, codes.categories[:, i]) for i, q in enumerate(logits)
            ]
            bounds["categorical_information"] = torch.stack(each).sum()
            total = total + self.categorical_weight * bounds["categorical_information"]
        if mean.shape[1]:
            bounds["continuous_information"] = continuous_information(mean, codes.continuous)
            total = total + self.continuous_weight * bounds["continuous_information"]
        return total, bounds

    def _paired(self, first: Tensor, second: Tensor) -> Tensor:
        """Of the categories of real images and of their copies, summed over categorical codes."""
        pairs = zip(self.split(first)[1], self.split(second)[1], strict=True)
        each = [paired_information(a, b, self.pairs_balance) for a, b in pairs]
        return torch.stack(each).sum()

    @torch.no_grad()
    def _remember(self, outputs: Tensor, codes: Codes) -> None:
        """Move the running means of what Q misses of each code."""
        mean, logits = self.split(outputs.float())
        missed = (mean - codes.continuous).square().mean(0)
        entropies = [F.cross_entropy(q, codes.categories[:, i]) for i, q in enumerate(logits)]
        self.missed.lerp_(torch.cat([missed, *[e.view(1) for e in entropies]]), MOMENTUM)

    def code_information(self) -> Tensor:
        """Lower bound of the mutual information of each code and the image, over late updates.

        Returns:
            (U,) nats, at least 0: continuous codes first, then categorical ones.
        """
        number = self.codes.num_continuous
        sizes = self.missed.new_tensor(self.codes.categorical)
        categorical = (sizes.log() - self.missed[number:]).clamp(min=0)
        return torch.cat([fitted_information(self.missed[:number]), categorical])

    def infer(self, pixels: Tensor) -> tuple[Codes, Tensor, list[Tensor]]:
        """The codes that Q reads from images in [0, 1], with noise that is the same for all.

        Args:
            pixels: (B, C, H, W).

        Returns:
            The codes, each categorical one with its likeliest category; means and probabilities
            (B, num_codes); and the logits (B, K) of each categorical code.
        """
        mean, logits = self.split(self.q(self.trunk(pixels)).float())
        fixed = self.fixed_codes(len(pixels), pixels.device)
        chosen = [q.argmax(1) for q in logits]
        categories = torch.stack(chosen, 1) if chosen else fixed.categories
        codes = Codes(noise=fixed.noise, continuous=mean, categories=categories)
        return codes, torch.cat([mean, *[q.softmax(1) for q in logits]], 1), logits

    def evaluate(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """The losses on fresh images, the codes of the real ones, and what the judge says."""
        real, drawn = self.pixels(batch), self.evaluation_codes(batch)
        generated = self.draw(drawn)
        # The real images last: a layer whose output is scored tells of what it saw last.
        features = self.trunk(generated)
        outputs = self.game(self.trunk(real), features)
        known, information = self.known(self.q(features), drawn)
        outputs["loss"] = outputs["generator_loss"] = outputs["generator_loss"] - known
        outputs["discriminator_loss"] = outputs["discriminator_loss"] - known
        codes, outputs["codes"], logits = self.infer(real)
        outputs |= {f"logits_{i}": q for i, q in enumerate(logits)}
        outputs["reconstruction_error"] = pixel_error(self.draw(codes), real)
        return outputs | information | self.judged(real, generated, stage)

    def make_metrics(self, data: Any, stage: Stage) -> Mapping[str, Metric]:
        """The judge's, and how far categorical codes are the data's labels.

        The first code has the plain keys, the second ``code_error_hungarian_2``, and so on.
        """
        metrics = dict(super().make_metrics(data, stage))
        keys = ("code_error_hungarian", "code_error_majority")
        reason = None
        if "label" not in data.provides or data.num_classes < 2:
            reason = "needs labels, which the data do not have"
        elif not self.codes.categorical:
            reason = "needs a categorical code, and the model has none"
        if reason is not None:
            self.skipped_metrics |= dict.fromkeys(keys, reason)
            return metrics
        if stage == "train":
            return metrics
        resampling = self.code_scores.resampling(stage)
        for i, size in enumerate(self.codes.categorical):
            end = "" if i == 0 else f"_{i + 1}"
            for key, error in ((keys[0], CodeErrorHungarian), (keys[1], CodeErrorMajority)):
                metrics[key + end] = error(size, data.num_classes, **resampling)
        return metrics

    def update_metrics(
        self, metrics: Mapping[str, Metric], outputs: dict[str, Tensor], batch: Batch
    ) -> None:
        """See :meth:`InterpretableModel.update_metrics`."""
        super().update_metrics(metrics, outputs, batch)
        for name, metric in metrics.items():
            if name.startswith("code_error"):
                number = int(name.rsplit("_", 1)[-1]) if name[-1].isdigit() else 1
                metric.update(outputs[f"logits_{number - 1}"], batch["label"])

    @torch.no_grad()
    def explain(self, batch: Batch, target: Tensor | None = None) -> Explanation:
        """The codes that Q reads from each image, and what is drawn when one of them changes.

        All else is as Q reads it, with one and the same noise. ``codes`` (B, num_codes) are means
        and probabilities; codes are sorted by their mutual information with the image.
        """
        image = batch["image"]
        codes, read, _ = self.infer(self.pixels(batch))
        names = [f"continuous {i}" for i in range(self.codes.num_continuous)]
        names += [f"category {i}" for i in range(len(self.codes.categorical))]
        rows, importance = self.rows(REACH, names), self.code_information()
        return Explanation(
            scores=image.new_zeros(len(image), 0),
            target=torch.zeros(len(image), dtype=torch.int64, device=image.device),
            codes=read,
            reconstruction=self.draw(codes),
            traversals=self.traverse(codes, rows, importance, "mutual information"),
        )
