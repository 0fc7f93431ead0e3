"""The wheel, built and used outside of the repository."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built with the hatchling of this environment: an isolated build would need the network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_it_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"pellucid"}
    present = {name for name in names if name.startswith("pellucid/")}
    sources = {
        f"pellucid/{path.relative_to(root).as_posix()}"
        for root, pattern in ((REPOSITORY / "pellucid", "**/*"), (REPOSITORY, "configs/**/*"))
        for path in root.glob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert present == sources
    assert {"pellucid/py.typed", "pellucid/configs/experiments/icnn_parts.yaml"} <= present


@pytest.mark.slow
def test_it_runs_outside_of_the_repository(wheel, tmp_path):
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # It comes before the checkout, which this environment may have installed.
    environment = os.environ | {"PYTHONPATH": str(site)}

    def run(*words):
        done = subprocess.run(
            [sys.executable, *words],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run("-c", "import pellucid.cli; print(pellucid.__file__)")
    assert Path(where.strip()) == site / "pellucid" / "__init__.py"
    listed = run("-m", "pellucid.cli", "configs", "ls")
    assert all(f"{name} " in listed for name in ("icnn_parts", "icnn_folder", "logger/wandb"))
    words = ["--config", "icnn_parts", "--trainer.fast_dev_run", "true"]
    words += ["--trainer.accelerator", "cpu", "--trainer.devices", "1"]
    words += [f"--data.{split}_size=12" for split in ("train", "val", "test")]
    run("-m", "pellucid.cli", "run", *words, "--model.num_units=4")
    (results,) = work.glob("runs/icnn_parts/*/results.json")
    assert json.loads(results.read_text())["experiment"] == "icnn_parts"
    assert (results.parent / "report.html").is_file()
