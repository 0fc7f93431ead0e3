"""How far an explanation moves when the image hardly does.

Source: Yeh, Hsieh, Suggala, Inouye, Ravikumar, *On the (In)fidelity and Sensitivity of
Explanations*, NeurIPS 2019 (arXiv 1901.09392), definition 3.1 and section 5; relative to the size
of the explanation, as in the authors' code.
"""

from collections.abc import Callable

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.linalg import vector_norm

from pellucid.metrics.maps.heat import check_heat
from pellucid.metrics.maps.map_metric import MapMetric

RADIUS = 0.1
"""In units of a normalised image, standard deviations of the data: some seven grey levels."""
SAMPLES = 4
BATCH_SIZE = 64

Explain = Callable[[Tensor, Tensor], Tensor]
"""Makes maps (N, h, w) of images (N, C, H, W) and classes (N,) int64."""


def max_sensitivity(
    explain: Explain,
    image: Tensor,
    target: Tensor,
    *,
    radius: float = RADIUS,
    samples: int = SAMPLES,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    r"""Greatest relative change of a map, :math:`\max_y \|\Phi(y) - \Phi(x)\| / \|\Phi(x)\|`.

    ``samples`` images :math:`y` are drawn uniformly from the cube
    :math:`\|y - x\|_\infty \le` ``radius``, with the same noise for every image, so that neither
    batches nor other images change the result. More samples find greater changes: figures compare
    only at the same radius and number of samples.

    Args:
        explain: The explanation; negative values of its maps count as well.
        image: (B, C, H, W) float.
        target: (B,) int64, the class that is explained, in the changed images too.
        radius: Greatest change of a value of the image, above 0.
        samples: Changed images per image, at least 1.
        seed: Seed of the changes.
        batch_size: Images that ``explain`` is given at once, at least 1.

    Returns:
        (B,) float32 from 0 on, lower is better: 0.5 is a change by half of the map. NaN where the
        map is zero everywhere.

    Raises:
        ValueError: If an argument is out of range, or a map is wrong or not finite.
    """
    _check(radius, samples, batch_size)
    if image.ndim != 4 or target.shape != image.shape[:1]:
        raise ValueError(
            f"image must be (B, C, H, W) and target (B,), got {tuple(image.shape)} and "
            f"{tuple(target.shape)}"
        )
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(samples, *image.shape[1:], generator=generator).mul_(2).sub_(1)
    noise = (noise * radius).to(image)
    before = _maps(explain, image, target, batch_size)
    near = rearrange(image.unsqueeze(1) + noise, "b s c h w -> (b s) c h w")
    after = _maps(explain, near, repeat(target, "b -> (b s)", s=samples), batch_size)
    moved = rearrange(after, "(b s) h w -> b s (h w)", s=samples) - rearrange(
        before, "b h w -> b 1 (h w)"
    )
    size = vector_norm(before, dim=(1, 2))
    most = vector_norm(moved, dim=2).amax(1)
    return torch.where(size > 0, most / torch.where(size > 0, size, 1.0), torch.nan).float()


def _maps(explain: Explain, image: Tensor, target: Tensor, batch_size: int) -> Tensor:
    """(N, h, w) float64."""
    found = []
    for first in range(0, max(len(image), 1), batch_size):
        rows = slice(first, first + batch_size)
        maps = explain(image[rows], target[rows])
        check_heat(maps)
        if len(maps) != len(image[rows]):
            raise ValueError(f"explain gave {len(maps)} maps of {len(image[rows])} images")
        found.append(maps.detach().double())
    return torch.cat(found)


def _check(radius: float, samples: int, batch_size: int) -> None:
    if not 0 < radius < float("inf"):
        raise ValueError(f"radius must be above 0, got {radius}; usual is {RADIUS}")
    for name, value in (("samples", samples), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


class MaxSensitivity(MapMetric):
    """Greatest relative change of maps near each image, mean over images; lower is better.

    See :func:`max_sensitivity`. Images whose map is zero everywhere are left out.

    Args:
        radius: Greatest change of a value of the image, above 0.
        samples: Changed images per image, at least 1.
        seed: Seed of the changes.
        batch_size: Images that the explanation is given at once, at least 1.

    Raises:
        ValueError: If an argument is out of range.
    """

    higher_is_better = False

    def __init__(
        self,
        radius: float = RADIUS,
        samples: int = SAMPLES,
        seed: int = 0,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        super().__init__()
        _check(radius, samples, batch_size)
        self.radius, self.samples = radius, samples
        self.seed, self.batch_size = seed, batch_size

    def update(self, explain: Explain, image: Tensor, target: Tensor) -> None:
        """Look at one batch; the arguments are those of :func:`max_sensitivity`."""
        self.add(
            max_sensitivity(
                explain,
                image,
                target,
                radius=self.radius,
                samples=self.samples,
                seed=self.seed,
                batch_size=self.batch_size,
            )
        )
