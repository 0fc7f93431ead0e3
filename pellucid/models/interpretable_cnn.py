"""Interpretable CNN: every filter of its top layers stands for one part of one category.

Zhang, Wu and Zhu, "Interpretable Convolutional Neural Networks", CVPR 2018 (arXiv 1710.00935).

Where this differs from the paper:

- Feature maps are divided by each filter's running mean activation before the filter loss. With
  batch-normalised activations and the paper's ``tau`` all templates score alike and the loss does
  nothing; the factor ``mean_x max_ij x_ij`` of the loss's weight served the same end. The loss's
  weight is constant after its warm-up; the paper divides it by the epoch.
- ``assignment="category"`` weights the images of a group as the released code does (module
  :mod:`pellucid.losses.filter_loss`); ``assignment="exact"`` is the paper's mutual information.
- Templates peak at one on the forward path, not at ``tau``; the following layer is trained anyway.
- Masked maps are averaged over the grid and classified by one linear layer, where the paper keeps
  its networks' fully connected layers: the score is then a sum of one term per filter, which
  :meth:`InterpretableCNN.explain` returns.
- Pooled activations are batch-normalised, without gain or offset, before the linear layer.
- ``filter_loss_warmup`` raises the weight of the filter losses from zero: the paper fine-tunes
  networks that know the task, a network from scratch must learn it first.
- ``top_template=False``, which the configs for pretrained backbones use, leaves the template off
  the backbone's top layer on the forward path: its filters do not fire at one place yet, and
  masked they lose what the classifier needs (bear: test accuracy .99, with templates alone .94).
- ``temperature`` is 0.5 in the released code, which all but ignores the images that fit a filter
  worst. The configs for Animal-Part use 1, with templates twice as wide as the paper's
  (``beta`` 2): filters then find the same part in more of the images they have not seen.
- ``feature_dropout`` drops channels of the top layer in training; the paper has many more images.
- The category of a filter is a running mean over batches, not a pass over the training set.
- ``balanced_categories`` gives each category as many filters. By the paper's rule, the category
  that a filter answers most, eight animals have from 0 to 53 of 128 filters.
"""

from collections.abc import Mapping
from typing import ClassVar, cast

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from pellucid.batch import Batch
from pellucid.losses.attention_supervision import Divergence
from pellucid.losses.filter_loss import Assignment, FilterLoss
from pellucid.metrics.location_instability import peak_positions
from pellucid.models.base import Stage
from pellucid.models.classifier import Classifier, Head
from pellucid.models.explanation import Explanation
from pellucid.models.fine_tuning import Schedule, check_at_least
from pellucid.models.layers.part_template import PartTemplate
from pellucid.models.supervised import Relevant, RightReasonsBy


class InterpretableCNN(Classifier):
    """A backbone whose top convolution, and one more on top of it, are made interpretable.

    With ``templates=False`` and ``filter_loss_weight=0`` it is its own black-box twin.

    The best checkpoint is that of the least ``val/classification_loss``, the one term of the loss
    that both have, so that the twins are chosen alike. Where a warm-up holds the filter losses
    back it may be an epoch before they took hold; ``--monitor val/loss`` counts them in.

    Args:
        num_classes: Number of categories; one category and its negatives count as two.
        backbone: Name of a network of torchvision, of timm (``timm/NAME``), or ``small``, see
            :class:`pellucid.models.backbones.Backbone`.
        weights: ``none``, the name of published weights, or a file.
        stride: Pixels per position of the feature map; None: the backbone's default.
        num_units: Filters of the added 3 x 3 convolution.
        head: ``sigmoid``: one category against the rest (class 1 against class 0, whose score is
            0); ``softmax``: one of several; ``logistic``: several independent ones.
        templates: Whether part templates mask the two layers on the forward path.
        top_template: Whether they also mask the backbone's top layer, and not the added one alone.
            Pretrained filters do not fire at one place yet; masked all the same, they lose what
            the added layer needs.
        filter_loss_weight: Weight of the filter loss of the added layer, at least 0.
        top_filter_loss_weight: Likewise of the backbone's top layer; None: the same.
        assignment: ``category`` (one template per image) or ``exact`` (label-free; on the built-in
            figures it spoiled accuracy or instability at weights above 0.05).
        beta: How fast templates fall off; 4 in the paper.
        negative_weight: Weight of images of other categories in ``category``.
        temperature: How evenly ``category`` weights the images of a group; 0.5 in the released
            code, which leaves out the images that fit worst.
        balanced_categories: Whether each category has as many filters (module
            :mod:`pellucid.losses.balanced_assignment`); with several categories and ``assignment``
            ``category``.
        filter_loss_warmup: Epochs until the filter losses have their whole weight: none for the
            first half of them, then rising. A network that knows nothing yet can satisfy them with
            filters that always fire at one place, or all at one part; pretrained ones need none.
        feature_dropout: Share of the top layer's channels that the added layer does not see at a
            step, in [0, 1). With few images, filters otherwise learn for each image where to fire.
        trainable_stages: How many of the backbone's last stages are trained; None: all; 0: none.
            The batch normalisation of frozen stages stays in evaluation.
        unfreeze_epoch: Epoch from which the whole backbone is trained; None: never.
        lr: Learning rate of the new layers.
        backbone_lr_factor: Learning rate of the backbone's layers, as a share of ``lr``.
        weight_decay: AdamW's.
        schedule: ``one_cycle`` or ``constant`` learning rate.
        cache_frozen: Whether to keep what frozen stages make of each image. Takes effect where the
            first stages stay frozen and the data module does not augment.
        node: Layer or block of the network that the backbone ends with, in place of ``stride``.
        output_stride: Stride of the map of a backbone that goes on to its last layer, or ``node``,
            and whose coarser layers are dilated for it; None: no layer is dilated.
        right_reasons_weight: Weight of :class:`pellucid.losses.right_reasons.RightReasonsLoss` in
            training; 0: none.
        right_reasons_by: ``gradient``: by squared input gradients, as in the paper; ``exchange``:
            by the cross-entropy of images that have exchanged what is irrelevant (module
            :mod:`pellucid.losses.background_exchange`).
        attention_weight: Weight of the distance of the filters' summed activation from the
            annotation, as :class:`pellucid.losses.attention_supervision.AttentionSupervisionLoss`
            has it; 0: none.
        relevant: What is annotated: ``object`` (``mask``), ``parts`` (all of ``part_masks``), or
            ``attention`` (human attention maps). Images whose annotation is empty are left out.
        attention_divergence: ``kl``: fire on all that is relevant; ``outside``: on nothing else.

    Raises:
        ValueError: An argument is outside its range.
        pellucid.models.backbones.WeightsError: Weights that do not exist or do not fit.
    """

    explains_by_map: ClassVar[bool] = True

    def __init__(
        self,
        num_classes: int,
        backbone: str = "mobilenet_v2",
        weights: str = "none",
        stride: int | None = None,
        num_units: int = 128,
        head: Head = "softmax",
        templates: bool = True,
        top_template: bool = True,
        filter_loss_weight: float = 1.0,
        top_filter_loss_weight: float | None = None,
        assignment: Assignment = "category",
        beta: float = 4.0,
        negative_weight: float = 1.0,
        temperature: float = 0.5,
        filter_loss_warmup: int = 0,
        feature_dropout: float = 0.0,
        trainable_stages: int | None = None,
        unfreeze_epoch: int | None = None,
        lr: float = 1e-3,
        backbone_lr_factor: float = 0.1,
        weight_decay: float = 1e-4,
        schedule: Schedule = "one_cycle",
        cache_frozen: bool = True,
        node: str | None = None,
        balanced_categories: bool = False,
        right_reasons_weight: float = 0.0,
        right_reasons_by: RightReasonsBy = "gradient",
        attention_weight: float = 0.0,
        relevant: Relevant = "object",
        attention_divergence: Divergence = "kl",
        output_stride: int | None = None,
    ) -> None:
        top_weight = (
            filter_loss_weight if top_filter_loss_weight is None else top_filter_loss_weight
        )
        check_at_least(1, num_units=num_units)
        check_at_least(
            0,
            filter_loss_weight=filter_loss_weight,
            top_filter_loss_weight=top_weight,
            filter_loss_warmup=filter_loss_warmup,
        )
        if not 0 <= feature_dropout < 1:
            raise ValueError(f"feature_dropout must be in [0, 1), got {feature_dropout}")
        if balanced_categories and (head == "sigmoid" or assignment != "category"):
            raise ValueError(
                f"balanced_categories needs several categories and assignment 'category', got head "
                f"{head!r} and assignment {assignment!r}; set it to false"
            )
        super().__init__(
            num_classes,
            backbone,
            weights,
            stride,
            head=head,
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
        self.num_units = num_units
        self.filter_loss_warmup = filter_loss_warmup
        self.filter_loss_weight, self.top_filter_loss_weight = filter_loss_weight, top_weight
        channels = self.backbone.channels
        self.added = nn.Sequential(
            nn.Conv2d(channels, num_units, 3, padding=1, bias=False),
            nn.BatchNorm2d(num_units),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout2d(feature_dropout)
        self.top_template = PartTemplate(beta) if templates and top_template else nn.Identity()
        self.added_template = PartTemplate(beta) if templates else nn.Identity()
        # Pooled activations differ by orders of magnitude between filters that fire at one place
        # and filters that fire everywhere; without this the linear layer learns slowly.
        self.pooled_norm = nn.BatchNorm1d(num_units, affine=False)
        self.classifier = nn.Linear(num_units, 1 if head == "sigmoid" else num_classes)
        self.top_filter_loss, self.filter_loss = (
            FilterLoss(
                units,
                num_classes,
                assignment,
                beta=beta,
                negative_weight=negative_weight,
                temperature=temperature,
                single_category=head == "sigmoid",
                balance=balanced_categories,
            )
            for units in (channels, num_units)
        )

    def maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Maps of the top and of the added layer, before their masks, (B, U, h, w) each."""
        top = self.backbone(image)
        return top, self.added(self.dropout(self.top_template(top)))

    def scores(self, maps: Tensor) -> Tensor:
        """Class scores (B, num_classes), logits, of the added layer's maps (B, U, h, w)."""
        pooled = reduce(self.added_template(maps), "b u h w -> b u", "mean")
        scores = self.classifier(self.pooled_norm(pooled))
        return nn.functional.pad(scores, (1, 0)) if self.head == "sigmoid" else scores

    def forward(self, image: Tensor) -> Tensor:
        """Class scores (B, num_classes), logits, of images (B, 3, H, W)."""
        return self.scores(self.maps(image)[1])

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """See :meth:`InterpretableModel.step`."""
        batch, label = self.watched(batch, stage), batch["label"]
        top = self.features(batch, stage)
        added = self.added(self.dropout(self.top_template(top)))
        scores = self.scores(added)
        classification = self.classification_losses(scores, label).mean()
        loss, supervision = self.supervise(batch, scores, lambda: self._firing(added), stage)
        loss = loss + classification
        outputs = {"classification_loss": classification, "scores": scores, "maps": added}
        if stage in ("test", "all"):
            outputs["contributions"] = self._contributions(added, self._predicted(scores))[0]
        share = self._warmth() if stage == "train" else 1.0
        for name, weight, maps in (
            ("filter_loss", self.filter_loss_weight, added),
            ("top_filter_loss", self.top_filter_loss_weight, top),
        ):
            if weight > 0:
                outputs[name] = getattr(self, name)(maps, label)
                loss = loss + share * weight * outputs[name]
        return {"loss": loss, **outputs, **supervision}

    def _firing(self, maps: Tensor) -> Tensor:
        """(B, 1, h, w) the share of all filters' activation at each position, after the masks."""
        total = reduce(self.added_template(maps).float(), "b u h w -> b 1 h w", "sum")
        share: Tensor = total / reduce(total, "b 1 h w -> b 1 1 1", "sum").clamp(min=1e-8)
        return share

    def _warmth(self) -> float:
        """Share of the filter losses' weight: none for half of the warm-up, then rising to one."""
        if not self.filter_loss_warmup:
            return 1.0
        steps = self.filter_loss_warmup * int(self.trainer.num_training_batches)
        return min(1.0, max(0.0, 2 * self.global_step / steps - 1))

    def lacks(self) -> Mapping[str, str]:
        """See :meth:`InterpretableModel.lacks`."""
        if self.head != "sigmoid":
            return {}
        return {"category_balance": "needs several categories, and head is 'sigmoid': one"}

    def votes(self) -> Tensor | None:
        """See :meth:`InterpretableModel.votes`; what the classifier reads deviates by one."""
        return None if self.head == "sigmoid" else self.classifier.weight.detach().T

    def assigned_categories(self) -> Tensor | None:
        """See :meth:`InterpretableModel.assigned_categories`."""
        by_category = self.filter_loss_weight > 0 and self.filter_loss.assignment == "category"
        return self.filter_loss.categories if by_category else None

    def _predicted(self, scores: Tensor) -> Tensor:
        """(B,) the class to explain: a sigmoid has one score, of class 1."""
        return scores.argmax(1) if self.head != "sigmoid" else torch.ones_like(scores[:, 0]).long()

    def _contributions(self, maps: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(B, U) what each filter adds to the target's score, and (B,) the score without any."""
        row = torch.zeros_like(target) if self.head == "sigmoid" else target
        norm = self.pooled_norm
        weight = self.classifier.weight[row] / (cast(Tensor, norm.running_var) + norm.eps).sqrt()
        contributions = weight * reduce(self.added_template(maps), "b u h w -> b u", "mean")
        bias = self.classifier.bias[row] - weight @ cast(Tensor, norm.running_mean)
        if self.head == "sigmoid":  # class 0 has the score 0 and is spoken for by nothing
            contributions = contributions * rearrange(target == 1, "b -> b 1")
            bias = bias * (target == 1)
        return contributions, bias

    @torch.no_grad()
    def explain(self, batch: Batch, target: Tensor | None = None) -> Explanation:
        """Which filters fired where, and what each added to the score.

        Maps are those of the added layer before its mask, at least 0 and unbounded above;
        ``contributions.sum(1) + bias`` is the target's score to rounding.
        """
        _, maps = self.maps(batch["image"])
        scores = self.scores(maps)
        target = self._predicted(scores) if target is None else target.long()
        contributions, bias = self._contributions(maps, target)
        height, width = batch["image"].shape[-2:]
        return Explanation(
            scores=scores,
            target=target,
            maps=maps,
            positions=peak_positions(maps, (height, width), self.backbone.grid)[1],
            contributions=contributions,
            bias=bias,
            unit_names=tuple(f"filter {i}" for i in range(maps.shape[1])),
        )
