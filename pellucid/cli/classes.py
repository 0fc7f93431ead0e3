"""The classes that a config names: found, checked, and the nearest when they are not there."""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from pytorch_lightning import LightningDataModule, LightningModule

from pellucid.datamodules.base import ImageDataModule
from pellucid.errors import UserError, nearest
from pellucid.models.base import InterpretableModel

CLASSES: dict[str, tuple[type, str]] = {
    "model": (InterpretableModel, "pellucid.models"),
    "data": (ImageDataModule, "pellucid.datamodules"),
}


def load_class(key: str, values: Mapping[str, Any]) -> Any:
    """The class that ``model`` or ``data`` names.

    Raises:
        UserError: If none is named, or it cannot be imported, or is of another kind.
    """
    base, home = CLASSES[key]
    path = values.get(f"{key}.class_path")
    if path is None:
        known = ", ".join(known_classes(key)) or home
        raise UserError(key, f"no class is named; give --config, or --{key} with one of {known}")
    if not isinstance(path, str):
        raise UserError(f"{key}.class_path", f"must be a class path as {home}.x.X, got {path!r}")
    if "." not in path:
        path = {name.rsplit(".", 1)[-1]: name for name in known_classes(key)}.get(path, path)
    module, _, name = path.rpartition(".")
    if str(Path.cwd()) not in sys.path:
        # The user's own classes; an installed command does not look where it is called.
        sys.path.append(str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name) if module else None
    except (ModuleNotFoundError, AttributeError) as error:
        missing = getattr(error, "name", None)
        if isinstance(error, ModuleNotFoundError) and missing and not path.startswith(missing):
            raise UserError(f"{key}.class_path", f"{path} needs the package {missing!r}") from None
        found = None
    except Exception as error:
        problem = f"{path} cannot be imported: {type(error).__name__}: {error}"
        raise UserError(f"{key}.class_path", problem) from error
    if found is None:
        near = nearest(path, [*known_classes(key), *_siblings(module, base)])
        raise UserError(f"{key}.class_path", f"no class {path!r}; {near}")
    if not (isinstance(found, type) and issubclass(found, base)):
        near = nearest(path, known_classes(key))
        problem = f"{path} is not a subclass of {base.__name__}; {near}"
        raise UserError(f"{key}.class_path", problem)
    if inspect.isabstract(found):
        raise UserError(f"{key}.class_path", f"{path} is abstract: choose one of its subclasses")
    return found


def known_classes(key: str) -> list[str]:
    """Full names of the classes that the package has for ``model`` or ``data``."""
    base, home = CLASSES[key]
    package = importlib.import_module(home)
    return [
        name
        for module in pkgutil.iter_modules(package.__path__, f"{home}.")
        for name in _siblings(module.name, base)
    ]


def _siblings(module: str, base: type) -> list[str]:
    """Classes of the kind that a module defines; none where it cannot be imported."""
    try:
        members = vars(importlib.import_module(module)) if module else {}
    except Exception:
        return []
    return [
        f"{module}.{name}"
        for name, member in members.items()
        if isinstance(member, type)
        and issubclass(member, base)
        and not inspect.isabstract(member)
        and member.__module__ == module
    ]


def constructor(class_: type) -> tuple[dict[str, Any], bool]:
    """Types of a class's arguments by name, and whether it takes others too."""
    types_: dict[str, Any] = {}
    open_ended = False
    for owner in class_.__mro__:
        if owner in (LightningModule, LightningDataModule) or "__init__" not in vars(owner):
            continue
        function = vars(owner)["__init__"]
        signature = inspect.signature(function)
        try:
            hints = get_type_hints(function)
        except NameError:
            hints = {}
        for name, parameter in list(signature.parameters.items())[1:]:
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                types_.setdefault(name, hints.get(name, Any))
        if not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
            return types_, False
        # **kwargs goes on to the next class that has a constructor.
        open_ended = True
    return types_, open_ended
