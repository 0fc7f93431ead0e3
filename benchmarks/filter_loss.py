"""Part templates and filter loss, forward and backward, against a loop over filters.

Usage: python benchmarks/filter_loss.py [--threads 2] [--repeats 5]

Both compute the same numbers, which is checked first. The rival handles one filter at a time, as
the published code does, each with tensor operations over images and templates.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from pellucid.losses.filter_loss import all_templates, category_loss, mutual_information_loss
from pellucid.models.layers.part_template import PartTemplate

SHAPE = (32, 512, 14, 14)
GAIN = 20.0


def vectorised(maps: Tensor, labels: Tensor, assignment: str) -> Tensor:
    masked = PartTemplate()(maps)
    if assignment == "category":
        categories = torch.ones(maps.shape[1], dtype=torch.int64)
        loss = category_loss(maps, labels, categories).mean()
    else:
        templates = all_templates(*maps.shape[-2:]) * GAIN / maps[0, 0].numel()
        loss = mutual_information_loss(torch.einsum("buhw,thw->but", maps, templates)).mean()
    return loss + masked.mean()


def loop(maps: Tensor, labels: Tensor, assignment: str) -> Tensor:
    total = maps.new_zeros(())
    height, width = maps.shape[-2:]
    for unit in range(maps.shape[1]):
        x = maps[:, unit]
        peak = x.detach().flatten(1).argmax(1)
        rows = torch.arange(height)[None, :, None] - (peak // width)[:, None, None]
        columns = torch.arange(width)[None, None, :] - (peak % width)[:, None, None]
        template = (1 - 4 * (rows.abs() + columns.abs()) / height).clamp(min=-1)
        total = total + (x * template).clamp(min=0).mean()
        if assignment == "category":
            loss = category_loss(x[:, None], labels, torch.ones(1, dtype=torch.int64))
        else:
            templates = all_templates(height, width) * GAIN / (height * width)
            loss = mutual_information_loss(torch.einsum("bhw,thw->bt", x, templates)[:, None])
        total = total + loss.sum()
    return total / maps.shape[1]


def seconds(function: Callable[[Tensor, Tensor, str], Tensor], assignment: str, n: int) -> float:
    torch.manual_seed(0)
    labels = torch.arange(SHAPE[0]) % 2
    times = []
    for _ in range(n + 1):
        maps = torch.rand(SHAPE, requires_grad=True)
        start = time.perf_counter()
        function(maps, labels, assignment).backward()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"maps {SHAPE}, {options.threads} threads, median of {options.repeats}")
    for assignment in ("category", "exact"):
        maps, labels = torch.rand(8, 16, 14, 14), torch.arange(8) % 2
        torch.testing.assert_close(
            vectorised(maps, labels, assignment), loop(maps, labels, assignment)
        )
        ours = seconds(vectorised, assignment, options.repeats)
        rival = seconds(loop, assignment, max(options.repeats // 2, 1))
        print(f"{assignment:9s} {ours:7.3f} s   loop {rival:7.3f} s   {rival / ours:5.1f} x")


if __name__ == "__main__":
    main()
