"""Between images as a data module normalises them and values in [0, 1], which generators draw."""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn


class ImageRange(nn.Module):
    """Undoes the normalisation of images; mean and deviation are kept in the checkpoint.

    Until :meth:`use` is called, images are taken to be in [0, 1] already.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def use(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take over what images are normalised with.

        Args:
            mean: Mean of each channel, of values in [0, 1].
            std: Standard deviation of each channel, likewise, above 0.

        Raises:
            ValueError: There are not as many as the model's images have channels.
        """
        if len(mean) != len(self.mean) or len(std) != len(self.std):
            raise ValueError(
                f"channels is {len(self.mean)}, but the data's images have {len(mean)}: give the "
                "model as many as the data have"
            )
        self.mean.copy_(torch.as_tensor(mean))
        self.std.copy_(torch.as_tensor(std))

    def forward(self, image: Tensor) -> Tensor:
        """Values in [0, 1] of normalised images (B, C, H, W); what rounding left outside is cut."""
        mean, std = (rearrange(values, "c -> c 1 1") for values in (self.mean, self.std))
        return (image * std + mean).clamp(0, 1)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Normalised images of values in [0, 1] (B, C, H, W): the inverse of :meth:`forward`."""
        mean, std = (rearrange(values, "c -> c 1 1") for values in (self.mean, self.std))
        return (pixels - mean) / std


def follow_the_data(model: Any, _: Any) -> None:
    """Hook for after weights are loaded: the data at hand say how their images are normalised.

    A checkpoint is read after ``setup``, and what it says is of the data that it was trained on.

    Args:
        model: Has an ``image_range``.
    """
    data = getattr(model._trainer, "datamodule", None)
    if data is not None:
        model.image_range.use(data.mean, data.std)
