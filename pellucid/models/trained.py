"""Trained models that another one looks at: from their checkpoint alone, without a config."""

import importlib
import sys
from pathlib import Path
from typing import Any

from pellucid.checkpoint import ORIGIN, read_checkpoint
from pellucid.errors import UserError
from pellucid.models.base import InterpretableModel


def read_model(path: str, key: str) -> InterpretableModel:
    """Rebuild a model; never runs code that the checkpoint may hold.

    Args:
        path: A checkpoint, or a run directory, whose best checkpoint is meant.
        key: Option that named it, for the error.

    Raises:
        UserError: If it is missing or damaged, or its model is not known here.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        file = file / "checkpoints" / "best.ckpt"
    content = read_checkpoint(file, key)
    class_ = find_class(str(content.get(ORIGIN, {}).get("model", "")), str(file), key)
    try:
        model: Any = class_.load_from_checkpoint(file, map_location="cpu", weights_only=True)
    except (RuntimeError, TypeError, ValueError) as error:
        problem = f"{file} does not rebuild a {class_.__name__}: {error}"
        raise UserError(key, problem) from error
    found: InterpretableModel = model
    return found


def find_class(path: str, file: str, key: str) -> type[InterpretableModel]:
    """The class that a checkpoint names, if it is one of ours or has been imported already.

    Args:
        path: The class's full name.
        file: The checkpoint, for the error.
        key: Option that named it, likewise.

    Raises:
        UserError: It is not known here, or no model.
    """
    module, _, name = path.rpartition(".")
    found: Any = None
    if module.split(".")[0] == "pellucid" or module in sys.modules:
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ImportError:
            found = None
    if not (isinstance(found, type) and issubclass(found, InterpretableModel)):
        raise UserError(
            key, f"{file} is of the model {path or 'of no name'}, which is not known here"
        )
    return found
