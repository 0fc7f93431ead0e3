"""What a run needs to go on after it was killed, as if it had not been."""

import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn

from pellucid.checkpoint import ORIGIN, class_path
from pellucid.errors import UserError
from pellucid.logging import RunCSVLogger


class Checkpoint(ModelCheckpoint):
    """One checkpoint of a fixed name, written at the end of each epoch.

    Lightning's own writes ``last.ckpt`` only after epochs that were the best so far, and forgets
    the best score when the run's directory was moved.

    Args:
        directory: Where the checkpoint goes.
        name: Name of the file without its ending.
        monitor: Figure that must be the best so far; None: written after every epoch.
        mode: Whether the smallest or the largest figure is best.
    """

    def __init__(
        self, directory: Path, name: str, monitor: str | None = None, mode: str = "min"
    ) -> None:
        super().__init__(
            dirpath=str(directory.resolve()),
            filename=name,
            monitor=monitor,
            mode=mode,
            save_top_k=1,
            auto_insert_metric_name=False,
            # Train and validation figures of the epoch are all known then.
            save_on_train_epoch_end=True,
            # No "best-v1.ckpt" beside "best.ckpt".
            enable_version_counter=False,
        )

    @property
    def state_key(self) -> str:
        """Where the checkpoint holds the state of this callback."""
        key = super().state_key
        # Beside last.ckpt, best.ckpt watches nothing either where the model names no monitor.
        return key if self.monitor or self.filename == "last" else f"{key}, {self.filename}"

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.format_checkpoint_name({}))

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        """Put the file in place at once: a kill while it is written leaves the one before.

        Lightning writes to the system's temporary directory and moves the file from there, which
        is a copy where that is another disk.
        """
        part = f"{filepath}.part"
        super()._save_checkpoint(trainer, part)
        self._last_checkpoint_saved = filepath
        if trainer.is_global_zero:
            if Path(part).is_dir():  # Sharded strategies write a directory.
                shutil.rmtree(filepath, ignore_errors=True)
            Path(part).replace(filepath)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best score, wherever the run lies now.

        Args:
            state_dict: What the checkpoint holds of this callback.
        """
        here = str(self.path)
        score = state_dict.get("best_model_score")
        moved = {**state_dict, "dirpath": self.dirpath, "best_model_path": here}
        if self.monitor is not None and score is not None and self.path.is_file():
            moved |= {"best_k_models": {here: score}, "kth_best_model_path": here}
        elif self.monitor is not None:
            # The best file stayed behind in another directory: the next epoch's is the best here.
            moved |= {"best_k_models": {}, "kth_best_model_path": "", "best_model_score": None}
        super().load_state_dict(moved)


class RunState(Callback):
    """Carries what Lightning's checkpoints lack, so that a resumed run repeats the unbroken one.

    That is the state of the random generators, the place in ``metrics.csv`` and the classes of
    model and data; all of it plain values, which ``torch.load(weights_only=True)`` reads.

    Args:
        continues: Whether a resumed run goes on in its own directory, and so in its own
            ``metrics.csv``.
    """

    def __init__(self, continues: bool = False) -> None:
        self.continues = continues
        self._epoch_ended = False
        self._restore: dict[str, Any] | None = None
        self._schedulers: list[dict[str, Any]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From here on the epoch's figures are known, but not yet logged."""
        self._epoch_ended = True

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add to a checkpoint. Runs on every process."""
        states = [random_state()]
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, states[0])
            states = gathered
        data = getattr(trainer, "datamodule", None)
        checkpoint[ORIGIN] = {
            "model": class_path(pl_module),
            "data": None if data is None else class_path(data),
            "class_names": [str(name) for name in getattr(data, "class_names", ())],
            "random": states,
            "rows": next((len(c.rows) for c in _csv(trainer)), 0),
            "pending": self._pending_row(trainer),
        }

    def _pending_row(self, trainer: pl.Trainer) -> dict[str, str]:
        """The row of training figures that Lightning writes right after the checkpoint."""
        if not self._epoch_ended:
            return {}
        # No public name gives the figures of this epoch alone.
        metrics = trainer._logger_connector.metrics["log"]
        if not metrics:
            return {}
        row = {"epoch": str(trainer.current_epoch)}
        row["step"] = str(trainer.fit_loop.epoch_loop._batches_that_stepped - 1)
        return row | {key: repr(float(value)) for key, value in metrics.items() if key != "epoch"}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what is restored once the training starts."""
        self._restore = checkpoint.get(ORIGIN)
        self._schedulers = checkpoint.get("lr_schedulers", [])
        if trainer.state.fn == TrainerFn.FITTING:
            # Lightning restores its loops after the optimisers, whose schedules may ask for the
            # length of the loader: its workers would already fetch the images of epoch 0.
            saved: Any = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
            progress: Any = trainer.fit_loop.epoch_progress.current
            progress.processed = saved["processed"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that the schedule goes on as long as the run; cut ``metrics.csv`` back."""
        for scheduler in self._schedulers:
            steps = scheduler.get("total_steps")
            if steps is not None and (wanted := trainer.estimated_stepping_batches) > steps:
                raise UserError(
                    "trainer.max_epochs",
                    f"the run would take {wanted:.0f} steps, the checkpoint's learning rate was "
                    f"planned for {steps}: keep max_epochs and max_steps, or use a constant rate",
                )
        if self._restore and self.continues and trainer.is_global_zero:
            for logger in _csv(trainer):
                logger.keep(self._restore["rows"], self._restore["pending"])

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A new epoch, in which nothing is pending."""
        self._epoch_ended = False
        self._restore_random(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The first hook of a run that resumes within an epoch."""
        self._restore_random(trainer)

    def _restore_random(self, trainer: pl.Trainer) -> None:
        if self._restore is not None:
            states = self._restore["random"]
            if len(states) == trainer.world_size:
                set_random_state(states[trainer.global_rank])
            self._restore = None


def _csv(trainer: pl.Trainer) -> list[RunCSVLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, RunCSVLogger)]


def random_state() -> dict[str, Any]:
    """State of all random generators, as tensors and plain values."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    words32 = np.asarray(keys).astype(np.int64)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(words32), position, has_gauss, float(cached)],
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put back what :func:`random_state` gave.

    Args:
        state: The state; generators of a device that is not here are left alone.
    """
    torch.set_rng_state(state["torch"].cpu())
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"].cpu())
