"""What ``pellucid explain --methods`` draws: maps of post-hoc methods."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from pellucid.analysis.units import denormalise
from pellucid.attribution.method import Attribution, AttributionMethod, ClassScores
from pellucid.attribution.methods import METHODS, make_method
from pellucid.datamodules.base import ImageDataModule
from pellucid.errors import UserError, brief, nearest
from pellucid.models.base import InterpretableModel
from pellucid.report.drawing import as_picture, resize
from pellucid.report.explanation_pictures import draw_heat

_BATCH = 16
_WIDTH = 420


def chosen_methods(names: Sequence[str]) -> list[str]:
    """The keys of the methods that ``--methods`` names, each once.

    Args:
        names: Keys of :data:`~pellucid.attribution.methods.METHODS`, or ``all``.

    Raises:
        UserError: There is no such method.
    """
    for name in names:
        if name not in {"all", *METHODS}:
            problem = f"there is no method {name!r}; {nearest(name, ['all', *METHODS], show=20)}"
            raise UserError("--methods", problem)
    return list(METHODS) if "all" in names else list(dict.fromkeys(names))


def draw_attributions(
    model: InterpretableModel,
    data: ImageDataModule,
    names: Sequence[str],
    images: Tensor,
    target: Tensor,
    methods: Sequence[str],
    output: Path,
    explainer: str | None = None,
) -> None:
    """Write ``NAME_METHOD.png`` for each image and method, and print what each promised and kept.

    A method that would be wrong on the model is left out with its reason; the others are drawn.

    Args:
        model: In evaluation mode.
        data: Says how images were normalised.
        names: Of the images.
        images: (N, C, H, W), normalised.
        target: (N,) int64, the class that the own explanation is of.
        methods: What :func:`chosen_methods` gave.
        output: Directory of the pictures; it exists.
        explainer: A run of L2X that was trained for the model, for ``l2x``.
    """
    network = ClassScores(model)
    width = max(map(len, names))
    for key in methods:
        try:
            options = {"explainer": explainer} if key == "l2x" and explainer else {}
            method = make_method(key, **options)
            found = _attribute(method, network, images, target)
        # A method's own refusal, images too small for it, or a package that is not installed.
        except (ValueError, ImportError) as error:
            print(f"{key}\n  refused: {brief(str(error))}\n")
            continue
        print(f"{method.label} ({method.name})")
        for i, name in enumerate(names):
            path = output / f"{name}_{method.name}.png"
            pixels = resize(as_picture(denormalise(images[i], data.mean, data.std).numpy()), _WIDTH)
            Image.fromarray(draw_heat(pixels, found.heat[i])).save(path)
            print(f"  {name:<{width}}  {_promise(found, i)}{path}")
        print()


def _attribute(
    method: AttributionMethod, network: ClassScores, images: Tensor, target: Tensor
) -> Attribution:
    """All images, a few at a time."""
    parts = []
    starts = range(0, len(images), _BATCH)
    for start in tqdm(starts, desc=method.label, unit="batch", delay=2, leave=False):
        some = slice(start, start + _BATCH)
        parts.append(method.attribute(network, images[some], target[some]))
    errors = [part.completeness_error for part in parts if part.completeness_error is not None]
    return Attribution(
        heat=torch.cat([part.heat for part in parts]),
        sign=method.sign,
        target=target,
        scores=torch.cat([part.scores for part in parts]),
        completeness_error=torch.cat(errors) if errors else None,
    )


def _promise(found: Attribution, i: int) -> str:
    if found.completeness_error is None:
        return ""
    error = float(found.completeness_error[i])
    # Relative to nothing, as of an image that is its own baseline.
    return "completeness error: none  " if error != error else f"completeness error {error:.1e}  "
