"""A training step with soft attention against one with average pooling, turn by turn.

Usage: python benchmarks/attention.py [--threads 2] [--repeats 9] [--heads 2] [--score additive]

MobileNetV2, 224 x 224, batch 32, everything trained: forward, backward and optimiser step. The two
take turns, so that a drift of the machine's speed meets both.
"""

import argparse
import statistics
import time

import torch

from pellucid.batch import Batch
from pellucid.models.attention_classifier import AttentionClassifier


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument(
        "--score", default="additive", choices=("additive", "multiplicative", "dot")
    )
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    size = options.batch_size
    batch: Batch = {"image": torch.randn(size, 3, 224, 224), "label": torch.arange(size) % 4}
    model = AttentionClassifier(4, options.backbone, heads=options.heads, score=options.score)
    twin = AttentionClassifier(4, options.backbone, attention="none")
    steps = [(m, torch.optim.AdamW(m.parameters(), 1e-4)) for m in (model, twin)]
    times: list[list[float]] = [[], []]
    for turn in range(options.repeats + 1):
        for which, (module, optimizer) in enumerate(steps):
            start = time.process_time()
            optimizer.zero_grad()
            module.step(batch, "train")["loss"].backward()
            optimizer.step()
            if turn:  # the first one warms up
                times[which].append(time.process_time() - start)
    ratios = [a / b for a, b in zip(*times, strict=True)]
    print(
        f"{options.score}, {options.heads} heads: attention {statistics.median(times[0]):.3f} s, "
        f"average pooling {statistics.median(times[1]):.3f} s of processor time, ratio "
        f"{statistics.median(ratios):.3f} (pair by pair, {min(ratios):.3f} to {max(ratios):.3f}), "
        f"{options.threads} threads"
    )


if __name__ == "__main__":
    main()
