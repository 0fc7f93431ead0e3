"""Every shipped experiment: its header, and from its config to an explanation on small data.

Every fragment of data: under an experiment that has other data.

A new config is found by itself; only a new data set must be taught here, in :data:`SMALL_DATA`.
"""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest
import torch
import yaml

from pellucid.cli import shipped_configs
from pellucid.cli.classes import constructor, load_class
from pellucid.cli.options import PellucidCLI
from pellucid.models.base import InterpretableModel
from tests.datamodules import test_cifar10, test_mnist
from tests.datamodules.test_animal_part import CAT, FOX, write_category, write_negatives
from tests.datamodules.test_cub200_parts import write_cub
from tests.helpers import call, only_run, write_photos

EXPERIMENTS = {name: path for name, path in shipped_configs().items() if "/" not in name}
DATA = {name: path for name, path in shipped_configs().items() if name.startswith("data/")}


def small_figures(root: Path) -> list[str]:
    sizes = [f"--data.{split}_size=12" for split in ("train", "val", "test")]
    return ["--data.image_size=64", *sizes]


def small_animals(root: Path) -> list[str]:
    for wnid in (FOX, CAT):
        write_category(root, wnid, 20)
    write_negatives(root, 20)
    return ["--data.image_size=64", f"--data.root={root}"]


def small_photos(root: Path) -> list[str]:
    return ["--data.image_size=64", f"--data.root={write_photos(root)}"]


def small_birds(root: Path) -> list[str]:
    content = yaml.safe_load(EXPERIMENTS["icnn_cub"].read_text())
    write_cub(root, content["data"]["init_args"]["categories"], train=3, test=1)
    return ["--data.image_size=64", f"--data.root={root}"]


def small_sprites(root: Path) -> list[str]:
    sizes = [f"--data.{split}_size=16" for split in ("train", "val", "test")]
    return ["--data.image_size=64", *sizes]


def small_digits(root: Path) -> list[str]:
    write_files(root / "MNIST" / "raw", test_mnist.published())
    return [f"--data.root={root}"]


def small_photographs(root: Path) -> list[str]:
    write_files(root / "cifar-10-batches-py", test_cifar10.published())
    return [f"--data.root={root}"]


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


SMALL_DATA: dict[str, Callable[[Path], list[str]]] = {
    "SyntheticParts": small_figures,
    "AnimalPart": small_animals,
    "ImageFolderParts": small_photos,
    "CUB200Parts": small_birds,
    "DSprites": small_sprites,
    "MNIST": small_digits,
    "CIFAR10": small_photographs,
}
"""Options that make each data set small, after writing its files where it has any."""

SMALL_MODEL = {"ViTAttention": ["--model.backbone=vit_tiny"]}
"""Options that make a model small whose published sizes take long to build and to save."""


def class_of(content: dict, section: str) -> str:
    return content[section]["class_path"].rsplit(".", 1)[-1]


# torchvision checks the sums of CIFAR-10's files: those of the small ones here.
small_files = test_cifar10.small_files


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_: str(tmp_path / "user-cache"))


def words_for(name: str, folder: Path) -> list[str]:
    """The command line's words that make an experiment small."""
    content = yaml.safe_load(EXPERIMENTS[name].read_text())
    data = class_of(content, "data")
    assert data in SMALL_DATA, f"SMALL_DATA does not say how to make {data} small"
    words = ["--config", name, *SMALL_DATA[data](folder / "data"), "--data.batch_size=4"]
    options = content["model"].get("init_args", {})
    if "weights" in options:
        words.append("--model.weights=none")
    if "restart_step" in options:
        words += ["--model.restart_step=1", "--data.batch_size=8"]
    words += SMALL_MODEL.get(class_of(content, "model"), [])
    trainer = ["accelerator=cpu", "enable_progress_bar=false", "max_epochs=1"]
    trainer += ["limit_train_batches=2", "limit_val_batches=1"]
    return words + [f"--trainer.{option}" for option in trainer]


def test_the_experiments_are_found():
    here = Path(__file__).resolve().parents[2] / "configs" / "experiments"
    assert EXPERIMENTS
    assert set(EXPERIMENTS.values()) == set(here.rglob("*.yaml"))
    assert set(DATA.values()) == set((here.parent / "data").rglob("*.yaml"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_from_the_config_to_an_explanation(name, tmp_path, monkeypatch):
    words = words_for(name, tmp_path)
    assert call("fit", *words, "--run_root", tmp_path / "runs") == 0
    run = only_run(tmp_path / "runs", name)
    cli = PellucidCLI("explain", ["--config", str(run / "config.yaml")])
    class_: type[InterpretableModel] = load_class("model", cli.given.values)
    checkpoint = run / "checkpoints" / "best.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    # Where networks play against each other, each has an optimiser whose steps count.
    assert saved["global_step"] == 2 * len(saved["optimizer_states"])
    # Nothing but the checkpoint rebuilds the model.
    model = class_.load_from_checkpoint(checkpoint, weights_only=True, map_location="cpu").eval()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, saved["state_dict"][key], rtol=0, atol=0)
    batch = next(iter(cli.datamodule.test_dataloader()))
    count = len(batch["image"])
    with torch.no_grad():
        explanation = model.explain({"image": batch["image"]})
    # Whoever explains by a map has it judged.
    assert model.explains_by_map == (explanation.heat_map() is not None)
    assert explanation.scores.isfinite().all()
    assert explanation.target.shape == (count,)
    parts = [explanation.maps, explanation.positions, explanation.contributions]
    if (shown := explanation.traversals) is not None:
        parts.append(shown.images)
        assert shown.values.shape == shown.images.shape[:3]
        assert len(shown.names) == len(shown.kinds) == len(shown.importance)
    assert any(part is not None for part in parts)
    for part in parts:
        assert part is None or (len(part) == count and part.isfinite().all())
    if explanation.contributions is not None:
        total = explanation.contributions.sum(1) + explanation.bias
        scores = explanation.scores.gather(1, explanation.target[:, None])[:, 0]
        torch.testing.assert_close(total, scores, rtol=1e-4, atol=1e-4)


def header_of(path: Path) -> dict[str, str]:
    """The fields of a config's header; a line without a field goes on with the one before it."""
    fields = {"": ""}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text = line.removeprefix("#").strip()
        if found := re.match(r"(Paper|Source|Command|Cost|Expected): +", text):
            fields[found[1]] = text[found.end() :]
        else:
            fields[list(fields)[-1]] += f" {text}"
    return {name: text.strip() for name, text in fields.items()}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_header_says_what_it_is_and_where_it_comes_from(name):
    header = header_of(EXPERIMENTS[name])
    assert header[""]
    assert header.get("Paper") or header.get("Source")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_header_has_figures(name):
    header = header_of(EXPERIMENTS[name])
    assert re.search(r"\d+(\.\d+)? minutes?\b.* on two cores", header["Cost"])
    assert re.search(r"\d", header["Expected"])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_command_of_the_header_parses(name, tmp_path):
    """Each option that it names exists and takes what it is given, but for places of files."""
    program, command, *given = shlex.split(header_of(EXPERIMENTS[name])["Command"])
    assert (program, command, *given[:2]) == ("pellucid", "run", "--config", name)
    cli = PellucidCLI("run", [*given, *words_for(name, tmp_path)[2:]])
    assert cli.given.experiment() == name


@pytest.mark.parametrize("experiment", ["icnn_parts", "icnn_animals"])
@pytest.mark.parametrize("name", DATA)
def test_a_fragment_puts_other_data_under_an_experiment(name, experiment, tmp_path):
    """Nothing is left of the data that the experiment names itself."""
    data = class_of(yaml.safe_load(DATA[name].read_text()), "data")
    words = ["--config", experiment, "--config", name, *SMALL_DATA[data](tmp_path / "data")]
    if data in ("DSprites", "MNIST"):  # Greys, and these experiments want colours.
        words.append("--data.channels=3")
    cli = PellucidCLI("fit", [*words, "--data.batch_size=4", "--model.weights=none"])
    assert cli.given.experiment() == experiment
    assert type(cli.datamodule).__name__ == data
    cli.datamodule.prepare_data()
    batch = next(iter(cli.datamodule.train_dataloader()))
    outputs = cli.model.step(batch, "val")
    assert outputs["loss"].isfinite()
    assert outputs["scores"].shape == (4, cli.datamodule.num_classes)


@pytest.mark.parametrize("name", DATA)
def test_the_options_that_a_fragment_names_exist(name):
    text = DATA[name].read_text()
    class_ = load_class("data", {"data.class_path": yaml.safe_load(text)["data"]["class_path"]})
    options, _ = constructor(class_)
    assert set(re.findall(r"--data\.(\w+)", text)) <= options.keys()
