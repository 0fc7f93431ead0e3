"""The settings of runs, and which of them tell one run from another."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

# Names, places, and what changes how a run is carried out but not what comes out of it.
_NO_SETTINGS = {
    "seed_everything",
    "experiment",
    "run_root",
    "logger",
    "ckpt_path",
    "data.num_workers",
    "trainer.accelerator",
    "trainer.default_root_dir",
    "trainer.enable_model_summary",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "trainer.logger",
}

Settings = dict[str, Any]
"""Values by dotted key, as ``model.lr``."""


def read_settings(config: str) -> Settings:
    """The settings that a run's ``config.yaml`` holds, without its seed.

    Args:
        config: The text of the file.

    Returns:
        Values by dotted key, without the ``init_args`` between; empty where there are none.
    """
    try:
        content = yaml.safe_load(config)
    except yaml.YAMLError:
        return {}
    found = _flat(content, "") if isinstance(content, dict) else {}
    return {key: value for key, value in found.items() if key not in _NO_SETTINGS}


def _flat(content: Mapping[Any, Any], prefix: str) -> Settings:
    found: Settings = {}
    for name, value in content.items():
        key = prefix.removesuffix(".") if name == "init_args" and prefix else f"{prefix}{name}"
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{key}.")
        else:
            found[key] = value
    return found


def frozen(settings: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """Settings as something that can be compared and counted: 1 and 1.0 are one, true another."""
    return frozenset((key, _frozen(value)) for key, value in settings.items())


def _frozen(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(float(value))
    return json.dumps(value, sort_keys=True, default=str)


def differing_keys(all_settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose values are not the same everywhere, in the order of the settings."""
    keys = dict.fromkeys(key for settings in all_settings for key in settings)
    return [
        key
        for key in keys
        if len({_frozen(settings[key]) if key in settings else "" for settings in all_settings}) > 1
    ]


def describe(settings: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Some settings as text, ``filter_loss_weight 0.3, templates false``; empty without keys."""
    return ", ".join(f"{short(key)} {_write(settings.get(key))}" for key in keys)


def short(key: str) -> str:
    """The last part of a key, except where that is no name of its own."""
    *before, last = key.split(".")
    return ".".join((before[-1], last)) if before and last == "class_path" else last


def _write(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"{value:g}"
    # A class is known by its name.
    return value.rsplit(".", 1)[-1] if isinstance(value, str) else json.dumps(value, default=str)
