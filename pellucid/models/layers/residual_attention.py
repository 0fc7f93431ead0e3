"""Attention modules of residual attention networks: a trunk, and a mask that weights it.

Wang et al., "Residual Attention Network for Image Classification", CVPR 2017 (arXiv 1704.06904),
section 3 and figure 2.
"""

from typing import Literal, cast, get_args

import torch
from einops import reduce
from torch import Tensor, nn

MaskActivation = Literal["mixed", "channel", "spatial"]
AttentionLearning = Literal["residual", "naive"]

_EPSILON = 1e-5


def mask_activation(logits: Tensor, kind: MaskActivation) -> Tensor:
    """What a soft mask is made of, table 1 and equations 4 to 6 of the paper.

    ``mixed``: ``sigmoid(x)``, in (0, 1). ``channel``: ``x / ||x||``, the norm over the channels of
    each position, in [-1, 1]. ``spatial``: ``sigmoid((x - mean) / std)`` with the moments of each
    channel over its positions, in (0, 1); 0.5 where a channel is constant.

    Args:
        logits: (B, C, h, w) float.
        kind: One of the three.

    Returns:
        (B, C, h, w).
    """
    if kind == "channel":
        return nn.functional.normalize(logits, dim=1)
    if kind == "spatial":
        logits = logits - reduce(logits, "b c h w -> b c 1 1", "mean")
        variance = reduce(logits.square(), "b c h w -> b c 1 1", "mean")
        logits = logits / (variance + _EPSILON).sqrt()
    return logits.sigmoid()


class ResidualUnit(nn.Module):
    """Bottleneck residual unit with pre-activation (He et al. 2016, arXiv 1603.05027, figure 1b).

    Where the shape changes, the shortcut is a 1 x 1 convolution of the activated input.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out, a multiple of 4; the 3 x 3 convolution has a quarter of them.
        stride: Of the 3 x 3 convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        narrow = outputs // 4
        self.activate = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.convolve = nn.Sequential(
            nn.Conv2d(inputs, narrow, 1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
            nn.Conv2d(narrow, narrow, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
            nn.Conv2d(narrow, outputs, 1, bias=False),
        )
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, outputs, h / stride, w / stride) of (B, inputs, h, w)."""
        active = self.activate(features)
        shortcut = features if self.shortcut is None else self.shortcut(active)
        return cast(Tensor, shortcut + self.convolve(active))


def residual_units(channels: int, count: int) -> nn.Sequential:
    """Residual units that keep the shape."""
    return nn.Sequential(*(ResidualUnit(channels, channels) for _ in range(count)))


class SoftMask(nn.Module):
    """Bottom-up top-down branch that makes a mask of the size of its input (section 3.2).

    Maps are halved ``depth`` times by 3 x 3 max pooling of stride 2, with residual units after each
    pooling, and enlarged as often by bilinear interpolation, with residual units before each. What
    there was of the same size on the way down is added on the way up, as it is: residual units on
    these skip connections would cost more multiplications than the paper's table 2 has. Two 1 x 1
    convolutions end the branch.

    Args:
        channels: Of the input, and of the mask.
        depth: How often maps are halved, at least 1.
        units: Residual units between two poolings, the paper's ``r``.
        activation: See :func:`mask_activation`.
    """

    def __init__(self, channels: int, depth: int, units: int, activation: MaskActivation) -> None:
        super().__init__()
        self.activation: MaskActivation = activation
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.down = nn.ModuleList(residual_units(channels, units) for _ in range(depth))
        self.up = nn.ModuleList(residual_units(channels, units) for _ in range(depth))
        self.out = nn.Sequential(
            *(
                layer
                for _ in range(2)
                for layer in (
                    nn.BatchNorm2d(channels),
                    nn.ReLU(),
                    nn.Conv2d(channels, channels, 1, bias=False),
                )
            )
        )

    def forward(self, features: Tensor) -> Tensor:
        """Mask (B, C, h, w) of features (B, C, h, w); for its range see :func:`mask_activation`."""
        passed = [features]
        for units in self.down:
            passed.append(units(self.pool(passed[-1])))
        features = passed.pop()
        for units in self.up:
            before = passed.pop()
            features = nn.functional.interpolate(
                units(features), before.shape[-2:], mode="bilinear", align_corners=False
            )
            if passed:  # The mask branch ends without its own input, which the trunk has.
                features = features + before
        return mask_activation(self.out(features), self.activation)


class AttentionModule(nn.Module):
    """A trunk whose output a soft mask weights (equation 3): ``(1 + M(x)) * T(x)``.

    Args:
        channels: Of input and output.
        depth: How often the mask branch halves its maps.
        outer_units: Residual units before the branches part, and after they meet: the paper's
            ``p``.
        trunk_units: Residual units of the trunk, ``t``.
        mask_units: Residual units between two poolings of the mask branch, ``r``.
        activation: See :func:`mask_activation`.
        learning: ``residual``: ``(1 + M) * T``; ``naive``: ``M * T`` (section 4.1).
    """

    def __init__(
        self,
        channels: int,
        depth: int,
        outer_units: int = 1,
        trunk_units: int = 2,
        mask_units: int = 1,
        activation: MaskActivation = "mixed",
        learning: AttentionLearning = "residual",
    ) -> None:
        super().__init__()
        self.learning = learning
        self.before = residual_units(channels, outer_units)
        self.trunk = residual_units(channels, trunk_units)
        self.mask = SoftMask(channels, depth, mask_units, activation)
        self.after = residual_units(channels, outer_units)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Output and mask, (B, C, h, w) each, of features (B, C, h, w)."""
        features = self.before(features)
        mask = self.mask(features)
        weight = 1 + mask if self.learning == "residual" else mask
        return self.after(weight * self.trunk(features)), mask


def check_choices(activation: str, learning: str) -> None:
    """Check the names of a mask's activation and of attention learning.

    Raises:
        ValueError: Names what is allowed.
    """
    for name, value, allowed in (
        ("mask_activation", activation, get_args(MaskActivation)),
        ("attention_learning", learning, get_args(AttentionLearning)),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Draw the weights of convolutions as He et al. 2015 (arXiv 1502.01852, equation 14) do."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
