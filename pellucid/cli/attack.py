"""``pellucid attack``: adversarial examples of a trained model, as figures and pictures."""

import argparse
import json
import time
from collections.abc import Sequence
from fractions import Fraction
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
from pellucid.cli.finished import check_least, check_options, make_parser, open_classifier
from pellucid.cli.quiet import quiet
from pellucid.cli.trained import Trained
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
        trained = open_classifier("attack", parsed, extra)
        found = _attack_all(trained, attacks, parsed)
    path = trained.run / "adversarial.json"
    try:
        path.write_text(json.dumps(found, indent=1, allow_nan=False), encoding="utf-8")
    except OSError as error:
        raise UserError("attack", f"cannot write {path}: {error.strerror}") from error
    print(_table(found))
    print(f"\n{path}")


def _parser() -> Parser:
    parser = make_parser(
        "attack", "Small changes of images that change a trained model's prediction.", IMAGES
    )
    add = parser.add_argument
    add("--attacks", nargs="+", default=list(ATTACKS), metavar="NAME", help=", ".join(ATTACKS))
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
    return parser


def _fraction(text: str) -> float:
    try:
        return float(Fraction(text))
    except (ValueError, ArithmeticError):
        raise argparse.ArgumentTypeError(
            f"must be a number such as 0.03 or 8/255, got {text!r}"
        ) from None


def _attacks(parsed: argparse.Namespace) -> list[Attack]:
    """The attacks that are asked for."""
    check_options(parsed)
    check_least(parsed, "generations", 1)
    try:
        check_epsilon(parsed.epsilon)
    except ValueError as error:
        raise UserError("--epsilon", str(error).removeprefix("epsilon ")) from error
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
    network = PixelScores(ClassScores(trained.model), data.mean, data.std).to(parsed.device)
    pixels = network.pixels(images.to(parsed.device))
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
