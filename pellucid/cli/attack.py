"""``pellucid attack``: adversarial examples of a trained model, as figures and pictures."""

import argparse
import json
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from pellucid.attribution.adversarial.attack import (
    AdversarialExamples,
    Attack,
    PixelScores,
    check_epsilon,
)
from pellucid.attribution.adversarial.attacks import ATTACKS, make_attack
from pellucid.attribution.adversarial.gradient_sign import EPSILON
from pellucid.attribution.method import ClassScores
from pellucid.cli import Parser
from pellucid.cli.checks import check_data
from pellucid.cli.quiet import quiet
from pellucid.cli.trained import Trained, open_trained
from pellucid.datamodules.base import SPLITS
from pellucid.errors import UserError, nearest
from pellucid.latent_pictures import spread_images
from pellucid.report.attack_pictures import draw_adversarial, magnification

IMAGES = 16
SHOWN = 4
"""Images of each attack that are drawn."""
GENERATIONS = 25
"""Of the one-pixel attack, a quarter of the paper's: it looks at 400 images in each."""
VERSION = 1
"""Of the file."""


def attack(words: Sequence[str]) -> None:
    """Attack images of a run, write ``adversarial.json`` and pictures, and print the figures.

    Args:
        words: The words after the command.

    Raises:
        UserError: If an option is wrong, or the run cannot be read.
    """
    parsed, extra = _parser().parse_known_args(list(words))
    attacks = _attacks(parsed)
    with quiet():
        trained = open_trained("attack", parsed.run, parsed.config, extra)
        if trained.model.num_codes is not None or not hasattr(trained.model, "num_classes"):
            problem = f"{type(trained.model).__name__} has no classes whose prediction could change"
            raise UserError("attack", problem)
        check_data(trained.data, (parsed.split,))
        found = _attack_all(trained, attacks, parsed)
    path = trained.run / "adversarial.json"
    try:
        path.write_text(json.dumps(found, indent=1, allow_nan=False), encoding="utf-8")
    except OSError as error:
        raise UserError("attack", f"cannot write {path}: {error.strerror}") from error
    print(_table(found))
    print(f"\n{path}")


def _parser() -> Parser:
    parser = Parser(
        prog="pellucid attack",
        description="Small changes of images that change a trained model's prediction.",
        epilog="Options of the config, such as --data.root DIR, can follow.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("run", metavar="RUN|CHECKPOINT", type=Path)
    add("--attacks", nargs="+", default=list(ATTACKS), metavar="NAME", help=", ".join(ATTACKS))
    add("--images", type=int, default=IMAGES, help=f"number of images; default: {IMAGES}")
    add("--split", choices=SPLITS, default="test", help="where they are from; default: test")
    add(
        "--epsilon",
        type=_fraction,
        default=EPSILON,
        help="largest change of a value by fgsm and pgd, of pixels in [0, 1]; default: 8/255",
    )
    add(
        "--generations",
        type=int,
        default=GENERATIONS,
        help=f"most rounds of one_pixel; default: {GENERATIONS}, the paper's: 100",
    )
    add("--seed", type=int, default=0, help="of what attacks draw; default: 0")
    add("--device", default="cpu", help="cpu, cuda or mps; default: cpu")
    add("--config", help="the config, for a checkpoint that lies outside of its run's directory")
    return parser


def _fraction(text: str) -> float:
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(
            f"must be a number such as 0.03 or 8/255, got {text!r}"
        ) from None


def _attacks(parsed: argparse.Namespace) -> list[Attack]:
    """The attacks that are asked for."""
    if parsed.images < 1:
        raise UserError("--images", f"must be at least 1, got {parsed.images}")
    if parsed.seed < 0:
        raise UserError("--seed", f"must be at least 0, got {parsed.seed}")
    try:
        check_epsilon(parsed.epsilon)
    except ValueError as error:
        raise UserError("--epsilon", str(error).removeprefix("epsilon ")) from error
    if parsed.generations < 1:
        raise UserError("--generations", f"must be at least 1, got {parsed.generations}")
    options: dict[str, dict[str, Any]] = {
        "fgsm": {"epsilon": parsed.epsilon},
        "pgd": {"epsilon": parsed.epsilon, "seed": parsed.seed},
        "lbfgs": {},
        "one_pixel": {"generations": parsed.generations, "seed": parsed.seed},
    }
    for name in parsed.attacks:
        if name not in ATTACKS:
            raise UserError("--attacks", f"there is no {name!r}; {nearest(name, ATTACKS)}")
    try:
        # In their order, each once.
        return [make_attack(name, **options[name]) for name in dict.fromkeys(parsed.attacks)]
    except ValueError as error:
        raise UserError("--attacks", str(error)) from error


def _attack_all(
    trained: Trained, attacks: Sequence[Attack], parsed: argparse.Namespace
) -> dict[str, Any]:
    """What goes into the file; pictures are written on the way."""
    data = trained.data
    indices, images = spread_images(data, parsed.split, parsed.images)
    network = PixelScores(ClassScores(trained.model), data.mean, data.std)
    try:
        network.to(parsed.device)
        images = images.to(parsed.device)
    except (RuntimeError, AssertionError) as error:
        raise UserError("--device", f"{parsed.device!r} cannot be used: {error}") from error
    pixels = network.pixels(images)
    entries = []
    for each in attacks:
        began = time.perf_counter()
        try:
            parts = [each.attack(network, part) for part in torch.split(pixels, data.batch_size)]
        except ValueError as error:
            raise UserError("attack", f"{each.label}: {error}") from error
        found = _joined(parts)
        entries.append(
            {
                "name": each.name,
                "label": each.label,
                "success_rate": found.success_rate,
                "norms": found.norms(),
                "settings": dict(each.settings),
                "seconds": round(time.perf_counter() - began, 3),
                "shown": _draw(each, found, pixels, indices, trained),
            }
        )
    return {
        "version": VERSION,
        "images": len(indices),
        "split": parsed.split,
        "seed": parsed.seed,
        "checkpoint": trained.checkpoint.name,
        "attacks": entries,
    }


def _joined(parts: Sequence[AdversarialExamples]) -> AdversarialExamples:
    def join(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts]).cpu()

    return AdversarialExamples(
        images=join("images"),
        before=join("before"),
        after=join("after"),
        l0=join("l0"),
        l2=join("l2"),
        linf=join("linf"),
    )


def _draw(
    attack: Attack,
    found: AdversarialExamples,
    pixels: Tensor,
    indices: Sequence[int],
    trained: Trained,
) -> list[dict[str, Any]]:
    """Draw a few images, those first whose prediction changed."""
    folder = trained.run / "adversarial"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError("attack", f"cannot make {folder}: {error.strerror}") from error
    names = trained.data.class_names
    order = (~found.success).int().argsort(stable=True)[:SHOWN].tolist()
    shown = []
    for number in order:
        own, fooled = pixels[number].cpu(), found.images[number]
        before, after = (
            names[int(label)] if int(label) < len(names) else f"class {int(label)}"
            for label in (found.before[number], found.after[number])
        )
        file = f"{indices[number]:05d}_{attack.name}.png"
        Image.fromarray(draw_adversarial(own, fooled, before, after)).save(folder / file)
        outcome = f"{before} became {after}" if before != after else f"{before} stayed {after}"
        caption = (
            f"{attack.label}: {outcome}; change magnified {magnification(own, fooled):.3g} times, "
            f"L0 {int(found.l0[number])} pixels, L2 {float(found.l2[number]):.3g}, "
            f"Linf {float(found.linf[number]):.3g} of the image range"
        )
        entry = {"index": indices[number], "file": f"adversarial/{file}", "caption": caption}
        shown.append(entry)
    return shown


def _table(found: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [f"{'attack':<12}{'success':>9}{'L0':>10}{'L2':>10}{'Linf':>10}{'seconds':>10}"]
    for entry in found["attacks"]:
        norms = entry["norms"]
        sizes = (
            f"{norms['l0']:>10.1f}{norms['l2']:>10.4f}{norms['linf']:>10.4f}"
            if norms
            else f"{'-':>10}" * 3
        )
        rate = f"{entry['success_rate']:>9.2f}"
        lines.append(f"{entry['label']:<12}{rate}{sizes}{entry['seconds']:>10.1f}")
    lines.append(
        f"{found['images']} {found['split']} images; L0 in pixels, L2 and Linf in units of the "
        "image range [0, 1], means over the successes"
    )
    return "\n".join(lines)
