"""A running mean of a network's weights, with which a generator draws better than with the last."""

import copy

import torch
from torch import Tensor, nn


class EMA(nn.Module):
    """Exponential moving average of the weights of a network.

    The average of ``n`` updates is taken with ``min(decay, (1 + n) / (10 + n))``, so that it does
    not begin with the random weights of the start. Buffers, as the statistics of batch
    normalisation, are taken over as they are.

    Args:
        network: The network; the average is a copy of it, without gradients.
        decay: Weight of the average so far at each update, in (0, 1).

    Raises:
        ValueError: ``decay`` is outside its range.
    """

    count: Tensor

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"ema_decay must be in (0, 1), got {decay}; usual is 0.999")
        super().__init__()
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network's weights of now.

        Args:
            network: The network that the average was made of.
        """
        self.count += 1
        number = int(self.count)
        decay = min(self.decay, (1 + number) / (10 + number))
        averages = [p.detach() for p in self.network.parameters()]
        torch._foreach_lerp_(averages, [p.detach() for p in network.parameters()], 1 - decay)
        for average, value in zip(self.network.buffers(), network.buffers(), strict=True):
            average.copy_(value)

    def forward(self, inputs: Tensor) -> Tensor:
        """What the average network gives."""
        outputs: Tensor = self.network(inputs)
        return outputs
