"""The commands that look at finished runs: ``explain`` and ``report``."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from pellucid.analysis.units import denormalise
from pellucid.cli import Parser
from pellucid.cli.attributions import chosen_methods, draw_attributions
from pellucid.cli.checks import check_data
from pellucid.cli.quiet import quiet
from pellucid.cli.trained import open_trained
from pellucid.datamodules.base import ImageDataModule
from pellucid.errors import UserError
from pellucid.latent_pictures import originals, spread_images
from pellucid.models.base import InterpretableModel
from pellucid.models.explanation import Explanation
from pellucid.report.drawing import Picture
from pellucid.report.page import build_report
from pellucid.report.pictures import draw_explanation
from pellucid.report.results import text_table
from pellucid.report.runs import read_runs
from pellucid.report.tradeoff import text_tradeoff
from pellucid.report.traversals import draw_traversals, latent_table

_DEFAULT_IMAGES = 6
_LISTED_UNITS = 8
_OF_A_RUN = ("config.yaml", "results.json", "metrics.csv")


def report(words: Sequence[str]) -> None:
    """Write the page of one run, or the comparison of several, and print their figures.

    Args:
        words: The words after the command.

    Raises:
        UserError: If a run is not a run's directory, or the page cannot be written.
    """
    parser = Parser(prog="pellucid report", description="The page of one run or of several.")
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="a run directory")
    parser.add_argument("--output", type=Path, help="the page; default: report.html beside the run")
    parsed = parser.parse_args(list(words))
    for run in parsed.runs:
        if run.is_dir() and not any((run / name).is_file() for name in _OF_A_RUN):
            missing = f"it has none of {', '.join(_OF_A_RUN)}"
            raise UserError("report", f"{run} is not a run directory: {missing}")
    try:
        page = build_report(parsed.runs, parsed.output)
        runs = read_runs(parsed.runs)
        figures = text_tradeoff(runs) or text_table(runs)
    except (ValueError, OSError) as error:
        raise UserError("report", str(error)) from error
    print(f"{figures}\n\nreport: {page}" if figures else f"report: {page}")


def explain(words: Sequence[str]) -> None:
    """Draw a trained model's own explanation of images, and print it as a table.

    With ``--methods``, draw the maps of post-hoc methods beside it.

    Args:
        words: The words after the command.

    Raises:
        UserError: If the run, the checkpoint or an image cannot be read, or there is no such
            method.
    """
    parser = Parser(
        prog="pellucid explain",
        description="A model's own explanation of images, and those of post-hoc methods.",
        epilog="Options of the config, such as --data.root DIR, can follow.",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN|CHECKPOINT", type=Path)
    parser.add_argument("--images", nargs="+", type=Path, default=[], metavar="FILE")
    parser.add_argument("--output", type=Path, help="directory; default: explanations in the run")
    parser.add_argument(
        "--config", help="the config, for a checkpoint that does not lie in its run's directory"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=[],
        metavar="NAME",
        help="post-hoc methods to draw beside the own explanation, or all; default: none",
    )
    parser.add_argument(
        "--explainer", metavar="RUN", help="a run of L2X that was trained for this one, for l2x"
    )
    parsed, extra = parser.parse_known_args(list(words))
    methods = chosen_methods(parsed.methods)
    with quiet():
        found = open_trained("explain", parsed.run, parsed.config, extra)
        names, images = _images(found.data, parsed.images)
        output = parsed.output or found.run / "explanations"
        explained, target = _explain(found.model, found.data, names, images, output)
        names, images = [names[i] for i in explained], images[explained]
        if methods and target is None:
            problem = f"{type(found.model).__name__} has no classes, so there is no score to"
            raise UserError("--methods", f"{problem} attribute; leave it out")
        if target is not None:
            draw_attributions(
                found.model, found.data, names, images, target, methods, output, parsed.explainer
            )


def _images(data: ImageDataModule, files: Sequence[Path]) -> tuple[list[str], Tensor]:
    """Names and prepared images, (B, C, H, W): those given, or the first of the test split."""
    if files:
        images = []
        for file in files:
            try:
                with Image.open(file) as image:
                    images.append(data.transform_image(image))
            except (OSError, UnidentifiedImageError, ValueError) as error:
                problem = f"not an image ({error})"
                if file.is_dir():
                    problem = "is a directory; name the files in it"
                elif not file.exists():
                    problem = "no such file"
                raise UserError("--images", f"{file}: {problem}") from error
        return [_unique(file, files) for file in files], torch.stack(images)
    check_data(data, ("test",))
    chosen, batch = spread_images(data, "test", _DEFAULT_IMAGES)
    return [f"test_{i:05d}" for i in chosen], batch


def _unique(file: Path, files: Sequence[Path]) -> str:
    same = [other for other in files if other.stem == file.stem]
    return file.stem if len(same) == 1 else f"{file.stem}_{files.index(file)}"


def _explain(
    model: InterpretableModel,
    data: ImageDataModule,
    names: Sequence[str],
    images: Tensor,
    output: Path,
) -> tuple[list[int], Tensor | None]:
    """Draw and print each image's own explanation.

    Returns:
        Which of the images could be explained, and their classes, (N,); None if there are none.

    Raises:
        UserError: None could be, or the directory cannot be made.
    """
    explained, targets = [], []
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError("--output", f"cannot make {output}: {error.strerror}") from error
    for number, (name, image) in enumerate(zip(names, images, strict=True)):
        with torch.no_grad():
            explanation = model.explain({"image": image[None]}).to("cpu")
        if not explanation.scores.isfinite().all():
            print(f"{name}: no explanation: the model's scores are NaN or infinite\n")
            continue
        explained.append(number)
        picture = _draw(explanation, image, data)
        path = output / f"{name}.png"
        Image.fromarray(picture).save(path)
        print(f"{name}: {table(explanation, 0, data.class_names)}\n  {path}\n")
        if explanation.scores.shape[1]:
            targets.append(explanation.target)
    if not explained:
        problem = "the model's scores of all images are NaN or infinite: it has diverged"
        raise UserError("explain", f"{problem}; choose another checkpoint, or train it again")
    return explained, torch.cat(targets) if targets else None


def _draw(explanation: Explanation, image: Tensor, data: ImageDataModule) -> Picture:
    """The picture of one image's explanation: of the latents, where the model draws."""
    if explanation.traversals is None:
        pixels = denormalise(image, data.mean, data.std).numpy()
        return draw_explanation(pixels, explanation, 0, data.class_names)
    own, drawn = originals(explanation, image[None], data), explanation.reconstruction
    return draw_traversals(
        explanation.traversals,
        0,
        image=own[0] if own else None,
        reconstruction=None if drawn is None else drawn[0],
    )


def table(explanation: Explanation, i: int, class_names: Sequence[str] = ()) -> str:
    """One image's explanation as text: which units fired where, and what each contributed.

    Of a generator, what each latent says, and the image's own value of it.

    Args:
        explanation: Of a batch.
        i: Number of the image in the batch.
        class_names: Names of the scores.
    """
    latents = "" if explanation.traversals is None else latent_table(explanation, i)
    if not explanation.scores.shape[1]:
        return f"what each latent does\n{latents}" if latents else "no classes"
    target = int(explanation.target[i])
    label = class_names[target] if target < len(class_names) else f"class {target}"
    scores = explanation.scores[i]
    # One logit stands for one category against its negatives.
    score = float(scores[target]) if len(scores) > target else float(scores[0])
    unit = explanation.contribution_unit
    lines = [f"{label}, score {score:.3f} {unit}"]
    maps, positions = explanation.maps, explanation.positions
    contributions = explanation.contributions
    ranked = contributions if contributions is not None else None
    if ranked is None and maps is not None:
        ranked = maps.amax((-2, -1))
    if ranked is None:
        return "\n".join([lines[0], *([latents] if latents else [])])
    lines.append(f"  {'unit':<24}{'x':>8}{'y':>8}{'peak':>10}{'adds':>10}")
    order = ranked[i].abs().argsort(descending=True).tolist()
    for u in order[:_LISTED_UNITS]:
        name = explanation.unit_names[u] if u < len(explanation.unit_names) else f"unit {u}"
        x, y = positions[i, u].tolist() if positions is not None else (float("nan"),) * 2
        peak = float(maps[i, u].max()) if maps is not None else float("nan")
        adds = f"{float(contributions[i, u]):>+10.3f}" if contributions is not None else f"{'':>10}"
        lines.append(f"  {name:<24}{x:>8.1f}{y:>8.1f}{peak:>10.3f}{adds}")
    if contributions is not None:
        rest = float(contributions[i, order[_LISTED_UNITS:]].sum())
        if count := len(order[_LISTED_UNITS:]):
            lines.append(f"  {f'{count} other units':<24}{rest:>+36.3f}")
        if explanation.bias is not None:
            lines.append(f"  {'bias':<24}{float(explanation.bias[i]):>+36.3f}")
            total = float(contributions[i].sum() + explanation.bias[i])
            lines.append(f"  {'sum':<24}{total:>+36.3f}")
    return "\n".join(lines)
