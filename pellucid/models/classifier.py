"""What classifiers on a backbone share: classes, accuracy, and supervision of where they look."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from pellucid.batch import Batch
from pellucid.losses.attention_supervision import AttentionSupervisionLoss, Divergence
from pellucid.losses.right_reasons import RightReasonsLoss
from pellucid.models.backbones import Backbone
from pellucid.models.base import Stage
from pellucid.models.fine_tuning import FineTunedModel, Schedule, check_at_least

Head = Literal["sigmoid", "softmax", "logistic"]
Relevant = Literal["object", "parts", "attention"]

_FIELD: Mapping[str, str] = {"object": "mask", "parts": "part_masks", "attention": "attention"}

log = logging.getLogger(__name__)


class Classifier(FineTunedModel):
    """Base of classifiers on top of a backbone.

    A subclass takes the same arguments in its own constructor and hands them on. Its ``step``
    passes the batch through :meth:`watched` first, and adds what :meth:`supervise` returns.

    Args:
        num_classes: Number of categories; one category and its negatives count as two.
        backbone: Name of a network, see :class:`pellucid.models.backbones.Backbone`; or one that
            the subclass has built from plain arguments of its own.
        weights: ``none``, the name of published weights, or a file.
        stride: Pixels per position of the feature map; None: the backbone's default.
        head: ``sigmoid``: one category against the rest (class 1 against class 0, whose score is
            0); ``softmax``: one of several; ``logistic``: several independent ones.
        right_reasons_weight: Weight of the squared input gradients where the annotation says
            "irrelevant", in training; 0: none. Features of frozen stages are then not cached in
            training, as gradients go through them.
        right_reasons_cell: Side in pixels of the squares by which those gradients are taken; 1: by
            single pixels, as in the paper. Large squares find what is spread over the background.
        attention_weight: Weight of the distance of attention from the annotation; 0: none.
        relevant: What is annotated: ``object`` (``mask``), ``parts`` (all of ``part_masks``), or
            ``attention`` (human attention maps). Images whose annotation is empty are left out.
        attention_divergence: ``kl``: attend to all that is relevant; ``outside``: to nothing else.
        node: Name of the node after which the backbone is cut, in place of a stride.
        trainable_stages: How many of the backbone's last stages are trained; None: all; 0: none.
        unfreeze_epoch: Epoch from which the whole backbone is trained; None: never.
        lr: Learning rate of the layers on top.
        backbone_lr_factor: Learning rate of the backbone's layers, as a share of ``lr``.
        weight_decay: AdamW's.
        schedule: ``one_cycle`` or ``constant`` learning rate.
        cache_frozen: Whether to keep what frozen stages make of each image.

    Raises:
        ValueError: An argument is outside its range.
        pellucid.models.backbones.WeightsError: Weights that do not exist or do not fit.
    """

    requires = frozenset({"image", "label"})
    monitor = "val/classification_loss"

    def __init__(
        self,
        num_classes: int,
        backbone: str | Backbone,
        weights: str = "none",
        stride: int | None = None,
        *,
        head: Head = "softmax",
        right_reasons_weight: float = 0.0,
        right_reasons_cell: int = 1,
        attention_weight: float = 0.0,
        relevant: Relevant = "object",
        attention_divergence: Divergence = "kl",
        node: str | None = None,
        trainable_stages: int | None = None,
        unfreeze_epoch: int | None = None,
        lr: float = 1e-3,
        backbone_lr_factor: float = 0.1,
        weight_decay: float = 1e-4,
        schedule: Schedule = "one_cycle",
        cache_frozen: bool = True,
    ) -> None:
        check_at_least(2, num_classes=num_classes)
        check_at_least(
            0, right_reasons_weight=right_reasons_weight, attention_weight=attention_weight
        )
        if head not in get_args(Head):
            raise ValueError(f"head must be sigmoid, softmax or logistic, got {head!r}")
        if head == "sigmoid" and num_classes != 2:
            raise ValueError(
                f"head 'sigmoid' is for one category and its negatives, got num_classes "
                f"{num_classes}; use 'softmax' or 'logistic'"
            )
        if relevant not in _FIELD:
            raise ValueError(f"relevant must be one of {', '.join(_FIELD)}, got {relevant!r}")
        super().__init__(
            backbone,
            weights,
            stride,
            node=node,
            trainable_stages=trainable_stages,
            unfreeze_epoch=unfreeze_epoch,
            lr=lr,
            backbone_lr_factor=backbone_lr_factor,
            weight_decay=weight_decay,
            schedule=schedule,
            cache_frozen=cache_frozen,
        )
        self.num_classes, self.head, self.relevant = num_classes, head, relevant
        self.right_reasons_weight, self.attention_weight = right_reasons_weight, attention_weight
        self.right_reasons_loss = RightReasonsLoss(cell=right_reasons_cell)
        self.attention_supervision_loss = AttentionSupervisionLoss(attention_divergence)
        if right_reasons_weight or attention_weight:
            needs = type(self).requires | {_FIELD[relevant]}
            self.requires = needs  # type: ignore[misc]  # an instance may need more

    def on_fit_start(self) -> None:
        """Lightning's hook."""
        super().on_fit_start()
        if self.right_reasons_weight and self.frozen_stages and self._cache is not None:
            log.info(
                "right_reasons_weight %g: features of frozen stages are not cached in training, as "
                "the gradient of the image goes through them; 0 turns it off",
                self.right_reasons_weight,
            )

    def _cacheable(self, stage: Stage) -> Any:
        """None in training for right reasons: cached features have no way back to the image."""
        if stage == "train" and self.right_reasons_weight:
            return None
        return super()._cacheable(stage)

    def class_scores(self, image: Tensor) -> Tensor:
        """(B, K) class scores, logits, of images (B, C, H, W), without explaining them."""
        scores: Tensor = self(image)
        return scores

    def watched(self, batch: Batch, stage: Stage) -> Batch:
        """The batch to run on: in training for right reasons, one with gradients of its images.

        Args:
            batch: The batch.
            stage: The stage.
        """
        if stage != "train" or not self.right_reasons_weight:
            return batch
        # A copy of the dictionary: nobody else's images need gradients.
        return cast(Batch, {**batch, "image": batch["image"].detach().requires_grad_()})

    def classification_losses(self, scores: Tensor, label: Tensor) -> Tensor:
        """Cross-entropy of each image.

        Args:
            scores: (B, K) logits.
            label: (B,) int64.

        Returns:
            (B,) nats; of ``logistic``, mean over the categories.
        """
        if self.head == "logistic":
            wanted = nn.functional.one_hot(label, self.num_classes).to(scores.dtype)
            terms = nn.functional.binary_cross_entropy_with_logits(scores, wanted, reduction="none")
            return terms.mean(1)
        # With class 0 at a score of 0 this is the sigmoid cross-entropy of class 1.
        return nn.functional.cross_entropy(scores, label, reduction="none")

    def supervise(
        self, batch: Batch, scores: Tensor, attention: Callable[[], Tensor], stage: Stage
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The losses of where the model looks.

        Args:
            batch: What :meth:`watched` returned.
            scores: (B, K) logits of the batch's images.
            attention: Makes the attention (B, U, h, w), from 0 on; called only if it is supervised.
            stage: The stage. Right reasons count in training alone: tests have no gradients.

        Returns:
            The weighted sum, and each loss by name.
        """
        total, losses = scores.new_zeros(()), {}
        if self.attention_weight:
            found = self.attention_supervision_loss(attention(), self._relevant(batch))
            losses["attention_loss"] = found
            total = total + self.attention_weight * found
        if self.right_reasons_weight and stage == "train":
            found = self.right_reasons_loss(
                self._log_probabilities(scores), batch["image"], self._irrelevant(batch)
            )
            losses["right_reasons_loss"] = found
            total = total + self.right_reasons_weight * found
        return total, losses

    def _relevant(self, batch: Batch) -> Tensor:
        """(B, H, W) what the annotation calls relevant; nothing in images without annotation."""
        found = cast(Tensor, batch[_FIELD[self.relevant]])  # type: ignore[literal-required]
        return found.any(1) if self.relevant == "parts" else found

    def _irrelevant(self, batch: Batch) -> Tensor:
        """(B, H, W) in [0, 1], the opposite; nothing in images without annotation."""
        relevant = self._relevant(batch).float()
        peak = relevant.amax((1, 2), keepdim=True)
        return (1 - relevant / peak.clamp(min=1e-8)) * (peak > 0)

    def _log_probabilities(self, scores: Tensor) -> Tensor:
        """(B, K) nats of every outcome; of ``logistic``, (B, 2 K) of each category and its lack."""
        scores = scores.float()
        if self.head == "logistic":
            return nn.functional.logsigmoid(torch.cat((scores, -scores), 1))
        return scores.log_softmax(1)

    def make_metrics(self, data: Any, stage: Stage) -> Mapping[str, Metric]:
        """See :meth:`InterpretableModel.make_metrics`."""
        return {"accuracy": MulticlassAccuracy(self.num_classes, average="micro")}

    def update_metrics(
        self, metrics: Mapping[str, Metric], outputs: dict[str, Tensor], batch: Batch
    ) -> None:
        """See :meth:`InterpretableModel.update_metrics`."""
        metrics["accuracy"].update(outputs["scores"], batch["label"])
