"""Many updates of one batch that is cut into as many, on a GPU replayed as one CUDA graph.

The networks of a VAE are so small that a GPU computes an update in less time than Python takes to
ask for its kernels one by one. A graph asks for them all at once, and a batch of many updates
spreads what Lightning does for each batch. (``torch.cuda.graph``; the same updates are made one by
one on a CPU.)
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.optim import Optimizer

WARM_UP = 3
"""Updates made one kernel at a time before the graph is taken, as PyTorch's notes ask for."""


class RepeatedUpdates:
    """Updates of equal parts of a batch, one after the other.

    Args:
        update: Makes an update of images (size, C, H, W) on their device and gives its scalars,
            detached. It must not read from the device, and what it does may depend on tensors only.
        before: Called before each update with its images, to set such tensors.
        optimizers: Those that ``update`` steps.
        size: Images of an update.
    """

    def __init__(
        self,
        update: Callable[[Tensor], dict[str, Tensor]],
        before: Callable[[Tensor], None],
        optimizers: Sequence[Optimizer],
        size: int,
    ) -> None:
        self.update, self.before, self.optimizers, self.size = update, before, optimizers, size
        self.names: tuple[str, ...] = ()
        self._warm = 0
        self._stream: Any = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._image = self._values = torch.empty(0)

    def __call__(
        self, image: Tensor, most: int | None = None, after: Callable[[], None] = lambda: None
    ) -> dict[str, Tensor]:
        """Updates of a batch.

        Args:
            image: (B, C, H, W). What is left over of a last batch is an update of fewer images; a
                single image that is left over is not.
            most: Updates at most; None: of all images.
            after: Called after each update.

        Returns:
            The mean of each scalar over the images.
        """
        parts = torch.split(image, self.size)
        if len(parts) > 1 and len(parts[-1]) == 1 < self.size:
            parts = parts[:-1]
        found, sizes = [], []
        for part in parts[:most]:
            self.before(part)
            # A replayed graph writes to the same place each time.
            found.append(self._of(part).clone())
            sizes.append(len(part))
            after()
        # No product of matrices, which autocast would round.
        weights = torch.tensor(sizes, device=image.device) / sum(sizes)
        means = (rearrange(weights, "n -> n 1") * torch.stack(found)).sum(0)
        return dict(zip(self.names, means.unbind(), strict=True))

    def _of(self, image: Tensor) -> Tensor:
        """The scalars of one update."""
        if image.device.type != "cuda" or len(image) != self.size:
            return self._bare(image)
        if self._graph is None:
            if self._warm < WARM_UP:
                return self._apart(image)
            self._capture(image)
        assert self._graph is not None
        self._image.copy_(image)
        self._graph.replay()
        return self._values

    def _bare(self, image: Tensor) -> Tensor:
        # Half-precision copies of weights, which autocast keeps, are out of date after an update.
        torch.clear_autocast_cache()
        scalars = self.update(image)
        self.names = tuple(scalars)
        return torch.stack([value.float() for value in scalars.values()])

    def _apart(self, image: Tensor) -> Tensor:
        """An update on the stream that the graph will be taken from."""
        self._warm += 1
        if self._stream is None:
            self._stream = torch.cuda.Stream(image.device)  # type: ignore[no-untyped-call]
        main = torch.cuda.current_stream(image.device)
        self._stream.wait_stream(main)
        with torch.cuda.stream(self._stream):
            values = self._bare(image)
        main.wait_stream(self._stream)
        return values

    def _capture(self, image: Tensor) -> None:
        """Take the graph; nothing is computed yet."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["capturable"] = True
            # The graph brings its own gradients.
            optimizer.zero_grad(set_to_none=True)
        self._image = image.clone()
        graph = torch.cuda.CUDAGraph()
        # A thread that pins memory for a loader has nothing to do with the graph.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._values = self._bare(self._image)
        self._graph = graph
