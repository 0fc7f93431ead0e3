"""Metrics of 64 heat maps of 64 x 64 at once, against a loop over images and steps.

Usage: python benchmarks/map_metrics.py [--threads 1] [--repeats 3] [--save cases.npz]

Relevance mass and rank, pointing game, IoU at the best threshold, Gini index, entropy, deletion and
insertion; the network of the last two is a small convolutional one. The rival does what published
code does: one image after the other, and for each of them one look of the network after each step.
It takes the same steps of the same pixels, so that the figures must agree; with ``--pixels 1`` it
deletes one pixel at a time, the default of Quantus's pixel flipping, which ours does in as many
steps too.

``--save`` writes maps, masks, images and our figures, for a comparison with Quantus in an
environment of its own (see ``benchmarks/RESULTS.md``).
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.metrics.maps import evaluate_maps

SIZE, IMAGES = 64, 64


def tiny_network() -> nn.Module:
    """Four classes from 64 x 64 pixels."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(128, 4),
    ).eval()


def make_case() -> tuple[Tensor, Tensor, Tensor]:
    """Images, maps without equal values, and masks of a tenth to a third of the image."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(IMAGES, 3, SIZE, SIZE, generator=generator)
    maps = torch.rand(IMAGES, SIZE, SIZE, generator=generator)
    mask = torch.zeros(IMAGES, SIZE, SIZE, dtype=torch.bool)
    for number in range(IMAGES):
        side = 20 + number // 4
        mask[number, number // 3 : number // 3 + side, 5 : 5 + side] = True
    return image, maps, mask


def curve_area(
    scores: nn.Module, image: Tensor, heat: np.ndarray, instead: Tensor, pixels: int, way: str
) -> float:
    """One image, one look after each step; the sum without half of the ends, over the steps."""
    target = int(scores(image[None]).argmax())
    order = np.argsort(-heat.ravel())
    start, end = (image, instead) if way == "deletion" else (instead, image)
    present, source = start.clone().flatten(1), end.flatten(1)
    found = [float(scores(start[None]).softmax(1)[0, target])]
    for first in range(0, len(order), pixels):
        places = torch.from_numpy(order[first : first + pixels].copy())
        present[:, places] = source[:, places]
        found.append(float(scores(present.view(1, 3, SIZE, SIZE)).softmax(1)[0, target]))
    return (sum(found) - found[0] / 2 - found[-1] / 2) / (len(found) - 1)


@torch.no_grad()
def loop(
    scores: nn.Module, image: Tensor, maps: Tensor, mask: Tensor, pixels: int
) -> dict[str, float]:
    """The same figures, an image at a time, in NumPy."""
    from torchvision.transforms.v2.functional import gaussian_blur

    found: dict[str, list[float]] = {}
    for one, heat, inside in zip(image, maps.numpy(), mask.numpy(), strict=True):
        flat, wanted = heat.ravel(), inside.ravel()
        order = np.argsort(-flat)
        size, count = int(wanted.sum()), len(flat)
        hits = np.cumsum(wanted[order])
        part = flat / flat.sum()
        blurred = gaussian_blur(
            torch.nn.functional.pad(one, (5,) * 4, mode="replicate"), [11, 11], [5.0, 5.0]
        )
        figures = {
            "relevance_mass": flat[wanted].sum() / flat.sum(),
            "relevance_rank": wanted[order[:size]].mean(),
            "pointing_game": float(wanted[flat.argmax()]),
            "iou_best": (hits / (np.arange(1, count + 1) + size - hits)).max(),
            "gini": ((2 * np.arange(1, count + 1) - count - 1) * np.sort(part)).sum() / count,
            "entropy": -(part * np.log(part)).sum() / np.log(count),
            "deletion_auc": curve_area(
                scores, one, heat, torch.zeros_like(one), pixels, "deletion"
            ),
            "insertion_auc": curve_area(
                scores, one, heat, blurred[:, 5:-5, 5:-5].contiguous(), pixels, "insertion"
            ),
        }
        for name, value in figures.items():
            found.setdefault(name, []).append(float(value))
    return {name: float(np.mean(values)) for name, values in found.items()}


def clock(run: Callable[[], dict[str, float]], repeats: int) -> tuple[float, dict[str, float]]:
    """Least seconds of the processor over the repeats, and the figures."""
    seconds, found = [], {}
    for _ in range(repeats):
        start = time.process_time()
        found = run()
        seconds.append(time.process_time() - start)
    return min(seconds), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pixels", type=int, default=64, help="pixels of a step")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--save")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network, (image, maps, mask) = tiny_network(), make_case()
    steps = SIZE * SIZE // options.pixels

    def ours() -> dict[str, float]:
        return evaluate_maps(
            maps,
            {"image": image, "mask": mask},
            network,
            steps=steps,
            batch_size=options.batch_size,
        )

    fast, found = clock(ours, options.repeats)
    slow, wanted = clock(
        lambda: loop(network, image, maps, mask, options.pixels), min(2, options.repeats)
    )
    print(
        f"{IMAGES} maps of {SIZE} x {SIZE}, {steps} steps, {options.threads} threads: at once "
        f"{fast:.2f} s, loop {slow:.2f} s, {slow / fast:.1f} times as long"
    )
    for name, value in wanted.items():
        print(
            f"  {name:16s} {found[name]:.6f}  loop {value:.6f}  off by {found[name] - value:+.1e}"
        )
    if options.save:
        np.savez(
            options.save,
            image=image.numpy(),
            maps=maps.numpy(),
            mask=mask.numpy(),
            **{f"ours_{name}": value for name, value in found.items()},
        )


if __name__ == "__main__":
    main()
