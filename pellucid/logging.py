"""Figures and pictures to a run's directory and to every logger.

A module of the standard library has this name too; here it is only ever imported in full, as
``pellucid.logging``.
"""

import csv
import importlib.util
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_only
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, Logger
from torch import Tensor

from pellucid.errors import UserError, nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOGGERS = ("csv", "wandb", "tensorboard")
_WANDB_RUN = re.compile(r"(offline-)?run-\d+_\d+-(\w+)")
"""Folder of a run of Weights & Biases, in the order of time, with its identity."""


class RunCSVLogger(CSVLogger):
    """Writes ``metrics.csv`` into a run's directory, and can be cut back to a checkpoint.

    Lightning's own logger deletes the rows of an interrupted run, and can lose them all when it is
    killed while a new column is added.

    Args:
        directory: The run.
    """

    def __init__(self, directory: Path | str) -> None:
        super().__init__(str(directory), name="", version="")
        self.path = Path(directory) / "metrics.csv"
        self.columns: list[str] = []
        self.rows: list[dict[str, str]] = []
        if self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                # A row that a kill cut short has no value for its last columns.
                self.rows = [
                    {k: v for k, v in row.items() if v}
                    for row in reader
                    if None not in row.values()
                ]
                self.columns = list(reader.fieldnames or [])

    @property
    def experiment(self) -> Any:
        """Lightning asks for it to make the directory; there is nothing else behind it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return None

    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """The run's ``config.yaml`` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Append a row.

        Args:
            metrics: Figures by name.
            step: Optimiser steps before it; None: the number of rows.
        """
        values = {key: float(value) for key, value in metrics.items()}
        epoch = values.pop("epoch", None)
        row = {} if epoch is None else {"epoch": str(int(epoch))}
        row["step"] = str(len(self.rows) if step is None else step)
        row |= {key: repr(value) for key, value in values.items()}
        new = [key for key in row if key not in self.columns]
        self.columns += new
        self.rows.append(row)
        if new or not self.path.is_file():
            self._rewrite()
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns).writerow(row)

    def keep(self, count: int, pending: Mapping[str, str] | None = None) -> None:
        """Go back to the rows that a checkpoint knew.

        Args:
            count: Rows at the time.
            pending: The row that was due next, if any.
        """
        self.rows = self.rows[:count]
        if pending:
            self.columns += [key for key in pending if key not in self.columns]
            self.rows.append(dict(pending))
        used = {key for row in self.rows for key in row}
        self.columns = [key for key in self.columns if key in used]
        self._rewrite()

    def _rewrite(self) -> None:
        """Replace the file at once, so that a kill leaves the old one or the new one."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(self.rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(text.getvalue(), encoding="utf-8", newline="")
        part.replace(self.path)

    @rank_zero_only
    def save(self) -> None:
        """Rows are written as they come."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Nothing is left to write."""


def make_loggers(names: Sequence[str], directory: Path, experiment: str) -> list[Logger]:
    """The loggers of a run: CSV always, and those that are asked for.

    Args:
        names: ``wandb``, ``tensorboard``; ``csv`` is always there.
        directory: The run, in which all of them keep their files.
        experiment: Name of the experiment.

    Raises:
        UserError: If a name is unknown or its package is missing.
    """
    loggers: list[Logger] = [RunCSVLogger(directory)]
    for name in dict.fromkeys(names):
        if name not in LOGGERS:
            raise UserError("logger", f"{name!r} is unknown; {nearest(name, LOGGERS)}")
        if name == "wandb":
            loggers.append(_wandb(directory, experiment))
        elif name == "tensorboard":
            loggers.append(_tensorboard(directory))
    return loggers


def reopen_loggers(directory: Path) -> list[Logger]:
    """Loggers that add to what a finished run has on its dashboards; none where it has none.

    TensorBoard reads a second file of events beside the first. Weights & Biases goes on with the
    run where it was uploaded; a run that was offline keeps its own step, which only the server
    knows how to go on from, so what is added is a run of its own, named after it.

    Args:
        directory: The run, ``runs/<experiment>/<date-time>``.
    """
    directory = directory.resolve()
    loggers: list[Logger] = []
    found = [_WANDB_RUN.fullmatch(each.name) for each in sorted(directory.glob("wandb/*run-*"))]
    runs = [each for each in found if each]
    if runs and importlib.util.find_spec("wandb") is not None:
        offline, identity = runs[-1].groups()
        if offline:
            loggers.append(_wandb(directory, directory.parent.name, ", explanations"))
        else:
            more = {"id": identity, "resume": "allow"}
            loggers.append(_wandb(directory, directory.parent.name, **more))
    if (directory / "tensorboard").is_dir() and importlib.util.find_spec("tensorboard") is not None:
        loggers.append(_tensorboard(directory))
    return loggers


def _wandb(directory: Path, experiment: str, suffix: str = "", **more: Any) -> Logger:
    if importlib.util.find_spec("wandb") is None:
        raise UserError("logger", "wandb is not installed: pip install wandb")
    from pytorch_lightning.loggers import WandbLogger

    options: dict[str, Any] = {"project": os.environ.get("WANDB_PROJECT", "pellucid")}
    if "WANDB_MODE" not in os.environ and not _has_wandb_key():
        # WandbLogger's own switch, offline=True, would change the environment for good.
        options["mode"] = "offline"
    name = f"{experiment}/{directory.name}{suffix}"
    return WandbLogger(name=name, save_dir=str(directory), **options, **more)


def _has_wandb_key() -> bool:
    """Whether the user has logged in to Weights & Biases, by variable or ``wandb login``."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    from netrc import NetrcParseError, netrc
    from urllib.parse import urlparse

    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        return netrc(str(path)).authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False


def _tensorboard(directory: Path) -> Logger:
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "logger", "tensorboard is not installed: pip install 'pellucid[tensorboard]'"
        )
    from pytorch_lightning.loggers import TensorBoardLogger

    return TensorBoardLogger(
        str(directory), name="", version="tensorboard", default_hp_metric=False
    )


def figure_picture(figure: "Figure") -> npt.NDArray[np.uint8]:
    """A matplotlib figure as a picture (H, W, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def log_image(
    trainer: pl.Trainer, key: str, image: Tensor | npt.NDArray[np.uint8], caption: str = ""
) -> Path | None:
    """Write a picture to the run's ``images`` and to every logger that takes pictures.

    Args:
        trainer: The trainer of the run.
        key: Name of the picture, as ``val/units``; the file is ``images/val/units_00010.png`` at
            step 10.
        image: (H, W, 3) uint8.
        caption: What it shows.

    Returns:
        The file; None on all processes but the first, and where the run has no directory.

    Raises:
        ValueError: If the picture has another shape or type, or the key is no name for a file.
    """
    picture = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if picture.dtype != np.uint8:
        raise ValueError(
            f"image must be uint8 in [0, 255], got {picture.dtype}; "
            "convert it with (image * 255).round().astype('uint8') if it is in [0, 1]"
        )
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"image must have shape (H, W, 3), got {picture.shape}")
    if not re.fullmatch(r"[\w .=-]+(/[\w .=-]+)*", key) or ".." in key:
        raise ValueError(f"key must be words joined by '/', as 'val/units', got {key!r}")
    if not trainer.is_global_zero:
        return None
    path = None
    for logger in trainer.loggers:
        if isinstance(logger, RunCSVLogger):
            path = logger.path.parent / "images" / f"{key}_{trainer.global_step:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
        elif callable(give := getattr(logger, "log_image", None)):
            give(key, [picture], step=trainer.global_step, caption=[caption])
        elif callable(add := getattr(getattr(logger, "experiment", None), "add_image", None)):
            add(key, picture, trainer.global_step, dataformats="HWC")
    return path
