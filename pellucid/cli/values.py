"""Which value a parser refused, and what would have been allowed.

jsonargparse's own messages run over a dozen lines, and change with its version.
"""

import re
import types
from collections.abc import Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser
from pytorch_lightning import Trainer

from pellucid.cli.classes import CLASSES, constructor, load_class
from pellucid.cli.settings import OPTIONS, Settings
from pellucid.errors import UserError


def explain_parse_error(settings: Settings, message: str) -> UserError:
    """Find which value the parser refused.

    Args:
        settings: What the user set.
        message: What the parser said.
    """
    expected: dict[str, Any] = dict(OPTIONS)
    hints = get_type_hints(Trainer.__init__)
    expected |= {f"trainer.{name}": hint for name, hint in hints.items()}
    for key in CLASSES:
        parameters, _ = constructor(load_class(key, settings.values))
        expected |= {f"{key}.{name}": hint for name, hint in parameters.items()}
    for key, value in settings.values.items():
        hint = expected.get(key)
        if hint is None:
            owner = next((k for k in expected if key.startswith(f"{k}.")), None)
            if owner and not key.startswith("trainer.callbacks") and _is_plain(expected[owner]):
                return UserError(key, f"{owner} has no parts; set {owner} itself")
        elif not accepts(hint, value):
            return UserError(key, f"expected {describe(hint)}, got {value!r}")
    for key, needed in (("model", "model"), ("data", "data")):
        if (
            match := re.search(r"arguments? (?:are|is) required: (.+)", message)
        ) and key in message:
            return UserError(needed, f"needs a value for {match[1].strip()}")
    if match := re.search(r"Option '([^']+)' is not accepted", message):
        return UserError(match[1], "no such option")
    return UserError("config", _condense(message))


def accepts(hint: Any, value: Any) -> bool:
    """Whether a value, as YAML reads it, is of a type."""
    if hint is Any:
        return True
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        parser.parse_object({"value": value})
    except Exception:
        return False
    return True


def _is_plain(hint: Any) -> bool:
    inner = [part for part in get_args(hint) if part is not type(None)] or [hint]
    return all(part in (int, float, str, bool) or get_origin(part) is Literal for part in inner)


def describe(hint: Any) -> str:
    """A type in words: ``float``, ``'min' or 'max'``, ``int or null``."""
    if hint is type(None):
        return "null"
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(repr(value) for value in args)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(part) for part in args))
    if origin in (list, Sequence, tuple) and args:
        return f"a list of {describe(args[0])}"
    name = getattr(hint, "__name__", str(hint))
    return re.sub(r"^typing\.", "", name)


def _condense(message: str) -> str:
    """The telling lines of jsonargparse: the innermost key, and what was wrong there."""
    keys = re.findall(r'Parser key "([^"]+)"', message)
    noise: tuple[str, ...] = (
        "Does not validate",
        "Subtypes",
        "Errors:",
        "Given value type",
        "Parser key",
    )
    noise += ("- Expected a <class 'NoneType'>", "- Does not", "- Not a valid")
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    telling = [line.lstrip("- ") for line in lines if not line.startswith(noise)]
    where = ".".join(dict.fromkeys(keys))
    text = re.sub(r"<class '([^']+)'>", r"\1", "; ".join(telling[:3]))
    return f"{where}: {text}" if where else text
