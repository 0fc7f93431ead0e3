"""The command ``evaluate``: explanations side by side, as a table, a file and pictures."""

import json
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import torch
from einops import rearrange
from torch import Tensor
from torch.utils.data import default_collate

from pellucid.analysis.overview import look_over, pick_for_units, pick_images, spread
from pellucid.analysis.units import denormalise
from pellucid.attribution.baselines import BASELINES
from pellucid.attribution.evaluation import (
    Evaluation,
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
from pellucid.cli.checks import check_data
from pellucid.cli.quiet import quiet
from pellucid.cli.results import versions
from pellucid.cli.trained import Trained, open_trained
from pellucid.datamodules.base import ImageDataModule, Split
from pellucid.errors import UserError, nearest
from pellucid.report.explanation_pictures import Shown, ShownImage, save_shown
from pellucid.report.explanation_table import text_evaluation

FILE = "explanations.json"
VERSION = 1
IMAGES, SHOWN = 64, 6
DEFAULT_METHODS = (
    "own",
    "saliency",
    "input_x_gradient",
    "smooth_grad",
    "integrated_gradients",
    "deep_lift",
    "grad_cam",
    "occlusion",
    "lime",
)
_OF_MODEL = frozenset({"mask", "part_masks", "attention", "index", "image"})


def evaluate(words: Sequence[str]) -> None:
    """Judge a model's own explanation beside post-hoc ones, and write ``explanations.json``.

    Args:
        words: The words after the command.

    Raises:
        UserError: A run, a method or an option cannot be used.
    """
    parsed, extra = _parser().parse_known_args(list(words))
    _check(parsed)
    methods = _methods(parsed.methods)
    with quiet():
        trained = open_trained("evaluate", parsed.run, parsed.config, extra)
        twin = None if parsed.twin is None else open_trained("--twin", parsed.twin)
        _check_models(trained, twin)
        output = parsed.output or trained.run
        found = _evaluate(trained, twin, methods, parsed, output)
        path = output / FILE
        path.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    width = max(80, shutil.get_terminal_size((100, 24)).columns)
    text = text_evaluation(found, width)
    # A terminal that has no arrows shows question marks in their place.
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding))
    print(f"\nexplanations: {path}")
    if found["shown"]:
        print(f"pictures:     {output / 'explanations' / 'overview.png'}")


def _parser() -> Parser:
    parser = Parser(
        prog="pellucid evaluate",
        description="Judge a model's own explanation beside post-hoc ones, on the same images.",
        epilog="Options of the config, such as --data.root DIR, can follow.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("run", metavar="RUN|CHECKPOINT", type=Path)
    add(
        "--methods",
        nargs="+",
        default=[name for name in DEFAULT_METHODS if name == "own" or name in METHODS],
        metavar="NAME",
        help=f"own, all, or any of {', '.join(METHODS)}; default: {' '.join(DEFAULT_METHODS)}",
    )
    add("--images", type=int, default=IMAGES, help="images to judge, evenly spread; default: 64")
    add("--split", default="test", help="train, val, test or all; default: test")
    add("--seed", type=int, default=0, help="seed of all that is drawn; default: 0")
    add("--show", type=int, default=SHOWN, help="images to draw, picked from the whole split")
    add("--twin", type=Path, metavar="RUN", help="a plain network's run, explained after the fact")
    add("--device", default="auto", help="auto, or a device of torch, as cpu or cuda:1")
    add("--output", type=Path, help="directory; default: the run")
    add("--config", help="the config, for a checkpoint that does not lie in its run's directory")
    return parser


def _check(parsed: Namespace) -> None:
    for name, least in (("images", 1), ("seed", 0), ("show", 0)):
        if (value := getattr(parsed, name)) < least:
            raise UserError(f"--{name}", f"must be at least {least}, got {value}")
    if parsed.split not in get_args(Split):
        raise UserError("--split", f"must be one of {', '.join(get_args(Split))}")
    if parsed.device == "auto":
        parsed.device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=parsed.device)
    except (RuntimeError, AssertionError) as error:
        problem = f"{parsed.device!r} cannot be used ({error}); choose cpu or auto"
        raise UserError("--device", problem) from error


def _methods(names: Sequence[str]) -> list[AttributionMethod]:
    """The methods, each once; baselines are always there, and need not be named."""
    if "all" in names:
        names = ["own", *METHODS]
    found: list[AttributionMethod] = []
    for name in dict.fromkeys(names):
        if name == "own":
            found.append(OwnExplanation())
        elif name in METHODS:
            try:
                found.append(make_method(name))
            except ImportError as error:
                raise UserError("--methods", f"{name}: {error}") from error
        elif name not in BASELINES:
            allowed = ["own", "all", *METHODS]
            raise UserError("--methods", f"no method {name!r}; {nearest(name, allowed)}")
    return found


def _check_models(trained: Trained, twin: Trained | None) -> None:
    for each in (trained, twin):
        if each is not None and not hasattr(each.model, "num_classes"):
            problem = f"{type(each.model).__name__} has no classes, so there is nothing to explain"
            raise UserError("evaluate", problem)
    if twin is None:
        return
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
    parsed: Namespace,
    output: Path,
) -> dict[str, Any]:
    """All that ``explanations.json`` holds; the pictures are written."""
    start = time.perf_counter()
    data, split = trained.data, cast(Split, parsed.split)
    check_data(data, (split,))
    dataset = data.dataset(split)
    places = spread(len(dataset), parsed.images)
    batch = _batch(data, split, places, parsed.device)
    networks: list[tuple[Any, str, Callable[[Tensor], Tensor] | None]] = [
        (ClassScores(trained.model.to(parsed.device)), "", None)
    ]
    if twin is not None:
        adapt = _renormalise(data, twin.data)
        networks.append((ClassScores(twin.model.to(parsed.device)), _name(twin), adapt))
    subjects = [make_subject(n, batch["image"], name=name, adapt=a) for n, name, a in networks]
    own, reason = _own(methods, trained, subjects[0])
    chosen = [each for each in methods if own or not isinstance(each, OwnExplanation)]
    progress = sys.stderr.isatty()
    settings = Settings(seed=parsed.seed)
    table = evaluate_explanations(
        subjects, chosen, batch, data, split=split, settings=settings, progress=progress
    )
    if reason:
        table.skipped["own"] = reason
    if parsed.images > len(dataset):
        table.skipped["more images"] = (
            f"{parsed.images} were asked for, the {split} split has {len(dataset)}"
        )
    overview = look_over(trained.model, data, split, device=parsed.device, progress=progress)
    picked, reasons = pick_images(overview, parsed.show)
    units = pick_for_units(overview)
    try:
        output.mkdir(parents=True, exist_ok=True)
        shown = _show(data, split, picked, reasons, subjects, chosen, table, output)
    except OSError as error:
        raise UserError("--output", f"cannot write to {output}: {error.strerror}") from error
    found = {
        "version": VERSION,
        "images": table.images,
        "split": split,
        "seed": parsed.seed,
        "checkpoint": trained.checkpoint.name,
        "versions": versions(),
        "seconds": round(time.perf_counter() - start, 3),
        "target": "predicted class",
        **table.as_dict(),
        "shown": shown,
    }
    if twin is not None:
        found["twin"] = {"name": _name(twin), "run": twin.run.name}
    if units is not None:
        pairs = enumerate(zip(*units, strict=True))
        found["units"] = {
            str(unit): {"representative": typical, "surprising": odd}
            for unit, (typical, odd) in pairs
        }
    return found


def _name(twin: Trained) -> str:
    """What the twin's rows are called: its experiment, without what the table's keys are cut at."""
    return twin.run.resolve().parent.name.replace("/", "-") or "twin"


def _batch(data: ImageDataModule, split: Split, places: Sequence[int], device: Any) -> Batch:
    dataset = data.dataset(split)
    items: Any = default_collate([dataset[place] for place in places])
    batch = {name: value.to(device) for name, value in items.items() if name in _OF_MODEL}
    # Where an image is repeated, its index is that of the first; drawing anew wants its own.
    batch["index"] = torch.tensor(places)
    return cast(Batch, batch)


def _own(
    methods: Sequence[AttributionMethod], trained: Trained, subject: Subject
) -> tuple[bool, str]:
    """Whether the model's own explanation is a row, and if not, why."""
    if not any(isinstance(each, OwnExplanation) for each in methods):
        return False, ""
    with torch.no_grad():
        found = trained.model.explain({"image": subject.image[:1]})
    if found.heat_map() is None:
        return False, f"{type(trained.model).__name__} explains by no map"
    return True, ""


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


def _show(
    data: ImageDataModule,
    split: Split,
    picked: Sequence[int],
    reasons: Sequence[str],
    subjects: Sequence[Subject],
    methods: Sequence[AttributionMethod],
    table: Evaluation,
    output: Path,
) -> list[dict[str, object]]:
    """Draw the picked images with the maps of all methods that have rows with figures."""
    if not picked:
        return save_shown(output, [], [])
    dataset, device = data.dataset(split), subjects[0].image.device
    items = [dataset[place] for place in picked]
    image = torch.stack([item["image"] for item in items]).to(device)
    seen = [make_subject(s.network, image, name=s.name, adapt=s.adapt) for s in subjects]
    names = data.class_names
    scores = seen[0].scores.cpu()
    images = []
    for number, (place, why) in enumerate(zip(picked, reasons, strict=True)):
        target = int(seen[0].target[number])
        label = items[number].get("label")
        images.append(
            ShownImage(
                index=place,
                pixels=denormalise(image[number], data.mean, data.std).numpy(),
                label=None if label is None else names[int(label)],
                predicted=names[target] if scores.shape[1] == len(names) else names[-1],
                score=float(scores[number, target]),
                why=why,
            )
        )
    shown = []
    for subject, method, row in _with_maps(seen, methods, table):
        maps = explain_images(method, subject.network, subject.image, subject.target)
        if maps.heat is not None:
            heat = maps.heat.nan_to_num().cpu()
            shown.append(Shown(row.method, row.label, heat, maps.completeness_error))
    return save_shown(output, images, shown)


def _with_maps(
    subjects: Sequence[Subject], methods: Sequence[AttributionMethod], table: Evaluation
) -> list[tuple[Subject, AttributionMethod, Any]]:
    """The rows of the table that have maps, each with its network and method."""
    makers = {each.name: each for each in methods}
    makers |= {name: make() for name, make in BASELINES.items()}
    by_name = {subject.name: subject for subject in subjects}
    found = []
    for row in table.rows:
        network, _, method = row.method.rpartition("/")
        if row.heat is not None:
            found.append((by_name[network], makers[method], row))
    return found
