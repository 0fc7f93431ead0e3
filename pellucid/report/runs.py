"""Reading a run directory, whatever state it is in: what is missing is said, not raised."""

import csv
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pellucid import __version__
from pellucid.report.settings import describe, differing_keys, read_settings

# More settings than these make no short name.
_MOST_SETTINGS = 3
_NONE = ("nan", "inf")
# Files that not every run has, and what the page lacks where one is broken.
_OPTIONAL = {
    "categories": "no votes of the units",
    "confusion": "no table of confusions",
    "explanations": "no evaluation of explanations",
    "adversarial": "no adversarial examples",
    "heads": "no pictures of attention heads",
}


@dataclass
class Run:
    """What a run directory holds."""

    path: Path
    label: str = ""
    """Short name, unlike that of any other run in the report."""
    results: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    """By ``stage/name``; NaN where a figure could not be computed."""
    spread: dict[str, float] = field(default_factory=dict)
    """Standard deviation over resamplings of figures that have one, by ``stage/name``."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Why a metric was not built."""
    history: dict[str, dict[int, float]] = field(default_factory=dict)
    """By ``stage/name``, then by epoch."""
    units: list[dict[str, Any]] = field(default_factory=list)
    categories: dict[str, Any] = field(default_factory=dict)
    """Which units vote for which class; empty where they vote for none."""
    latents: dict[str, Any] = field(default_factory=dict)
    """What each latent does; empty where the model is no generator."""
    confusion: dict[str, Any] = field(default_factory=dict)
    """Which class was taken for which; empty where that was not kept."""
    explanations: dict[str, Any] = field(default_factory=dict)
    """What `pellucid evaluate` found; empty where it was not run."""
    adversarial: dict[str, Any] = field(default_factory=dict)
    """What attacks on the model's predictions found; empty where there were none."""
    heads: dict[str, Any] = field(default_factory=dict)
    """Pictures of where each attention head looks; empty of other models."""
    config: str = ""
    problems: list[str] = field(default_factory=list)
    """What is missing or broken, and what to do about it."""

    @property
    def experiment(self) -> str:
        """Name of the experiment, or of the folder."""
        return str(self.results.get("experiment") or self.path.name)

    def class_of(self, key: str) -> str:
        """The class of ``model`` or ``data`` without its module."""
        value = self.results.get(key)
        if isinstance(value, dict):
            value = value.get("class_path")
        return str(value).rsplit(".", 1)[-1] if value else ""

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from pellucid.report.notebook import run_html

        return run_html(self)


def load_run(path: Path | str) -> Run:
    """Read one run directory: its figures, units and explanations, and what of it is missing.

    Args:
        path: The run directory, ``runs/<experiment>/<date-time>``.

    Raises:
        ValueError: If it is not a directory.
    """
    (run,) = read_runs([Path(path)])
    return run


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read run directories and give each a short name of its own.

    Raises:
        ValueError: If there is no path, or one is not a directory.
    """
    if not paths:
        raise ValueError("a report needs at least one run directory, got none")
    runs = [_read_run(Path(path)) for path in paths]
    told = _tell_apart(runs)
    for names in (
        lambda run: run.experiment,
        lambda run: f"{run.experiment}, seed {run.results.get('seed')}",
        lambda run: told[str(run.path)],
        lambda run: f"{told[str(run.path)]}, seed {run.results.get('seed')}",
        lambda run: f"{run.experiment}, {run.path.name}",
        lambda run: str(run.path),
    ):
        labels = [names(run) for run in runs]
        if max(Counter(labels).values()) == 1:
            break
    for run, label in zip(runs, labels, strict=True):
        run.label = label
    return runs


def _tell_apart(runs: Sequence[Run]) -> dict[str, str]:
    """By path: the experiment, and the settings in which runs of that experiment differ."""
    alike: dict[str, list[Run]] = {}
    for run in runs:
        alike.setdefault(run.experiment, []).append(run)
    found = {}
    for experiment, members in alike.items():
        settings = (
            {} if len(members) == 1 else {str(r.path): read_settings(r.config) for r in members}
        )
        keys = differing_keys(list(settings.values()))
        for run in members:
            few = 0 < len(keys) <= _MOST_SETTINGS
            text = describe(settings[str(run.path)], keys) if few else ""
            found[str(run.path)] = f"{experiment}, {text}" if text else experiment
    return found


def _read_run(path: Path) -> Run:
    if not path.is_dir():
        raise ValueError(
            f"{path} is not a run directory; give runs/<experiment>/<date-time>, as `pellucid run` "
            "makes it"
        )
    run = Run(path.resolve())
    results = _read_json(run, "results.json", dict, "no results table and no provenance")
    if results is not None:
        _take_results(run, results)
    draws = any((run.path / name).exists() for name in ("traversals.json", "images/traversals"))
    if draws:
        run.latents = _read_json(run, "traversals.json", dict, "no sliders of the latents") or {}
    # A generator has latents in place of units.
    if draws and not (run.path / "units.json").exists():
        units = []
    else:
        units = _read_json(run, "units.json", list, "no pictures of the units")
    run.units = [entry for entry in units or [] if isinstance(entry, dict)]
    if units and len(run.units) < len(units):
        run.problems.append(
            f"units.json: {len(units) - len(run.units)} entries are no objects and are left out."
        )
    for name, without in _OPTIONAL.items():
        if (run.path / f"{name}.json").is_file():
            setattr(run, name, _read_json(run, f"{name}.json", dict, without) or {})
    _read_history(run)
    try:
        run.config = (run.path / "config.yaml").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        run.problems.append(f"config.yaml cannot be read ({error.strerror}): no configuration.")
    return run


def _read_json(run: Run, name: str, kind: type, without: str) -> Any:
    """The content of a file, or None with a problem noted."""
    try:
        content = json.loads((run.path / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        remedy = "`pellucid run` writes it when training and tests have ended"
        run.problems.append(f"{name} is missing: {without}; {remedy}.")
    except (OSError, ValueError, RecursionError) as error:
        run.problems.append(f"{name} cannot be read ({error}): {without}.")
    else:
        if isinstance(content, kind):
            return content
        wanted = "object" if kind is dict else "list"
        run.problems.append(f"{name} holds no {wanted} but {type(content).__name__}: {without}.")
    return None


def _take_results(run: Run, results: dict[str, Any]) -> None:
    run.results = results
    metrics = results.get("metrics")
    if not isinstance(metrics, dict) or not metrics:
        run.problems.append("results.json has no metrics: the run was not tested.")
        metrics = {}
    for key, value in metrics.items():
        if value is None:
            run.metrics[key] = math.nan
        elif isinstance(value, int | float) and not isinstance(value, bool):
            run.metrics[key] = float(value)
        else:
            run.problems.append(f"results.json: the metric {key} is no number but {value!r}.")
    scores = results.get("scores")
    spread = scores.get("std") if isinstance(scores, dict) else None
    for name, value in spread.items() if isinstance(spread, dict) else ():
        if (known := _number(value)) is not None:
            run.spread[f"test/{name}"] = known
    wrong = [key for key in ("test/loss", "test/accuracy") if math.isnan(run.metrics.get(key, 0.0))]
    if wrong:
        run.problems.append(
            f"{' and '.join(wrong)} is not a number: the model returned NaN or infinity, so "
            "what is measured of it says little; train again, with a smaller model.lr."
        )
    versions = results.get("versions")
    made = versions.get("pellucid") if isinstance(versions, dict) else None
    if made is not None and made != __version__:
        run.problems.append(
            f"The run was made by Pellucid {made}, this page by {__version__}: what a figure means "
            "may have changed between them."
        )
    skipped = results.get("skipped")
    if isinstance(skipped, dict):
        run.skipped = {str(name): str(reason) for name, reason in skipped.items()}


def _read_history(run: Run) -> None:
    """Lightning writes one row per logged step; the last value of an epoch counts."""
    try:
        with (run.path / "metrics.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        run.problems.append("metrics.csv is missing: no training curves.")
        return
    except (OSError, ValueError, csv.Error) as error:
        run.problems.append(f"metrics.csv cannot be read ({error}): no training curves.")
        return
    gone: dict[str, int] = {}
    for row in rows:
        epoch = _number(row.get("epoch"))
        if epoch is None:
            continue
        for name, text in row.items():
            stage = name.split("/", 1)[0] if name else ""
            if stage in ("train", "val") and (value := _number(text)) is not None:
                run.history.setdefault(name.removesuffix("_epoch"), {})[int(epoch)] = value
            elif name in ("train/loss", "val/loss") and text and text.strip("-").lower() in _NONE:
                gone.setdefault(name, int(epoch))
    for name, start in gone.items():
        run.problems.append(
            f"metrics.csv: {name} is not finite in epoch {start} (NaN or infinity): the curve has "
            "a gap there."
        )
    if not run.history:
        run.problems.append("metrics.csv holds no figure of training or validation: no curves.")


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
