"""Reading checkpoints safely, and saying what is wrong with them before anything runs."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pellucid.errors import UserError

ORIGIN = "pellucid"
"""Key of a checkpoint under which the classes of its model and data stand."""


def read_checkpoint(path: str | Path, key: str = "--ckpt_path") -> dict[str, Any]:
    """Read a checkpoint; never runs code that it may hold.

    Args:
        path: The file.
        key: Option that named it, for the error.

    Raises:
        UserError: If it is missing, cut short, of another kind, or needs code to be loaded.
    """
    path = Path(path)
    if not path.is_file():
        near = ", ".join(sorted(other.name for other in path.parent.glob("*.ckpt")))
        has = (
            f"its directory has {near or 'no *.ckpt'}"
            if path.parent.is_dir()
            else (f"there is no directory {path.parent}")
        )
        raise UserError(key, f"no checkpoint {path}; {has}")
    try:
        with warnings.catch_warnings():
            # What is odd about the file shows in the errors below.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "Unsupported class" in str(error):
            raise UserError(
                key,
                f"{path} holds more than tensors and plain values, and loading it could run code; "
                "save its state_dict with torch.save instead",
            ) from error
        raise UserError(key, f"{path} is not a checkpoint") from error
    # Bytes that are no pickle make the unpickler fail in any way; it runs nothing all the same.
    except Exception as error:
        problem = f"{path} is not a whole checkpoint (cut short or damaged): use another one"
        raise UserError(key, problem) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise UserError(key, f"{path} has no 'state_dict', so no run of pellucid wrote it")
    return content


def check_fits(checkpoint: Mapping[str, Any], model: nn.Module, data: Any) -> None:
    """Check that a checkpoint's weights are those of a model.

    Args:
        checkpoint: What :func:`read_checkpoint` gave.
        model: The model that is to take its weights.
        data: The data module, which gives the number of classes.

    Raises:
        UserError: Names both sides of the first difference.
    """
    origin = checkpoint.get(ORIGIN, {})
    own = class_path(model)
    if origin.get("model") not in (None, own):
        problem = f"the checkpoint is of {origin['model']}, the config's model is {own}"
        raise UserError("--ckpt_path", f"{problem}: give the config of the checkpoint's run")
    theirs = checkpoint.get("hyper_parameters", {}).get("num_classes")
    number = getattr(data, "num_classes", None)
    if theirs is not None and number is not None and theirs != number:
        names = ", ".join(origin.get("class_names", [])) or "unnamed"
        mine = ", ".join(data.class_names)
        raise UserError(
            "--ckpt_path",
            f"the checkpoint's model has {theirs} classes ({names}), "
            f"{type(data).__name__} has {number} ({mine}): give data with the same classes",
        )
    saved, wanted = checkpoint["state_dict"], model.state_dict()
    for name, value in wanted.items():
        if name not in saved:
            raise UserError("--ckpt_path", f"the checkpoint has no weight {name!r} of {own}")
        if saved[name].shape != value.shape:
            raise UserError(
                "--ckpt_path",
                f"weight {name!r} has shape {tuple(saved[name].shape)} in the checkpoint and "
                f"{tuple(value.shape)} in the config's {type(model).__name__}: "
                "give the options that the checkpoint was trained with",
            )
    if unknown := [name for name in saved if name not in wanted]:
        raise UserError("--ckpt_path", f"the checkpoint has a weight {unknown[0]!r}, {own} has not")


def class_path(instance: object) -> str:
    """Full name of an object's class."""
    return f"{type(instance).__module__}.{type(instance).__qualname__}"


def run_directory_of(path: str | Path) -> Path | None:
    """The run that a checkpoint belongs to; None if it lies outside of any."""
    folder = Path(path).resolve().parent
    run = folder.parent
    return run if folder.name == "checkpoints" and (run / "config.yaml").is_file() else None
