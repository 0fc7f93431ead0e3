"""What the user set, and where; every name is checked before anything is built."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml
from jsonargparse import Namespace
from pytorch_lightning import Trainer

from pellucid.cli import find_config, shipped_configs
from pellucid.cli.classes import CLASSES, constructor, load_class
from pellucid.errors import UserError, nearest
from pellucid.metrics.disentanglement.score_settings import ScoreSettings

OPTIONS = {
    "config": str,
    "seed_everything": int,
    "run_root": str,
    "experiment": str | None,
    "logger": list[str],
    "ckpt_path": str | None,
    "monitor": str | None,
    "mode": Literal["min", "max"] | None,
    "metrics.layer": str | None,
    "metrics.names": list[str] | None,
    "pictures.every_n_epochs": int | None,
    "maps.names": list[str] | None,
    "maps.images": int,
    "maps.steps": int,
    "scores.layer": str | None,
    "scores.names": list[str] | None,
    **{f"scores.{name}": kind for name, kind in get_type_hints(ScoreSettings).items()},
}
_SECTIONS = ("maps", "metrics", "pictures", "scores")
"""Options that stand below a word of their own and belong to no class."""
_CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")


@dataclass
class Settings:
    """Everything the user set, the last value of each key.

    Args:
        words: The command line with configs as paths, ready for the parser.
        values: Values by dotted key, as ``model.lr``, without the ``init_args`` between.
        configs: The config files in their order.
    """

    words: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    configs: list[Path] = field(default_factory=list)

    def experiment(self) -> str | None:
        """Name of the last config file that is more than a shipped fragment."""
        fragments = {path for name, path in shipped_configs().items() if "/" in name}
        whole = [path for path in self.configs if path not in fragments]
        return whole[-1].stem if whole else None


def read_settings(words: Sequence[str]) -> Settings:
    """Read the command line and the config files that it names.

    Raises:
        UserError: If a word is no option, or a config is missing or not a YAML mapping.
    """
    settings = Settings()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in ("-h", "--help"):
            settings.words.append("--help")
            continue
        if not word.startswith("-"):
            hint = f"options begin with --; {nearest(word, OPTIONS)}"
            raise UserError("command line", f"unexpected word {word!r}; {hint}")
        key, equals, value = word.partition("=")
        if key == "-c":
            key = "--config"
        if not equals:
            if not rest or (rest[0].startswith("--") and len(rest[0]) > 2):
                raise UserError(key, "needs a value after it")
            value = rest.pop(0)
        if key == "--config":
            path = find_config(value)
            settings.configs.append(path)
            # A class first: it takes the options of another one away.
            items = sorted(_flat(read_yaml(path)), key=lambda item: "class_path" not in item[0])
            for name, item in items:
                _put(settings.values, name, item)
            settings.words.append(f"--config={path}")
            continue
        # Given twice, --logger means both.
        key = key.replace("--logger", "--logger+") if key == "--logger" else key
        if key.startswith("--logger"):
            value = _as_list(value)
        settings.words.append(f"{key}={value}")
        _put(settings.values, key.removeprefix("--"), _value(value))
    return settings


def _as_list(value: str) -> str:
    read = _value(value)
    return value if isinstance(read, list) else f"[{value}]"


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    name = key.replace(".init_args.", ".").removesuffix("+")
    if name in CLASSES and isinstance(value, str):
        name += ".class_path"
    section, _, option = name.partition(".")
    if section in CLASSES and option == "class_path":
        # The parser drops what another class has no use for: nobody means these options any more.
        before = str(values.get(name, value)).rpartition(".")[2]
        if before != str(value).rpartition(".")[2]:
            for other in [key for key in values if key.startswith(f"{section}.")]:
                del values[other]
    values[name] = value


def read_yaml(path: Path, key: str = "--config") -> dict[str, Any]:
    """Read a config file.

    Args:
        path: The file.
        key: Option that named it, for the error.

    Raises:
        UserError: If it cannot be read or is not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        # Where a mistake begins says more than where it was noticed.
        mark = getattr(error, "context_mark", None) or getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise UserError(f"{key} {path}", f"not valid YAML{where}: {problem}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{key} {path}", f"cannot be read as text: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(f"{key} {path}", f"must be a mapping of keys to values, is a {kind}")
    return content


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        key = f"{prefix}{name}"
        inside_class = key in CLASSES or key.split(".")[-1] in ("init_args", "dict_kwargs")
        if (
            isinstance(value, dict)
            and (key in ("trainer", *_SECTIONS) or inside_class)
            and key.count(".") < 2
        ):
            yield from _flat(value, f"{key}.")
        else:
            yield key, value


def check_names(settings: Settings) -> None:
    """Check every key and class that the user named, before anything is built.

    Raises:
        UserError: Names the first wrong key, and the nearest valid one.
    """
    values = settings.values
    for key in values:
        first = key.split(".")[0]
        sections = {"trainer", *_SECTIONS, *CLASSES}
        plain = {name for name in OPTIONS if "." not in name}
        allowed = sections if "." in key else {*plain, *sections}
        if first not in allowed:
            raise UserError(key, f"there is no option {first!r}; {nearest(first, allowed)}")
        if first in _SECTIONS and key not in OPTIONS:
            _refuse(key)
    for key in ("model", "data"):
        _check_class(key, values)
    model, data = (load_class(key, values) for key in ("model", "data"))
    check_fields(model, data)
    for key in values:
        if key.startswith("trainer."):
            name = key.split(".")[1]
            if name not in (allowed := set(inspect.signature(Trainer).parameters)):
                raise UserError(f"trainer.{name}", f"no such option; {nearest(name, allowed)}")


def _refuse(key: str) -> None:
    section, _, option = key.partition(".")
    parts = [name.split(".")[1] for name in OPTIONS if name.startswith(f"{section}.")]
    if not option:
        raise UserError(key, f"must be a mapping of {' and '.join(parts)} to values")
    raise UserError(key, f"no such option; {nearest(option, parts)}")


def _check_class(key: str, values: Mapping[str, Any]) -> None:
    class_ = load_class(key, values)
    parameters, open_ended = constructor(class_)
    for full in values:
        if not full.startswith(f"{key}."):
            continue
        name = full.split(".")[1]
        if name in _CLASS_KEYS or name in parameters or open_ended:
            continue
        near = nearest(name, [*parameters, "init_args"])
        raise UserError(f"{key}.{name}", f"{class_.__name__} has no such option; {near}")


def check_fields(model: Any, data: Any) -> None:
    """Check that the data have what the model needs.

    Args:
        model: A model or its class.
        data: A data module or its class.

    Raises:
        UserError: Names both and the fields that are missing.
    """
    missing = sorted(model.requires - data.provides)
    if missing:
        names = [(x if isinstance(x, type) else type(x)).__name__ for x in (model, data)]
        raise UserError(
            "model, data",
            f"{names[0]} needs the batch field{'s' * (len(missing) > 1)} {', '.join(missing)}, "
            f"which {names[1]} does not provide (it has {', '.join(sorted(data.provides))}): "
            "choose other data, or a model that needs less",
        )


def plain(config: Namespace) -> dict[str, Any]:
    """A parsed config as plain dictionaries and lists."""

    def convert(value: Any) -> Any:
        if isinstance(value, Namespace):
            return {key: convert(item) for key, item in vars(value).items()}
        if isinstance(value, Mapping):
            return {str(key): convert(item) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [convert(item) for item in value]
        return value if isinstance(value, str | int | float | bool | None) else str(value)

    return {key: convert(item) for key, item in vars(config).items()}
