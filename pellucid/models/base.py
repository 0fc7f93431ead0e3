"""What all models share: steps that log themselves, metrics per stage, an explanation."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Literal, get_args

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torchmetrics import Metric

from pellucid.batch import Batch, check_batch
from pellucid.models.backbones import (
    NORMALISATION,
    Backbone,
    Loaded,
    Normalisation,
    normalisation_of,
)
from pellucid.models.code_scores import CodeScores
from pellucid.models.explanation import Explanation
from pellucid.models.map_metrics import Attended, MapMetrics
from pellucid.models.running_means import RunningMeans
from pellucid.models.unit_metrics import UnitMetrics, watch

Stage = Literal["train", "val", "test", "all"]


class StepCallback(Callback, ABC):
    """A callback that sees what a model's :meth:`~InterpretableModel.step` returns.

    None of Lightning's hooks does before the figures are logged and the loss is differentiated.
    """

    @abstractmethod
    def on_step(self, trainer: pl.Trainer, outputs: Mapping[str, Tensor], stage: Stage) -> None:
        """After each step.

        Args:
            trainer: The trainer of the run.
            outputs: What ``step`` returned.
            stage: The stage.
        """


class InterpretableModel(pl.LightningModule, ABC):
    """Base of all models.

    A subclass implements :meth:`step` and :meth:`explain`, builds its own submodules from plain
    constructor arguments and calls ``save_hyperparameters()``, so that a checkpoint alone rebuilds
    it.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"image"})
    """Batch fields without which the model cannot train."""
    monitor: ClassVar[str | None] = "val/loss"
    """Figure by which the best checkpoint is chosen; None: the last epoch's is."""
    mode: ClassVar[Literal["min", "max"]] = "min"
    """Whether a smaller or a larger ``monitor`` is better."""
    tests_all: ClassVar[bool] = True
    """Whether ``pellucid run`` also tests on every image of the data set."""
    explains_by_map: ClassVar[bool] = False
    """Whether :meth:`explain` gives a map for the metrics of heat maps to judge in tests, see
    :meth:`Explanation.heat_map`. :meth:`step` may return what it is made of in tests, which saves
    another look at each image: ``maps`` and ``contributions``, or ``heat`` (B, h, w) where
    :meth:`explain` gives one of its own."""
    num_codes: int | None = None
    """Number of codes, ``L``, that the disentanglement scores judge in every run. :meth:`step` then
    returns ``codes`` (B, L) in all stages but training, and ``kl_per_latent`` (B, L) in nats where
    the model has it. None: no such scores, unless ``code_scores`` names a layer."""
    num_units: int | None = None
    """Number of units that the metrics of units measure in every run. :meth:`step` then returns
    ``maps`` (B, U, h, w) and, in tests, what :meth:`lacks` does not name, and so does
    :meth:`explain`. None: no metrics of units, unless ``unit_metrics`` names a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stage_metrics = nn.ModuleDict()
        self.skipped_metrics: dict[str, str] = {}
        self.unit_metrics = UnitMetrics()
        self.code_scores = CodeScores()
        self.map_metrics = MapMetrics()
        self._training_means = RunningMeans()
        self._suite: dict[Stage, frozenset[str]] = {}
        self._map_suite: dict[Stage, frozenset[str]] = {}
        self._normalisation: Normalisation | None = None
        self._test_stage: Stage = "test"

    @abstractmethod
    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """One batch.

        Args:
            batch: The batch.
            stage: ``train``, ``val``, ``test``, or ``all`` for every image of the data set.

        Returns:
            ``loss``, to be differentiated, and any other tensors. Every scalar is logged as
            ``stage/name``; the rest is for :meth:`update_metrics`.
        """

    @abstractmethod
    def explain(self, batch: Batch, target: Tensor | None = None) -> Explanation:
        """The model's own explanation of a batch.

        Args:
            batch: The batch; needs ``image`` only.
            target: (B,) int64, the class whose score is explained; None: the predicted one.
        """

    def class_scores(self, image: Tensor) -> Tensor:
        """(B, K) class scores, logits, of images (B, C, H, W); override where it is cheaper so."""
        return self.explain({"image": image}).scores

    @property
    def unit_grid(self) -> tuple[float, float] | None:
        """Stride and offset in pixels of the cells of ``maps``; None: they tile the image."""
        return None

    def lacks(self) -> Mapping[str, str]:
        """Why the model's own units cannot be judged by a metric, by its key.

        A model whose ``step`` returns ``contributions`` (B, U) in tests, what each unit adds to the
        score of the predicted class, leaves ``decision_sparsity`` out of it.
        """
        needs = "needs what each unit adds to the score"
        return {"decision_sparsity": f"{needs}, which {type(self).__name__} does not tell"}

    def attended(self, image: Tensor) -> Attended | None:
        """What the model pools of images (B, C, H, W) and by which attention; None: it has none.

        Tests change the attention and see what becomes of the prediction.
        """
        return None

    def votes(self) -> Tensor | None:
        """How each of the model's own units votes, (U, K) in logits; None: no vote of its own.

        The vote for a class is what one standard deviation of the unit's pooled activation adds to
        the score of the class.
        """
        return None

    def assigned_categories(self) -> Tensor | None:
        """(U,) int64, the category that training assigned to each unit; None: it assigned none."""
        return None

    @property
    def loaded_weights(self) -> Loaded | None:
        """What the backbone took from pretrained weights; None: there are none."""
        backbone = self._backbone()
        return None if backbone is None else backbone.loaded

    @property
    def normalisation(self) -> Normalisation | None:
        """What the model's weights want images to be normalised with; None: nothing is known."""
        backbone = self._backbone()
        if self._normalisation is not None or backbone is None:
            return self._normalisation
        return backbone.normalisation

    def _backbone(self) -> Backbone | None:
        return next((m for m in self.modules() if isinstance(m, Backbone)), None)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember what the images were normalised with."""
        data = getattr(self._trainer, "datamodule", None)
        used = self.normalisation if data is None else Normalisation(data.mean, data.std)
        if used is not None:
            checkpoint[NORMALISATION] = {
                name: [float(value) for value in values] for name, values in used._asdict().items()
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over what the images were normalised with."""
        self._normalisation = normalisation_of(checkpoint) or self._normalisation

    def make_metrics(self, data: Any, stage: Stage) -> Mapping[str, Metric]:
        """Metrics of one stage, new ones at each call.

        Args:
            data: The data module. Where it lacks what a metric needs, leave the metric out and say
                why in ``self.skipped_metrics[name]``.
            stage: The stage; training may do with fewer.
        """
        return {}

    def update_metrics(
        self, metrics: Mapping[str, Metric], outputs: dict[str, Tensor], batch: Batch
    ) -> None:
        """Give one batch to the metrics of its stage.

        Args:
            metrics: What :meth:`make_metrics` returned.
            outputs: What :meth:`step` returned, detached.
            batch: The batch.
        """

    def setup(self, stage: str) -> None:
        """Build the metrics from what the data module provides."""
        self._training_means = RunningMeans()  # Another fit may have been interrupted.
        data = getattr(self.trainer, "datamodule", None)
        if data is None or len(self.stage_metrics):
            return
        self.skipped_metrics |= self.code_scores.skipped(self, data)
        stages: tuple[Stage, ...] = get_args(Stage)
        for name in stages:
            suite, skipped = self.unit_metrics.make(self, data, name)
            maps, without = self.map_metrics.make(self, data, name)
            self._suite[name], self._map_suite[name] = frozenset(suite), frozenset(maps)
            metrics = {**self.make_metrics(data, name), **suite, **maps}
            self.skipped_metrics |= skipped | without
            # A ModuleDict takes no key that is a method's name, as "train" is.
            self.stage_metrics[f"on_{name}"] = nn.ModuleDict(metrics).to(self.device)

    def metrics_of(self, stage: Stage) -> dict[str, Metric]:
        """The metrics of a stage by name; empty before :meth:`setup`."""
        if f"on_{stage}" not in self.stage_metrics:
            return {}
        return dict(self.stage_metrics[f"on_{stage}"].items())  # type: ignore[operator]

    @contextmanager
    def testing_on(self, stage: Stage) -> Iterator[None]:
        """Log what ``trainer.test`` finds under another stage's name."""
        before, self._test_stage = self._test_stage, stage
        try:
            yield
        finally:
            self._test_stage = before

    def _step_and_log(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        layers = [
            None if stage == "train" else x.layer for x in (self.unit_metrics, self.code_scores)
        ]
        with watch(self, layers[0]) as seen, watch(self, layers[1]) as codes_seen:
            outputs = self.step(batch, stage)
        if stage != "train" or self.automatic_optimization:
            self._show(outputs, stage)
        size = len(batch["image"])
        scalars = {f"{stage}/{k}": v.detach() for k, v in outputs.items() if v.ndim == 0}
        if stage == "train":
            self._training_means.add(scalars, size)
        else:
            self.log_dict(scalars, batch_size=size, on_step=False, on_epoch=True, sync_dist=True)
        if metrics := self.metrics_of(stage):
            detached = {k: v.detach() for k, v in outputs.items()}
            suite = {name: metrics[name] for name in metrics if name in self._suite[stage]}
            maps = {name: metrics[name] for name in metrics if name in self._map_suite[stage]}
            own = {n: metric for n, metric in metrics.items() if n not in suite and n not in maps}
            self.update_metrics(own, detached, batch)
            if maps:
                self.map_metrics.update(self, maps, detached, batch)
            if suite:
                self.unit_metrics.update(self, suite, detached, batch, seen)
            for name, metric in metrics.items():
                self.log(f"{stage}/{name}", metric, on_step=False, on_epoch=True, batch_size=size)
        if stage != "train":
            self.code_scores.update(self, outputs, batch, codes_seen)
        return outputs

    def _show(self, outputs: Mapping[str, Tensor], stage: Stage) -> None:
        """Call the callbacks that look at steps; where optimisation is manual, ``step`` does so."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, StepCallback):
                callback.on_step(self.trainer, outputs, stage)

    def on_train_epoch_end(self) -> None:
        """Lightning's hook: the means of the epoch's scalars."""
        for name, (mean, size) in self._training_means.take().items():
            self.log(name, mean, batch_size=size, on_step=False, on_epoch=True, sync_dist=True)

    def on_validation_epoch_start(self) -> None:
        """Lightning's hook."""
        self.code_scores.begin(self, "val")

    def on_validation_epoch_end(self) -> None:
        """Lightning's hook."""
        self.code_scores.end(self, "val")

    def on_test_epoch_start(self) -> None:
        """Lightning's hook."""
        self.code_scores.begin(self, self._test_stage)

    def on_test_epoch_end(self) -> None:
        """Lightning's hook."""
        self.code_scores.end(self, self._test_stage)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Lightning's hook."""
        if self.global_step == 0 and batch_idx == 0:
            check_batch(batch, self.requires)
        return self._step_and_log(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Lightning's hook."""
        self._step_and_log(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Lightning's hook."""
        self._step_and_log(batch, self._test_stage)

    def predict_step(self, batch: Batch, batch_idx: int) -> Explanation:
        """Lightning's hook: scores, or the codes of a model without classes."""
        if self.num_codes is None or hasattr(self, "num_classes"):
            found = self.explain(batch)
        else:
            # An explanation would draw a hundred pictures of each image, to no purpose.
            codes = self.step(batch, "test")["codes"]
            target = torch.zeros(len(codes), dtype=torch.int64)
            found = Explanation(scores=codes[:, :0], target=target, codes=codes)
        # Nor is there room for those of all images.
        return replace(found, traversals=None, reconstruction=None).to("cpu")
