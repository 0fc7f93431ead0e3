"""How fast SyntheticParts draws: images with masks and landmarks per second.

Run ``python benchmarks/synthetic_parts.py``. The claim is at least 2,000 images of 64 x 64 pixels
a second on two cores.
"""

import os
import time
from collections.abc import Callable

import torch

from pellucid.datamodules.figures import render_figures
from pellucid.datamodules.synthetic_parts import SyntheticParts

# size: images per measurement
SIZES = {32: 4000, 64: 2000, 128: 500, 256: 120}
REPEATS = 3


def seconds(action: Callable[[], object]) -> float:
    """The shortest of several runs: what else the machine does only makes runs longer."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    print(f"{os.cpu_count()} cores, torch {torch.__version__}")
    for threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        for size, count in SIZES.items():
            data = SyntheticParts(image_size=size, train_size=count)

            def draw(data: SyntheticParts = data, size: int = size) -> None:
                render_figures(data.specs("train")[0], size)

            print(
                f"{threads} thread(s), {size:3d} x {size:3d}: {count / seconds(draw):6.0f} images/s"
            )
    items = SyntheticParts().make_dataset("test")
    took = seconds(lambda: [items[index] for index in range(1000)]) / 1000
    print(f"one item of a drawn split, 64 x 64: {1e6 * took:.0f} microseconds")


if __name__ == "__main__":
    main()
