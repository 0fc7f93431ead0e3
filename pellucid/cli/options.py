"""The options of the trainer's commands, and the objects that are built from them."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args, get_type_hints

from jsonargparse import ArgumentParser, Namespace
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, ProgressBar, TQDMProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from pellucid.cli import settings as given
from pellucid.cli.classes import constructor, load_class
from pellucid.cli.values import explain_parse_error
from pellucid.datamodules.base import ImageDataModule
from pellucid.errors import UserError
from pellucid.metrics.disentanglement.score_settings import SETTINGS_HELP, ScoreSettings
from pellucid.models.base import InterpretableModel
from pellucid.models.code_scores import CodeScores
from pellucid.models.map_metrics import IMAGES, STEPS, MapMetrics
from pellucid.models.unit_metrics import UnitMetrics

_FROM_DATA: dict[str, Callable[[ImageDataModule], int]] = {
    "num_classes": lambda data: data.num_classes,
    "image_size": lambda data: data.image_size,
    "channels": lambda data: len(data.mean),
}
"""Arguments of models that the data decide, where a model has them."""

_LARGEST_SEED = 2**32 - 1
_SEED_HELP = (
    "Seed of initial weights, of the order and augmentation of training images, and of all else "
    "that is random in training. Images and splits do not depend on it: the data have seeds of "
    "their own."
)
_SCORE_HELP = {
    "layer": "Layer whose output is scored for disentanglement, maps averaged over places; by "
    "default the model's own codes.",
    "names": "Disentanglement scores to compute; by default all that the data allow.",
    **SETTINGS_HELP,
}
_MAPS: dict[str, tuple[Any, str]] = {
    "names": (None, "Metrics of heat maps to measure; by default all that the data allow."),
    "images": (IMAGES, "Test images that run changes pixels and attention of; 0: none."),
    "steps": (STEPS, "Steps in which pixels are deleted and inserted."),
}
_TRAINER = get_type_hints(Trainer.__init__)
_QUOTES = "`'\""
_NO_DEVICE = re.compile(r"No supported gpu backend|can ?not run on your system")


class PellucidCLI(LightningCLI):
    """Parses a command's options; builds data, model and trainer in this order.

    Args:
        command: One of ``fit``, ``run``, ``validate``, ``test``, ``predict``, ``explain``.
        words: The words after it.
    """

    datamodule: ImageDataModule
    model: InterpretableModel

    def __init__(self, command: str, words: Sequence[str]) -> None:
        self.command = command
        self.given = given.read_settings(words)
        if "--help" not in self.given.words:
            given.check_names(self.given)
        super().__init__(
            InterpretableModel,
            ImageDataModule,
            save_config_callback=None,
            trainer_defaults={"num_sanity_val_steps": 0, "enable_model_summary": False},
            seed_everything_default=0,
            parser_kwargs={
                "prog": f"pellucid {command}",
                "exit_on_error": False,
                "allow_abbrev": False,
                "description": None,
            },
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=self.given.words,
            run=False,
            auto_configure_optimizers=False,
            # Constructors take plain values and save them themselves.
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options beside those of Lightning."""
        for action in parser._actions:  # No public way to what Lightning has added.
            if action.dest == "seed_everything":
                action.help = _SEED_HELP
        add = parser.add_argument
        types = given.OPTIONS
        add("--run_root", type=str, default="runs", help="Directory of all runs.")
        add(
            "--experiment",
            type=types["experiment"],
            help="Name of the experiment; by default that of the config file.",
        )
        add(
            "--logger",
            type=types["logger"],
            default=[],
            help="Loggers beside CSV: wandb, tensorboard. Can be given more than once.",
        )
        add("--ckpt_path", type=types["ckpt_path"], help="Checkpoint to go on from, or to measure.")
        add(
            "--monitor",
            type=types["monitor"],
            help="Figure by which best.ckpt is chosen; by default the model's own.",
        )
        add("--mode", type=types["mode"], help="Whether a small or a large monitor is good.")
        add(
            "--metrics.layer",
            type=types["metrics.layer"],
            help="Layer whose units are measured, by its name in the model, as backbone.stages.2; "
            "by default the model's own units.",
        )
        add(
            "--metrics.names",
            type=types["metrics.names"],
            help="Metrics of units to measure; by default all that the data allow.",
        )
        add(
            "--pictures.every_n_epochs",
            type=types["pictures.every_n_epochs"],
            help="Epochs between two pictures of what a generator's latents do; 0: none; by "
            "default so many that a run has about ten.",
        )
        defaults: dict[str, Any] = {"layer": None, "names": None, **ScoreSettings().as_dict()}
        for name, default in defaults.items():
            key = f"scores.{name}"
            add(f"--{key}", type=types[key], default=default, help=_SCORE_HELP[name])
        for name, (default, text) in _MAPS.items():
            add(f"--maps.{name}", type=types[f"maps.{name}"], default=default, help=text)
        for name, find in _FROM_DATA.items():
            parser.link_arguments("data", f"model.init_args.{name}", find, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; what is wrong is told in one line."""
        try:
            self.config = parser.parse_args(args)
        except Exception as error:
            raise explain_parse_error(self.given, str(error)) from error
        for name, value in self._whole_numbers().items():
            self.config.trainer[name] = value
        seed = self.config.get("seed_everything")
        if isinstance(seed, int) and not 0 <= seed <= _LARGEST_SEED:
            problem = f"must be from 0 to 2**32 - 1 ({_LARGEST_SEED}), got {seed}"
            raise UserError("seed_everything", problem)
        pictures = self.config.get("pictures")
        if pictures is not None and (pictures.every_n_epochs or 0) < 0:
            problem = f"must be at least 0 (no pictures), got {pictures.every_n_epochs}"
            raise UserError("pictures.every_n_epochs", problem)

    def _whole_numbers(self) -> dict[str, int]:
        """Whole numbers of the trainer's that the parser has made floats of.

        The trainer's types name floats first, so that one batch (``limit_train_batches`` 1) would
        be 1.0, which is all of them.
        """
        return {
            name: value
            for key, value in self.given.values.items()
            if key.startswith("trainer.")
            and type(value) is int
            and int in get_args(_TRAINER.get(name := key.removeprefix("trainer.")))
        }

    def instantiate_classes(self) -> None:
        """Build the data, then the model, which takes what the data decide from them."""
        self.datamodule = self._build("data")
        self.datamodule.training_seed = int(self.config.seed_everything)
        if self.command == "explain":  # Its checkpoint rebuilds the model.
            return
        self.model = self._build("model")
        given.check_fields(self.model, self.datamodule)
        self.normalise_for(self.model)
        self._choose_metrics()
        self._choose_scores()
        self._choose_map_metrics()

    def _choose_metrics(self) -> None:
        """Have the model measure what ``metrics`` names."""
        chosen = self.config.metrics
        try:
            self.model.unit_metrics = UnitMetrics(chosen.layer, chosen.names)
        except ValueError as error:
            raise UserError("metrics.names", str(error)) from error
        try:
            self.model.unit_metrics.find_layer(self.model, self.datamodule)
        except ValueError as error:
            raise UserError("metrics.layer", str(error)) from error

    def _choose_map_metrics(self) -> None:
        """Have the model's heat maps judged as ``maps`` says."""
        chosen = as_dict(self.config.maps)
        try:
            self.model.map_metrics = MapMetrics(**chosen)
        except ValueError as error:
            raise blame("maps", chosen, error) from error

    def _choose_scores(self) -> None:
        """Have the model score its codes as ``scores`` says."""
        chosen = as_dict(self.config.scores)
        layer, names = chosen.pop("layer"), chosen.pop("names")
        try:
            settings = ScoreSettings(**chosen)
        except ValueError as error:
            raise blame("scores", chosen, error) from error
        try:
            self.model.code_scores = CodeScores(settings, names, layer)
        except ValueError as error:
            raise UserError("scores.names", str(error)) from error
        try:
            self.model.code_scores.find_layer(self.model, self.datamodule)
        except ValueError as error:
            raise UserError("scores.layer", str(error)) from error

    def normalise_for(self, model: InterpretableModel) -> None:
        """Have the data normalise images as the model's weights want, unless the user says how."""
        wanted = model.normalisation
        if wanted is None or self._user_normalises():
            return
        try:
            self.datamodule.use_normalisation(*wanted)
        except ValueError as error:
            raise UserError("model.weights", str(error)) from error

    def _user_normalises(self) -> bool:
        """Whether data options on it are not the defaults, which a complete config repeats."""
        options = as_dict(self.config.data.get("init_args"))
        defaults = inspect.signature(type(self.datamodule)).parameters
        return any(
            name in options and name in defaults and options[name] != defaults[name].default
            for name in ("mean", "std", "normalise")
        )

    def _build(self, key: Literal["data", "model"]) -> Any:
        class_ = load_class(key, self.given.values)
        section = self.config[key]
        options = {**as_dict(section.get("init_args")), **as_dict(section.get("dict_kwargs"))}
        if key == "model":
            options |= self._from_data(class_, options)
        try:
            return class_(**options)
        except Exception as error:
            raise blame(key, options, error) from error

    def _from_data(self, class_: type, options: Mapping[str, Any]) -> dict[str, Any]:
        """What a model's constructor takes from the data, for it must be told nothing else."""
        taken: dict[str, Any] = {}
        for name in _FROM_DATA.keys() & constructor(class_)[0].keys():
            number = _FROM_DATA[name](self.datamodule)
            default = getattr(inspect.signature(class_).parameters.get(name), "default", None)
            if (own := options.get(name)) not in (None, number, default):
                raise UserError(
                    f"model.{name}",
                    f"{class_.__name__} is given {own}, {type(self.datamodule).__name__} has "
                    f"{number}: leave it out, it is taken from the data",
                )
            taken[name] = number
        return taken

    def make_trainer(self, callbacks: Sequence[Callback], loggers: Sequence[Any]) -> Trainer:
        """Build the trainer.

        Args:
            callbacks: Those of the run, beside the user's.
            loggers: Likewise.

        Raises:
            UserError: If Lightning refuses an option.
        """
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(
            Trainer, "trainer", fail_untyped=False, instantiate=False, sub_configs=True
        )
        # jsonargparse 4.49 renamed it.
        instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
        try:
            options = as_dict(instantiate(Namespace(trainer=self.config.trainer)).trainer)
            options |= self._whole_numbers()
            own = options["callbacks"] or []
            own = list(own) if isinstance(own, list | tuple) else [own]
            if options["enable_progress_bar"] is not False and not any(
                isinstance(callback, ProgressBar) for callback in own
            ):
                own.append(TQDMProgressBar())
            extra = options["logger"] or []
            extra = [] if extra is True else extra
            extra = list(extra) if isinstance(extra, list | tuple) else [extra]
            options |= {"callbacks": [*own, *callbacks], "logger": [*loggers, *extra]}
            return Trainer(**options)
        except Exception as error:
            raise blame("trainer", as_dict(self.config.trainer), error) from error

    def complete_config(self) -> dict[str, Any]:
        """All options, so that a run can be repeated from them; without the checkpoint."""
        config = given.plain(self.config)
        config.pop("config", None)
        config["ckpt_path"] = None
        for name in _FROM_DATA:
            config["model"].get("init_args", {}).pop(name, None)
        return config


def as_dict(value: Any) -> dict[str, Any]:
    """A part of a parsed config as a dictionary; empty for one that is not given."""
    return {} if value is None else dict(value.as_dict() if hasattr(value, "as_dict") else value)


def blame(key: str, options: dict[str, Any], error: Exception) -> UserError:
    """Name the option that a constructor's message begins with."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = text or type(error).__name__
    if key == "trainer" and _NO_DEVICE.search(text):
        chosen = options.get("accelerator")
        return UserError(
            "trainer.accelerator", f"{chosen!r} is not there on this machine; choose cpu or auto"
        )
    if key == "trainer" and "`Trainer(devices=" in text:
        return UserError(
            "trainer.devices",
            f"{options.get('devices')!r} is no number of devices; give 1 or more, the numbers of "
            "some, as '[0, 1]', or auto",
        )
    if "Expected more than 1 value per channel" in text:
        return UserError(
            "data.batch_size",
            "batch normalisation needs more than one value per channel in a training batch; "
            "give a larger data.batch_size, and enough training images to fill it",
        )
    bare = text.strip().lstrip(_QUOTES)
    first = (bare.split(maxsplit=1) or [""])[0].rstrip(f"{_QUOTES}:,")
    if first in options:
        return UserError("", f"{key}.{first}{bare.removeprefix(first).lstrip(_QUOTES)}")
    forms = ("`{}=", "`Trainer({}=", " for {},")
    named = [name for name in options if any(form.format(name) in text for form in forms)]
    return UserError(f"{key}.{named[0]}" if named else key, text)
