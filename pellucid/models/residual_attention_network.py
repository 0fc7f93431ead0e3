"""Residual attention network: stacked attention modules whose masks say where the network looks.

Wang et al., "Residual Attention Network for Image Classification", CVPR 2017 (arXiv 1704.06904).

Where this differs from the paper, or says what the paper leaves open:

- Skip connections of the mask branch add what they carry, without residual units of their own.
  Attention-56 and -92 then have 31.4e6 and 51.8e6 parameters (table 2 of the paper: 31.9e6 and
  51.3e6) and 6.15e9 and 10.36e9 multiplications (6.2e9 and 10.4e9); with a unit each, Attention-92
  has 52.5e6 and 10.5e9.
- Networks for 32 x 32 pixels have 16, 32 and 64 channels in their bottlenecks, as ResNet-164 has,
  which the paper does not say: Attention-92 then has 1.8e6 parameters (the paper's: 1.9e6).
- The learning rate drops after shares of the training (0.4 and 0.6: 64,000 and 96,000 of the
  paper's 160,000 steps on CIFAR), so that shorter runs drop it too.
- Images are as the data module makes them; the paper pads, crops and mirrors them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from pellucid.batch import Batch
from pellucid.losses.attention_supervision import Divergence
from pellucid.metrics.location_instability import peak_positions
from pellucid.models.base import Stage
from pellucid.models.explanation import Explanation
from pellucid.models.fine_tuning import check_at_least
from pellucid.models.layers.residual_attention import (
    AttentionLearning,
    AttentionModule,
    MaskActivation,
    ResidualUnit,
    check_choices,
    initialise,
    residual_units,
)
from pellucid.models.supervised import Relevant, RightReasonsBy, SupervisedModel, check_supervision

Stem = Literal["large", "small"]


class ResidualAttentionNetwork(SupervisedModel):
    """Pre-activation residual network with attention modules in its stages.

    Each stage begins with a residual unit that widens the maps and, but for the first stage, halves
    them; then come its attention modules, then its other residual units. The defaults are the
    paper's Attention-56 for 224 x 224 pixels; ``modules`` of (1, 2, 3, 0) are its Attention-92.
    For 32 x 32: ``stem`` small, ``width`` 16, ``units`` (2, 2, 2) and ``modules`` (m, m, m), which
    has 36 m + 20 layers.

    Args:
        num_classes: Number of categories.
        channels: Channels of the images.
        modules: Attention modules of each stage; as many stages as numbers.
        units: Residual units of each stage outside of its attention modules, at least 1.
        width: Channels of the first stage's 3 x 3 convolutions; each stage doubles them, and its
            maps have four times as many.
        stem: ``large``: a 7 x 7 convolution of stride 2 and max pooling of stride 2; ``small``: a
            3 x 3 convolution.
        mask_depths: How often the mask branches of each stage halve their maps; None: once in the
            last stage that has attention modules, and once more in each stage before, so that all
            reach down to one size.
        outer_units: Residual units before and after the branches of an attention module, ``p``.
        trunk_units: Residual units of its trunk, ``t``.
        mask_units: Residual units between two poolings of its mask branch, ``r``.
        mask_activation: ``mixed``, ``channel`` or ``spatial``, table 1 of the paper, see
            :func:`pellucid.models.layers.residual_attention.mask_activation`.
        attention_learning: ``residual``: ``(1 + M) * F``; ``naive``: ``M * F``.
        right_reasons_weight: Weight of the squared input gradients off the annotation, as for the
            next four see :class:`pellucid.models.classifier.Classifier`.
        right_reasons_by: ``gradient``: by squared input gradients, as in the paper; ``exchange``:
            by the cross-entropy of images that have exchanged what is irrelevant (module
            :mod:`pellucid.losses.background_exchange`).
        attention_weight: Weight of the distance of the mean of the modules' masks from the
            annotation; 0 with ``mask_activation="channel"``.
        relevant: What is annotated: ``object``, ``parts`` or ``attention``.
        attention_divergence: ``kl`` or ``outside``.
        lr: Learning rate of SGD at the beginning.
        momentum: Nesterov momentum, in [0, 1); 0: none.
        weight_decay: L2 penalty of all weights.
        lr_drops: Shares of the training after which the learning rate drops, ascending, in (0, 1).
        lr_drop_factor: What it is multiplied with then, in (0, 1].

    Raises:
        ValueError: An argument is outside its range.
    """

    requires = frozenset({"image", "label"})
    monitor = "val/classification_loss"
    explains_by_map = True

    def __init__(
        self,
        num_classes: int,
        channels: int = 3,
        modules: Sequence[int] = (1, 1, 1, 0),
        units: Sequence[int] = (1, 1, 1, 3),
        width: int = 64,
        stem: Stem = "large",
        mask_depths: Sequence[int] | None = None,
        outer_units: int = 1,
        trunk_units: int = 2,
        mask_units: int = 1,
        mask_activation: MaskActivation = "mixed",
        attention_learning: AttentionLearning = "residual",
        right_reasons_weight: float = 0.0,
        right_reasons_by: RightReasonsBy = "gradient",
        attention_weight: float = 0.0,
        relevant: Relevant = "object",
        attention_divergence: Divergence = "kl",
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        lr_drops: Sequence[float] = (0.4, 0.6),
        lr_drop_factor: float = 0.1,
    ) -> None:
        check_at_least(2, num_classes=num_classes)
        check_at_least(1, channels=channels, width=width, trunk_units=trunk_units)
        check_at_least(0, outer_units=outer_units, mask_units=mask_units, weight_decay=weight_decay)
        depths = _mask_depths(modules) if mask_depths is None else tuple(mask_depths)
        _check_stages(modules, units, depths)
        check_choices(mask_activation, attention_learning)
        if stem not in ("large", "small"):
            raise ValueError(f"stem must be large or small, got {stem!r}")
        _check_training(lr, momentum, lr_drops, lr_drop_factor)
        check_supervision(right_reasons_weight, attention_weight, relevant)
        if attention_weight and mask_activation == "channel":
            raise ValueError(
                "attention_weight must be 0 for mask_activation 'channel', whose masks have values "
                f"below 0, got {attention_weight}; choose mixed or spatial"
            )
        super().__init__()
        self.save_hyperparameters()
        self._supervise_by(
            right_reasons_weight,
            attention_weight,
            relevant,
            attention_divergence,
            right_reasons_by,
        )
        self.num_classes, self.num_units = num_classes, sum(modules)
        self.mask_activation, self.lr, self.momentum = mask_activation, lr, momentum
        self.weight_decay, self.lr_drops = weight_decay, tuple(lr_drops)
        self.lr_drop_factor = lr_drop_factor
        # Two layers are the stem's and the classifier, and a residual unit has three.
        trunk = sum(units) + sum(modules) * (2 * outer_units + trunk_units)
        self.trunk_depth = 2 + 3 * trunk
        self.stem = _stem(stem, channels, width)
        self.stages, inputs = nn.ModuleList(), width
        for number, (count, others, depth) in enumerate(zip(modules, units, depths, strict=True)):
            outputs = 4 * width * 2**number
            attention = (
                AttentionModule(
                    outputs,
                    depth,
                    outer_units,
                    trunk_units,
                    mask_units,
                    mask_activation,
                    attention_learning,
                )
                for _ in range(count)
            )
            first = ResidualUnit(inputs, outputs, stride=2 if number else 1)
            self.stages.append(
                nn.ModuleList([first, *attention, residual_units(outputs, others - 1)])
            )
            inputs = outputs
        self.norm = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.classifier = nn.Linear(inputs, num_classes)
        initialise(self)
        self.unit_names = tuple(
            f"stage {stage} module {number}"
            for stage, count in enumerate(modules, 1)
            for number in range(1, count + 1)
        )

    def attend(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Class scores (B, num_classes), logits, and each module's mask (B, C, h, w).

        Args:
            image: (B, channels, H, W).
        """
        features, masks = self.stem(image), []
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)
            for part in stage:
                if isinstance(part, AttentionModule):
                    features, mask = part(features)
                    masks.append(mask)
                else:
                    features = part(features)
        pooled = reduce(self.norm(features), "b c h w -> b c", "mean")
        return self.classifier(pooled), masks

    def forward(self, image: Tensor) -> Tensor:
        """Class scores (B, num_classes), logits, of images (B, channels, H, W)."""
        return self.attend(image)[0]

    def class_scores(self, image: Tensor) -> Tensor:
        """(B, K) class scores, logits, of images (B, C, H, W), which can be differentiated."""
        scores: Tensor = self(image)
        return scores

    def maps(self, masks: Sequence[Tensor]) -> Tensor:
        """One map per module: its mask's mean over channels, on the largest mask's grid.

        Args:
            masks: (B, C, h, w) of each module.

        Returns:
            (B, U, h, w) float, in the range of the mask.
        """
        means = [reduce(mask.float(), "b c h w -> b 1 h w", "mean") for mask in masks]
        size = max((mean.shape[-2:] for mean in means), key=lambda size: size.numel())
        enlarged = [nn.functional.interpolate(mean, size, mode="bilinear") for mean in means]
        return rearrange(enlarged, "u b 1 h w -> b u h w")

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """See :meth:`InterpretableModel.step`."""
        batch = self.watched(batch, stage)
        scores, masks = self.attend(batch["image"])
        cost = nn.functional.cross_entropy(scores, batch["label"])
        loss, losses = self.supervise(batch, scores, lambda: self.maps(masks), stage)
        outputs = {"loss": cost + loss, "classification_loss": cost, "scores": scores, **losses}
        if stage == "train":
            return outputs
        maps = self.maps(masks)
        return outputs | {"maps": maps, "heat": maps[:, -1]}

    def make_metrics(self, data: Any, stage: Stage) -> Mapping[str, Metric]:
        """See :meth:`InterpretableModel.make_metrics`."""
        return {"accuracy": MulticlassAccuracy(self.num_classes, average="micro")}

    def update_metrics(
        self, metrics: Mapping[str, Metric], outputs: dict[str, Tensor], batch: Batch
    ) -> None:
        """See :meth:`InterpretableModel.update_metrics`."""
        metrics["accuracy"].update(outputs["scores"], batch["label"])

    def lacks(self) -> Mapping[str, str]:
        """See :meth:`InterpretableModel.lacks`; masks over channels have values below zero."""
        if self.mask_activation != "channel":
            return super().lacks()
        why = "needs activations from 0 on, and mask_activation 'channel' gives some below"
        return {**super().lacks(), "part_interpretability": why}

    def configure_optimizers(self) -> Any:
        """SGD with Nesterov momentum, and a learning rate that drops in steps."""
        optimizer = torch.optim.SGD(
            self.parameters(),
            self.lr,
            self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.momentum > 0,
        )
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            return optimizer
        milestones = [int(share * steps) for share in self.lr_drops]
        drops = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, self.lr_drop_factor)
        return [optimizer], [{"scheduler": drops, "interval": "step"}]

    @torch.no_grad()
    def explain(self, batch: Batch, target: Tensor | None = None) -> Explanation:
        """Where each attention module looks: its mask, which does not depend on the target.

        Maps are the masks' means over channels, enlarged to the grid of the first, in [0, 1];
        in [-1, 1] and signed with ``mask_activation="channel"``. ``heat`` is the last one, of the
        module that sees most of the image and stands closest to the scores.
        """
        scores, masks = self.attend(batch["image"])
        maps = self.maps(masks)
        height, width = batch["image"].shape[-2:]
        signed = self.mask_activation == "channel"
        return Explanation(
            scores=scores,
            target=scores.argmax(1) if target is None else target.long(),
            maps=maps,
            map_sign="signed" if signed else "positive",
            map_range=(-1.0, 1.0) if signed else (0.0, 1.0),
            positions=peak_positions(maps, (height, width), self.unit_grid)[1],
            unit_names=self.unit_names,
            heat=maps[:, -1],
        )


def _stem(kind: Stem, channels: int, width: int) -> nn.Sequential:
    if kind == "small":
        return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False))
    return nn.Sequential(
        nn.Conv2d(channels, width, 7, 2, padding=3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
    )


def _mask_depths(modules: Sequence[int]) -> tuple[int, ...]:
    """One in the last stage that has attention modules, one more in each stage before."""
    last = max((number for number, count in enumerate(modules) if count > 0), default=0)
    return tuple(max(1, last - number + 1) for number in range(len(modules)))


def _check_stages(modules: Sequence[int], units: Sequence[int], depths: Sequence[int]) -> None:
    for name, numbers, least in (("modules", modules, 0), ("units", units, 1)):
        if not numbers or min(numbers) < least:
            raise ValueError(
                f"{name} must be one number of at least {least} per stage, got {list(numbers)}"
            )
    if not sum(modules):
        raise ValueError(f"modules must have one in some stage, got {list(modules)}")
    for name, numbers in (("units", units), ("mask_depths", depths)):
        if len(numbers) != len(modules):
            raise ValueError(
                f"{name} must have one number per stage, {len(modules)} as modules "
                f"{list(modules)} has, got {list(numbers)}"
            )
    if min(depths) < 1:
        raise ValueError(f"mask_depths must be at least 1, got {list(depths)}")


def _check_training(
    lr: float, momentum: float, lr_drops: Sequence[float], lr_drop_factor: float
) -> None:
    if not lr > 0:
        raise ValueError(f"lr must be greater than 0, got {lr}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum}")
    if not 0 < lr_drop_factor <= 1:
        raise ValueError(f"lr_drop_factor must be in (0, 1], got {lr_drop_factor}")
    drops = list(lr_drops)
    if drops != sorted(drops) or not all(0 < share < 1 for share in drops):
        raise ValueError(f"lr_drops must be ascending shares of training in (0, 1), got {drops}")
