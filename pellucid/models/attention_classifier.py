"""Attention classifiers: pooling that says where it looks, in place of the average.

Soft attention: Bahdanau et al., ICLR 2015; Luong et al., EMNLP 2015 (layer
:mod:`~pellucid.models.layers.soft_attention`). Hard attention: Xu et al., ICML 2015; Mnih et al.,
NeurIPS 2014 (:mod:`~pellucid.models.layers.hard_attention`). Class activation maps: Zhou, Khosla,
Lapedriza, Oliva and Torralba, CVPR 2016.

Where this differs from the papers:

- An image is attended to once, not once per word: the query is the mean of the grid or learned.
- Heads are joined and classified by one linear layer, so that the score is a sum over heads, and
  within a head over positions.
- Glimpses are positions of a convolutional grid, drawn at once and without repetition; a position's
  receptive field is larger than its cell.
- The score-function estimator's baseline is learned from the image's mean feature; there is no
  moving average of it and no entropy bonus (``entropy_weight`` below 0 gives one).
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from pellucid.batch import Batch
from pellucid.losses.attention_supervision import Divergence
from pellucid.metrics.location_instability import peak_positions
from pellucid.models.base import Stage
from pellucid.models.classifier import Classifier
from pellucid.models.explanation import Explanation
from pellucid.models.fine_tuning import Schedule, check_at_least
from pellucid.models.layers.attention_pooling import Attention, AttentionPooling, Pooled
from pellucid.models.layers.hard_attention import Estimator, score_function_loss
from pellucid.models.layers.soft_attention import Score, attend, attention_entropy, over_grid
from pellucid.models.map_metrics import Attended
from pellucid.models.supervised import Relevant, RightReasonsBy


class Seen(NamedTuple):
    """What was seen of a batch."""

    features: Tensor
    """(B, C, h, w), the backbone's."""
    pooled: Pooled
    scores: Tensor
    """(B, K) logits."""


class AttentionClassifier(Classifier):
    """A backbone, attention-weighted pooling, and a linear layer.

    Args:
        num_classes: Number of categories; one category and its negatives count as two.
        backbone: Name of a network of torchvision, of timm (``timm/NAME``), or ``small``, see
            :class:`pellucid.models.backbones.Backbone`.
        weights: ``none``, the name of published weights, or a file.
        stride: Pixels per position of the feature map; None: the backbone's default.
        attention: ``soft``: a distribution over positions per head; ``hard``: a few positions, and
            nothing of the others; ``cam``: average pooling, explained by the class maps whose means
            the scores are; ``none``: average pooling, the black-box twin of all of them.
        score: How ``soft`` and ``hard`` score a position: ``additive``, ``multiplicative`` or
            ``dot``.
        heads: Distributions of ``soft``.
        temperature: By which scores are divided before the soft-max; below 1: sharper.
        entropy_weight: Weight of the attention's mean entropy in nats, of ``soft`` and ``hard``;
            above 0: sharper, below: wider.
        glimpses: Positions that ``hard`` sees.
        estimator: How ``hard`` learns where to look: ``reinforce`` or ``gumbel``.
        policy_weight: Weight of the score-function loss and of its baseline's.
        right_reasons_weight: Weight of :class:`pellucid.losses.right_reasons.RightReasonsLoss` in
            training; 0: none.
        right_reasons_by: ``gradient``: by squared input gradients, as in the paper; ``exchange``:
            by the cross-entropy of images that have exchanged what is irrelevant (module
            :mod:`pellucid.losses.background_exchange`).
        attention_weight: Weight of the attention's distance from the annotation, as
            :class:`pellucid.losses.attention_supervision.AttentionSupervisionLoss` has it; of
            ``cam``, of the soft-max of the label's class map over positions; 0: none.
        relevant: What is annotated: ``object`` (``mask``), ``parts`` (all of ``part_masks``), or
            ``attention`` (human attention maps). Images whose annotation is empty are left out.
        attention_divergence: ``kl``: attend to all that is relevant; ``outside``: to nothing else.
        trainable_stages: How many of the backbone's last stages are trained; None: all; 0: none.
        unfreeze_epoch: Epoch from which the whole backbone is trained; None: never.
        lr: Learning rate of the new layers.
        backbone_lr_factor: Learning rate of the backbone's layers, as a share of ``lr``.
        weight_decay: AdamW's.
        schedule: ``one_cycle`` or ``constant`` learning rate.
        cache_frozen: Whether to keep what frozen stages make of each image, where nothing needs
            the gradient of the image.
        node: Layer or block of the network that the backbone ends with, in place of ``stride``.
        output_stride: Stride of the map of a backbone that goes on to its last layer, or ``node``,
            and whose coarser layers are dilated for it; None: no layer is dilated.

    Raises:
        ValueError: An argument is outside its range, or asks for what ``attention`` has not.
        pellucid.models.backbones.WeightsError: Weights that do not exist or do not fit.
    """

    explains_by_map = True

    def __init__(
        self,
        num_classes: int,
        backbone: str = "mobilenet_v2",
        weights: str = "none",
        stride: int | None = None,
        attention: Attention = "soft",
        score: Score = "additive",
        heads: int = 1,
        temperature: float = 1.0,
        entropy_weight: float = 0.0,
        glimpses: int = 4,
        estimator: Estimator = "reinforce",
        policy_weight: float = 1.0,
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
        node: str | None = None,
        output_stride: int | None = None,
    ) -> None:
        _check_weights(attention, entropy_weight, attention_weight)
        check_at_least(0, policy_weight=policy_weight)
        super().__init__(
            num_classes,
            backbone,
            weights,
            stride,
            right_reasons_weight=right_reasons_weight,
            right_reasons_by=right_reasons_by,
            attention_weight=attention_weight,
            relevant=relevant,
            attention_divergence=attention_divergence,
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
        self.save_hyperparameters()
        self.attention, self.heads = attention, heads
        self.entropy_weight, self.policy_weight = entropy_weight, policy_weight
        channels = self.backbone.channels
        self.pooling = AttentionPooling(
            channels, attention, score, heads, temperature, glimpses, estimator
        )
        self.classifier = nn.Linear(heads * channels, num_classes)
        units = {"soft": heads, "hard": glimpses, "cam": num_classes}
        # Average pooling looks everywhere alike: there is no unit to be judged.
        self.num_units = units.get(attention)

    def look(self, features: Tensor) -> Seen:
        """Attend to features (B, C, h, w), pool and classify them."""
        pooled = self.pooling(features)
        return Seen(features, pooled, self._scores_of(pooled.vectors))

    def _scores_of(self, vectors: Tensor) -> Tensor:
        """(B, num_classes) logits of what each head pooled (B, heads, C)."""
        scores: Tensor = self.classifier(rearrange(vectors, "b n c -> b (n c)"))
        return scores

    def forward(self, image: Tensor) -> Tensor:
        """Class scores (B, num_classes), logits, of images (B, 3, H, W)."""
        return self.look(self.backbone(image)).scores

    def attended(self, image: Tensor) -> Attended | None:
        """See :meth:`InterpretableModel.attended`; average pooling has no attention to change."""
        if self.attention not in ("soft", "hard"):
            return None
        features = self.backbone(image)
        return Attended(features, self.pooling(features).weights, self._scores_by)

    def _scores_by(self, features: Tensor, attention: Tensor) -> Tensor:
        """(B, num_classes) logits of features (B, C, h, w) pooled by another attention."""
        return self._scores_of(attend(features, attention))

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """See :meth:`InterpretableModel.step`."""
        batch = self.watched(batch, stage)
        seen = self.look(self.features(batch, stage))
        costs = self.classification_losses(seen.scores, batch["label"])
        outputs = {"classification_loss": costs.mean(), "scores": seen.scores}
        loss, losses = self.supervise(
            batch, seen.scores, lambda: self._supervised(seen, batch["label"]), stage
        )
        loss = loss + outputs["classification_loss"]
        if self.attention in ("soft", "hard"):
            losses["attention_entropy"] = attention_entropy(seen.pooled.policy).mean()
            loss = loss + self.entropy_weight * losses["attention_entropy"]
        glimpses = seen.pooled.glimpses
        if glimpses is not None and glimpses.log_probability is not None:
            found = self._policy_losses(seen.features, glimpses.log_probability, costs)
            loss = loss + self.policy_weight * (found["policy_loss"] + found["baseline_loss"])
            losses |= found
        if stage != "train":
            target = seen.scores.argmax(1)
            outputs["maps"], outputs["contributions"], _ = self._units(seen, target)
            outputs["heat"] = self._evidence(seen, target)
        return {"loss": loss, **outputs, **losses}

    def _supervised(self, seen: Seen, label: Tensor) -> Tensor:
        """(B, heads, h, w) the attention that is held against the annotation."""
        if self.attention == "cam":
            of_label = self._class_maps(seen.features)[
                torch.arange(len(label), device=label.device), label
            ]
            return over_grid(rearrange(of_label, "b h w -> b 1 h w"))
        return seen.pooled.policy

    def _policy_losses(
        self, features: Tensor, log_probability: Tensor, costs: Tensor
    ) -> dict[str, Tensor]:
        """What teaches hard attention where to look, and its baseline what to expect."""
        hard = self.pooling.hard
        assert hard is not None  # Nothing else has chances.
        costs = costs.detach().float()
        expected = hard.expected_cost(features).float()
        return {
            "policy_loss": score_function_loss(log_probability, costs, expected),
            "baseline_loss": nn.functional.mse_loss(expected, costs),
        }

    def _class_maps(self, features: Tensor) -> Tensor:
        """(B, K, h, w) logits, whose mean over positions and the bias make the scores of ``cam``.

        Zhou et al. 2016, Eq. 2.
        """
        return torch.einsum("k c, b c h w -> b k h w", self.classifier.weight, features)

    def _units(self, seen: Seen, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, U, h, w) where each unit looks, (B, U) what it adds to the target's score, (B,) bias.

        Units are heads, glimpses or classes.
        """
        bias = self.classifier.bias[target]
        if self.attention == "cam":
            maps = self._class_maps(seen.features)
            own = nn.functional.one_hot(target, self.num_classes)
            return maps, reduce(maps, "b k h w -> b k", "mean") * own, bias
        row = rearrange(self.classifier.weight[target], "b (n c) -> b n c", n=self.heads)
        if (glimpses := seen.pooled.glimpses) is None:
            return seen.pooled.weights, (row * seen.pooled.vectors).sum(2), bias
        cells = glimpses.cells
        height, width = seen.features.shape[-2:]
        maps = nn.functional.one_hot(cells, height * width).to(seen.features.dtype)
        maps = rearrange(maps, "b g (h w) -> b g h w", h=height)
        return maps, (row * attend(seen.features, maps)).sum(2) / cells.shape[1], bias

    def _evidence(self, seen: Seen, target: Tensor) -> Tensor:
        """(B, h, w) logits that each position adds to the target's score, without the bias."""
        row = rearrange(self.classifier.weight[target], "b (n c) -> b n c", n=self.heads)
        voices = torch.einsum("b n c, b c h w -> b n h w", row, seen.features)
        return reduce(voices * seen.pooled.weights, "b n h w -> b h w", "sum")

    @torch.no_grad()
    def explain(self, batch: Batch, target: Tensor | None = None) -> Explanation:
        """Where each head, glimpse or class map looks, and what it adds to the score.

        Maps of ``soft``, ``hard`` and ``none`` are in [0, 1] and sum to one over the grid; those of
        ``cam`` are logits, for (+) and against (-) their own class.
        ``heat`` holds what each position adds to the target's score, in logits: ``heat.sum((1, 2))
        + bias`` and ``contributions.sum(1) + bias`` both are the score, to rounding. While the
        model is in training, glimpses are drawn by chance.
        """
        seen = self.look(self.backbone(batch["image"]))
        target = seen.scores.argmax(1) if target is None else target.long()
        maps, contributions, bias = self._units(seen, target)
        signed = self.attention == "cam"
        height, width = batch["image"].shape[-2:]
        name = {"cam": "class", "hard": "glimpse", "none": "average"}.get(self.attention, "head")
        return Explanation(
            scores=seen.scores,
            target=target,
            maps=maps,
            map_sign="signed" if signed else "positive",
            map_range=None if signed else (0.0, 1.0),
            positions=peak_positions(maps, (height, width), self.backbone.grid)[1],
            contributions=contributions,
            bias=bias,
            unit_names=tuple(f"{name} {i}" for i in range(maps.shape[1])),
            heat=self._evidence(seen, target),
        )

    def lacks(self) -> Mapping[str, str]:
        """See :meth:`InterpretableModel.lacks`."""
        if self.attention != "cam":
            same = "needs units that respond more to some images, and attention sums to one in all"
            return {"category_balance": same}
        what = "needs activations from 0 on, and class maps have some below"
        return {"part_interpretability": what}


def _check_weights(attention: str, entropy_weight: float, attention_weight: float) -> None:
    """Check that no loss is asked for that a kind of attention has not."""
    if entropy_weight and attention not in ("soft", "hard"):
        raise ValueError(
            f"entropy_weight must be 0 for attention {attention!r}, which has no distribution to "
            f"sharpen, got {entropy_weight}"
        )
    if attention_weight and attention == "none":
        raise ValueError(
            f"attention_weight must be 0 for attention 'none', which looks everywhere alike, got "
            f"{attention_weight}; choose another attention, or right_reasons_weight"
        )
