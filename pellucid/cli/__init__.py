"""The command line: which command, and what becomes of its errors.

Only the standard library is imported here, so that ``pellucid configs ls`` answers at once; what a
command needs is imported when it runs.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from pellucid.errors import RunFailure, UserError, brief, nearest

TRAINER_COMMANDS = {
    "fit": "train a model",
    "run": "train, test the best checkpoint, write results.json and report.html",
    "validate": "measure a model on the validation split",
    "test": "measure a model on the test split, write results.json",
    "predict": "write a model's scores of the test split to predictions.csv",
}
COMMANDS = {
    **TRAINER_COMMANDS,
    "explain": "draw a trained model's own explanation of images",
    "attack": "look for small changes of images that change a trained model's prediction",
    "evaluate": "judge a model's explanations beside post-hoc ones, on the same images",
    "report": "write the page of one run, or the comparison of several",
    "sweep": "run a grid of settings one after the other, then report on all of them",
    "configs": "list the shipped configs (ls), or copy one (cp NAME)",
}

USAGE = """\
usage: pellucid COMMAND [options]

{commands}

  pellucid run --config icnn_parts                       a shipped experiment
  pellucid run --config mine.yaml --config logger/wandb  any number of files, the last one wins
  pellucid run --config icnn_parts --model.lr 1e-3 --trainer.max_epochs 5 --seed_everything 1
  pellucid fit --help                                    all options of a command
"""


def configs_directory() -> Path:
    """Where the shipped configs are: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def shipped_configs() -> dict[str, Path]:
    """Shipped configs by name: ``icnn_parts`` for an experiment, ``logger/wandb`` for a part."""
    root = configs_directory()
    return {
        path.stem if path.parent.name == "experiments" else f"{path.parent.name}/{path.stem}": path
        for path in sorted(root.glob("*/*.yaml"))
        if path.parent.name != "sweeps"
    }


def shipped_sweeps() -> dict[str, Path]:
    """Shipped sweeps by name, as ``sweeps/icnn_tradeoff``."""
    paths = sorted((configs_directory() / "sweeps").glob("*.yaml"))
    return {f"sweeps/{path.stem}": path for path in paths}


def find_config(name: str) -> Path:
    """The file of a config that is named by its path or by the name of a shipped one.

    Raises:
        UserError: If there is neither; names the nearest shipped one.
    """
    shipped = shipped_configs()
    if Path(name).is_file():
        return Path(name)
    if (short := name.removesuffix(".yaml")) in shipped:
        return shipped[short]
    if Path(name).is_dir() and (Path(name) / "config.yaml").is_file():
        return Path(name) / "config.yaml"
    raise UserError("--config", f"no file and no shipped config {name!r}; {nearest(name, shipped)}")


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: Words of the command line; None: those of the process.

    Raises:
        SystemExit: With status 2 if the user's input is wrong, 1 if a run failed, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if args is None else args)
    try:
        _dispatch(words)
    except UserError as error:
        _fail(str(error), 2, error)
    except RunFailure as error:
        _fail(str(error), 1, error)
    except BrokenPipeError:
        # The reader of a pipe, such as head, has seen enough; nothing more can be written to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        # Where a run was under way, it has already said how to go on.
        raise SystemExit(130) from None


def _fail(message: str, status: int, error: Exception) -> None:
    if os.environ.get("PELLUCID_DEBUG") == "1":
        raise error
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"pellucid: {brief(message)}", file=sys.stderr)
    raise SystemExit(status) from None


def _dispatch(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE.format(commands="\n".join(f"  {n:<9} {what}" for n, what in COMMANDS.items())))
        raise SystemExit(0 if words else 2)
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"pellucid {version('pellucid')}")
        return
    command, rest = words[0], words[1:]
    if command in TRAINER_COMMANDS:
        from pellucid.cli.run import run_command

        run_command(command, rest)
    elif command == "explain":
        from pellucid.cli.commands import explain

        explain(rest)
    elif command == "attack":
        from pellucid.cli.attack import attack

        attack(rest)
    elif command == "evaluate":
        from pellucid.cli.evaluate import evaluate

        evaluate(rest)
    elif command == "report":
        from pellucid.cli.commands import report

        report(rest)
    elif command == "sweep":
        from pellucid.cli.sweep import sweep

        sweep(rest)
    elif command == "configs":
        _configs(rest)
    else:
        raise UserError(
            "command",
            f"{command!r} is not one of {', '.join(COMMANDS)}; {nearest(command, COMMANDS)}",
        )


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are :class:`UserError`, without the usage before them."""

    def error(self, message: str) -> None:  # type: ignore[override]
        """Raise instead of exit."""
        raise UserError(self.prog, f"{message}; see {self.prog} --help")


def _configs(words: list[str]) -> None:
    parser = Parser(prog="pellucid configs", description="The shipped configs.")
    actions = parser.add_subparsers(dest="action", required=True, parser_class=Parser)
    actions.add_parser("ls", help="list them")
    copy = actions.add_parser("cp", help="copy one, to change it")
    copy.add_argument("name")
    copy.add_argument("destination", nargs="?", default=".", type=Path)
    parsed = parser.parse_args(words)
    shipped = shipped_configs() | shipped_sweeps()
    if parsed.action == "ls":
        width = max((len(name) for name in shipped), default=0)
        for name, path in sorted(shipped.items(), key=lambda item: ("/" in item[0], item[0])):
            print(f"{name:<{width}}  {_header(path)}")
        return
    if parsed.name not in shipped:
        raise UserError("configs cp", f"no config {parsed.name!r}; {nearest(parsed.name, shipped)}")
    source, target = shipped[parsed.name], parsed.destination
    if target.is_dir():
        target = target / source.name
    if target.exists():
        raise UserError("configs cp", f"{target} exists already; give another destination")
    if not target.parent.is_dir():
        raise UserError("configs cp", f"no directory {target.parent}; make it first")
    shutil.copyfile(source, target)
    how = "sweep" if source.parent.name == "sweeps" else "run --config"
    print(f"{target}  (pellucid {how} {target})")


def _header(path: Path) -> str:
    """First line of a config's header, without the comment sign."""
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""
