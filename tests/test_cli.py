import csv
import hashlib
import html
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

import pellucid.cli
from pellucid.batch import Batch
from pellucid.cli import find_config, shipped_configs
from pellucid.cli.commands import table
from pellucid.cli.options import PellucidCLI
from pellucid.cli.run import Run
from pellucid.datamodules.base import SPLITS
from pellucid.models.base import Stage
from tests.helpers import CONFIG, TinyData, TinyModel, call, only_run, write_config

REPOSITORY = Path(__file__).resolve().parent.parent
SYNTHETIC = "pellucid.datamodules.synthetic_parts.SyntheticParts"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("finished")
    assert call("run", "--config", write_config(folder), "--run_root", folder / "runs") == 0
    return only_run(folder / "runs")


def figures(path):
    with (path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: float(value) for row in rows for key, value in row.items() if value}


# The run directory.


def test_run_writes_everything(run):
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert {
        "config.yaml",
        "metrics.csv",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "results.json",
        "report.html",
    } <= names
    assert any(name.startswith("images/") for name in names)
    assert not any("-v1" in name or name.endswith(".part") for name in names)


def test_results(run):
    results = json.loads((run / "results.json").read_text())
    assert results["experiment"] == "tiny"
    assert results["model"].endswith("TinyModel")
    assert results["data"].endswith("TinyData")
    assert results["seed"] == 0
    assert results["parameters"] == sum(p.numel() for p in TinyModel(3).parameters())
    assert results["fit_seconds"] > 0
    assert results["skipped"] == {"location_instability": "the data has no landmarks"}
    assert results["versions"]["torch"] == torch.__version__.split("+")[0]
    config = (run / "config.yaml").read_bytes()
    assert results["config_sha256"] == hashlib.sha256(config).hexdigest()
    assert {"test/accuracy", "all/accuracy", "test/loss", "all/loss"} <= results["metrics"].keys()
    assert 0 <= results["metrics"]["test/accuracy"] <= 1


def test_results_are_those_of_the_best_checkpoint(run):
    """Against the model alone, without the trainer."""
    model = TinyModel.load_from_checkpoint(run / "checkpoints/best.ckpt", weights_only=True).eval()
    measured = json.loads((run / "results.json").read_text())["metrics"]
    for stage in ("test", "all"):
        correct = total = 0
        for batch in TinyData().dataloader(stage):
            correct += int((model.explain(batch).target == batch["label"]).sum())
            total += len(batch["label"])
        assert measured[f"{stage}/accuracy"] == pytest.approx(correct / total)


def test_a_run_repeats_from_its_own_config(run, capsys):
    assert call("fit", "--config", run / "config.yaml") == 0
    other = Path(capsys.readouterr().out.splitlines()[0].split(": ", 1)[1])
    assert other != run
    assert other.parent == run.parent
    assert (other / "config.yaml").read_text() == (run / "config.yaml").read_text()
    first, again = figures(run), figures(other)
    for key in again.keys() - {"epoch", "step"}:  # The first went on to its tests.
        assert first[key] == again[key]


def test_config_is_complete_and_plain(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["lr"] == 0.05
    assert config["data"]["init_args"]["batch_size"] == 8
    assert config["trainer"]["max_epochs"] == 2
    assert config["seed_everything"] == 0
    assert config["experiment"] == "tiny"
    assert config["ckpt_path"] is None


def test_seed_changes_the_run(tmp_path, run):
    words = ["--config", write_config(tmp_path), "--run_root", tmp_path / "runs"]
    assert call("fit", *words, "--seed_everything", "1") == 0
    other = only_run(tmp_path / "runs")
    assert figures(other)["val/loss"] != figures(run)["val/loss"]
    assert yaml.safe_load((other / "config.yaml").read_text())["seed_everything"] == 1


def test_the_seed_changes_weights_and_order_but_not_the_images(tmp_path):
    def build(*words):
        text = CONFIG.replace("tests.helpers.TinyData", SYNTHETIC)
        sizes = [f"--data.{split}_size=8" for split in ("train", "val", "test")]
        cli = options(tmp_path, "--data.image_size=32", *sizes, *words, text=text)
        images = {split: cli.datamodule.dataset(split)[3]["image"] for split in SPLITS}
        order = [b["index"].tolist() for b in cli.datamodule.train_dataloader()]
        return images, order, cli.model.features.weight

    (images, order, weight), (others, other_order, other_weight) = (
        build(f"--seed_everything={seed}") for seed in (0, 1)
    )
    assert all(torch.equal(images[split], others[split]) for split in SPLITS)
    assert order != other_order
    assert not torch.equal(weight, other_weight)
    drawn, _, same_weight = build("--data.seed=1")
    assert torch.equal(weight, same_weight)
    assert not any(torch.equal(images[split], drawn[split]) for split in SPLITS)


@pytest.fixture
def clock(monkeypatch):
    """All runs start in the same second."""

    class Stopped:
        @staticmethod
        def now():
            return Stopped()

        def strftime(self, form):
            return "2024-01-02_03-04-05"

    monkeypatch.setattr("pellucid.cli.run.datetime", Stopped)


def test_runs_of_one_second_have_their_own_directories(tmp_path, clock):
    words = ["--config", write_config(tmp_path), "--run_root", tmp_path / "runs"]
    for _ in range(3):
        assert call("fit", *words, "--trainer.max_epochs=1") == 0
    names = sorted(path.name for path in (tmp_path / "runs/tiny").iterdir())
    assert names == ["2024-01-02_03-04-05", "2024-01-02_03-04-05-2", "2024-01-02_03-04-05-3"]
    assert "PELLUCID_RUN_DIRECTORY" not in os.environ


def test_processes_of_one_run_agree(tmp_path, clock, monkeypatch):
    chosen = []
    for variables in ({}, {"LOCAL_RANK": "1"}, {"RANK": "1"}):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            if "RANK" in variables:  # Started by torchrun: nothing is inherited.
                patch.delenv("PELLUCID_RUN_DIRECTORY")
            run = Run.__new__(Run)
            run.experiment = "tiny"
            chosen.append(run._choose_directory(tmp_path))
    monkeypatch.delenv("PELLUCID_RUN_DIRECTORY")
    assert len(set(chosen)) == 1
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == [chosen[0].name]


@pytest.mark.slow
@pytest.mark.ddp
def test_a_run_on_two_processes(tmp_path):
    words = ["run", "--config", "icnn_parts", "--run_root", tmp_path, "--model.num_units=8"]
    words += ["--data.image_size=32", "--data.batch_size=4", "--data.train_size=24"]
    words += ["--data.val_size=8", "--data.test_size=8", "--trainer.max_epochs=1"]
    words += ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp"]
    done = subprocess.run(
        [sys.executable, "train.py", *words, "--trainer.enable_progress_bar=false"],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("figures to publish come from one device") == 1
    run = only_run(tmp_path, "icnn_parts")
    assert (run / "report.html").is_file()
    metrics = json.loads((run / "results.json").read_text())["metrics"]
    wanted = ("accuracy", "filter_loss", "location_instability", "part_interpretability")
    for stage in ("test", "all"):
        assert all(metrics[f"{stage}/{name}"] is not None for name in wanted)
    checkpoint = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 24 // (2 * 4)  # Each process saw half of the images.


def test_figures_to_publish_come_from_one_device(run, capsys):
    class Several:
        world_size, is_global_zero = 2, True

    told = Run.__new__(Run)
    told.trainer = Several()
    told._warn_of_devices()
    assert "figures to publish come from one device" in capsys.readouterr().out
    Several.world_size = 1
    told._warn_of_devices()
    assert capsys.readouterr().out == ""


# Options.


def options(tmp_path, *words, text=CONFIG):
    return PellucidCLI("fit", ["--config", str(write_config(tmp_path, text)), *words])


@pytest.mark.parametrize("form", ["--model.lr=0.3", "--model.init_args.lr=0.3"])
def test_short_and_full_names(tmp_path, form):
    assert options(tmp_path, form).model.lr == 0.3


def test_two_words_and_lists(tmp_path):
    words = ["--model.lr", "1e-3", "--data.categories", "[n02118333]", "--data.root", "elsewhere"]
    cli = options(tmp_path, *words)
    assert cli.model.lr == 1e-3
    assert cli.datamodule.categories == ["n02118333"]
    assert cli.datamodule.root == "elsewhere"
    assert cli.model.num_classes == cli.datamodule.num_classes == 1


def test_classes_come_from_the_data(tmp_path):
    assert options(tmp_path, "--data.classes=5").model.head.out_features == 5
    assert options(tmp_path, "--data.classes=5", "--model.num_classes=5").model.num_classes == 5


def test_later_files_and_the_command_line_win(tmp_path):
    later = tmp_path / "later.yaml"
    later.write_text("model:\n  init_args: {lr: 0.2, width: 6}\n")
    cli = options(tmp_path, f"--config={later}", "--model.width=7")
    assert (cli.model.lr, cli.model.features.out_channels) == (0.2, 7)
    assert cli.trainer_class is not None
    assert cli.given.experiment() == "later"


@pytest.mark.parametrize("order", [("class_path", "init_args"), ("init_args", "class_path")])
def test_another_class_takes_the_options_of_the_one_before_away(tmp_path, order):
    later, first = tmp_path / "later.yaml", CONFIG + "  init_args: {length: 9}\n"
    parts = {"class_path": SYNTHETIC, "init_args": {"train_size": 5}}
    later.write_text(yaml.safe_dump({"data": {k: parts[k] for k in order}}, sort_keys=False))
    data = options(tmp_path, f"--config={later}", "--data.val_size=6", text=first).datamodule
    assert (type(data).__name__, data.sizes["train"], data.sizes["val"]) == ("SyntheticParts", 5, 6)
    data = options(tmp_path, f"--data={SYNTHETIC}", "--data.val_size=6", text=first).datamodule
    assert (type(data).__name__, data.sizes["val"]) == ("SyntheticParts", 6)


def test_fragments_do_not_name_the_experiment(tmp_path):
    cli = options(tmp_path, "--config=trainer/cpu", "--config", "logger/tensorboard")
    assert cli.given.experiment() == "tiny"
    assert cli.config.trainer.deterministic is True
    assert cli.config.logger == ["tensorboard"]


def test_loggers_add_up(tmp_path):
    cli = options(tmp_path, "--config=logger/wandb", "--logger", "tensorboard", "--logger=csv")
    assert cli.config.logger == ["wandb", "tensorboard", "csv"]


@pytest.mark.parametrize("fragment", [name for name in shipped_configs() if "/" in name])
def test_fragments_parse(tmp_path, fragment):
    if not fragment.startswith("data/"):  # Another data set, for which no folder is here.
        options(tmp_path, f"--config={fragment}")


def test_the_command_line_beats_the_checkpoint(run, tmp_path):
    """Lightning lets the hyper-parameters of --ckpt_path win over what the user says."""
    checkpoint = run / "checkpoints/best.ckpt"
    saved = torch.load(checkpoint, weights_only=True)["hyper_parameters"]
    assert saved["filter_loss_weight"] == 0.1
    words = ["--ckpt_path", str(checkpoint), "--model.filter_loss_weight=0.7", "--model.lr=0.01"]
    cli = options(tmp_path, *words)
    assert (cli.model.filter_loss_weight, cli.model.lr) == (0.7, 0.01)
    config = write_config(tmp_path)
    assert call("test", "--config", config, "--run_root", tmp_path / "runs", *words) == 0
    found = figures(only_run(tmp_path / "runs"))
    expected = found["test/classification_loss"] + 0.7 * found["test/filter_loss"]
    assert found["test/loss"] == pytest.approx(expected, rel=1e-5)


def test_one_image_a_batch_trains_without_batch_normalisation(tmp_path):
    words = ["--config", write_config(tmp_path), "--run_root", tmp_path / "runs"]
    assert call("fit", *words, "--data.batch_size=1", "--trainer.max_epochs=1") == 0


@pytest.mark.parametrize("form", ["option", "config"])
def test_one_batch_is_not_all_of_them(form, tmp_path):
    """To Lightning 1 is a number of batches, 1.0 a share; its type lists floats first."""
    limit = "limit_train_batches"
    text = CONFIG.replace("max_epochs: 2", f"max_epochs: 2\n  {limit}: 1")
    config = write_config(tmp_path, text if form == "config" else CONFIG)
    words = [f"--trainer.{limit}=1"] if form == "option" else []
    assert call("fit", "--config", config, *words, "--run_root", tmp_path) == 0
    run = only_run(tmp_path)
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2
    written = yaml.safe_load((run / "config.yaml").read_text())["trainer"][limit]
    assert (written, type(written)) == (1, int)
    whole = PellucidCLI("fit", ["--config", str(config), f"--trainer.{limit}=1.0"])
    assert isinstance(whole.config.trainer[limit], float)


def test_the_ends_of_the_seeds(tmp_path):
    for seed in (0, 2**32 - 1):
        assert options(tmp_path, f"--seed_everything={seed}").config.seed_everything == seed


def test_a_class_in_a_file_of_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model.py").write_text(
        "from tests.helpers import TinyModel\nclass Mine(TinyModel):\n    pass\n"
    )
    assert type(options(tmp_path, "--model=my_model.Mine").model).__name__ == "Mine"


def test_hyper_parameters_are_the_constructors_plain_values(run):
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]
    assert saved["num_classes"] == 3
    assert {type(value) for value in saved.values()} <= {int, float, str, bool, type(None)}
    assert not any(name.startswith("_") for name in saved)


# Other commands.


@pytest.mark.parametrize("command", ["validate", "test"])
def test_measuring_a_checkpoint(run, tmp_path, capsys, command):
    words = ["--ckpt_path", run / "checkpoints/best.ckpt", "--run_root", tmp_path]
    assert call(command, "--config", run, *words) == 0
    assert "accuracy" in capsys.readouterr().out
    found = figures(only_run(tmp_path))
    if command == "test":
        assert found["test/loss"] == figures(run)["test/loss"]
    else:
        assert "val/loss" in found


def test_predict_writes_scores(run, tmp_path):
    words = ["--ckpt_path", run / "checkpoints/best.ckpt", "--run_root", tmp_path]
    assert call("predict", "--config", run, *words) == 0
    with (only_run(tmp_path) / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    model = TinyModel.load_from_checkpoint(run / "checkpoints/best.ckpt", weights_only=True).eval()
    scores = torch.cat([model.explain(b).scores for b in TinyData().dataloader("test")])
    written = [[float(row[f"score class {c}"]) for c in range(3)] for row in rows]
    torch.testing.assert_close(torch.tensor(written), scores)
    assert [row["predicted"] for row in rows] == [f"class {int(c)}" for c in scores.argmax(1)]


def test_fast_dev_run(tmp_path):
    words = ["--config", write_config(tmp_path), "--run_root", tmp_path / "runs"]
    words += ["--trainer.max_epochs=0", "--trainer.limit_train_batches=0"]  # It says otherwise.
    assert call("run", *words, "--trainer.fast_dev_run=true") == 0
    assert (only_run(tmp_path / "runs") / "results.json").is_file()


def test_explain_given_images(run, tmp_path, capsys):
    files = []
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        files.append(tmp_path / f"{name}.png")
        Image.new("RGB", (20, 30), colour).save(files[-1])
    assert call("explain", run, "--images", *files, "--output", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "red: class" in out
    assert "filter 0" in out
    for file in files:
        with Image.open(tmp_path / "out" / file.name) as picture:
            assert picture.size[0] > 100


def test_explain_a_checkpoint_on_its_own_images(run, tmp_path):
    checkpoint = run / "checkpoints/last.ckpt"
    assert call("explain", checkpoint, "--output", tmp_path, "--data.length=9") == 0
    assert sorted(path.name for path in tmp_path.glob("*.png"))[-1] == "test_00007.png"


def test_the_table_adds_up_to_the_score():
    torch.manual_seed(0)
    model = TinyModel(3, width=11).eval()
    explanation = model.explain({"image": torch.randn(2, 3, 8, 8)}).to("cpu")
    text = table(explanation, 1, ["a", "b", "c"])
    rows = [line.split() for line in text.splitlines()[2:]]
    score = float(explanation.scores[1, explanation.target[1]])
    assert float(rows[-1][-1]) == pytest.approx(score, abs=1e-3)
    assert sum(float(row[-1]) for row in rows[:-1]) == pytest.approx(score, abs=1e-2)
    assert "3 other units" in text


def test_report_of_several_runs(run, tmp_path, capsys):
    output = tmp_path / "both.html"
    assert call("report", run, run, "--output", output) == 0
    assert output.is_file()
    out = capsys.readouterr().out
    assert str(output) in out
    accuracy = json.loads((run / "results.json").read_text())["metrics"]["test/accuracy"]
    (line, _) = (line for line in out.splitlines() if line.startswith("Accuracy"))
    assert line.count(f"{100 * accuracy:.1f} %") == 2


# Configs.


def test_configs_by_name_path_and_run(run):
    assert find_config("trainer/cpu") == REPOSITORY / "configs/trainer/cpu.yaml"
    assert find_config(str(run)) == run / "config.yaml"
    assert find_config(str(run / "config.yaml")) == run / "config.yaml"


def test_configs_ls_shows_the_headers(capsys):
    assert call("configs", "ls") == 0
    out = capsys.readouterr().out
    for name, path in shipped_configs().items():
        header = path.read_text().splitlines()[0]
        assert header.startswith("# ")
        assert f"{name} " in out
        assert header[2:] in out


def test_configs_cp(tmp_path, monkeypatch, capsys):
    assert call("configs", "cp", "trainer/cpu", tmp_path) == 0
    assert (tmp_path / "cpu.yaml").read_text() == find_config("trainer/cpu").read_text()
    assert call("configs", "cp", "trainer/cpu", tmp_path) == 2  # Never overwrites.
    assert call("configs", "cp", "trainer/cpu", tmp_path / "mine.yaml") == 0
    assert (tmp_path / "mine.yaml").is_file()


def test_listing_configs_does_not_wait_for_torch():
    code = (
        "import sys; from pellucid.cli import main; main(['configs', 'ls']); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_an_installed_package_finds_its_configs(tmp_path, monkeypatch):
    inside = tmp_path / "pellucid/configs/experiments"
    inside.mkdir(parents=True)
    (inside / "mine.yaml").write_text("# Mine.\n")
    monkeypatch.setattr(pellucid.cli, "__file__", str(tmp_path / "pellucid/cli/__init__.py"))
    assert list(shipped_configs()) == ["mine"]


def test_train_py_is_the_same_program():
    import train

    assert train.main is pellucid.cli.main


def test_help(capsys):
    assert call("--help") == 0
    out = capsys.readouterr().out
    assert all(command in out for command in pellucid.cli.COMMANDS)
    assert call() == 2
    assert call("run", "--help") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "--run_root" in out
    assert "Images and splits do not depend on it" in out


class BreaksInTests(TinyModel):
    """Its maps and scores are NaN as soon as it is tested, and afterwards."""

    explains_by_map = True
    broken = False

    def maps(self, batch: Batch) -> Tensor:
        return super().maps(batch) * (torch.nan if self.broken else 1.0)

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        self.broken = self.broken or stage == "test"
        return super().step(batch, stage)


def test_a_run_whose_model_returns_nan_in_its_test_has_a_page(tmp_path, capsys):
    config = write_config(tmp_path)
    text = config.read_text().replace("tests.helpers.TinyModel", "tests.test_cli.BreaksInTests")
    config.write_text(text)
    assert call("run", "--config", config, "--run_root", tmp_path / "runs") == 0
    run = only_run(tmp_path / "runs")
    assert json.loads((run / "results.json").read_text())["metrics"]["test/loss"] is None
    assert "the map of unit 0 is not finite on image 0" in capsys.readouterr().out
    page = html.unescape((run / "report.html").read_text())
    assert "test/loss is not a number: the model returned NaN or infinity" in page


def test_images_with_scores_of_nan_are_not_explained(run, tmp_path, capsys):
    content = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    content["state_dict"]["head.bias"][0] = torch.nan
    torch.save(content, run / "checkpoints/broken.ckpt")
    capsys.readouterr()
    broken = run / "checkpoints/broken.ckpt"
    assert call("explain", broken, "--methods", "saliency", "--output", tmp_path) == 2
    captured = capsys.readouterr()
    assert captured.out.count("no explanation: the model's scores are NaN or infinite") == 6
    assert "explain: the model's scores of all images are NaN or infinite" in captured.err
    (run / "checkpoints/broken.ckpt").unlink()
