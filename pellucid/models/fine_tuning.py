"""What models share that fine-tune a backbone: frozen stages, their cached features, two rates."""

from typing import Any, Literal, Self, cast

import torch
from torch import Tensor
from tqdm import tqdm

from pellucid.batch import Batch
from pellucid.distributed import is_distributed
from pellucid.models.backbones import Backbone
from pellucid.models.base import InterpretableModel, Stage
from pellucid.models.layers.feature_cache import FeatureCache

Schedule = Literal["one_cycle", "constant"]


class FineTunedModel(InterpretableModel):
    """Base of models on top of a backbone, whose first stages can stay as their weights have them.

    A subclass takes the same arguments in its own constructor, hands them on, and reads the
    backbone's maps from :meth:`features`.

    Args:
        backbone: Name of a network of torchvision, of timm (``timm/NAME``), or ``small``, see
            :class:`pellucid.models.backbones.Backbone`; or one that the subclass has built from
            plain arguments of its own.
        weights: ``none``, the name of published weights, or a file.
        stride: Pixels per position of the feature map; None: the backbone's default.
        node: Name of the node after which the backbone is cut, in place of a stride.
        output_stride: Stride of the map of a backbone that goes on to its last layer, or ``node``,
            and whose coarser layers are dilated for it; None: no layer is dilated.
        trainable_stages: How many of the backbone's last stages are trained; None: all; 0: none.
            The batch normalisation of frozen stages stays in evaluation.
        unfreeze_epoch: Epoch from which the whole backbone is trained; None: never.
        lr: Learning rate of the layers on top.
        backbone_lr_factor: Learning rate of the backbone's layers, as a share of ``lr``.
        weight_decay: AdamW's.
        schedule: ``one_cycle`` or ``constant`` learning rate.
        cache_frozen: Whether to keep what frozen stages make of each image. Takes effect where the
            first stages stay frozen and the data module does not augment.

    Raises:
        ValueError: An argument is outside its range.
        pellucid.models.backbones.WeightsError: Weights that do not exist or do not fit.
    """

    def __init__(
        self,
        backbone: str | Backbone,
        weights: str = "none",
        stride: int | None = None,
        *,
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
        check_at_least(
            0,
            trainable_stages=trainable_stages or 0,
            unfreeze_epoch=unfreeze_epoch or 0,
            backbone_lr_factor=backbone_lr_factor,
            weight_decay=weight_decay,
        )
        if not lr > 0:
            raise ValueError(f"lr must be greater than 0, got {lr}")
        if schedule not in ("one_cycle", "constant"):
            raise ValueError(f"schedule must be one_cycle or constant, got {schedule!r}")
        super().__init__()
        self.unfreeze_epoch, self.lr = unfreeze_epoch, lr
        self.backbone_lr_factor, self.weight_decay = backbone_lr_factor, weight_decay
        self.schedule = schedule
        self._now_frozen = 0
        if not isinstance(backbone, Backbone):
            backbone = Backbone(backbone, weights, stride, node, output_stride)
        self.backbone = backbone
        stages = len(self.backbone.stages)
        if trainable_stages is not None and trainable_stages > stages:
            raise ValueError(
                f"trainable_stages must be at most {stages} for {self.backbone.name}, got "
                f"{trainable_stages}"
            )
        self.frozen_stages = 0 if trainable_stages is None else stages - trainable_stages
        self._cache = FeatureCache() if cache_frozen else None
        self._freeze(self.frozen_stages)

    @property
    def unit_grid(self) -> tuple[float, float] | None:
        """That of the backbone's maps, on whose cells those of the layers on top lie."""
        return self.backbone.grid

    def features(self, batch: Batch, stage: Stage) -> Tensor:
        """The backbone's maps of a batch (B, C, h, w), with what is cached of frozen stages."""
        return self.backbone.run(self._frozen_features(batch, stage), self.frozen_stages, None)

    def configure_optimizers(self) -> Any:
        """AdamW, with a smaller learning rate for the pretrained layers."""
        pretrained = list(self.backbone.parameters())
        known = set(pretrained)
        new = [parameter for parameter in self.parameters() if parameter not in known]
        rates = [self.lr, self.lr * self.backbone_lr_factor]
        optimizer = torch.optim.AdamW(
            [{"params": new, "lr": rates[0]}, {"params": pretrained, "lr": rates[1]}],
            weight_decay=self.weight_decay,
        )
        steps = self.trainer.estimated_stepping_batches
        if self.schedule == "constant" or steps == float("inf"):
            return optimizer
        one_cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rates, max(int(steps), 2), pct_start=0.1, cycle_momentum=False
        )
        return [optimizer], [{"scheduler": one_cycle, "interval": "step"}]

    def _freeze(self, frozen: int) -> None:
        """Freeze the first stages and train the others."""
        self._now_frozen = frozen
        for number, stage in enumerate(self.backbone.stages):
            stage.requires_grad_(number >= frozen)
            # Frozen stages run forward only, which a CPU does 1.5 times faster this way.
            layout = torch.channels_last if number < frozen else torch.contiguous_format
            stage.to(memory_format=layout)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Switch to training, but for the frozen stages, whose statistics stay put."""
        super().train(mode)
        for stage in list(self.backbone.stages)[: self._now_frozen]:
            stage.eval()
        return self

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the weights file out: what it gave is in the checkpoint."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["hyper_parameters"]["weights"] = "none"

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Forget the features of the weights before."""
        super().on_load_checkpoint(checkpoint)
        if self._cache is not None:
            self._cache.clear()

    def on_fit_start(self) -> None:
        """Lightning's hook."""
        if self.unfreeze_epoch is not None and is_distributed():
            raise ValueError(
                "unfreeze_epoch is for one device: DistributedDataParallel would not average the "
                "gradients of layers that are unfrozen later; use --trainer.devices 1, or train "
                "the layers from the start (trainable_stages)"
            )

    def on_train_epoch_start(self) -> None:
        """Unfreeze the backbone from its epoch on, also in a resumed run."""
        late = self.unfreeze_epoch is not None and self.current_epoch >= self.unfreeze_epoch
        if late and self._now_frozen:
            self._freeze(0)

    def on_train_start(self) -> None:
        """Fill the cache in the order of the data set.

        Batches of another make-up would differ in the last bit, and a resumed run with them.
        """
        dataset, data = self._cacheable("train"), getattr(self.trainer, "datamodule", None)
        # Without a data module there is no loader in the data set's order: the steps fill it.
        if dataset is None or data is None or self._cache is None:
            return
        loader = data.dataloader("train")
        if loader.dataset is not dataset:
            return
        for batch in tqdm(loader, desc="Frozen features", leave=False, disable=len(loader) < 20):
            moved = {name: batch[name].to(self.device) for name in ("image", "index")}
            with self.trainer.precision_plugin.forward_context():
                self._frozen_features(cast(Batch, moved), "train")
            if dataset not in self._cache:
                break

    def _cacheable(self, stage: Stage) -> Any:
        """The data set that the trainer reads, if its images and the frozen stages stay as is."""
        trainer = self._trainer
        if trainer is None or not self.frozen_stages or self.unfreeze_epoch is not None:
            return None
        loader = {"train": trainer.train_dataloader, "val": trainer.val_dataloaders}.get(
            stage, trainer.test_dataloaders
        )
        dataset = getattr(loader, "dataset", None)
        # The data sets of our data modules say whether they make random choices.
        return dataset if getattr(dataset, "random", True) is False else None

    def _frozen_features(self, batch: Batch, stage: Stage) -> Tensor:
        """What the frozen stages make of a batch, from the cache where that is right."""
        image = batch["image"]

        def compute(image: Tensor) -> Tensor:
            image = image.contiguous(memory_format=torch.channels_last)
            return self.backbone.run(image, 0, self.frozen_stages).contiguous()

        dataset = self._cacheable(stage)
        if self._cache is None or dataset is None or "index" not in batch:
            return compute(image)
        return self._cache.get(dataset, batch["index"], image, compute)


def check_at_least(least: float, **values: float) -> None:
    """Check that arguments are not below a limit.

    Args:
        least: The limit.
        **values: Arguments by name.

    Raises:
        ValueError: Names the argument.
    """
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
