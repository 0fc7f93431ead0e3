"""What a model relies on where the background gives the class away.

The data know their confounder and can be drawn anew: before other backgrounds, and without chosen
parts. A model that has learnt the parts is as right before any background; one that has learnt the
background is not, and changes its mind when the background is swapped rather than when a part goes.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from pellucid.batch import Batch
from pellucid.datamodules.base import Split, collate
from pellucid.metrics.maps.relevance_mass import relevance_mass
from pellucid.models.base import InterpretableModel


class Confounded(Protocol):
    """Data whose images can be drawn anew, as those of ``SyntheticParts``."""

    confound: float
    remove_parts: tuple[str, ...]
    batch_size: int

    @property
    def part_names(self) -> Sequence[str]:
        """Names of the parts, in the order of ``part_masks``."""

    def make_dataset(
        self,
        split: Split,
        *,
        remove_parts: Sequence[str] | None = None,
        confound: float | None = None,
        swap_background: bool = False,
    ) -> Dataset[Batch]:
        """The data set of a split."""


def is_confounded(data: Any) -> bool:
    """Whether backgrounds of a data module's training images are tied to the class."""
    return bool(getattr(data, "confound", 0.0) > 0)


@torch.no_grad()
def evaluate_bias(
    model: InterpretableModel,
    data: Confounded,
    images: int | None = None,
    device: Any = "cpu",
) -> dict[str, float]:
    """Measure what a model's predictions depend on, on the test split.

    The model is on the CPU and evaluates afterwards.

    Args:
        model: A classifier.
        data: The data module.
        images: The first so many test images, at least 1; None: all.
        device: Where to compute.

    Returns:
        Fractions by key: ``test/accuracy``, on the test split confounded as in training;
        ``deconfounded/accuracy``, on the same figures before random backgrounds;
        ``bias/swap_background``, share of the images whose predicted class changes when they get
        another background; ``bias/remove_PART``, share of the images that show the part whose
        predicted class changes when it is removed (NaN if none shows it); and
        ``bias/background_relevance``, share of the relevance of the model's own heat map outside
        the object, mean over images whose map has any (left out where it explains by no map).

    Raises:
        ValueError: ``images`` is below 1.
    """
    if images is not None and images < 1:
        raise ValueError(f"images must be at least 1, got {images}; None is all of the test split")
    model.to(device).eval()
    predicted, label, outside, shown = _first_look(model, data, images, device)

    def look(**options: Any) -> Tensor:
        batches = _batches(data, images, device, **options)
        return torch.cat([model.class_scores(batch["image"]).argmax(1) for batch in batches])

    found = {
        "test/accuracy": _share(predicted == label),
        "deconfounded/accuracy": _share(look(confound=0.0) == label),
        "bias/swap_background": _share(look(swap_background=True) != predicted),
    }
    for number, name in enumerate(data.part_names):
        if name not in data.remove_parts:
            changed = look(remove_parts=(*data.remove_parts, name)) != predicted
            found[f"bias/remove_{name}"] = _share(changed[shown[:, number]])
    if len(outside):
        found["bias/background_relevance"] = float(outside.nanmean())
    model.cpu()
    return found


def _first_look(
    model: InterpretableModel, data: Confounded, images: int | None, device: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the images as they are: predicted class, label, relevance outside, and which parts show.

    (N,), (N,), (N,) or (0,) without maps, and (N, P) bool.
    """
    predicted, label, shown, outside = [], [], [], [torch.zeros(0, device=device)]
    for batch in _batches(data, images, device):
        explanation = model.explain({"image": batch["image"]})
        heat = explanation.heat_map()
        if heat is not None:
            outside.append(1 - relevance_mass(heat, batch["mask"]))
        predicted.append(model.class_scores(batch["image"]).argmax(1))
        label.append(batch["label"])
        shown.append(batch["part_masks"].flatten(2).any(2))
    return torch.cat(predicted), torch.cat(label), torch.cat(outside), torch.cat(shown)


def _batches(data: Confounded, images: int | None, device: Any, **options: Any) -> Iterator[Batch]:
    """The first test images, drawn as ``make_dataset`` is told to."""
    dataset = data.make_dataset("test", **{"confound": data.confound, **options})
    length: int = len(dataset)  # type: ignore[arg-type]
    chosen = Subset(dataset, range(min(length, images or length)))
    loader: DataLoader[Batch] = DataLoader(chosen, data.batch_size, collate_fn=collate)
    for batch in loader:
        moved: Any = {name: value.to(device) for name, value in batch.items()}
        yield moved


def _share(flags: Tensor) -> float:
    """Share of (N,) bool that is True; NaN of none."""
    return float(flags.double().mean())
