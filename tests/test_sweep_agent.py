"""The shipped sweep, started as `wandb agent` starts it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parent.parent
SWEEP = REPOSITORY / "configs" / "sweeps" / "icnn.yaml"
QUICK = (
    "--trainer.max_epochs=1",
    "--trainer.accelerator=cpu",
    "--data.train_size=64",
    "--data.val_size=32",
    "--data.test_size=32",
    "--metrics.names=[category_purity]",
    "--maps.images=4",
    "--maps.steps=2",
)


def agent_words(content: dict[str, object]) -> list[str]:
    """The command of the first point, put together as the agent does it."""
    parameters = content["parameters"]
    assert isinstance(parameters, dict)
    args = [f"--{key}={spec['values'][0]}" for key, spec in parameters.items()]
    macros = {
        "${env}": [],
        "${interpreter}": [sys.executable],
        "${program}": [str(content["program"])],
        "${args}": args,
    }
    command = content["command"]
    assert isinstance(command, list)
    return [word for part in command for word in macros.get(part, [part])]


@pytest.mark.slow
def test_one_command_of_the_sweep_runs(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    content = yaml.safe_load(SWEEP.read_text(encoding="utf-8"))
    words = [*agent_words(content), *QUICK, f"--run_root={tmp_path}"]
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    done = subprocess.run(
        words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (run,) = (tmp_path / "icnn_parts").iterdir()
    results = json.loads((run / "results.json").read_text())
    # The figure by which the sweep judges its runs is there.
    assert content["metric"]["name"] in results["metrics"]
    (parameter, *_), (value, *_) = zip(
        *((k, s["values"][0]) for k, s in content["parameters"].items()), strict=True
    )
    assert parameter == "model.lr"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["lr"] == value
    assert list((run / "wandb").glob("offline-run-*/*.wandb"))
