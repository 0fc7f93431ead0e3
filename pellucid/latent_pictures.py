"""Pictures of what the latents of a generator do, while it trains."""

import math
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import default_collate

from pellucid.analysis.units import denormalise
from pellucid.datamodules.base import ImageDataModule, Split
from pellucid.logging import log_image
from pellucid.models.base import InterpretableModel
from pellucid.models.explanation import Explanation
from pellucid.report.drawing import Picture
from pellucid.report.latents import save_traversals
from pellucid.report.traversals import draw_reconstructions, draw_traversals
from pellucid.resume import random_state, set_random_state

NUM_IMAGES = 4
"""Images whose latents are shown."""

_PICTURES = 10


def spread_images(data: ImageDataModule, split: Split, count: int) -> tuple[list[int], Tensor]:
    """Prepared images from all over a split, which may be sorted by class.

    Args:
        data: The data.
        split: The split.
        count: Number of images; all of a smaller split.

    Returns:
        Their positions in the split, and the images (B, C, H, W).
    """
    dataset = data.dataset(split)
    count = min(count, len(dataset))
    chosen = [int(i * len(dataset) / count) for i in range(count)]
    return chosen, default_collate([dataset[i]["image"] for i in chosen])


def originals(explanation: Explanation, images: Tensor, data: ImageDataModule) -> list[Picture]:
    """The pictures that traversals began with; none if the model drew them from noise alone.

    Args:
        explanation: Of the images.
        images: (B, C, H, W) as the data gave them.
        data: The data.
    """
    if explanation.codes is None and explanation.reconstruction is None:
        return []
    return [denormalise(image, data.mean, data.std).numpy() for image in images]


def save_latents(model: InterpretableModel, data: ImageDataModule, run_directory: Path) -> Path:
    """Write what the latents of a generator do with a few test images, for the report.

    Args:
        model: In evaluation mode, on the CPU; its explanations have traversals.
        data: The data.
        run_directory: The run.

    Returns:
        ``traversals.json``; the pictures are beside it, under ``images/traversals``.
    """
    images = spread_images(data, "test", NUM_IMAGES)[1]
    with torch.no_grad():
        explanation = model.explain({"image": images})
    return save_traversals(explanation, originals(explanation, images, data), run_directory)


class LatentPictures(Callback):
    """Logs ``val/traversals`` and ``val/reconstructions`` of a generator as it trains.

    The pictures are of the same few validation images each time: what the model makes of the first
    one when one latent varies, and the reconstructions of all. Training goes on as if nothing had
    been drawn. A model whose explanation has no traversals is left alone.

    Args:
        every_n_epochs: Epochs between two pictures; 0: none; None: so many that a fit has about
            ten.

    Raises:
        ValueError: If ``every_n_epochs`` is below 0.
    """

    def __init__(self, every_n_epochs: int | None = None) -> None:
        if every_n_epochs is not None and every_n_epochs < 0:
            raise ValueError(
                f"every_n_epochs must be at least 0 (no pictures), got {every_n_epochs}; "
                "the usual value is null: about ten pictures a run"
            )
        self.every_n_epochs = every_n_epochs
        self._images: Tensor | None = None
        self._draws = every_n_epochs != 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, where it is time."""
        data = getattr(trainer, "datamodule", None)
        if not (self._draws and trainer.is_global_zero and isinstance(data, ImageDataModule)):
            return
        # Where weights are divided, one process alone cannot run the model.
        if trainer.world_size > 1 and not isinstance(trainer.strategy, DDPStrategy):
            return
        every = self.every_n_epochs or epochs_between(trainer)
        if (trainer.current_epoch + 1) % every or not isinstance(pl_module, InterpretableModel):
            return
        before = random_state()
        try:
            if self._images is None:
                self._images = spread_images(data, "val", NUM_IMAGES)[1]
            explanation = _explain(trainer, pl_module, self._images)
        finally:
            set_random_state(before)
        self._draws = explanation.traversals is not None
        if self._draws:
            self._log(trainer, explanation, originals(explanation, self._images, data))

    @staticmethod
    def _log(trainer: pl.Trainer, explanation: Explanation, images: list[Picture]) -> None:
        assert explanation.traversals is not None
        drawn = explanation.reconstruction
        picture = draw_traversals(
            explanation.traversals,
            0,
            image=images[0] if images else None,
            reconstruction=None if drawn is None else drawn[0],
        )
        name = explanation.traversals.importance_name
        log_image(trainer, "val/traversals", picture, f"one latent a row, sorted by {name}")
        if drawn is not None:
            picture = draw_reconstructions(images, drawn)
            log_image(trainer, "val/reconstructions", picture, "images, reconstructions below")


def epochs_between(trainer: pl.Trainer) -> int:
    """So many epochs between two pictures that a fit has about ten."""
    epochs = math.inf
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        epochs = trainer.max_epochs
    if trainer.max_steps > 0 and trainer.num_training_batches > 0:
        epochs = min(epochs, trainer.max_steps / trainer.num_training_batches)
    # An endless fit has no tenth.
    return max(1, math.ceil(epochs / _PICTURES)) if epochs < math.inf else _PICTURES


def _explain(trainer: pl.Trainer, model: InterpretableModel, images: Tensor) -> Explanation:
    """The explanation of some images as in evaluation; the model is left as it was."""
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad(), trainer.precision_plugin.val_step_context():
            given = trainer.precision_plugin.convert_input(images.to(model.device))
            return model.eval().explain({"image": given}).to("cpu")
    finally:
        for module, mode in modes.items():
            module.training = mode
