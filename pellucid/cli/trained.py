"""A trained model with the data of its run, as the commands that look at finished runs want it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pellucid.checkpoint import check_fits, read_checkpoint, run_directory_of
from pellucid.cli.classes import load_class
from pellucid.cli.options import PellucidCLI
from pellucid.datamodules.base import ImageDataModule
from pellucid.errors import UserError
from pellucid.models.base import InterpretableModel


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model in evaluation mode, on the CPU, and its data, normalised as it wants them."""

    run: Path
    """The run directory, or the directory of a checkpoint that lies in none."""
    checkpoint: Path
    model: InterpretableModel
    data: ImageDataModule


def open_trained(
    command: str, path: Path, config: str | None = None, options: Sequence[str] = ()
) -> Trained:
    """Rebuild what a path means.

    Args:
        command: Name of the command, for errors.
        path: A run directory, whose best checkpoint is meant, or a checkpoint.
        config: The config of a checkpoint that does not lie in its run's directory.
        options: Words of the command line that change the config.

    Raises:
        UserError: If the run or the checkpoint cannot be read, or an option is wrong.
    """
    run, checkpoint = find_trained(command, path, config)
    # Data are built, the model is not: its checkpoint rebuilds it.
    words = ["--config", config or str(run / "config.yaml"), *options]
    cli = PellucidCLI("explain", words)
    content = read_checkpoint(checkpoint, command)
    class_ = load_class("model", cli.given.values)
    try:
        model = class_.load_from_checkpoint(checkpoint, weights_only=True, map_location="cpu")
    except (RuntimeError, TypeError, ValueError) as error:
        problem = f"{checkpoint} does not rebuild a {class_.__name__}: {error}"
        raise UserError(command, problem) from error
    check_fits(content, model, cli.datamodule)
    cli.normalise_for(model)
    return Trained(run=run, checkpoint=checkpoint, model=model.eval(), data=cli.datamodule)


def find_trained(command: str, path: Path, config: str | None = None) -> tuple[Path, Path]:
    """The run directory and the checkpoint that a path means; arguments as above."""
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
