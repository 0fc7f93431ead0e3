"""The command ``evaluate``: explanations side by side, as a table, a file and pictures."""

import json
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.data import default_collate

from pellucid.analysis.overview import (
    Overview,
    look_over,
    pick_for_units,
    pick_images,
    spread,
)
from pellucid.attribution.baselines import BASELINES
from pellucid.attribution.evaluation import (
    OwnExplanation,
    Settings,
    Subject,
    evaluate_explanations,
    make_subject,
)
from pellucid.attribution.evaluation.maps import explain_images
from pellucid.attribution.method import AttributionMethod, ClassScores
from pellucid.attribution.methods import METHODS, make_method
from pellucid.batch import Batch
from pellucid.cli import Parser
from pellucid.cli.finished import (
    check_classes,
    check_least,
    check_options,
    make_parser,
    open_classifier,
)
from pellucid.cli.quiet import quiet
from pellucid.cli.results import versions
from pellucid.cli.shown import draw_picked
from pellucid.cli.trained import Trained, open_trained
from pellucid.dashboards import hand_over_explanations
from pellucid.datamodules.base import ImageDataModule, Split
from pellucid.errors import UserError, nearest
from pellucid.logging import reopen_loggers
from pellucid.report.explanation_table import text_evaluation
from pellucid.report.page import build_report

FILE = "explanations.json"
VERSION = 1
IMAGES, SHOWN = 64, 6
PICKED_FROM = 256
"""Images of which a post-hoc method picks, which looks at each of them many times."""
DEFAULT_METHODS = (
    "own",
    "saliency",
    "input_x_gradient",
    "guided_backprop",
    "smooth_grad",
    "integrated_gradients",
    "deep_lift",
    "grad_cam",
    "occlusion",
)
"""Those that take a minute or two for the default number of images; LIME's thousand looks at each
image would take longer than all of them."""
_JUDGED_BY = frozenset({"mask", "part_masks", "attention", "index", "image"})


def evaluate(words: Sequence[str]) -> None:
    """Judge a model's own explanation beside post-hoc ones, and write ``explanations.json``.

    Args:
        words: The words after the command.

    Raises:
        UserError: A run, a method or an option cannot be used.
    """
    parsed, extra = _parser().parse_known_args(list(words))
    check_options(parsed)
    check_least(parsed, "show", 0)
    methods, without = _methods(parsed.methods, parsed.explainer)
    pick_by = _pick_by(parsed.pick_by, parsed.explainer)
    with quiet():
        trained = open_classifier("evaluate", parsed, extra)
        twin = None if parsed.twin is None else open_trained("--twin", parsed.twin)
        _check_models(trained, twin)
        output = parsed.output or trained.run
        path = output / FILE
        try:
            # Before minutes of work, not after them.
            output.mkdir(parents=True, exist_ok=True)
            found = _evaluate(trained, twin, methods, pick_by, parsed, output)
            found["skipped"] |= without
            path.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError("--output", f"cannot write to {output}: {error.strerror}") from error
        page = None if parsed.output else _show(trained.run)
    width = max(80, shutil.get_terminal_size((100, 24)).columns)
    text = text_evaluation(found, width)
    # A terminal that has no arrows shows question marks in their place.
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding))
    print(f"\nexplanations: {path}")
    if found["shown"]:
        print(f"pictures:     {output / 'explanations' / 'overview.png'}")
    if page is not None:
        print(f"report:       {page}")


def _show(run: Path) -> Path | None:
    """Make the page of a run anew, and bring its dashboards up to date; None: it is no run."""
    if not (run / "config.yaml").is_file():
        return None
    page = build_report([run])
    loggers = reopen_loggers(run)
    hand_over_explanations(loggers, run)
    for logger in loggers:
        logger.finalize("success")
    if any("Wandb" in type(logger).__name__ for logger in loggers):
        import wandb

        wandb.finish()
    return page


def _parser() -> Parser:
    parser = make_parser(
        "evaluate",
        "Judge a model's own explanation beside post-hoc ones, on the same images.",
        IMAGES,
    )
    add = parser.add_argument
    add(
        "--methods",
        nargs="+",
        default=[name for name in DEFAULT_METHODS if name == "own" or name in METHODS],
        metavar="NAME",
        help=f"own, all, or any of {', '.join(METHODS)}; default: {' '.join(DEFAULT_METHODS)}",
    )
    add("--show", type=int, default=SHOWN, help="images to draw, picked from the whole split")
    add(
        "--pick_by",
        default="own",
        metavar="NAME",
        help=f"whose explanations pick them: own (default), or a method, of {PICKED_FROM} images",
    )
    add("--twin", type=Path, metavar="RUN", help="a plain network's run, explained after the fact")
    add("--explainer", metavar="RUN", help="a run of L2X that was trained for this one, for l2x")
    add("--output", type=Path, help="directory; default: the run")
    return parser


def _methods(
    names: Sequence[str], explainer: str | None
) -> tuple[list[AttributionMethod], dict[str, str]]:
    """The methods, each once; baselines are always there, and need not be named.

    Of ``all``, those that cannot be made are left out, with the reason.
    """
    chosen = ["own", *METHODS] if "all" in names else names
    found: list[AttributionMethod] = []
    without: dict[str, str] = {}
    for name in dict.fromkeys(chosen):
        if name == "own":
            found.append(OwnExplanation())
        elif name in METHODS:
            try:
                found.append(_make(name, explainer))
            except (ImportError, ValueError) as error:
                if name in names:
                    raise UserError("--methods", f"{name}: {error}") from error
                without[name] = str(error)
        elif name not in BASELINES:
            allowed = ["own", "all", *METHODS]
            raise UserError("--methods", f"no method {name!r}; {nearest(name, allowed)}")
    return found, without


def _make(name: str, explainer: str | None) -> AttributionMethod:
    options: dict[str, Any] = {"explainer": explainer} if name == "l2x" and explainer else {}
    return make_method(name, **options)


def _pick_by(name: str, explainer: str | None) -> AttributionMethod | None:
    """The method whose explanations pick images; None: the model's own do."""
    if name == "own":
        return None
    if name not in METHODS:
        raise UserError("--pick_by", f"no method {name!r}; {nearest(name, ['own', *METHODS])}")
    try:
        return _make(name, explainer)
    except (ImportError, ValueError) as error:
        raise UserError("--pick_by", f"{name}: {error}") from error


def _heat_by(method: AttributionMethod, network: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """Heat maps (B, h, w) of images and targets by a method, which must not fail."""

    def heat(image: Tensor, target: Tensor) -> Tensor:
        maps = explain_images(method, network, image, target)
        if maps.heat is None:
            raise UserError("--pick_by", f"{method.name} {maps.note}")
        return maps.heat

    return heat


def _check_models(trained: Trained, twin: Trained | None) -> None:
    if twin is None:
        return
    check_classes("--twin", twin)
    ours, theirs = trained.data, twin.data
    for what, one, other in (
        ("classes", list(ours.class_names), list(theirs.class_names)),
        ("image_size", ours.image_size, theirs.image_size),
        ("number of channels", len(ours.mean), len(theirs.mean)),
    ):
        if one != other:
            problem = f"{twin.run} has {what} {other}, the run has {one}: they cannot be compared"
            raise UserError("--twin", problem)


def _evaluate(
    trained: Trained,
    twin: Trained | None,
    methods: Sequence[AttributionMethod],
    pick_by: AttributionMethod | None,
    parsed: Namespace,
    output: Path,
) -> dict[str, Any]:
    """All that ``explanations.json`` holds; the pictures are written."""
    start, progress = time.perf_counter(), sys.stderr.isatty()
    data, split = trained.data, cast(Split, parsed.split)
    length = len(data.dataset(split))
    batch = _batch(data, split, spread(length, parsed.images), parsed.device)
    subjects = _subjects(trained, twin, batch["image"], parsed.device)
    reason = _why_not_own(methods, trained, subjects[0])
    chosen = [each for each in methods if not (reason and isinstance(each, OwnExplanation))]
    # Before the table, since a method that cannot pick is found here.
    overview = look_over(trained.model, data, split, device=parsed.device, progress=progress)
    source = overview
    if pick_by is not None:
        heat = _heat_by(pick_by, subjects[0].network)
        source = look_over(
            trained.model,
            data,
            split,
            heat=heat,
            limit=PICKED_FROM,
            device=parsed.device,
            progress=progress,
        )
    settings = Settings(seed=parsed.seed)
    table = evaluate_explanations(
        subjects, chosen, batch, data, split=split, settings=settings, progress=progress
    )
    if reason:
        table.skipped["own"] = reason
    if parsed.images > length:
        table.skipped["more images"] = (
            f"{parsed.images} were asked for, the {split} split has {length}"
        )
    picked, why = pick_images(source, parsed.show)
    shown = draw_picked(data, split, picked, why, subjects, chosen, table, output)
    return {
        "version": VERSION,
        "images": table.images,
        "split": split,
        "seed": parsed.seed,
        "checkpoint": trained.checkpoint.name,
        "versions": versions(),
        "seconds": round(time.perf_counter() - start, 3),
        "target": "predicted class",
        "picked_by": parsed.pick_by,
        **table.as_dict(),
        "shown": shown,
        **({} if twin is None else {"twin": {"name": _name(twin), "run": twin.run.name}}),
        **_units(overview),
    }


def _subjects(trained: Trained, twin: Trained | None, image: Tensor, device: Any) -> list[Subject]:
    """The run's network, and the twin's."""
    found = [make_subject(ClassScores(trained.model.to(device)), image)]
    if twin is not None:
        adapt = _renormalise(trained.data, twin.data)
        network = ClassScores(twin.model.to(device))
        found.append(make_subject(network, image, name=_name(twin), adapt=adapt))
    return found


def _units(overview: Overview) -> dict[str, Any]:
    """Representative and surprising images of each unit, where the model has units."""
    units = pick_for_units(overview)
    if units is None:
        return {}
    pairs = enumerate(zip(units.representative, units.surprising, strict=True))
    return {
        "units": {
            str(unit): {"representative": typical, "surprising": odd}
            for unit, (typical, odd) in pairs
        }
    }


def _name(twin: Trained) -> str:
    """What the twin's rows are called: its experiment, without what the table's keys are cut at."""
    return twin.run.resolve().parent.name.replace("/", "-") or "twin"


def _batch(data: ImageDataModule, split: Split, places: Sequence[int], device: Any) -> Batch:
    dataset = data.dataset(split)
    items: Any = default_collate([dataset[place] for place in places])
    batch = {name: value.to(device) for name, value in items.items() if name in _JUDGED_BY}
    # Where an image is repeated, its index is that of the first; drawing anew wants its own.
    batch["index"] = torch.tensor(places)
    return cast(Batch, batch)


def _why_not_own(methods: Sequence[AttributionMethod], trained: Trained, subject: Subject) -> str:
    """Why the model's own explanation, though asked for, is no row; empty if it is one."""
    if not any(isinstance(each, OwnExplanation) for each in methods):
        return ""
    with torch.no_grad():
        found = trained.model.explain({"image": subject.image[:1]})
    none = found.heat_map() is None
    return f"{type(trained.model).__name__} explains by no map" if none else ""


def _renormalise(ours: ImageDataModule, theirs: ImageDataModule) -> Callable[[Tensor], Tensor]:
    """Makes images as another run normalised them of images as this one does."""

    def adapt(image: Tensor) -> Tensor:
        mean, std, mean_there, std_there = (
            rearrange(torch.tensor(list(each)).to(image), "c -> c 1 1")
            for each in (ours.mean, ours.std, theirs.mean, theirs.std)
        )
        return (image * std + mean - mean_there) / std_there

    same = (tuple(ours.mean), tuple(ours.std)) == (tuple(theirs.mean), tuple(theirs.std))
    # Rounding would make another network of the same one.
    return (lambda image: image) if same else adapt
