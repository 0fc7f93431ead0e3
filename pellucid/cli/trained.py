"""A trained model with its data, from the directory of its run or from a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pellucid.checkpoint import check_fits, read_checkpoint, run_directory_of
from pellucid.cli.classes import load_class
from pellucid.cli.options import PellucidCLI
from pellucid.datamodules.base import ImageDataModule
from pellucid.errors import UserError
from pellucid.models.base import InterpretableModel


@dataclass(frozen=True)
class Trained:
    """A model in evaluation mode, on the CPU, and its data, normalised as it wants."""

    model: InterpretableModel
    data: ImageDataModule
    run: Path
    """The run's directory; that of the checkpoint where it lies in no run."""
    checkpoint: Path
    experiment: str


def load_trained(
    path: Path, command: str, config: str | None = None, extra: Sequence[str] = ()
) -> Trained:
    """Rebuild a trained model and its data.

    Args:
        path: A run's directory, whose best checkpoint is meant, or a checkpoint.
        command: Name of the command, for errors.
        config: The config, for a checkpoint that lies in no run's directory.
        extra: Options of the config, as ``--data.root DIR``.

    Raises:
        UserError: The run or the checkpoint cannot be read, or they do not fit.
    """
    run, checkpoint = find_trained(path, command, config)
    cli = PellucidCLI("evaluate", ["--config", config or str(run / "config.yaml"), *extra])
    content = read_checkpoint(checkpoint, command)
    class_ = load_class("model", cli.given.values)
    try:
        model = class_.load_from_checkpoint(checkpoint, weights_only=True, map_location="cpu")
    except (RuntimeError, TypeError, ValueError) as error:
        problem = f"{checkpoint} does not rebuild a {class_.__name__}: {error}"
        raise UserError(command, problem) from error
    check_fits(content, model, cli.datamodule)
    cli.normalise_for(model)
    name = cli.config.get("experiment") or run.parent.name
    return Trained(model.eval(), cli.datamodule, run, checkpoint, str(name))


def find_trained(path: Path, command: str, config: str | None = None) -> tuple[Path, Path]:
    """The run directory and the checkpoint that a path means.

    Raises:
        UserError: There is none of them.
    """
    if path.is_dir():
        checkpoint = path / "checkpoints" / "best.ckpt"
        if not (path / "config.yaml").is_file():
            raise UserError(command, f"{path} is not a run directory: it has no config.yaml")
        if not checkpoint.is_file():
            raise UserError(command, f"{path} has no checkpoints/best.ckpt: give a checkpoint")
        return path, checkpoint
    if not path.is_file():
        raise UserError(command, f"there is no run directory and no checkpoint {path}")
    run = run_directory_of(path)
    if run is None and config is None:
        raise UserError(command, f"{path} lies in no run directory: give its --config")
    return run or path.parent, path
