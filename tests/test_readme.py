"""The commands and code of README.md and of the pages in docs, run on small data."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import platformdirs
import pytest
import torch
from PIL import Image

from pellucid.cli import COMMANDS, shipped_configs
from pellucid.cli.settings import read_settings
from pellucid.cli.sweep import plan
from pellucid.models.backbones.networks import find_network
from tests.datamodules.test_animal_part import CAT, FOX, write_category, write_negatives
from tests.helpers import CodeBlock, call, code_blocks, only_run, write_photos

REPOSITORY = Path(__file__).resolve().parent.parent
README = REPOSITORY / "README.md"
RUN = "2026-01-31_12-00-00"

# Pages whose blocks belong together, so that a test of their own follows them.
OWN_TEST = {"add-a-model.md": "test_add_a_model.py"}

PAGES = [README, *sorted((REPOSITORY / "docs").rglob("*.md"))]
BLOCKS = {
    f"{page.relative_to(REPOSITORY)}:{block.line}": block
    for page in PAGES
    if page.name not in OWN_TEST
    for block in code_blocks(page)
}
SMALL = {
    "SyntheticParts": [f"--data.{split}_size=12" for split in ("train", "val", "test")],
    "AnimalPart": ["--data.image_size=64"],
    "ImageFolderParts": ["--data.image_size=64"],
    "DSprites": [f"--data.{split}_size=12" for split in ("train", "val", "test")],
}
QUICK = ["accelerator=cpu", "devices=1", "strategy=auto", "enable_progress_bar=false"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's directory with everything that the commands name."""
    folder = tmp_path_factory.mktemp("user")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(platformdirs, "user_cache_dir", lambda *_: str(folder / "user-cache"))
        patch.setenv("WANDB_MODE", "offline")
        write_photos(folder / "photos")
        Image.new("RGB", (40, 30), "brown").save(folder / "photo.jpg")
        for wnid in (FOX, CAT):
            write_category(folder / "animal-part", wnid, 20)
        write_negatives(folder / "animal-part", 20)
        for name in ("icnn_folder", "icnn_parts", "cnn_parts"):
            root = ["--data.root", "photos"] if name == "icnn_folder" else []
            words = quickly(["--config", name, *root])
            words += ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
            assert call("run", *words, "--run_root", "made") == 0
            shutil.move(only_run(Path("made"), name), folder / "runs" / name / RUN)
        yield folder


def quickly(words: list[str]) -> list[str]:
    """A training command's words with others after them that make it short, on this machine."""
    values = read_settings(words).values
    small = SMALL[values["data.class_path"].rsplit(".", 1)[-1]]
    parts = int(values.get("model.updates_per_batch") or 1)
    words = [*words, *small, f"--data.batch_size={4 * parts}"]
    words += [f"--trainer.{option}" for option in QUICK]
    weights = values.get("model.weights") or "none"
    if weights != "none" and not Path(weights).is_file():
        backbone = values["model.backbone"]
        file = Path(f"{backbone.replace('/', '-')}.pth")
        torch.save(find_network(backbone).build().state_dict(), file)
        if weights != file.name:  # A name of torchvision's, which would be downloaded.
            words.append(f"--model.weights={file}")
    return words


def run_line(line: str) -> None:
    program, *words = shlex.split(line)
    if program == "make":
        for target in words:
            check_target(target)
    elif program == "source":
        (path,) = words
        assert f"VENV := {Path(path).parts[0]}\n" in (REPOSITORY / "Makefile").read_text()
    elif program == "pellucid":
        if words[0] in ("fit", "run") and "--help" not in words:
            words = [words[0], *quickly(words[1:]), "--trainer.fast_dev_run=true"]
        if words[0] == "sweep":
            # Each of its runs is one of the test above; here, that they are what they should be.
            assert plan(words[1:])[0], line
        else:
            assert call(*words) == 0, line
    else:
        pytest.fail(f"nothing here knows how to run {program}: teach run_line")


def check_target(target: str) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(
        ["make", "-n", target], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [n for n, block in BLOCKS.items() if block.language == "bash"])
def test_commands_run(name, folder, capsys):
    for line in BLOCKS[name].text.replace("\\\n", " ").splitlines():
        if line and not line.startswith("#"):
            run_line(line)


@pytest.mark.parametrize("name", [n for n, block in BLOCKS.items() if block.language == "python"])
def test_code_runs(name, folder):
    block, names = BLOCKS[name], {}
    exec(compile(block.text, name, "exec"), names)
    for expression, shape in re.findall(r"print\((\S+)\.shape\)  # \(([\d, ]+)\)", block.text):
        assert tuple(eval(expression, names).shape) == tuple(map(int, shape.split(",")))


def test_no_block_escapes():
    """By another name than bash or python, or on a page that no test follows."""
    assert {block.language for block in BLOCKS.values()} <= {"bash", "python", "text"}
    for page in PAGES:
        assert page.read_text().count("\n```") == 2 * len(code_blocks(page)), page
    for page, test in OWN_TEST.items():
        assert page in (REPOSITORY / "tests" / test).read_text()


def test_a_command_that_is_wrong_is_noticed(folder, capsys):
    with pytest.raises(AssertionError):
        run_line("pellucid run --config icnn_parts --model.learning_rate 1")
    with pytest.raises(pytest.fail.Exception, match="conda"):
        run_line("conda install pellucid")
    with pytest.raises(AssertionError, match="No rule"):
        run_line("make dmeo")


def table_of(heading: str) -> list[str]:
    """The words in code font in the first column of a section's table."""
    section = README.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]


def test_the_tables_are_complete():
    assert sorted(table_of("The command line")) == sorted(COMMANDS)
    experiments = [name for name in shipped_configs() if "/" not in name]
    assert sorted(table_of("Shipped experiments")) == sorted(experiments)


def test_a_run_leaves_what_the_readme_says(folder):
    section = README.read_text().split("\n## What a run leaves\n")[1].split("\n## ")[0]
    names = re.findall(r"`([^`]+)`", "".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)))
    assert "report.html" in names
    assert "units.json" in names
    for name in names:
        assert (folder / "runs" / "icnn_parts" / RUN / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_the_continuous_integration_runs_the_readmes_test_command():
    lines = (REPOSITORY / ".ci" / "run").read_text().splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["exec make test"]
    assert CodeBlock("bash", "make test\n", 0)[:2] in [block[:2] for block in BLOCKS.values()]
