"""The figures of a run: ``results.json`` and the table at its end."""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pellucid import __version__
from pellucid.callbacks import Stopwatch
from pellucid.checkpoint import class_path
from pellucid.models.judged import JudgedGenerator
from pellucid.report.unit_figures import without_nan

if TYPE_CHECKING:
    from pellucid.cli.options import PellucidCLI

_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "numpy")


def write_results(
    directory: Path, cli: "PellucidCLI", metrics: Mapping[str, float], stopwatch: Stopwatch
) -> Path:
    """Write ``results.json``.

    Args:
        directory: The run; its ``config.yaml`` is there already.
        cli: The options, model and data of the run.
        metrics: Figures by ``stage/name``, in SI units or fractions.
        stopwatch: What the fit took; nothing, if there was none.
    """
    config = (directory / "config.yaml").read_bytes()
    results = {
        "experiment": cli.config.experiment,
        "model": class_path(cli.model),
        "data": class_path(cli.datamodule),
        "weights": _weights(cli),
        "seed": cli.config.seed_everything,
        "metrics": dict(metrics),
        "metrics_layer": cli.model.unit_metrics.layer,
        "scores": cli.model.code_scores.report(),
        "maps": cli.model.map_metrics.report(),
        "judge": cli.model.judge_report() if isinstance(cli.model, JudgedGenerator) else None,
        "skipped": cli.model.skipped_metrics,
        "fit_seconds": stopwatch.seconds or None,
        "images_per_second": stopwatch.images_per_second,
        "parameters": sum(parameter.numel() for parameter in cli.model.parameters()),
        "versions": versions(),
        "config_sha256": hashlib.sha256(config).hexdigest(),
    }
    path = directory / "results.json"
    text = json.dumps(without_nan(results), indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def _weights(cli: "PellucidCLI") -> dict[str, object] | None:
    """What was taken from pretrained weights, and how images were normalised; None: none were."""
    loaded = cli.model.loaded_weights
    if loaded is None:
        return None
    data = cli.datamodule
    return {**asdict(loaded), "mean": list(data.mean), "std": list(data.std)}


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of those that figures depend on."""
    packages = {name.replace("-", "_"): version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "pellucid": __version__, **packages}


def summarise(metrics: Mapping[str, float], skipped: Mapping[str, str]) -> str:
    """A table of figures, one column per stage.

    Args:
        metrics: By ``stage/name``.
        skipped: Metrics that were not built, with the reason.
    """
    stages = list(dict.fromkeys(key.partition("/")[0] for key in metrics if "/" in key))
    names = list(dict.fromkeys(key.partition("/")[2] for key in metrics if "/" in key))
    width = max([len(name) for name in [*names, *skipped]], default=0) + 2
    columns = {stage: max(10, len(stage) + 2) for stage in stages}
    lines = [" " * width + "".join(f"{stage:>{columns[stage]}}" for stage in stages)]
    for name in names:
        values = {stage: metrics.get(f"{stage}/{name}") for stage in stages}
        cells = "".join(
            f"{'' if v is None else f'{v:.4f}':>{columns[stage]}}" for stage, v in values.items()
        )
        lines.append(f"{name:<{width}}{cells}")
    lines += [f"{name:<{width}}  not measured: {reason}" for name, reason in skipped.items()]
    return "\n".join(lines)
