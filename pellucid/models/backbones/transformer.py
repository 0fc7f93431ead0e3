"""Vision transformers as backbones: blocks in place of stages, tokens in place of a feature map.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021 (arXiv 2010.11929); networks and
weights are torchvision's.
"""

import logging
import math
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

from pellucid.batch import BatchError
from pellucid.errors import nearest
from pellucid.models.backbones.backbone import Backbone, find_weights, names_in
from pellucid.models.backbones.loading import Loaded, load
from pellucid.models.backbones.networks import Network, find_network
from pellucid.models.backbones.weights import Normalisation, Weights, WeightsError

log = logging.getLogger(__name__)

# What torchvision's published transformers call by names that modules no longer have.
_OLD_NAME = re.compile(r"mlp\.linear_([12])\.")
_NEW_NAME = {"1": "mlp.0.", "2": "mlp.3."}


@dataclass(frozen=True)
class _Size:
    """Size of a vision transformer."""

    patch_size: int
    num_layers: int
    num_heads: int
    width: int
    mlp_ratio: int = 4


_SIZES = {
    "vit_tiny": _Size(8, 4, 4, 64, 2),
    "vit_b_16": _Size(16, 12, 12, 768),
    "vit_b_32": _Size(32, 12, 12, 768),
    "vit_l_16": _Size(16, 24, 16, 1024),
    "vit_l_32": _Size(32, 24, 16, 1024),
    "vit_h_14": _Size(14, 32, 16, 1280),
}

TRANSFORMERS: tuple[str, ...] = tuple(_SIZES)
"""``vit_tiny``, for tests and the built-in figures, and torchvision's vision transformers."""


class TransformerBackbone(Backbone):
    """All blocks of a vision transformer.

    The first stage cuts the image into patches and embeds them, each other stage is a block; the
    last one ends with the final normalisation.

    Args:
        name: One of :data:`TRANSFORMERS`.
        weights: ``none``, the name of weights that torchvision publishes for this network, or a
            file, see :func:`~pellucid.models.backbones.weights.read_weights`. Position embeddings
            of another number of patches are interpolated.
        image_size: Height and width of the images in pixels, a multiple of the patch size.
        patch_size: Height and width of a patch in pixels; None: the network's, as below.
        num_layers: Number of blocks.
        num_heads: Attention heads of each block; ``width`` is a multiple of them.
        width: Components of a token.

    Attributes:
        cells: Patches along either side of the image.
        num_blocks: Number of blocks.
        num_heads: Attention heads of each block.

    Raises:
        ValueError: For a name that there is not, or sizes that do not fit each other.
        WeightsError: For weights that do not exist or do not fit.
    """

    def __init__(
        self,
        name: str,
        weights: str = "none",
        image_size: int = 224,
        patch_size: int | None = None,
        num_layers: int | None = None,
        num_heads: int | None = None,
        width: int | None = None,
    ) -> None:
        if name not in _SIZES:
            raise ValueError(
                f"backbone must be a vision transformer ({', '.join(TRANSFORMERS)}), got {name!r}; "
                f"{nearest(name, TRANSFORMERS)}"
            )
        # Backbone's own constructor is for networks with feature maps.
        nn.Module.__init__(self)
        asked = {
            "patch_size": patch_size,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "width": width,
        }
        given = {key: value for key, value in asked.items() if value is not None}
        _check_positive(image_size=image_size, **given)
        size = replace(_SIZES[name], **given)
        _check_size(name, size, image_size)
        network = VisionTransformer(
            image_size=image_size,
            patch_size=size.patch_size,
            num_layers=size.num_layers,
            num_heads=size.num_heads,
            hidden_dim=size.width,
            mlp_dim=size.mlp_ratio * size.width,
            num_classes=1,  # Not used: the classifier is the model's.
        )
        self.name, self.channels = name, size.width
        self.num_blocks, self.num_heads = size.num_layers, size.num_heads
        self.image_size, self.cells = image_size, image_size // size.patch_size
        self.stride, self.offset = size.patch_size, (size.patch_size - 1) / 2
        *blocks, last = network.encoder.layers
        self.stages = nn.ModuleList(
            [_Embedding(network), *blocks, nn.Sequential(last, network.encoder.ln)]
        )
        self.normalisation: Normalisation | None = None
        self.loaded: Loaded | None = None
        if weights.lower() != "none":
            self._load_tokens(network, weights)

    def run(self, features: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """Run the stages from ``first`` up to, and without, ``last``.

        Args:
            features: Images (B, 3, S, S) where ``first`` is 0, else tokens.
            first: Number of the first stage.
            last: Number of the stage after the last; None: run all.

        Returns:
            (B, 1 + cells², channels), the class token first, then those of the patches row by row.

        Raises:
            BatchError: The images have another shape than the network.
        """
        wanted = (3, self.image_size, self.image_size)
        if first == 0 and features.shape[1:] != wanted:
            raise BatchError(
                f"batch['image'] must have shape (B, {', '.join(map(str, wanted))}), got "
                f"{tuple(features.shape)}: position embeddings are made for one size; build the "
                "model with the image_size of the data"
            )
        for stage in list(self.stages)[first:last]:
            features = stage(features)
        return features

    @contextmanager
    def recording(self, blocks: Collection[int], average_heads: bool) -> Iterator[list[Tensor]]:
        """Collect attention weights while the network runs; only then are they computed at all.

        Args:
            blocks: Numbers of the blocks, from 0; negative ones count from the last.
            average_heads: Whether to average over heads.

        Yields:
            A list that each run appends to, in the order of the blocks: weights (B, N, N), or
            (B, heads, N, N), of N tokens. Rows, which are queries, sum to one.
        """
        seen: list[Tensor] = []

        def ask(module: nn.Module, args: Any, options: dict[str, Any]) -> tuple[Any, Any]:
            return args, options | {"need_weights": True, "average_attn_weights": average_heads}

        def keep(module: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:
            seen.append(output[1])

        chosen = {block % self.num_blocks for block in blocks}
        handles = []
        for number, module in enumerate(self._attention()):
            if number in chosen:
                handles.append(module.register_forward_pre_hook(ask, with_kwargs=True))
                handles.append(module.register_forward_hook(keep))
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()

    def _attention(self) -> list[nn.Module]:
        return [m for m in self.stages.modules() if isinstance(m, nn.MultiheadAttention)]

    def _load_tokens(self, network: nn.Module, weights: str) -> None:
        found = find_weights(_source(self.name), weights)
        target = network.state_dict(keep_vars=True)
        names = names_in(target, self.stages)
        state = _as_published(found, names, self.name, weights)
        for key in [key for key in state if key.endswith("encoder.pos_embedding")]:
            state[key] = interpolate_positions(state[key], self.cells)
        self.loaded = load(state, target, set(names.values()), weights, self.name, found.others)
        self.normalisation = found.normalisation
        log.info("%s", self.loaded)


class _Embedding(nn.Module):
    """Patches of an image as tokens, after a class token, each with its position's embedding."""

    def __init__(self, network: VisionTransformer) -> None:
        super().__init__()
        self.conv_proj = network.conv_proj
        self.class_token = network.class_token
        self.pos_embedding = network.encoder.pos_embedding

    def forward(self, image: Tensor) -> Tensor:
        patches = rearrange(self.conv_proj(image), "b d h w -> b (h w) d")
        first = repeat(self.class_token, "1 1 d -> b 1 d", b=len(image))
        tokens: Tensor = torch.cat((first, patches), 1) + self.pos_embedding
        return tokens


@torch.no_grad()
def interpolate_positions(embedding: Tensor, cells: int) -> Tensor:
    """Position embeddings for another number of patches, by bicubic interpolation.

    The corners of the two grids coincide, as torchvision's ``interpolate_embeddings`` has it
    (Dosovitskiy et al., section 3.2). The class token's embedding stays.

    Args:
        embedding: (1, 1 + n², D) float.
        cells: Patches along either side of the image.

    Returns:
        (1, 1 + cells², D); the argument itself where it has no such form, or that number already.
    """
    if embedding.ndim != 3 or embedding.shape[1] < 2:
        return embedding
    side = math.isqrt(embedding.shape[1] - 1)
    if side == cells or side**2 != embedding.shape[1] - 1:
        return embedding
    grid = rearrange(embedding[:, 1:], "1 (h w) d -> 1 d h w", h=side)
    grid = nn.functional.interpolate(
        grid.float(), (cells, cells), mode="bicubic", align_corners=True
    ).to(embedding.dtype)
    return torch.cat((embedding[:, :1], rearrange(grid, "1 d h w -> 1 (h w) d")), 1)


def _source(name: str) -> Network:
    return find_network(name) if name != "vit_tiny" else Network(name, nn.Identity)


def _as_published(
    found: Weights, names: Mapping[str, str], name: str, weights: str
) -> dict[str, Tensor]:
    """Tensors under the names of the whole network: those of our checkpoints count its stages."""
    if found.origin is not None and found.origin.backbone != name:
        raise WeightsError(
            f"weights {weights!r} are of a model with the backbone {found.origin.backbone!r}, not "
            f"of a {name}; give that backbone, or other weights"
        )
    if found.origin is not None:
        return {names.get(key, key): tensor for key, tensor in found.state.items()}
    return {
        _OLD_NAME.sub(lambda match: _NEW_NAME[match[1]], key): tensor
        for key, tensor in found.state.items()
    }


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def _check_size(name: str, size: _Size, image_size: int) -> None:
    if image_size % size.patch_size:
        near = max(1, round(image_size / size.patch_size)) * size.patch_size
        raise ValueError(
            f"image_size must be a multiple of the patch size {size.patch_size} of {name}, got "
            f"{image_size}; {near} is the nearest (data.image_size, where the data say it)"
        )
    if size.width % size.num_heads:
        raise ValueError(
            f"width must be a multiple of num_heads {size.num_heads}, got {size.width}"
        )
