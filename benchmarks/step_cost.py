"""A training step of the interpretable CNN against one of its plain twin, turn by turn.

Usage: python benchmarks/step_cost.py [--threads 2] [--repeats 5] [--assignment category]

MobileNetV2, 224 x 224, batch 32, everything trained: forward, backward and optimiser step. The two
take turns, so that a drift of the machine's speed meets both.
"""

import argparse
import statistics
import time

import torch

from pellucid.batch import Batch
from pellucid.models.interpretable_cnn import InterpretableCNN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--assignment", default="category", choices=("category", "exact"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    batch: Batch = {"image": torch.randn(32, 3, 224, 224), "label": torch.arange(32) % 2}
    model = InterpretableCNN(2, "mobilenet_v2", head="sigmoid", assignment=options.assignment)
    twin = InterpretableCNN(
        2, "mobilenet_v2", head="sigmoid", templates=False, filter_loss_weight=0
    )
    steps = [(m, torch.optim.AdamW(m.parameters(), 1e-4)) for m in (model, twin)]
    times: list[list[float]] = [[], []]
    for turn in range(options.repeats + 1):
        for which, (module, optimizer) in enumerate(steps):
            start = time.perf_counter()
            optimizer.zero_grad()
            module.step(batch, "train")["loss"].backward()
            optimizer.step()
            if turn:  # the first one warms up
                times[which].append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(*times, strict=True)]
    print(
        f"{options.assignment}: interpretable {statistics.median(times[0]):.3f} s, "
        f"twin {statistics.median(times[1]):.3f} s, ratio {statistics.median(ratios):.3f} "
        f"(pair by pair, {min(ratios):.3f} to {max(ratios):.3f}), {options.threads} threads"
    )


if __name__ == "__main__":
    main()
