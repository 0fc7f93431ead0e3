"""The file of a sweep, as Weights & Biases takes it: a grid of settings around one command."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pellucid.cli import shipped_sweeps
from pellucid.cli.settings import read_yaml
from pellucid.errors import UserError, nearest

_PROGRAM, _ARGS = "${program}", "${args}"
_BEFORE = ("${env}", "${interpreter}", "/usr/bin/env", "python", "python3")


@dataclass(frozen=True)
class Sweep:
    """A grid of settings.

    Args:
        path: Its file.
        words: Words of the command line that all its runs share.
        parameters: Values by dotted key.
    """

    path: Path
    words: tuple[str, ...]
    parameters: Mapping[str, tuple[Any, ...]]

    def points(self) -> Iterator[tuple[str, ...]]:
        """Options of one run after the other; the last parameter varies fastest."""
        for values in itertools.product(*self.parameters.values()):
            pairs = zip(self.parameters, values, strict=True)
            yield tuple(f"--{key}={_write(value)}" for key, value in pairs)


def _write(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def find_sweep(name: str) -> Path:
    """The file of a sweep that is named by its path or by the name of a shipped one.

    Raises:
        UserError: If there is neither; names the nearest shipped one.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = {key.removeprefix("sweeps/"): path for key, path in shipped_sweeps().items()}
    short = name.removesuffix(".yaml").removeprefix("sweeps/")
    if short in shipped:
        return shipped[short]
    raise UserError("sweep", f"no file and no shipped sweep {name!r}; {nearest(short, shipped)}")


def read_sweep(path: Path) -> Sweep:
    """Read a sweep file.

    Args:
        path: As Weights & Biases takes it: ``method: grid``, ``parameters`` with ``values`` or
            ``value``, and a ``command`` whose program is followed by ``run``.

    Raises:
        UserError: If it is not such a file; names the key and what is allowed.
    """
    content = read_yaml(path, "sweep")
    where = f"sweep {path}"
    if (method := content.get("method")) != "grid":
        problem = f"method must be 'grid', got {method!r}; `wandb agent` runs the other methods"
        raise UserError(where, problem)
    command = content.get("command")
    if not isinstance(command, list) or command.count(_PROGRAM) != 1 or _ARGS not in command:
        known = f"{_PROGRAM}, run, --config, NAME, {_ARGS}"
        raise UserError(where, f"command must be a list with {known}, got {command!r}")
    at = command.index(_PROGRAM)
    before, words = command[:at], [str(word) for word in command[at + 1 :] if word != _ARGS]
    if words[:1] != ["run"] or any(word not in _BEFORE for word in before):
        problem = f"command must be [${{env}}, ${{interpreter}}, {_PROGRAM}, run, ...]"
        raise UserError(where, f"{problem}, got {command!r}")
    if macros := [word for word in words if word.startswith("${")]:
        raise UserError(where, f"command: {macros[0]} is unknown here; use {_ARGS}")
    return Sweep(path, tuple(_without_agent(words[1:])), _parameters(content, where))


def _without_agent(words: Sequence[str]) -> list[str]:
    """Without ``--logger wandb``, by which an agent's run reports to its sweep."""
    kept: list[str] = []
    for word in words:
        if word == "wandb" and kept[-1:] == ["--logger"]:
            kept.pop()
        elif word != "--logger=wandb":
            kept.append(word)
    return kept


def _parameters(content: Mapping[str, Any], where: str) -> dict[str, tuple[Any, ...]]:
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise UserError(where, f"parameters must map keys to values, got {parameters!r}")
    found: dict[str, tuple[Any, ...]] = {}
    for key, spec in parameters.items():
        values = spec.get("values") if isinstance(spec, dict) else None
        if isinstance(spec, dict) and set(spec) == {"value"}:
            values = [spec["value"]]
        if not isinstance(values, list) or not values or set(spec) - {"value", "values"}:
            problem = f"must have a list of values, or one value, got {spec!r}"
            raise UserError(where, f"parameters.{key} {problem}")
        found[str(key)] = tuple(values)
    return found
