"""Vision transformer whose own attention is the explanation: roll-out, or the class token's.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021 (arXiv 2010.11929); attention
roll-out by Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020
(arXiv 2005.00928); attention of the class token per head after Caron et al., "Emerging Properties
in Self-Supervised Vision Transformers", ICCV 2021 (arXiv 2104.14294, figure 1).

Where this differs from the papers:

- Fine-tuned with AdamW and one learning-rate cycle, as all fine-tuned models here; Dosovitskiy et
  al. use SGD with momentum.
- The classifier on the class token is drawn at random, not zero at the beginning.
"""

from contextlib import nullcontext
from typing import Any, Literal, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pellucid.batch import Batch
from pellucid.losses.attention_supervision import Divergence
from pellucid.metrics.location_instability import peak_positions
from pellucid.models.backbones import TransformerBackbone
from pellucid.models.base import Stage
from pellucid.models.classifier import Classifier
from pellucid.models.explanation import Explanation
from pellucid.models.fine_tuning import Schedule
from pellucid.models.layers.attention_rollout import attention_rollout
from pellucid.models.supervised import Relevant, RightReasonsBy

MapKind = Literal["rollout", "class_token"]


class ViTAttention(Classifier):
    """A vision transformer with a linear classifier on its class token.

    Attention weights are computed only where maps are asked for: in validation, tests and
    explanations, and in training where they are supervised. Training runs the fused attention
    otherwise, which never holds them.

    Args:
        num_classes: Number of categories.
        backbone: One of :data:`pellucid.models.backbones.TRANSFORMERS`: ``vit_b_16`` and others of
            torchvision, or ``vit_tiny`` (patches of 8 pixels, 4 blocks of 4 heads, 64 wide).
        weights: ``none``, the name of published weights, or a file.
        image_size: Height and width of the images in pixels, a multiple of the patch size.
            Position embeddings of weights for another size are interpolated.
        explanation: ``rollout``: attention roll-out from the class token through all blocks, one
            map; ``class_token``: what the class token attends to in the last block, one map per
            head.
        patch_size: Height and width of a patch in pixels; None: the backbone's, as for the next
            three.
        num_layers: Number of blocks.
        num_heads: Attention heads of each block; ``width`` is a multiple of them.
        width: Components of a token.
        right_reasons_weight: Weight of the squared input gradients off the annotation, as for the
            next four see :class:`pellucid.models.classifier.Classifier`.
        right_reasons_by: ``gradient``: by squared input gradients, as in the paper; ``exchange``:
            by the cross-entropy of images that have exchanged what is irrelevant (module
            :mod:`pellucid.losses.background_exchange`).
        attention_weight: Weight of the distance of the maps from the annotation.
        relevant: What is annotated: ``object``, ``parts`` or ``attention``.
        attention_divergence: ``kl`` or ``outside``.
        trainable_stages: How many of the last blocks are trained; None: all, and the embedding of
            patches; 0: none, the classifier alone.
        unfreeze_epoch: Epoch from which the whole backbone is trained; None: never.
        lr: Learning rate of the classifier.
        backbone_lr_factor: Learning rate of the backbone, as a share of ``lr``.
        weight_decay: AdamW's.
        schedule: ``one_cycle`` or ``constant`` learning rate.
        cache_frozen: Whether to keep what frozen blocks make of each training image. Takes effect
            where the first blocks stay frozen and the data module does not augment.

    Raises:
        ValueError: An argument is outside its range.
        pellucid.models.backbones.WeightsError: Weights that do not exist or do not fit.
    """

    explains_by_map = True
    backbone: TransformerBackbone

    def __init__(
        self,
        num_classes: int,
        backbone: str = "vit_b_16",
        weights: str = "none",
        image_size: int = 224,
        explanation: MapKind = "rollout",
        patch_size: int | None = None,
        num_layers: int | None = None,
        num_heads: int | None = None,
        width: int | None = None,
        right_reasons_weight: float = 0.0,
        right_reasons_by: RightReasonsBy = "gradient",
        attention_weight: float = 0.0,
        relevant: Relevant = "object",
        attention_divergence: Divergence = "kl",
        trainable_stages: int | None = None,
        unfreeze_epoch: int | None = None,
        lr: float = 1e-3,
        backbone_lr_factor: float = 0.1,
        weight_decay: float = 1e-4,
        schedule: Schedule = "one_cycle",
        cache_frozen: bool = True,
    ) -> None:
        if explanation not in ("rollout", "class_token"):
            raise ValueError(f"explanation must be rollout or class_token, got {explanation!r}")
        super().__init__(
            num_classes,
            TransformerBackbone(
                backbone, weights, image_size, patch_size, num_layers, num_heads, width
            ),
            right_reasons_weight=right_reasons_weight,
            right_reasons_by=right_reasons_by,
            attention_weight=attention_weight,
            relevant=relevant,
            attention_divergence=attention_divergence,
            trainable_stages=trainable_stages,
            unfreeze_epoch=unfreeze_epoch,
            lr=lr,
            backbone_lr_factor=backbone_lr_factor,
            weight_decay=weight_decay,
            schedule=schedule,
            cache_frozen=cache_frozen,
        )
        self.save_hyperparameters()
        self.explanation = explanation
        heads = range(self.backbone.num_heads)
        rolled = explanation == "rollout"
        self.unit_names = ("roll-out",) if rolled else tuple(f"head {i + 1}" for i in heads)
        self.num_units = len(self.unit_names)
        self.classifier = nn.Linear(self.backbone.channels, num_classes)

    def scores(self, tokens: Tensor) -> Tensor:
        """Class scores (B, num_classes), logits, of the last block's tokens (B, N, D)."""
        scores: Tensor = self.classifier(tokens[:, 0])
        return scores

    def forward(self, image: Tensor) -> Tensor:
        """Class scores (B, num_classes), logits, of images (B, 3, S, S)."""
        return self.scores(self.backbone(image))

    def attend(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Class scores, and what the class token attends to; both can be differentiated.

        Args:
            image: (B, 3, S, S).

        Returns:
            (B, num_classes) logits, and (B, U, cells, cells) in [0, 1]. A map sums to one less the
            class token's attention to itself.
        """
        rolled = self.explanation == "rollout"
        blocks = range(self.backbone.num_blocks) if rolled else (-1,)
        with self.backbone.recording(blocks, average_heads=rolled) as seen:
            scores = self.forward(image)
        # One matrix per head, and one for all where layers are multiplied.
        attention = attention_rollout(seen)[:, None] if rolled else seen[-1].float()
        maps = rearrange(attention[:, :, 0, 1:], "b u (h w) -> b u h w", h=self.backbone.cells)
        return scores, maps

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """See :meth:`InterpretableModel.step`."""
        batch = self.watched(batch, stage)
        maps: Tensor | None = None
        # Gradients of gradients, which right reasons need, are not there for fused attention.
        twice = stage == "train" and self.right_reasons_weight > 0
        with sdpa_kernel(SDPBackend.MATH) if twice else nullcontext():
            if stage == "train" and not self.attention_weight:
                scores = self.scores(self.features(batch, stage))
            else:
                # Cached features of frozen blocks would pass by the attention in them.
                scores, maps = self.attend(batch["image"])
        cost = self.classification_losses(scores, batch["label"]).mean()
        loss, losses = self.supervise(batch, scores, lambda: cast(Tensor, maps), stage)
        outputs = {"loss": cost + loss, "classification_loss": cost, "scores": scores, **losses}
        return outputs if maps is None or stage == "train" else {**outputs, "maps": maps}

    def _cacheable(self, stage: Stage) -> Any:
        """None in training where attention is supervised: it is made in the frozen blocks."""
        if stage == "train" and self.attention_weight:
            return None
        return super()._cacheable(stage)

    @torch.no_grad()
    def explain(self, batch: Batch, target: Tensor | None = None) -> Explanation:
        """What the class token attends to; attention does not depend on the target.

        Maps are shares of attention in [0, 1], one per patch.
        """
        scores, maps = self.attend(batch["image"])
        height, width = batch["image"].shape[-2:]
        return Explanation(
            scores=scores,
            target=scores.argmax(1) if target is None else target.long(),
            maps=maps,
            map_range=(0.0, 1.0),
            positions=peak_positions(maps, (height, width), self.unit_grid)[1],
            unit_names=self.unit_names,
        )
