"""Network dissection in one look at each image, against a loop over units and images.

Usage: python benchmarks/dissection.py [--images 256] [--rival-images 24] [--threads 1]

512 units and 50 concepts of 4 categories on a grid of 112 x 112, from maps of 112 x 112 and of
14 x 14. ``--images 10000`` is the full size. The cost of an image falls while images come in, as
fewer activations can still reach the threshold, but depends only on the share of the images seen:
the metric is told how many will come, and fewer images in all have the same mean cost.

The rival does what the published code does, on images whose features are all in memory: first the
threshold of each unit (np.partition, in place of a sketch of the quantiles), then, for each image
and each unit whose peak is above it, the map resized by PIL, the places above the threshold
listed, and the labels there counted. Making the images is not timed; neither is the network.
Seconds are the processor's, so that other work on the machine counts for little.
Both see the same first images, of which the figures are compared. The rival has one thread; on
cores that others use, more threads than one wait for each other in every small operation.
"""

import argparse
import resource
import time
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pellucid.metrics import NetworkDissection

SIZE = 112
CATEGORIES = ("object", "part", "material", "colour")
QUANTILE = 0.005
POOL = 8


def memory() -> float:
    """Greatest memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Images:
    """Endless images: smooth maps after a ReLU, and one label map for each category.

    Args:
        units: Number of units.
        cells: Maps are ``cells`` x ``cells``.
        concepts: Number of concepts, dealt out to the categories in turn.
    """

    def __init__(self, units: int, cells: int, concepts: int) -> None:
        self.concepts, self.cells = concepts, cells
        self.generator = torch.Generator().manual_seed(0)
        coarse = torch.randn(POOL, units, 7, 7, generator=self.generator)
        self.pool = F.interpolate(coarse, size=cells, mode="bicubic").relu()

    def batch(self, number: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """(B, U, h, w) maps, (B, 4, H, W) labels with 0 for none, and (B, 4) annotated."""
        self.generator.manual_seed(number)
        units = self.pool.shape[1]
        strength = torch.rand(size, units, 1, 1, generator=self.generator) + 0.5
        offset = torch.randint(self.cells, (2,), generator=self.generator).tolist()
        chosen = torch.randint(POOL, (size,), generator=self.generator)
        maps = self.pool[chosen].mul_(strength).roll(offset, (2, 3))
        # Four regions for each category, of concepts drawn at random; the last one is of none,
        # but each pixel has a colour.
        noise = torch.randn(size * 4, 4, 5, 5, generator=self.generator)
        regions = F.interpolate(noise, size=SIZE, mode="bilinear").argmax(1)
        draws = torch.randint(self.concepts // 4, (size, 4, 4), generator=self.generator)
        concepts = draws * 4 + torch.arange(4).view(1, 4, 1) + 1
        concepts[:, :3, 3] = 0
        labels = concepts.flatten(0, 1).gather(1, regions.flatten(1)).view(size, 4, SIZE, SIZE)
        annotated = torch.rand(size, 4, generator=self.generator) < 0.8
        return maps, labels * annotated[:, :, None, None], annotated

    def batches(self, images: int, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """What :meth:`batch` gives, ``size`` images at a time."""
        for number, first in enumerate(range(0, images, size)):
            yield self.batch(number, min(size, images - first))


def as_masks(labels: Tensor, concepts: int) -> Tensor:
    masks = torch.zeros(len(labels), concepts + 1, SIZE * SIZE, dtype=torch.bool)
    masks.scatter_(1, labels.flatten(2), True)
    return masks[:, 1:].unflatten(2, (SIZE, SIZE))


def ours(
    data: Images, images: int, size: int, announced: int | None
) -> tuple[float, NetworkDissection, list[float]]:
    """Seconds, the metric, and the memory held after a quarter of the images and at the end."""
    categories = [CATEGORIES[concept % 4] for concept in range(data.concepts)]
    names = [f"concept {concept}" for concept in range(data.concepts)]
    metric = NetworkDissection(
        data.pool.shape[1], names, categories, quantile=QUANTILE, num_images=announced
    )
    seconds, held, seen = 0.0, [], 0
    for maps, labels, annotated in data.batches(images, size):
        masks = as_masks(labels, data.concepts)
        start = time.process_time()
        metric.update(maps, masks, annotated=annotated)
        seconds += time.process_time() - start
        if seen < images / 4 <= seen + len(maps):
            held.append(memory())
        seen += len(maps)
    start = time.process_time()
    metric.compute()
    return seconds + time.process_time() - start, metric, [*held, memory()]


def loop(
    features: np.ndarray, labels: np.ndarray, annotated: np.ndarray, concepts: int
) -> tuple[np.ndarray, float, float]:
    """(U, C) IoU, and the seconds of the thresholds and of the areas."""
    start = time.process_time()
    images, units = features.shape[:2]
    places = images * features.shape[2] * features.shape[3]
    rank = places - 1 - int(QUANTILE * places)
    thresholds = [np.partition(features[:, unit].ravel(), rank)[rank] for unit in range(units)]
    between = time.process_time()
    both = np.zeros((units, concepts + 1))
    fired = np.zeros((units, 4))
    area = np.zeros(concepts + 1)
    for image in range(images):
        pixels = labels[image]
        area += np.bincount(pixels.ravel(), minlength=concepts + 1)
        for unit in range(units):
            feature = features[image, unit]
            if feature.max() > thresholds[unit]:
                large = np.asarray(
                    Image.fromarray(feature).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
                )
                where = np.argwhere(large > thresholds[unit])
                counts = np.bincount(pixels[:, where[:, 0], where[:, 1]].ravel())
                both[unit, : len(counts)] += counts
                fired[unit] += len(where) * annotated[image]
    category = np.arange(concepts) % 4
    with np.errstate(invalid="ignore"):
        iou = both[:, 1:] / (area[1:] + fired[:, category] - both[:, 1:])
    return iou, between - start, time.process_time() - between


def compare(cells: int, options: argparse.Namespace) -> None:
    data = Images(options.units, cells, options.concepts)
    size = options.batch_size
    before = memory()
    seconds, metric, held = ours(data, options.images, size, options.images)
    states = sum(v.numel() * v.element_size() for v in metric.metric_state.values()) / 1e6
    each = seconds / options.images
    print(f"maps {cells} x {cells}")
    print(
        f"  one look, number of images known   {1 / each:8.1f} images/s ({options.images} images); "
        f"states {states:.0f} MB; memory of the process {before:.0f} MB before, {held[0]:.0f} MB "
        f"after a quarter, {held[1]:.0f} MB at the end"
    )
    few = options.rival_images
    unknown, metric, _ = ours(data, few, size, None)
    print(f"  one look, number not known         {few / unknown:8.1f} images/s ({few} images)")
    parts = list(data.batches(few, size))
    features, labels, annotated = (
        np.concatenate([part[which].numpy() for part in parts]) for which in range(3)
    )
    iou, first, second = loop(features, labels, annotated, options.concepts)
    for name, took in {"loop": first + second, "loop without thresholds": second}.items():
        print(
            f"  {name:33s}  {few / took:8.1f} images/s ({few} images)   "
            f"{took / few / each:.1f} times as long"
        )
    clear = iou > 0.04
    error = np.abs(metric.iou().numpy()[clear] / iou[clear] - 1)
    least, greatest = (bound.numpy() for bound in metric.bounds())
    within = np.isnan(least) | ((least <= iou + 1e-6) & (iou <= greatest + 1e-6))
    print(
        f"  same {few} images: IoUs {'all' if within.all() else 'NOT'} within their bounds; the "
        f"{clear.sum()} above 0.04 are off by {error.mean():.4f} (relative) on average, "
        f"{error.max():.4f} at most"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rival-images", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--concepts", type=int, default=52)
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{options.units} units, {options.concepts} concepts, grid {SIZE} x {SIZE}, "
        f"{options.threads} threads"
    )
    for cells in (14, SIZE):
        compare(cells, options)


if __name__ == "__main__":
    main()
