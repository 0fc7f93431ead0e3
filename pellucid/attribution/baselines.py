"""What an explanation must beat: noise, the image's edges, and a network that has learnt nothing.

Source: Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim, *Sanity Checks for Saliency Maps*, NeurIPS
2018 (arXiv 1810.03292): the model parameter randomisation test of section 3, all layers at once,
and the edge detector of section 5.
"""

import copy
import zlib
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.attribution.method import AttributionMethod, Finding

_ELSEWHERE = 2**31
Network = TypeVar("Network", bound=nn.Module)


class RandomMap(AttributionMethod):
    """Uniform noise in each pixel: what no knowledge at all is worth.

    The map is a function of the seed and the image alone, whatever the batch.

    Args:
        seed: Seed of the maps, at least 0.

    Raises:
        ValueError: The seed is below 0.
    """

    name = "random_map"
    label = "Random map"
    sign = "positive"

    def __init__(self, seed: int = 0) -> None:
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        self.seed = seed

    def explain(self, network: nn.Module, image: Tensor, target: Tensor | None) -> Finding:
        """See :meth:`AttributionMethod.explain`."""
        size = image.shape[-2:]
        maps = []
        for one in image.detach().float().cpu():
            seed = zlib.crc32(one.numpy().tobytes(), self.seed)
            maps.append(torch.rand(size, generator=torch.Generator().manual_seed(seed)))
        return Finding(heat=torch.stack(maps).to(image.device))


class EdgeDetector(AttributionMethod):
    """Magnitude of the Sobel gradient of the image's mean over channels.

    It knows the image and nothing of the network: a method that gives much the same map draws the
    image, not the reason.
    """

    name = "edge_detector"
    label = "Edge detector"
    sign = "positive"

    def explain(self, network: nn.Module, image: Tensor, target: Tensor | None) -> Finding:
        """See :meth:`AttributionMethod.explain`."""
        grey = image.detach().float().mean(1, keepdim=True)
        # Beyond its edge the image goes on as it ends, or its frame would be an edge.
        padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
        across = grey.new_tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
        both = rearrange(torch.stack((across, across.T)), "n h w -> n 1 h w")
        return Finding(heat=F.conv2d(padded, both).square().sum(1).sqrt())


BASELINES: Mapping[str, Callable[..., AttributionMethod]] = {
    RandomMap.name: RandomMap,
    EdgeDetector.name: EdgeDetector,
}
"""The baselines that are methods of their own, by name. The third, the same method on a network
that knows nothing, is made by :func:`randomised_copy`."""


def randomised_copy(network: Network, seed: int = 0) -> Network:
    """A copy of a network whose parameters are all drawn anew.

    Layers that can initialise themselves do so (``reset_parameters``, which also resets what batch
    normalisation counted); all other parameters, as tokens and positions of a transformer, are
    drawn from a normal distribution of their own mean and standard deviation. The network itself,
    its gradients and the global random state stay as they are.

    Args:
        network: The network.
        seed: Seed of the parameters.

    Raises:
        ValueError: The network has no parameter, so nothing can be randomised.
    """
    if next(network.parameters(), None) is None:
        raise ValueError(
            f"{type(network).__name__} has no parameter, so there is nothing to randomise"
        )
    with torch.random.fork_rng(devices=[]):
        # By the bare seed, a network that was made with the same one would get its own first
        # parameters back.
        torch.manual_seed(seed + _ELSEWHERE)
        # Copied on the CPU, so that the same seed gives the same network on any device.
        device = next(network.parameters()).device
        copied = copy.deepcopy(network).cpu()
        reset: set[int] = set()
        for module in copied.modules():
            again = getattr(module, "reset_parameters", None)
            if callable(again):
                again()
                reset |= {id(each) for each in module.parameters(recurse=False)}
        for parameter in copied.parameters():
            if id(parameter) not in reset:
                _redraw(parameter)
    return copied.to(device)


@torch.no_grad()
def _redraw(parameter: Tensor) -> None:
    if not parameter.is_floating_point() or not parameter.numel():
        return
    spread = parameter.std() if parameter.numel() > 1 else parameter.abs().mean()
    parameter.copy_(parameter.mean() + spread * torch.randn_like(parameter))
