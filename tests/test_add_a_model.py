"""The page docs/add-a-model.md, followed to the letter."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import call, code_blocks, only_run

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "add-a-model.md"
MODULES = ("cam_classifier", "test_cam_classifier")
SMALL = [f"--data.{split}_size=12" for split in ("train", "val", "test")]
SHORT = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.devices=1"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A directory with the page's three files; commands run there."""
    headings = re.findall(r"^## \d\..*`(.+)`$", PAGE.read_text(), re.MULTILINE)
    blocks = [block for block in code_blocks(PAGE) if block.language != "bash"]
    assert [Path(name).suffix for name in headings] == [".py", ".yaml", ".py"]
    for name, block in zip(headings, blocks, strict=True):
        (tmp_path / name).write_text(block.text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(name, None)


def test_its_config_runs_and_its_model_explains(folder):
    first, second = commands()
    assert first[0] == "pellucid"
    assert second[:3] == ["python", "-m", "pytest"]
    assert call(*first[1:], *SMALL, *SHORT, "--trainer.enable_progress_bar=false") == 0
    run = only_run(folder / "runs", "cam_parts")
    metrics = json.loads((run / "results.json").read_text())["metrics"]
    assert {"test/loss", "test/accuracy", "all/accuracy"} <= metrics.keys()
    assert (run / "report.html").is_file()
    assert call("explain", run) == 0
    assert list((run / "explanations").glob("*.png"))


def test_a_wrong_option_is_told(folder, capsys):
    assert call(*commands()[0][1:], "--model.lr=-1") == 2
    assert "model.lr must be greater than 0, got -1" in capsys.readouterr().err


def test_its_test_passes_and_would_fail(folder, monkeypatch):
    def run_tests():
        for name in MODULES:
            monkeypatch.delitem(sys.modules, name, raising=False)
        # In this process, which has loaded torch already.
        words = commands()[1][3:]
        return pytest.main([*words, "-q", "-p", "no:cacheprovider", f"--rootdir={folder}"])

    assert run_tests() == pytest.ExitCode.OK
    model = folder / "cam_classifier.py"
    model.write_text(model.read_text().replace("scores=scores,", "scores=2 * scores,"))
    assert run_tests() == pytest.ExitCode.TESTS_FAILED


def test_its_code_is_in_order_in_its_place(folder):
    for name in (f"{module}.py" for module in MODULES):
        place = Path("tests" if name.startswith("test_") else "pellucid") / "models" / name
        for command in (["format", "--check"], ["check", "--no-cache"]):
            done = subprocess.run(
                [sys.executable, "-m", "ruff", *command, f"--stdin-filename={place}", "-"],
                input=(folder / name).read_text(),
                cwd=REPOSITORY,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stdout + done.stderr


def commands():
    (block,) = (block for block in code_blocks(PAGE) if block.language == "bash")
    return [line.split() for line in block.text.splitlines()]
