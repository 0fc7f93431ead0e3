"""One command of the trainer, from the command line to the files of its run directory."""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException

from pellucid.batch import BatchError
from pellucid.callbacks import CheckMonitors, FiniteLoss, Stopwatch, UnitFigures
from pellucid.checkpoint import check_fits, read_checkpoint, run_directory_of
from pellucid.cli.checks import (
    check_batch_size,
    check_data,
    check_optimisers,
    check_trains,
    describe_weights,
)
from pellucid.cli.memory import keep_freed_memory
from pellucid.cli.options import PellucidCLI, as_dict, blame
from pellucid.cli.predictions import write_predictions
from pellucid.cli.quiet import quiet
from pellucid.cli.results import summarise, write_results
from pellucid.confusion import TestConfusion
from pellucid.dashboards import best_of_history, hand_over
from pellucid.datamodules.base import ImageDataModule, Split
from pellucid.errors import RunFailure, UserError, brief
from pellucid.latent_pictures import LatentPictures, save_latents
from pellucid.logging import log_image, make_loggers
from pellucid.models.base import InterpretableModel
from pellucid.resume import Checkpoint, RunState

_RUN_DIRECTORY = "PELLUCID_RUN_DIRECTORY"

UNITS_ON_DASHBOARD = 16

# What a command needs of the data; all of it is made before training starts.
_SPLITS: dict[str, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "run": ("train", "val", "test", "all"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("test",),
}

_TRAINING = ("fit", "run")


def run_command(command: str, words: Sequence[str]) -> None:
    """Run ``fit``, ``run``, ``validate``, ``test`` or ``predict``.

    Args:
        command: Which.
        words: The words after it.

    Raises:
        UserError: If an option, a class, a file or a value is wrong.
        RunFailure: If the loss was not finite, or memory ran out.
    """
    with quiet():
        cli = PellucidCLI(command, words)
        if trains := command in _TRAINING:
            keep_freed_memory()
            check_trains(as_dict(cli.config.trainer))
            check_optimisers(cli.model, as_dict(cli.config.trainer))
        wanted = [split for split in _SPLITS[command] if split != "all" or cli.model.tests_all]
        check_data(cli.datamodule, wanted)
        if trains:
            check_batch_size(cli.model, cli.datamodule)
        checkpoint = cli.config.ckpt_path
        if checkpoint is not None:
            content = read_checkpoint(checkpoint)
            check_fits(content, cli.model, cli.datamodule)
            # Its images were normalised as its first weights wanted, whatever is given now.
            cli.model.on_load_checkpoint(content)
            cli.normalise_for(cli.model)
        Run(cli).start()


class Run:
    """A run directory and what is written into it.

    Args:
        cli: The parsed options with data and model.
    """

    def __init__(self, cli: PellucidCLI) -> None:
        self.cli, self.command, config = cli, cli.command, cli.config
        self.trains = self.command in _TRAINING
        if config.experiment is None:
            config.experiment = cli.given.experiment() or type(cli.model).__name__.lower()
        self.experiment: str = config.experiment
        if Path(self.experiment).name != self.experiment or self.experiment == "..":
            problem = f"{self.experiment!r} must be the name of a directory, without any '/'"
            raise UserError("experiment", problem)
        checkpoint = config.ckpt_path
        self.resumed = run_directory_of(checkpoint) if checkpoint and self.trains else None
        self.directory = self.resumed or self._choose_directory(Path(config.run_root))
        folder = self.directory / "checkpoints"
        monitor, mode = config.monitor or cli.model.monitor, config.mode or cli.model.mode
        self.best = Checkpoint(folder, "best", monitor, mode)
        self.last = Checkpoint(folder, "last")
        self.stopwatch, self.units = Stopwatch(), UnitFigures()
        self.confusion = TestConfusion()
        callbacks: list[Callback] = []
        if self.trains:
            callbacks = [RunState(self.resumed is not None), FiniteLoss(), CheckMonitors()]
            pictures = LatentPictures(config.pictures.every_n_epochs)
            callbacks += [self.stopwatch, self.units, self.confusion, pictures]
            callbacks += [self.best, self.last]
        try:
            loggers = make_loggers(config.logger, self.directory, self.experiment)
            self.trainer = cli.make_trainer(callbacks, loggers)
        except UserError:
            self._remove_if_empty()
            raise

    def _choose_directory(self, root: Path) -> Path:
        """A directory that no other run has; the first process chooses for all."""
        chosen = os.environ.get(_RUN_DIRECTORY)
        if chosen and os.environ.get("LOCAL_RANK", "0") != "0":
            return Path(chosen)
        stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        parent = (root / self.experiment).resolve()
        if int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) > 0:
            # Started by torchrun or SLURM: the first process makes it, this one writes nothing.
            return parent / stamp
        number = 1
        while True:
            path = parent / (stamp if number == 1 else f"{stamp}-{number}")
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                number += 1
            except OSError as error:
                raise UserError("run_root", f"cannot make {path}: {error.strerror}") from error
            else:
                os.environ[_RUN_DIRECTORY] = str(path)
                return path

    def _remove_if_empty(self) -> None:
        with suppress(OSError):
            self.directory.rmdir()
            self.directory.parent.rmdir()

    def start(self) -> None:
        """Do what the command says, and turn what can go wrong into one line."""
        try:
            if self.trainer.is_global_zero:
                text = yaml.safe_dump(self.cli.complete_config(), sort_keys=False)
                (self.directory / "config.yaml").write_text(text, encoding="utf-8")
            self._say(f"{self.command}: {self.directory}")
            new = self.trains and self.cli.config.ckpt_path is None
            if (weights := describe_weights(self.cli.model, new=new)) is not None:
                self._say(weights)
            getattr(self, f"_{self.command}")()
        except (UserError, BatchError) as error:
            self._discard()
            if isinstance(error, BatchError):
                raise UserError("data", str(error)) from error
            raise
        except (ValueError, TypeError, NotImplementedError, MisconfigurationException) as error:
            if self.stopwatch.images or not self.trains:
                raise
            # Lightning and the model check some options only when a fit begins.
            self._discard()
            raise blame("trainer", as_dict(self.cli.config.trainer), error) from error
        except torch.OutOfMemoryError as error:
            raise RunFailure(
                f"out of memory: a smaller data.batch_size may fit. {brief(str(error))}"
            ) from error
        except SIGTERMException:
            self._say_how_to_go_on()
            raise SystemExit(128 + signal.SIGTERM) from None
        except SystemExit:
            # Lightning ends the process so after Ctrl-C.
            self._say_how_to_go_on()
            raise KeyboardInterrupt from None
        except KeyboardInterrupt:
            self._say_how_to_go_on()
            raise
        finally:
            os.environ.pop(_RUN_DIRECTORY, None)

    def _discard(self) -> None:
        """Leave no directory behind where training never began."""
        if self.trainer.is_global_zero and self.resumed is None and self.trainer.global_step == 0:
            (self.directory / "config.yaml").unlink(missing_ok=True)
            self._remove_if_empty()

    def _say(self, text: str) -> None:
        if self.trainer.is_global_zero:
            print(text, flush=True)

    def _say_how_to_go_on(self) -> None:
        if not self.trains or not self.last.path.is_file():
            self._say("\nstopped before the first epoch was complete; nothing to go on from")
            return
        config, last = self.directory / "config.yaml", self.last.path
        self._say(f"\nstopped; {last} is kept. To go on:")
        self._say(f"  pellucid {self.command} --config {config} --ckpt_path {last}")

    @property
    def _checkpoint(self) -> dict[str, Any]:
        path = self.cli.config.ckpt_path
        return {"ckpt_path": path, "weights_only": True if path else None}

    def _fit(self) -> None:
        self.trainer.fit(self.cli.model, self.cli.datamodule, **self._checkpoint)
        if self.best.path.is_file():
            self._say(f"best checkpoint: {self.best.path}")

    def _validate(self) -> None:
        self._measure("validate")

    def _test(self) -> None:
        figures = self._measure("test")
        if self.trainer.is_global_zero:
            self.cli.model.code_scores.save(self.directory)
            path = write_results(self.directory, self.cli, figures, self.stopwatch)
            self._say(f"results: {path}")

    def _measure(self, how: str) -> dict[str, float]:
        self._warn_of_devices()
        measure = getattr(self.trainer, how)
        measure(self.cli.model, self.cli.datamodule, verbose=False, **self._checkpoint)
        found = _figures(self.trainer)
        self._say(summarise(found, self.cli.model.skipped_metrics))
        return found

    def _warn_of_devices(self) -> None:
        if self.trainer.world_size > 1:
            self._say(
                f"note: tested on {self.trainer.world_size} devices, which count some images twice;"
                " figures to publish come from one device (--trainer.devices 1)"
            )

    def _predict(self) -> None:
        predictions: Any = self.trainer.predict(
            self.cli.model, self.cli.datamodule, **self._checkpoint
        )
        path = self.directory / "predictions.csv"
        what = write_predictions(path, predictions, self.cli.datamodule.class_names)
        self._say(f"{what}: {path}")

    def _run(self) -> None:
        self._fit()
        model, data, trainer = self.cli.model, self.cli.datamodule, self.trainer
        self._warn_of_devices()
        best: dict[str, Any] = {}
        if self.best.path.is_file() and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            best = {"ckpt_path": str(self.best.path), "weights_only": True}
        trainer.test(model, data, verbose=False, **best)
        figures = _figures(trainer)
        tested = int(sum(trainer.num_test_batches)) * data.batch_size
        if model.tests_all:
            with model.testing_on("all"):
                trainer.test(model, data.dataloader("all"), verbose=False)
            figures |= _figures(trainer)
        figures |= self.units.counts
        if not trainer.is_global_zero:
            return
        # Weights in half precision (bf16-true) do not take images that come without a trainer.
        model.float()
        figures |= self._look_closer(tested)
        model.code_scores.save(self.directory)
        self.confusion.save(self.directory, data.class_names)
        write_results(self.directory, self.cli, figures, self.stopwatch)
        self._say(summarise(figures, model.skipped_metrics))
        self._write_report(model, data)
        self._hand_over(figures)

    def _look_closer(self, tested: int) -> dict[str, float]:
        """Figures that want the network to look at changed test images."""
        from pellucid.analysis.bias import evaluate_bias, is_confounded

        model, data = self.cli.model, self.cli.datamodule
        device = self.trainer.strategy.root_device
        found = model.map_metrics.perturb(model, data, device, tested)
        figures = {f"test/{name}": value for name, value in found.items()}
        if is_confounded(data) and model.num_codes is None and hasattr(model, "num_classes"):
            # What the test itself has found stays.
            bias = evaluate_bias(model, cast(Any, data), tested, device)
            bias["confounded/accuracy"] = bias.pop("test/accuracy")
            figures |= bias
        return figures

    def _write_report(self, model: InterpretableModel, data: ImageDataModule) -> None:
        from pellucid.analysis.unit_state import NonFiniteMaps
        from pellucid.report.page import build_report

        image = next(iter(data.dataloader("test")))["image"][:1]
        explanation = model.unit_metrics.explain(model.eval().cpu(), image)
        if explanation.maps is not None:
            try:
                self._draw_units(model, data)
            except NonFiniteMaps as error:
                # The figures are there, and the page says what they are worth.
                self._say(f"note: no pictures of units: {error}")
        if explanation.traversals is not None:
            save_latents(model, data, self.directory)
        report = build_report([self.directory])
        self._say(f"results: {self.directory / 'results.json'}\nreport:  {report}")

    def _draw_units(self, model: InterpretableModel, data: ImageDataModule) -> None:
        """What units fire at and vote for, into the run and onto the dashboards."""
        from pellucid.analysis.categories import unit_categories
        from pellucid.analysis.units import collect_units
        from pellucid.head_pictures import save_heads_of
        from pellucid.report.categories import save_categories
        from pellucid.report.drawing import contact_sheet
        from pellucid.report.unit_pictures import draw_strongest, save_units

        shown = self.trainer.progress_bar_callback is not None
        units = collect_units(
            model,
            data.dataloader("test"),
            mean=data.mean,
            std=data.std,
            class_names=data.class_names,
            device=self.trainer.strategy.root_device,
            progress=shown,
        )
        per_unit = self.units.figures.get("test")
        save_heads_of(model, data, self.directory)
        found = unit_categories(model, units.class_activation, data.class_names)
        parts, folder = data.part_names, self.directory
        concepts = self.units.concepts
        save_units(
            units, folder, per_unit, parts, concepts=concepts, categories=found, progress=shown
        )
        if found is not None:
            picture = save_categories(found, folder)
            log_image(self.trainer, "test/categories", picture, "votes of units for classes")
        shown_units = range(min(len(units.peaks), UNITS_ON_DASHBOARD))
        strips = [draw_strongest(units, unit, columns=None) for unit in shown_units]
        caption = "strongest test images of the first units, one unit a row"
        log_image(self.trainer, "test/units", contact_sheet(strips, columns=1), caption)

    def _hand_over(self, figures: dict[str, float]) -> None:
        """Tables, best figures and the report to the dashboards, if there are any."""
        from pellucid.report.glossary import figure
        from pellucid.report.settings import read_settings

        better = {"higher": "max", "lower": "min"}
        keys = [f"val/{key.partition('/')[2]}" for key in figures if key.startswith("test/")]
        modes = {key: better[b] for key in keys if (b := figure(key).better) is not None}
        if self.best.monitor and self.best.mode:
            modes[self.best.monitor] = self.best.mode
        config = (self.directory / "config.yaml").read_text(encoding="utf-8")
        best = best_of_history(self.directory / "metrics.csv", modes)
        hand_over(self.trainer.loggers, self.directory, figures, read_settings(config), best)


def _figures(trainer: Trainer) -> dict[str, float]:
    return {key: float(value) for key, value in trainer.callback_metrics.items()}
