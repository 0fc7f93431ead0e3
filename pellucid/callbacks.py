"""What watches over a run: its losses, its monitors, its speed."""

import time
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import Metric

from pellucid.errors import RunFailure, UserError, nearest
from pellucid.logging import figure_picture, log_image
from pellucid.metrics.part_metric import PartMetric
from pellucid.metrics.suite import METRICS
from pellucid.models.base import Stage, StepCallback
from pellucid.resume import Checkpoint, random_state, set_random_state


class FiniteLoss(StepCallback):
    """Stops the run before a loss or gradient that is not finite reaches the weights.

    Every scalar that the model's ``step`` returns in training is looked at, so that the message
    can name the term. Costs one read from the device per step.
    """

    def on_step(self, trainer: pl.Trainer, outputs: Mapping[str, Tensor], stage: Stage) -> None:
        """See :meth:`StepCallback.on_step`."""
        if stage == "train":
            self.check(trainer, outputs)

    def check(self, trainer: pl.Trainer, outputs: Mapping[str, Tensor]) -> None:
        """Raise if a scalar is not finite.

        Args:
            trainer: For the place in the run.
            outputs: What ``step`` returned.

        Raises:
            RunFailure: Names the terms.
        """
        scalars = {k: v.detach().float() for k, v in outputs.items() if v.ndim == 0}
        if not scalars or bool(torch.stack(list(scalars.values())).isfinite().all()):
            return
        wrong = {k: v.item() for k, v in scalars.items() if not bool(v.isfinite())}
        # The loss is a sum of the terms: it is named only where none of them is to blame.
        terms = {k: v for k, v in wrong.items() if k != "loss"} or wrong
        names = ", ".join(f"{k} is {v}" for k, v in terms.items())
        self._stop(trainer, f"the loss is not finite: {names}")

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """A finite loss can have a gradient that is not."""
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return  # Half precision scales the loss until some gradients overflow, and skips them.
        named = [(n, p.grad) for n, p in pl_module.named_parameters() if p.grad is not None]
        if not named:
            return
        norms = torch._foreach_norm([grad.detach() for _, grad in named])
        if bool(torch.stack([norm.float() for norm in norms]).isfinite().all()):
            return
        wrong = [name for name, grad in named if not bool(grad.isfinite().all())]
        where = f"{', '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''}" or "too large a norm"
        self._stop(trainer, f"the gradient is not finite: {where}")

    def _stop(self, trainer: pl.Trainer, problem: str) -> None:
        place = f"epoch {trainer.current_epoch}, step {trainer.global_step}"
        last = [c.path for c in trainer.checkpoint_callbacks if isinstance(c, Checkpoint)]
        kept = [path for path in last if path.is_file()]
        end = f"the last good checkpoint is {kept[-1]}" if kept else "no epoch was complete yet"
        raise RunFailure(f"{problem} ({place}); a smaller model.lr may help. {end}")


class CheckMonitors(Callback):
    """Refuses, before training, to watch a figure that will never be logged."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look for the figure of each callback that watches one."""
        known: set[str] | None = None
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            monitor = getattr(callback, "monitor", None)
            if not isinstance(monitor, str):
                continue
            stage, _, name = monitor.partition("/")
            model: Any = pl_module
            if name in model.skipped_metrics:
                reason = model.skipped_metrics[name]
                raise UserError(
                    "monitor", f"{monitor!r} is not measured here: {reason}; choose another figure"
                )
            if stage in ("train", "val") and name in model.metrics_of(stage):
                continue
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            if stage == "val" and name in model.code_scores.score_keys(model, data, "val"):
                continue
            if known is None:
                known = self._figures(trainer, model)
            if monitor not in known:
                raise UserError("monitor", f"no figure {monitor!r}; {nearest(monitor, known)}")

    @staticmethod
    def _figures(trainer: pl.Trainer, model: Any) -> set[str]:
        """All figures of an epoch: those of the metrics, and the scalars of one batch."""
        batch = next(iter(trainer.datamodule.val_dataloader()))  # type: ignore[attr-defined]
        batch = trainer.precision_plugin.convert_input(trainer.strategy.batch_to_device(batch))
        training = model.training
        before = random_state()
        with torch.no_grad(), trainer.precision_plugin.val_step_context():
            outputs = model.eval().step(batch, "val")
        set_random_state(before)
        model.train(training)
        names = {name for name, value in outputs.items() if value.ndim == 0}
        names |= {name for stage in ("train", "val") for name in model.metrics_of(stage)}
        return {f"{stage}/{name}" for stage in ("train", "val") for name in names}


class Stopwatch(Callback):
    """Measures a fit: ``seconds`` in all, and training images a second, validation left out.

    A resumed fit counts on from its checkpoint.
    """

    def __init__(self) -> None:
        self.images = 0
        self._before = self._training = self._epoch_start = 0.0
        self._fit_start: float | None = None

    @property
    def seconds(self) -> float:
        """Time that the fit has taken."""
        if self._fit_start is None:
            return self._before
        return self._before + time.perf_counter() - self._fit_start

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"seconds": self.seconds, "images": self.images, "training": self._training}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from a checkpoint.

        Args:
            state_dict: What :meth:`state_dict` gave.
        """
        self._before, self.images = state_dict["seconds"], state_dict["images"]
        self._training = state_dict["training"]

    @property
    def images_per_second(self) -> float | None:
        """Training images a second over all processes; None if nothing was trained."""
        return self.images / self._training if self._training else None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start."""
        self._fit_start = time.perf_counter()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop."""
        self._before, self._fit_start = self.seconds, None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start of an epoch's training."""
        self._epoch_start = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the batch."""
        now = time.perf_counter()
        self.images += len(batch["image"]) * trainer.world_size
        self._training += now - self._epoch_start
        self._epoch_start = now

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the validation out, also where it runs within an epoch."""
        self._epoch_start = time.perf_counter()


class UnitFigures(Callback):
    """Keeps and draws what the metrics of a test say of each unit, before Lightning resets them."""

    def __init__(self) -> None:
        self.figures: dict[str, dict[str, Tensor]] = {}
        """By stage and metric; (U,) or (U, P)."""
        self.concepts: dict[str, tuple[str, ...]] = {}
        """By metric, the names of the P columns."""
        self.counts: dict[str, float] = {}
        """Number of units that fire on no image, as ``stage/dead_units``, and of those that detect
        a concept, as ``stage/detectors``, where they are counted."""

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the figures; runs on every process, as reading them may gather over all."""
        model: Any = pl_module
        stage = model._test_stage
        figures: dict[str, Tensor] = {}
        self.figures[stage] = figures
        for name, metric in model.metrics_of(stage).items():
            known = callable(getattr(metric, "per_unit", None))
            if known:
                figures[name] = metric.per_unit().detach().cpu()
            if isinstance(metric, PartMetric):
                self.concepts[name] = metric.part_names
            dead = getattr(metric, "dead_units", None)
            dead = dead() if callable(dead) else dead
            if dead is not None:  # A count, or which ones they are.
                self.counts[f"{stage}/dead_units"] = float(torch.as_tensor(dead).sum())
            if callable(detectors := getattr(metric, "detectors", None)):
                self.counts[f"{stage}/detectors"] = float((detectors() >= 0).sum())
            draws = type(metric).plot is not Metric.plot
            if draws and (known or name in METRICS):  # A model's accuracy has a plot, too.
                shown = figures.get(name, metric.compute())
                if trainer.is_global_zero and shown.isfinite().any():
                    what = f"{name.replace('_', ' ')}{' of each unit' if known else ''}"
                    picture = figure_picture(metric.plot()[0])
                    log_image(trainer, f"{stage}/{name}", picture, f"{what}, {stage} images")
