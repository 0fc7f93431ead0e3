"""A trained classifier that judges what generators draw; it takes no part in their training."""

import hashlib
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from pellucid.checkpoint import ORIGIN, class_path, read_checkpoint
from pellucid.errors import UserError, brief
from pellucid.models.base import InterpretableModel
from pellucid.models.trained import find_class

_KEY = "model.judge"


class Judge:
    """Features and scores of images by a classifier, whose weights stay as they are.

    No ``nn.Module``, so that it is not in the checkpoint of the model that it judges.

    Args:
        classifier: A model with classes, whose last linear layer reads the features.
        num_classes: Number of its classes.
        path: The checkpoint that it was read from.

    Raises:
        UserError: It has no linear layer that gives as many scores.
    """

    def __init__(self, classifier: InterpretableModel, num_classes: int, path: str) -> None:
        self.classifier = classifier.eval().requires_grad_(False)
        self.checkpoint = str(path)
        # Now, for the file may be gone at the end of a run.
        self.sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        self.num_classes = num_classes
        layers = [m for m in classifier.modules() if isinstance(m, nn.Linear)]
        fitting = [layer for layer in layers if layer.out_features == num_classes]
        if not fitting:
            raise UserError(
                _KEY,
                f"{type(classifier).__name__} has no linear layer of {num_classes} scores; give "
                "the checkpoint of a classifier with the data's classes",
            )
        self._last = fitting[-1]

    @classmethod
    def read(cls, path: str) -> Self:
        """Read the checkpoint of a classifier; never runs code that it may hold.

        Args:
            path: The file.

        Raises:
            UserError: If it is missing, damaged, or no classifier of a known class.
        """
        content = read_checkpoint(path, _KEY)
        num_classes = content.get("hyper_parameters", {}).get("num_classes")
        if not isinstance(num_classes, int):
            raise UserError(
                _KEY, f"{path} is no checkpoint of a classifier; train one, as cnn_mnist"
            )
        class_ = find_class(str(content.get(ORIGIN, {}).get("model", "")), path, _KEY)
        model: Any = class_.load_from_checkpoint(path, map_location="cpu", weights_only=True)
        return cls(model, num_classes, path)

    def report(self) -> dict[str, object]:
        """What figures of this judge depend on, for ``results.json``."""
        return {
            "checkpoint": self.checkpoint,
            "sha256": self.sha256,
            "model": class_path(self.classifier),
            "classes": self.num_classes,
            "features": self.num_features,
        }

    @property
    def num_features(self) -> int:
        """Width of the features."""
        return self._last.in_features

    def check(self, channels: int, image_size: int) -> None:
        """Let it look at blank images, so that one that cannot is found before training.

        Args:
            channels: Channels of the images that it is to judge.
            image_size: Their height and width in pixels.

        Raises:
            UserError: It cannot.
        """
        try:
            self(torch.zeros(2, channels, image_size, image_size))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UserError(
                _KEY,
                f"{type(self.classifier).__name__} cannot look at images of {image_size} pixels "
                f"({brief(str(error))}): give the checkpoint of a classifier of these data",
            ) from error

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Look at images.

        Args:
            pixels: (B, C, H, W) in [0, 1], of the size that the classifier was trained on; greys
                are repeated for a classifier of colours, and colours averaged for one of greys.

        Returns:
            (B, D) features, what the last linear layer reads, and (B, K) scores in logits.
        """
        model = self.classifier.to(pixels.device)
        if (used := model.normalisation) is not None:
            pixels = _with_channels(pixels.float(), len(used.mean))
            mean, std = (pixels.new_tensor(v).view(-1, 1, 1) for v in (used.mean, used.std))
            pixels = (pixels - mean) / std
        seen: list[Tensor] = []
        handle = self._last.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
        try:
            # Half precision would add its rounding to the distance of two sets of features.
            with torch.autocast(pixels.device.type, enabled=False):
                scores = model.explain({"image": pixels.float()}).scores
        finally:
            handle.remove()
        return seen[-1].float(), scores.float()


def _with_channels(pixels: Tensor, channels: int) -> Tensor:
    if pixels.shape[1] == channels:
        return pixels
    return pixels.mean(1, keepdim=True).expand(-1, channels, -1, -1)
