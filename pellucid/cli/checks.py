"""What can be told to be wrong once data and model are built, before a run directory is made."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pellucid.datamodules.base import ImageDataModule, Split
from pellucid.errors import UserError
from pellucid.models.base import InterpretableModel
from pellucid.models.fine_tuning import FineTunedModel
from pellucid.models.repeating import RepeatingModel


def check_data(data: ImageDataModule, splits: Sequence[Split]) -> None:
    """Make the data sets that a command needs, so that broken files show before it starts.

    Raises:
        UserError: If one cannot be made or is empty.
    """
    try:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            data.prepare_data()
        for split in splits:
            if len(data.dataset(split)) == 0:
                raise UserError("data", f"the {split} split of {type(data).__name__} is empty")
    except UserError:
        raise
    except Exception as error:
        raise UserError("data", str(error) or type(error).__name__) from error


_LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
    "limit_train_batches": 0,
    "limit_val_batches": 0,
    "limit_test_batches": 0,
}
"""Options of the trainer that Lightning takes as they are, and what it makes no sense of below."""


def check_trains(options: Mapping[str, Any]) -> None:
    """Refuse what Lightning would stumble over in training, or quietly do nothing with.

    A fit of no steps is among it: its figures would be those of an untrained network.

    Args:
        options: Those of the trainer.

    Raises:
        UserError: Names the option.
    """
    for name, least in _LEAST.items():
        value = options.get(name)
        if isinstance(value, int | float) and not value >= least:
            raise UserError(f"trainer.{name}", f"must be at least {least}, got {value}")
    if options.get("fast_dev_run"):
        return
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if options.get(name) == 0:
            problem = "0 would train nothing; give more, or measure with pellucid test"
            raise UserError(f"trainer.{name}", problem)


_ALONE: dict[str, tuple[float, str]] = {
    "gradient_clip_val": (0, "give model.gradient_clip {value}, which clips each by itself"),
    "accumulate_grad_batches": (1, "give a larger data.batch_size"),
}
"""Options of the trainer that are for one optimiser: which value means nothing, and what to do."""


def check_optimisers(model: InterpretableModel, options: Mapping[str, Any]) -> None:
    """Refuse what Lightning cannot do for a model that optimises by hand, and say what can be done.

    Args:
        model: The model.
        options: Those of the trainer.

    Raises:
        UserError: Names the option and the remedy.
    """
    if model.automatic_optimization:
        return
    for name, (nothing, remedy) in _ALONE.items():
        value = options.get(name)
        if value is not None and value != nothing:
            problem = f"{type(model).__name__}, which has an optimiser for each of its networks"
            if isinstance(model, RepeatingModel) and not model.counts_by_hand:
                problem, remedy = "model.updates_per_batch", "give 1 there"
            raise UserError(
                f"trainer.{name}", f"{value} is not for {problem}; {remedy.format(value=value)}"
            )


def check_batch_size(model: InterpretableModel, data: ImageDataModule) -> None:
    """Check that batch normalisation over pooled features has more than one image to go by.

    Raises:
        UserError: If a training batch has a single image.
    """
    if not any(isinstance(module, torch.nn.BatchNorm1d) for module in model.modules()):
        return
    count = len(data.dataset("train"))
    why = "batch normalisation needs at least 2 images in a training batch"
    if data.batch_size == 1:
        raise UserError("data.batch_size", f"{why}, got 1; give 2 or more")
    if count == 1:
        raise UserError(
            "data",
            f"the train split of {type(data).__name__} has 1 image, and {why}, whatever "
            "data.batch_size is; give more training images",
        )


def describe_weights(model: InterpretableModel, *, new: bool) -> str | None:
    """What a model's backbone begins with, where that is to be told; else None.

    Args:
        model: The model.
        new: Whether it will be trained from here, and not from a checkpoint.
    """
    if model.loaded_weights is not None:
        return str(model.loaded_weights)
    if not (new and isinstance(model, FineTunedModel) and model.unfreeze_epoch is None):
        return None
    if not model.frozen_stages:
        return None
    return (
        f"weights: none; {model.frozen_stages} of the backbone's {len(model.backbone.stages)} "
        "stages stay as they were drawn: give model.weights, or model.trainable_stages null "
        "trains all of them"
    )
