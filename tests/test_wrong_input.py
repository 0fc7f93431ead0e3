"""Whatever the user gets wrong is told in a line or two, before any training."""

import pickle
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pellucid.cli import find_config
from pellucid.cli.options import blame
from tests.helpers import CONFIG, TinyModel, call, only_run, write_config


class Code:
    """A pickle that would run code."""

    def __reduce__(self):
        return (print, ("code in a checkpoint ran",))


@dataclass
class Wrong:
    """A mistake, and what the message must say."""

    name: str
    words: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    config: str = CONFIG
    command: str = "fit"


def changed(old: str, new: str) -> str:
    assert old in CONFIG
    return CONFIG.replace(old, new)


def in_model(text: str) -> str:
    return changed("TinyModel\n", f"TinyModel\n  init_args:\n    {text}\n")


def in_data(text: str) -> str:
    return f"{CONFIG}  init_args:\n    {text}\n"


SHIPPED = find_config("icnn_parts").read_text()

WRONG = [
    # Names.
    Wrong(
        "model option",
        ("--model.filter_los_weight=1",),
        ("model.filter_los_weight", "'filter_loss_weight'"),
    ),
    Wrong("model option in full", ("--model.init_args.lrr=1",), ("model.lrr", "'lr'")),
    Wrong("model option in a file", (), ("model.widht", "'width'"), in_model("widht: 4")),
    Wrong(
        "option beside init_args",
        (),
        ("model.init_arg", "'init_args'"),
        in_model("lr: 1").replace("init_args", "init_arg"),
    ),
    Wrong("data option", ("--data.imagesize=32",), ("data.imagesize", "'image_size'")),
    Wrong("data option in a file", (), ("data.bach_size", "'batch_size'"), in_data("bach_size: 4")),
    Wrong("trainer option", ("--trainer.max_epoch=1",), ("trainer.max_epoch", "'max_epochs'")),
    Wrong(
        "trainer option in a file",
        (),
        ("trainer.max_epoch", "'max_epochs'"),
        changed("max_epochs", "max_epoch"),
    ),
    Wrong("section", ("--modle.lr=1",), ("modle.lr", "'model'")),
    Wrong("section in a file", (), ("trainr", "'trainer'"), changed("trainer:", "trainr:")),
    Wrong("option", ("--seed=1",), ("seed", "'seed_everything'")),
    Wrong("word", ("resnet18",), ("resnet18", "--")),
    Wrong("layer", ("--metrics.layer=feature",), ("metrics.layer", "'feature'", "'features'")),
    Wrong(
        "layer without maps",
        ("--metrics.layer=head",),
        ("metrics.layer", "'head'", "(B, U, h, w)", "'features'"),
    ),
    Wrong(
        "layer in a file",
        (),
        ("metrics.layer", "'featurs'", "'features'"),
        f"{CONFIG}metrics:\n  layer: featurs\n",
    ),
    Wrong(
        "name of a metric",
        ("--metrics.names=[part_puritty]",),
        ("metrics.names", "'part_puritty'", "'part_purity'"),
    ),
    Wrong("names no list", ("--metrics.names=3",), ("metrics.names", "list of str", "3")),
    Wrong("option of the metrics", ("--metrics.layr=x",), ("metrics.layr", "'layer'")),
    Wrong("metrics no mapping", ("--metrics=x",), ("metrics", "layer and names")),
    Wrong("value missing", ("--model.lr",), ("--model.lr", "value")),
    # Classes.
    Wrong(
        "model class",
        ("--model=tests.helpers.TinyModl",),
        ("model.class_path", "TinyModl", "'tests.helpers.TinyModel'"),
    ),
    Wrong(
        "data class in a file",
        (),
        ("data.class_path", "TinyDatta", "'tests.helpers.TinyData'"),
        changed("TinyData", "TinyDatta"),
    ),
    Wrong(
        "module of a class",
        (),
        (
            "data.class_path",
            "pellucid.datamodules.syntetic_parts.SyntheticParts",
            "'pellucid.datamodules.synthetic_parts.SyntheticParts'",
        ),
        changed("tests.helpers.TinyData", "pellucid.datamodules.syntetic_parts.SyntheticParts"),
    ),
    Wrong(
        "data for a model",
        ("--model=tests.helpers.TinyData",),
        ("model.class_path", "not a subclass of InterpretableModel"),
    ),
    Wrong(
        "base class",
        ("--model=pellucid.models.base.InterpretableModel",),
        ("model.class_path", "abstract"),
    ),
    Wrong(
        "no model",
        (),
        ("model", "--config"),
        CONFIG.replace("model:\n  class_path: tests.helpers.TinyModel\n", ""),
    ),
    Wrong(
        "class path is a number",
        (),
        ("model.class_path", "5"),
        changed("tests.helpers.TinyModel", "5"),
    ),
    # Values.
    Wrong("float", ("--model.lr=abc",), ("model.lr", "float", "'abc'")),
    Wrong("int", ("--data.image_size=4.5",), ("data.image_size", "int", "4.5")),
    Wrong("list for a number", (), ("data.length", "int", "[4]"), in_data("length: [4]")),
    Wrong("choice", ("--model.backbone=huge",), ("model.backbone", "'small' or 'large'", "'huge'")),
    Wrong("list", ("--data.categories=5",), ("data.categories", "list of str", "5")),
    Wrong("trainer int", ("--trainer.max_epochs=x",), ("trainer.max_epochs", "int", "'x'")),
    Wrong("precision", ("--trainer.precision=17",), ("trainer.precision", "'bf16-mixed'", "17")),
    Wrong("accelerator", ("--trainer.accelerator=xpu9",), ("trainer.accelerator", "cpu", "xpu9")),
    Wrong("strategy", ("--trainer.strategy=dpp",), ("trainer.strategy", "dpp")),
    Wrong("no devices", ("--trainer.devices=0",), ("trainer.devices: 0 is no number", "give 1")),
    Wrong("too many devices", ("--trainer.accelerator=cuda", "--trainer.devices=99"), ("trainer",)),
    Wrong("seed", ("--seed_everything=abc",), ("seed_everything", "int", "'abc'")),
    Wrong("negative seed", ("--seed_everything", "-4"), ("seed_everything", "2**32 - 1", "-4")),
    Wrong("seed too large", ("--seed_everything=99999999999",), ("seed_everything", "4294967295")),
    Wrong(
        "seed in a file",
        (),
        ("seed_everything", "4294967296"),
        f"seed_everything: {2**32}\n{CONFIG}",
    ),
    Wrong(
        "trainer int below range",
        ("--trainer.max_epochs=-5",),
        ("trainer.max_epochs must be a non-negative", "-5"),
    ),
    Wrong(
        "share of batches",
        ("--trainer.limit_train_batches=1.5",),
        ("trainer.limit_train_batches: ", "[0.0, 1.0]"),
    ),
    *(
        Wrong(f"{name} {value}", (f"--trainer.{name}={value}", *also), (f"trainer.{name}: must",))
        for name, value, also in (
            ("accumulate_grad_batches", 0, ()),
            ("check_val_every_n_epoch", 0, ()),
            ("gradient_clip_val", -1, ()),
            ("log_every_n_steps", -1, ()),
            ("limit_train_batches", -3, ("--trainer.fast_dev_run=true",)),
        )
    ),
    Wrong("no epochs", ("--trainer.max_epochs=0",), ("trainer.max_epochs: 0", "pellucid test")),
    Wrong("no steps", ("--trainer.max_steps=0",), ("trainer.max_steps: 0", "nothing")),
    Wrong(
        "no training batches",
        ("--trainer.limit_train_batches=0",),
        ("trainer.limit_train_batches: 0", "nothing"),
        command="run",
    ),
    Wrong(
        "no share of the training batches",
        ("--trainer.limit_train_batches=0.0",),
        ("trainer.limit_train_batches: 0", "nothing"),
    ),
    Wrong("mode", ("--mode=smallest",), ("mode", "'min' or 'max'")),
    Wrong("parts of a number", ("--model.lr.start=1",), ("model.lr",)),
    # Refused by a constructor.
    Wrong("negative learning rate", ("--model.lr=-1",), ("model.lr must be above 0", "-1")),
    Wrong("no width", ("--model.width=0",), ("model.width must be at least 1", "0")),
    Wrong(
        "negative image size",
        ("--data.image_size=-4",),
        ("data.image_size must be at least 1", "-4"),
    ),
    Wrong("batch of none", ("--data.batch_size=0",), ("data.batch_size must be at least 1", "0")),
    # What belongs together.
    Wrong("classes", ("--model.num_classes=7",), ("model.num_classes", "7", "TinyData", "3")),
    Wrong(
        "fields", ("--model=tests.helpers.NeedsMasks",), ("NeedsMasks", "part_masks", "TinyData")
    ),
    Wrong("fields of this data", ("--data.hide_labels=true",), ("TinyModel", "label", "TinyData")),
    Wrong(
        "monitor without landmarks",
        ("--model=tests.helpers.MonitorsLandmarks",),
        ("monitor", "val/location_instability", "the data has no landmarks"),
    ),
    Wrong("monitor", ("--monitor=val/acuracy",), ("monitor", "val/acuracy", "'val/accuracy'")),
    Wrong(
        "monitor of early stopping",
        (
            "--trainer.callbacks=pytorch_lightning.callbacks.EarlyStopping",
            "--trainer.callbacks.monitor=val/los",
        ),
        ("monitor", "'val/loss'"),
    ),
    # The shipped experiment.
    Wrong("weights of another", ("--model.weights={bare}",), ("model", "bare.ckpt"), SHIPPED),
    Wrong("weights file", ("--model.weights=no/such.pth",), ("model", "no/such.pth"), SHIPPED),
    Wrong("backbone", ("--model.backbone=resnet81",), ("model", "'resnet81'", "resnet18"), SHIPPED),
    Wrong("part", ("--data.remove_parts=[trunk]",), ("data", "trunk", "tail"), SHIPPED),
    Wrong(
        "batch of one",
        ("--data.batch_size=1",),
        ("data.batch_size: ", "at least 2 images"),
        SHIPPED,
    ),
    Wrong(
        "one training image",
        ("--data.train_size=1",),
        ("train split", "1 image", "data.batch_size", "more training images"),
        SHIPPED,
    ),
    Wrong("head", ("--model.head=sigmoid",), ("model", "sigmoid", "softmax"), SHIPPED),
    # Files.
    Wrong("config", ("--config=icnn_prats",), ("--config", "icnn_prats")),
    Wrong("config path", ("--config=no/such.yaml",), ("--config", "no/such.yaml")),
    Wrong("config is text", (), ("tiny.yaml", "mapping"), "just text"),
    Wrong("config is empty", (), ("model", "--config"), ""),
    Wrong(
        "config is no YAML", (), ("tiny.yaml", "line 11"), CONFIG + "  init_args\n    length: 4\n"
    ),
    Wrong("data root", ("--data.root=no/such/folder",), ("data", "no/such/folder", "data.root")),
    Wrong("empty split", ("--data.length=0",), ("data", "train split", "empty")),
    Wrong("checkpoint", ("--ckpt_path=no/such.ckpt",), ("--ckpt_path", "no/such.ckpt")),
    Wrong(
        "checkpoint is text",
        ("--ckpt_path={text}",),
        ("--ckpt_path", "text.ckpt is not a checkpoint"),
    ),
    Wrong(
        "checkpoint cut short", ("--ckpt_path={short}",), ("--ckpt_path", "short.ckpt", "cut short")
    ),
    Wrong("checkpoint with code", ("--ckpt_path={code}",), ("--ckpt_path", "code.ckpt", "code")),
    Wrong(
        "checkpoint of weights", ("--ckpt_path={bare}",), ("--ckpt_path", "bare.ckpt", "state_dict")
    ),
    Wrong(
        "other classes",
        ("--ckpt_path={best}", "--data.classes=5"),
        ("--ckpt_path", "3 classes", "TinyData has 5", "same classes"),
    ),
    Wrong(
        "other width",
        ("--ckpt_path={best}", "--model.width=6"),
        ("--ckpt_path", "features.weight", "(4, 3, 3, 3)", "(6, 3, 3, 3)"),
    ),
    Wrong(
        "other model",
        ("--ckpt_path={best}", "--model=tests.helpers.MonitorsLandmarks"),
        ("--ckpt_path", "tests.helpers.TinyModel", "MonitorsLandmarks"),
    ),
    Wrong(
        "other classes in a test",
        ("--ckpt_path={best}", "--data.classes=5"),
        ("3 classes", "5"),
        command="test",
    ),
    Wrong("run root is a file", ("--run_root={text}",), ("run_root", "text.ckpt")),
    # Loggers.
    Wrong("logger", ("--logger=wandbb",), ("logger", "'wandb'")),
    Wrong("experiment", ("--experiment=a/b",), ("experiment", "a/b", "directory")),
    # Commands.
    Wrong("command", (), ("fitt", "'fit'"), command="fitt"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Checkpoints, good and bad, by name."""
    folder = tmp_path_factory.mktemp("files")
    assert call("fit", "--config", write_config(folder), "--run_root", folder / "runs") == 0
    best = only_run(folder / "runs") / "checkpoints/best.ckpt"
    (folder / "text.ckpt").write_text("not a checkpoint")
    (folder / "short.ckpt").write_bytes(best.read_bytes()[:-3000])
    (folder / "code.ckpt").write_bytes(pickle.dumps({"state_dict": Code()}))
    torch.save({"weight": torch.zeros(2)}, folder / "bare.ckpt")
    names = {name: folder / f"{name}.ckpt" for name in ("text", "short", "code", "bare")}
    return names | {"best": best}


def run_wrong(wrong, tmp_path, files, monkeypatch, capsys):
    trained = []
    monkeypatch.setattr(TinyModel, "training_step", lambda *args: trained.append(args))
    words = [word.format(**files) if word.endswith("}") else word for word in wrong.words]
    config = write_config(tmp_path, wrong.config)
    root = tmp_path / "runs"
    status = call(wrong.command, "--config", config, "--run_root", root, *words)
    captured = capsys.readouterr()
    assert not trained
    assert not list(root.rglob("*"))  # No directory is left behind either.
    return status, captured.err, captured.out


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name.replace(" ", "-"))
def test_wrong_input(wrong, tmp_path, files, monkeypatch, capsys):
    status, err, out = run_wrong(wrong, tmp_path, files, monkeypatch, capsys)
    print(err)
    assert status == 2, err
    for part in wrong.says:
        assert part in err, err
    # A slow machine shows progress bars, which go when they are done.
    message = err.strip().rpartition("\r")[2]
    assert 1 <= len(message.splitlines()) <= 2, err
    assert "Traceback" not in err + out
    assert "code in a checkpoint ran" not in out
    assert len(err) < 900


def test_there_are_at_least_thirty():
    assert len({wrong.name for wrong in WRONG}) == len(WRONG) >= 30


def test_right_input_passes_the_same_way(tmp_path, files, capsys):
    """The table's config is right without its mistakes."""
    words = ["--config", write_config(tmp_path), "--run_root", tmp_path / "runs"]
    assert call("fit", *words, "--trainer.max_epochs=1") == 0
    assert capsys.readouterr().err == ""


def test_debug_shows_the_traceback(tmp_path, monkeypatch):
    monkeypatch.setenv("PELLUCID_DEBUG", "1")
    with pytest.raises(Exception, match=r"model\.lr must be above 0"):
        call("fit", "--config", write_config(tmp_path), "--model.lr=-1")


@pytest.mark.parametrize("word", ["report", "explain"])
def test_no_run_directory(word, tmp_path, capsys):
    assert call(word, tmp_path / "nothing") == 2
    assert "nothing" in capsys.readouterr().err


def test_explain_a_broken_image(files, tmp_path, capsys):
    run = Path(files["best"]).parent.parent
    assert call("explain", run, "--images", files["text"]) == 2
    assert "text.ckpt: not an image" in capsys.readouterr().err
    assert call("explain", run, "--images", tmp_path / "no.jpg") == 2
    assert "no.jpg: no such file" in capsys.readouterr().err
    assert call("explain", run, "--images", tmp_path) == 2
    assert f"{tmp_path}: is a directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    "message",
    [
        "No supported gpu backend found!",
        "`CUDAAccelerator` can not run on your system since the accelerator is not available.",
        "MPSAccelerator cannot run on your system.",
    ],
)
def test_an_accelerator_that_is_not_there(message):
    """What Lightning says of it; not in the table, as some machines have one."""
    error = blame("trainer", {"accelerator": "gpu", "devices": 1}, ValueError(message))
    assert str(error).startswith("trainer.accelerator: 'gpu'")
    assert "cpu or auto" in str(error)


def test_batch_normalisation_of_a_single_value_blames_the_batch():
    """Where only the forward pass can tell: two-dimensional, of maps of one pixel."""
    with pytest.raises(ValueError, match="Expected more than 1 value") as error:
        torch.nn.BatchNorm2d(3)(torch.zeros(1, 3, 1, 1))
    assert str(blame("trainer", {}, error.value)).startswith("data.batch_size: ")


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("lr must be above 0", "model.lr must be above 0"),
        ("lr: above 0", "model.lr: above 0"),
        ("`lr` must be above 0", "model.lr must be above 0"),
        ("lr` must be above 0", "model.lr must be above 0"),
        ("invalid value 9 for lr, it is too large", "model.lr: invalid value 9 for lr, it is"),
        ("lr/file.pth is missing", "model: lr/file.pth is missing"),
        ("''", "model: ''"),
    ],
)
def test_an_option_is_named_by_its_full_key(message, says):
    assert str(blame("model", {"lr": 9}, ValueError(message))).startswith(says)


def test_configs_that_are_not_there(tmp_path, capsys):
    assert call("configs", "cp", "logger/wandbb", tmp_path) == 2
    assert "'logger/wandb'" in capsys.readouterr().err
    assert call("configs", "sl") == 2
    assert "ls" in capsys.readouterr().err


def test_a_report_of_a_directory_that_is_no_run_is_refused(tmp_path, capsys):
    assert call("report", tmp_path) == 2
    assert "is not a run directory: it has none of config.yaml" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
