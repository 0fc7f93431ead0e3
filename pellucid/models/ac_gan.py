"""AC-GAN: a generator that draws what a label says, with a discriminator that also classifies.

Odena, Olah, Shlens, "Conditional Image Synthesis with Auxiliary Classifier GANs", ICML 2017 (arXiv
1610.09585).

Where this differs from the paper:

- The paper has no MNIST; networks and learning rates are InfoGAN's (arXiv 1606.03657), without
  dropout and noise in the discriminator. For 32 and 64 pixels the networks are InfoGAN's and
  DCGAN's, where the paper has some of six layers.
- Noise is uniform on [-1, 1].
- ``class_weight`` weighs the classes' log-likelihood, which the paper adds as it is.
- One model for all classes; the paper trains 100 for ten of ImageNet's classes each.

The auxiliary classifier gives logits, and the cross-entropy takes them: a soft-max in between, as a
popular port has it, leaves gradients too flat to learn from.
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
from pellucid.errors import UserError
from pellucid.losses.adversarial import discriminator_loss, generator_loss
from pellucid.losses.mutual_information import categorical_information
from pellucid.metrics.code_error import CodeErrorHungarian, CodeErrorMajority
from pellucid.metrics.resampled_accuracy import ResampledAccuracy
from pellucid.models.adversarial import Decay
from pellucid.models.adversarial_generator import AdversarialGenerator
from pellucid.models.base import Stage
from pellucid.models.explanation import Explanation
from pellucid.models.judged import NO_JUDGE, pixel_error
from pellucid.models.layers.codes import Codes, CodeSpace
from pellucid.models.layers.gan_networks import make_head

MOMENTUM = 0.01
"""Weight of the last batch in the running mean of what the classifier misses."""


class ACGAN(AdversarialGenerator):
    """A GAN whose latents are a class and noise, and whose discriminator tells classes as well.

    Args:
        num_classes: Number of classes.
        network: Name of the networks, see :mod:`pellucid.models.layers.gan_networks`; it decides
            on the images' size.
        channels: 1 for greys, 3 for colours.
        num_noise: Noise variables, uniform on [-1, 1].
        class_weight: Weight of the log-likelihood of the classes, at least 0.
        lr: Adam's learning rate of the generator.
        discriminator_lr: Likewise of the discriminator and its classifier.
        beta1: Adam's weight of the mean gradient so far.
        decay: ``linear``: learning rates fall to zero over the second half of the training.
        ema_decay: Weight of the average so far in a running mean of the generator's weights, which
            then draws in evaluation; None: the weights themselves do.
        gradient_clip: Largest norm of the gradient of either player; None: not clipped.
        judge: Checkpoint of a classifier of the data that judges what the generator draws in
            tests, or ``none``.
        traversal_steps: No fewer values than this are shown in :meth:`explain`, at least 2.

    Raises:
        ValueError: An argument is outside its range.
    """

    requires = frozenset({"image", "label"})
    missed: Tensor

    def __init__(
        self,
        num_classes: int,
        network: str = "infogan_mnist",
        channels: int = 1,
        num_noise: int = 62,
        class_weight: float = 1.0,
        lr: float = 1e-3,
        discriminator_lr: float = 2e-4,
        beta1: float = 0.5,
        decay: Decay = "none",
        ema_decay: float | None = None,
        gradient_clip: float | None = None,
        judge: str = "none",
        traversal_steps: int = 10,
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        check_at_least(0, class_weight=class_weight)
        super().__init__(
            CodeSpace(num_noise, 0, (num_classes,)),
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
        self.num_classes, self.class_weight, self.num_codes = num_classes, class_weight, num_classes
        self.classifier = make_head(network, num_classes)
        self.register_buffer("missed", torch.tensor(math.log(num_classes)))

    def heads(self) -> Sequence[nn.Module]:
        """The auxiliary classifier is trained with the discriminator."""
        return (self.classifier,)

    def discriminator_turn(self, batch: Batch) -> dict[str, Tensor]:
        """Minus L_S - L_C, equations 2 and 3: both classify real and generated images."""
        pixels, label, codes = self.pixels(batch), batch["label"], self.sample(batch)
        with torch.no_grad():
            image = self.generator(self.codes.join(codes))
        real, generated = self.trunk(pixels), self.trunk(image)
        game = discriminator_loss(self.logit(real), self.logit(generated))
        scores, drawn = self.classifier(real).float(), codes.categories[:, 0]
        of_real = F.cross_entropy(scores, label)
        of_generated = F.cross_entropy(self.classifier(generated).float(), drawn)
        self.missed.lerp_(of_generated.detach(), MOMENTUM)
        return {
            "loss": game + self.class_weight * (of_real + of_generated),
            "real_classification_loss": of_real,
            "generated_classification_loss": of_generated,
        }

    def generator_turn(self, batch: Batch) -> dict[str, Tensor]:
        """Minus L_C - L_S: what is drawn shall look real and be of its class."""
        codes = self.sample(batch)
        features = self.trunk(self.generator(self.codes.join(codes)))
        classes = F.cross_entropy(self.classifier(features).float(), codes.categories[:, 0])
        return {"loss": generator_loss(self.logit(features)) + self.class_weight * classes}

    def evaluate(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """The losses on fresh images, the classes of real ones, and what the judge says."""
        real, drawn = self.pixels(batch), self.evaluation_codes(batch)
        generated = self.draw(drawn)
        label = drawn.categories[:, 0]
        # The real images last: a layer whose output is scored tells of what it saw last.
        features, of_real = self.trunk(generated), self.trunk(real)
        known = categorical_information(self.classifier(features), label)
        scores = self.classifier(of_real).float()
        outputs = self.game(of_real, features)
        outputs |= {"scores": scores, "codes": scores.softmax(1), "drawn_label": label}
        outputs["classification_loss"] = F.cross_entropy(scores, batch["label"])
        outputs["categorical_information"] = known
        outputs["reconstruction_error"] = pixel_error(self.draw(self._read(scores.argmax(1))), real)
        return outputs | self.judged(real, generated, stage)

    def _read(self, classes: Tensor) -> Codes:
        """The codes of images whose classes (B,) are known, with noise that is the same for all."""
        fixed = self.fixed_codes(len(classes), classes.device)
        return Codes(
            noise=fixed.noise, continuous=fixed.continuous, categories=classes.unsqueeze(1)
        )

    def make_metrics(self, data: Any, stage: Stage) -> Mapping[str, Metric]:
        """The judge's, and what the auxiliary classifier makes of real images.

        Its accuracy, and the errors of the class as a categorical code, which compare with those of
        an InfoGAN, whose codes have no names.
        """
        metrics = dict(super().make_metrics(data, stage))
        resampling = self.code_scores.resampling(stage)
        if stage != "train":
            metrics["accuracy"] = ResampledAccuracy(self.num_classes, **resampling)
            sizes = self.num_classes, self.num_classes
            metrics["code_error_hungarian"] = CodeErrorHungarian(*sizes, **resampling)
            metrics["code_error_majority"] = CodeErrorMajority(*sizes, **resampling)
        if self._judge is None:
            self.skipped_metrics["judged_accuracy"] = NO_JUDGE
        elif self.judges(stage):
            metrics["judged_accuracy"] = ResampledAccuracy(self.num_classes, **resampling)
        return metrics

    def update_metrics(
        self, metrics: Mapping[str, Metric], outputs: dict[str, Tensor], batch: Batch
    ) -> None:
        """See :meth:`InterpretableModel.update_metrics`."""
        super().update_metrics(metrics, outputs, batch)
        for name in ("accuracy", "code_error_hungarian", "code_error_majority"):
            if name in metrics:
                metrics[name].update(outputs["scores"], batch["label"])
        if "judged_accuracy" in metrics:
            metrics["judged_accuracy"].update(outputs["judged_scores"], outputs["drawn_label"])

    def setup(self, stage: str) -> None:
        """Check that the judge knows the classes; see :meth:`AdversarialGenerator.setup`.

        Raises:
            UserError: It has another number of classes.
        """
        super().setup(stage)
        if self._judge is not None and self._judge.num_classes != self.num_classes:
            raise UserError(
                "model.judge",
                f"has {self._judge.num_classes} classes, the data have {self.num_classes}: give "
                "the checkpoint of a classifier of these data",
            )

    @torch.no_grad()
    def explain(self, batch: Batch, target: Tensor | None = None) -> Explanation:
        """The class scores of each image, and what is drawn of each class with the same noise.

        ``scores`` (B, num_classes) are the auxiliary classifier's logits, ``codes`` its
        probabilities, and ``reconstruction`` shows the target.
        """
        scores = self.classifier(self.trunk(self.pixels(batch))).float()
        target = scores.argmax(1) if target is None else target.long()
        codes = self._read(target)
        information = (math.log(self.num_classes) - self.missed).clamp(min=0).unsqueeze(0)
        rows = self.rows(1.0, ("class",))
        return Explanation(
            scores=scores,
            target=target,
            codes=scores.softmax(1),
            reconstruction=self.draw(codes),
            traversals=self.traverse(codes, rows, information, "mutual information"),
        )
