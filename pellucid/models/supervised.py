"""Supervision of where a classifier looks: two losses that hold it against an annotation."""

from collections.abc import Callable, Mapping
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from pellucid.batch import Batch
from pellucid.losses.attention_supervision import AttentionSupervisionLoss, Divergence
from pellucid.losses.background_exchange import exchange_background
from pellucid.losses.right_reasons import RightReasonsLoss
from pellucid.models.base import InterpretableModel, Stage
from pellucid.models.fine_tuning import check_at_least

Relevant = Literal["object", "parts", "attention"]
RightReasonsBy = Literal["gradient", "exchange"]

_FIELD: Mapping[str, str] = {"object": "mask", "parts": "part_masks", "attention": "attention"}


def check_supervision(right_reasons_weight: float, attention_weight: float, relevant: str) -> None:
    """Check the options of supervision.

    Raises:
        ValueError: Names what is out of range.
    """
    check_at_least(0, right_reasons_weight=right_reasons_weight, attention_weight=attention_weight)
    if relevant not in _FIELD:
        raise ValueError(f"relevant must be one of {', '.join(_FIELD)}, got {relevant!r}")


class SupervisedModel(InterpretableModel):
    """Base of classifiers that can be taught where to look.

    A subclass calls :meth:`_supervise_by` in its constructor. Its ``step`` passes the batch through
    :meth:`watched` first, and adds what :meth:`supervise` returns.
    """

    def _supervise_by(
        self,
        right_reasons_weight: float,
        attention_weight: float,
        relevant: Relevant,
        attention_divergence: Divergence,
        right_reasons_by: RightReasonsBy,
    ) -> None:
        """Keep the options, and need the annotation if a loss has a weight."""
        if right_reasons_by not in get_args(RightReasonsBy):
            raise ValueError(
                f"right_reasons_by must be gradient or exchange, got {right_reasons_by!r}"
            )
        self.right_reasons_by = right_reasons_by
        self.relevant = relevant
        self.right_reasons_weight, self.attention_weight = right_reasons_weight, attention_weight
        self.right_reasons_loss = RightReasonsLoss()
        self.attention_supervision_loss = AttentionSupervisionLoss(attention_divergence)
        if right_reasons_weight or attention_weight:
            needs = type(self).requires | {_FIELD[relevant]}
            self.requires = needs  # type: ignore[misc]  # an instance may need more

    def watched(self, batch: Batch, stage: Stage) -> Batch:
        """The batch to run on: in training for right reasons, one with gradients of its images.

        Args:
            batch: The batch.
            stage: The stage.
        """
        if stage != "train" or not self.right_reasons_weight or self.right_reasons_by != "gradient":
            return batch
        # A copy of the dictionary: nobody else's images need gradients.
        return cast(Batch, {**batch, "image": batch["image"].detach().requires_grad_()})

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
            found = self._right_reasons(batch, scores)
            losses["right_reasons_loss"] = found
            total = total + self.right_reasons_weight * found
        return total, losses

    def classification_losses(self, scores: Tensor, label: Tensor) -> Tensor:
        """Cross-entropy (B,) in nats of scores (B, K), logits, and labels (B,)."""
        return nn.functional.cross_entropy(scores, label, reduction="none")

    def _right_reasons(self, batch: Batch, scores: Tensor) -> Tensor:
        """How much the prediction hangs on what is irrelevant."""
        image, irrelevant = batch["image"], self._irrelevant(batch)
        if self.right_reasons_by == "gradient":
            logs = self._log_probabilities(scores)
            return cast(Tensor, self.right_reasons_loss(logs, image, irrelevant))
        exchanged = self.class_scores(exchange_background(image, irrelevant))
        return self.classification_losses(exchanged, batch["label"]).mean()

    def _relevant(self, batch: Batch) -> Tensor:
        """(B, H, W) what the annotation calls relevant; nothing in images without annotation."""
        found = cast(Tensor, batch[_FIELD[self.relevant]])  # type: ignore[literal-required]
        return found.any(1) if self.relevant == "parts" else found

    def _irrelevant(self, batch: Batch) -> Tensor:
        """(B, H, W) in [0, 1], the opposite; nothing in images without annotation."""
        relevant = self._relevant(batch).float()
        peak = relevant.amax((1, 2), keepdim=True)
        # Of any scale; zero where there is none.
        return (1 - relevant / peak.clamp(min=torch.finfo(torch.float32).tiny)) * (peak > 0)

    def _log_probabilities(self, scores: Tensor) -> Tensor:
        """(B, K) nats of every outcome."""
        return scores.float().log_softmax(1)
