"""Latents that have fallen silent start anew.

A latent that a heavy divergence has silenced does not come back by itself, also where the
divergence would leave room for it again: neither its encoder nor its decoder has anything to
improve on the other. Units that die are drawn anew elsewhere, too: Dhariwal et al., "Jukebox: A
Generative Model for Music", 2020 (arXiv 2005.00341), section 3.1, for the entries of a codebook.
For the latents of a VAE it is ours.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor, nn
from torch.optim import Optimizer

from pellucid.distributed import gather_with_gradient, is_distributed
from pellucid.metrics.disentanglement.active_units import LEAST_VARIANCE

LEAST_IMAGES = 8
"""Among fewer, latents that are heard may seem silent: a tenth of them among two images, .004 among
four, none among eight (measured where their variances are 0.8 to 1.5)."""

LEAST_STD = 0.01
"""A drawn code that varies less than this over the images is stretched as if it varied as much."""


@torch.no_grad()
def restart_silent(
    encoder: nn.Sequential, decoder: nn.Sequential, image: Tensor, optimizers: Iterable[Optimizer]
) -> list[int]:
    """Draw the weights of silent latents anew, and let optimisers forget.

    A latent is silent where its posterior mean is no active unit over the images of all devices
    (Burda et al. 2016: a variance of at most 0.01). Its mean becomes a random sum of the encoder's
    last features, with mean 0 and standard deviation 1 over these images (or less, if it would have
    to be stretched more than a hundred times), its variance that of the prior, and the decoder's
    weights on it are drawn as at the start. The posteriors of all others stay as they are.

    Args:
        encoder: From images to means and log-variances (B, 2 L); ends in a linear layer.
        decoder: From codes (B, L); begins with a linear layer.
        image: (B, C, H, W) in [0, 1].
        optimizers: Those of the model. If a latent was silent, what they remember of all weights is
            set to zero in place, steps included, as at the start.

    Returns:
        The silent latents, the same on all devices.
    """
    heads, inlet = encoder[-1], decoder[0]
    assert isinstance(heads, nn.Linear)
    assert isinstance(inlet, nn.Linear)
    # Autocast would keep half-precision copies of the weights as they were.
    with torch.autocast(image.device.type, enabled=False):
        features = gather_with_gradient(encoder[:-1](image))
        mean, _ = heads(features).chunk(2, dim=1)
        silent = _of_the_first(mean.var(0, correction=0) <= LEAST_VARIANCE).nonzero().flatten()
        if len(silent) == 0:
            return []
        drawn, read = (
            _of_the_first(nn.init.xavier_uniform_(torch.empty_like(layer.weight)))
            for layer in (heads, inlet)
        )
        anew = features @ drawn[silent].T
        scale = 1 / anew.std(0, correction=0).clamp(min=LEAST_STD)
    heads.weight[silent] = rearrange(scale, "l -> l 1") * drawn[silent]
    heads.bias[silent] = -scale * anew.mean(0)
    heads.weight[silent + len(mean[0])] = 0
    heads.bias[silent + len(mean[0])] = 0
    inlet.weight[:, silent] = read[:, silent]
    for optimizer in optimizers:
        for state in optimizer.state.values():
            for value in state.values():
                value.zero_()
    return [int(latent) for latent in silent]


def _of_the_first(tensor: Tensor) -> Tensor:
    """The tensor of the first process, in place."""
    if is_distributed():
        dist.broadcast(tensor, 0)
    return tensor
