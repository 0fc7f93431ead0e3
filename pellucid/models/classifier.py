"""What classifiers on a backbone share: classes, accuracy, and supervision of where they look."""

import logging
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from pellucid.batch import Batch
from pellucid.losses.attention_supervision import Divergence
from pellucid.models.backbones import Backbone
from pellucid.models.base import Stage
from pellucid.models.fine_tuning import FineTunedModel, Schedule, check_at_least
from pellucid.models.supervised import Relevant, RightReasonsBy, SupervisedModel, check_supervision

Head = Literal["sigmoid", "softmax", "logistic"]

log = logging.getLogger(__name__)


class Classifier(FineTunedModel, SupervisedModel):
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
        right_reasons_by: ``gradient``: by squared input gradients, as in the paper; ``exchange``:
            by the cross-entropy of images that have exchanged what is irrelevant (module
            :mod:`pellucid.losses.background_exchange`).
        attention_weight: Weight of the distance of attention from the annotation; 0: none.
        relevant: What is annotated: ``object`` (``mask``), ``parts`` (all of ``part_masks``), or
            ``attention`` (human attention maps). Images whose annotation is empty are left out.
        attention_divergence: ``kl``: attend to all that is relevant; ``outside``: to nothing else.
        node: Name of the node after which the backbone is cut, in place of a stride.
        output_stride: Stride of the map of a backbone that goes on to its last layer, or ``node``,
            and whose coarser layers are dilated for it; None: no layer is dilated.
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
        right_reasons_by: RightReasonsBy = "gradient",
        attention_weight: float = 0.0,
        relevant: Relevant = "object",
        attention_divergence: Divergence = "kl",
        node: str | None = None,
        output_stride: int | None = None,
        trainable_stages: int | None = None,
        unfreeze_epoch: int | None = None,
        lr: float = 1e-3,
        backbone_lr_factor: float = 0.1,
        weight_decay: float = 1e-4,
        schedule: Schedule = "one_cycle",
        cache_frozen: bool = True,
    ) -> None:
        check_at_least(2, num_classes=num_classes)
        if head not in get_args(Head):
            raise ValueError(f"head must be sigmoid, softmax or logistic, got {head!r}")
        if head == "sigmoid" and num_classes != 2:
            raise ValueError(
                f"head 'sigmoid' is for one category and its negatives, got num_classes "
                f"{num_classes}; use 'softmax' or 'logistic'"
            )
        check_supervision(right_reasons_weight, attention_weight, relevant)
        super().__init__(
            backbone,
            weights,
            stride,
            node=node,
            output_stride=output_stride,
            trainable_stages=trainable_stages,
            unfreeze_epoch=unfreeze_epoch,
            lr=lr,
            backbone_lr_factor=backbone_lr_factor,
            weight_decay=weight_decay,
            schedule=schedule,
            cache_frozen=cache_frozen,
        )
        self.num_classes, self.head = num_classes, head
        self._supervise_by(
            right_reasons_weight,
            attention_weight,
            relevant,
            attention_divergence,
            right_reasons_by,
        )

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

    def _log_probabilities(self, scores: Tensor) -> Tensor:
        """(B, K) nats of every outcome; of ``logistic``, (B, 2 K) of each category and its lack."""
        if self.head == "logistic":
            scores = scores.float()
            return nn.functional.logsigmoid(torch.cat((scores, -scores), 1))
        return super()._log_probabilities(scores)

    def make_metrics(self, data: Any, stage: Stage) -> Mapping[str, Metric]:
        """See :meth:`InterpretableModel.make_metrics`."""
        return {"accuracy": MulticlassAccuracy(self.num_classes, average="micro")}

    def update_metrics(
        self, metrics: Mapping[str, Metric], outputs: dict[str, Tensor], batch: Batch
    ) -> None:
        """See :meth:`InterpretableModel.update_metrics`."""
        metrics["accuracy"].update(outputs["scores"], batch["label"])
