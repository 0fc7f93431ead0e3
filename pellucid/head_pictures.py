"""Pictures of where each head of a model looks, beside the masks of the parts."""

from pathlib import Path

import torch

from pellucid.analysis.units import denormalise
from pellucid.datamodules.base import ImageDataModule, collate
from pellucid.models.base import InterpretableModel
from pellucid.report.heads import MOST_HEADS, save_heads

_IMAGES = 4


@torch.no_grad()
def save_heads_of(
    model: InterpretableModel, data: ImageDataModule, run_directory: Path | str
) -> Path | None:
    """Draw what each head attends to on some test images, spread over the split.

    Args:
        model: Is on the CPU and evaluates afterwards.
        data: The data module.
        run_directory: The run.

    Returns:
        The file that the report reads; None where the model has no maps, or so many that they are
        units.
    """
    split = data.dataloader("test").dataset
    count = len(split)  # type: ignore[arg-type]
    chosen = sorted({round(i * (count - 1) / max(_IMAGES - 1, 1)) for i in range(_IMAGES)})
    batch = collate([split[i] for i in chosen])
    explanation = model.eval().cpu().explain(batch).to("cpu")
    if explanation.maps is None or not 1 <= explanation.maps.shape[1] <= MOST_HEADS:
        return None
    pictures = [denormalise(image, data.mean, data.std).numpy() for image in batch["image"]]
    names = data.class_names
    labels = [f"Test image {i}" for i in chosen]
    if "label" in batch:
        classes = batch["label"].tolist()
        labels = [
            f"{label}, {names[c] if 0 <= c < len(names) else f'class {c}'}"
            for label, c in zip(labels, classes, strict=True)
        ]
    masks = batch.get("part_masks")
    return save_heads(explanation, pictures, labels, run_directory, masks, data.part_names)
