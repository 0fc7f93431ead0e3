"""What ``evaluate`` and ``attack``, which judge a finished classifier, have in common."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

import torch

from pellucid.cli import Parser
from pellucid.cli.checks import check_data
from pellucid.cli.trained import Trained, open_trained
from pellucid.datamodules.base import Split
from pellucid.errors import UserError

SEEDS = 2**31
"""Seeds are below it: some random numbers come from a seed that is as much larger."""


def make_parser(command: str, description: str, images: int) -> Parser:
    """A parser of the run, and of which images are looked at, how and where.

    Args:
        command: Name of the command.
        description: What it does.
        images: Default number of images.
    """
    parser = Parser(
        prog=f"pellucid {command}",
        description=description,
        epilog="Options of the config, such as --data.root DIR, can follow.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("run", metavar="RUN|CHECKPOINT", type=Path)
    number = f"number of images, evenly spread over the split; default: {images}"
    add("--images", type=int, default=images, help=number)
    add("--split", default="test", help=f"{', '.join(get_args(Split))}; default: test")
    add("--seed", type=int, default=0, help="seed of all that is drawn; default: 0")
    device = "auto, or a device of torch, as cpu or cuda:1; default: auto"
    add("--device", default="auto", help=device)
    add("--config", help="the config, for a checkpoint that does not lie in its run's directory")
    return parser


def check_options(parsed: Namespace) -> None:
    """Check what :func:`make_parser` parses, and choose the device.

    Raises:
        UserError: A number is out of range, or there is no such split or device.
    """
    check_least(parsed, "images", 1)
    check_least(parsed, "seed", 0)
    if parsed.seed >= SEEDS:
        raise UserError("--seed", f"must be below {SEEDS}, got {parsed.seed}")
    if parsed.split not in get_args(Split):
        raise UserError("--split", f"must be one of {', '.join(get_args(Split))}")
    if parsed.device == "auto":
        parsed.device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=parsed.device)
    except (RuntimeError, AssertionError) as error:
        problem = f"{parsed.device!r} cannot be used ({error}); choose cpu or auto"
        raise UserError("--device", problem) from error


def check_least(parsed: Namespace, name: str, least: int) -> None:
    """Check one number.

    Raises:
        UserError: It is below ``least``.
    """
    if (value := getattr(parsed, name)) < least:
        raise UserError(f"--{name}", f"must be at least {least}, got {value}")


def open_classifier(command: str, parsed: Namespace, options: Sequence[str]) -> Trained:
    """The trained model and its data, of which the split is there.

    Args:
        command: Name of the command, for errors.
        parsed: What :func:`make_parser` parses.
        options: Words of the command line that change the config.

    Raises:
        UserError: It cannot be read, or has no classes.
    """
    found = open_trained(command, parsed.run, parsed.config, options)
    check_classes(command, found)
    check_data(found.data, (cast(Split, parsed.split),))
    return found


def check_classes(command: str, trained: Trained) -> None:
    """Check that a model has classes.

    Raises:
        UserError: It has none.
    """
    model = trained.model
    if model.num_codes is not None or not hasattr(model, "num_classes"):
        problem = f"{type(model).__name__} has no classes, so it makes no prediction to look into"
        raise UserError(command, problem)
