"""The whole evaluation table: own explanation, 8 methods, 2 baselines, 64 images of 64 x 64.

Usage: python benchmarks/explanations.py [--threads 2] [--methods saliency grad_cam ...] [RUN]

All metrics, each method also on a network whose parameters are drawn anew, and the true effects of
parts, as ``pellucid evaluate`` makes them. Without RUN the network is `icnn_parts` with random
weights, for which everything takes as long as for a trained one. The time without metrics is that
of the methods alone, on the 64 images once: what the bare library calls cost.
"""

import argparse
import time
import warnings
from pathlib import Path

import torch
from torch.utils.data import default_collate

from pellucid.attribution.evaluation import (
    OwnExplanation,
    evaluate_explanations,
    make_subject,
)
from pellucid.attribution.method import ClassScores
from pellucid.attribution.methods import METHODS, make_method
from pellucid.cli.evaluate import DEFAULT_METHODS
from pellucid.datamodules.synthetic_parts import SyntheticParts
from pellucid.models.interpretable_cnn import InterpretableCNN

IMAGES = 64
TARGET = 120.0
"""Seconds on two cores."""


def make_model(run: Path | None) -> InterpretableCNN:
    """That of a run, or one with random weights."""
    torch.manual_seed(0)
    if run is None:
        return InterpretableCNN(4, backbone="small", num_units=64).eval()
    checkpoint = run / "checkpoints" / "best.ckpt"
    found: InterpretableCNN = InterpretableCNN.load_from_checkpoint(
        checkpoint, map_location="cpu", weights_only=True
    )
    return found.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [name for name in DEFAULT_METHODS if name in METHODS]
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=names)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    data = SyntheticParts(test_size=IMAGES)
    batch = default_collate([data.dataset("test")[i] for i in range(IMAGES)])
    subject = make_subject(ClassScores(make_model(options.run)), batch["image"])
    methods = [OwnExplanation(), *(make_method(name) for name in options.methods)]
    for method in methods:  # Libraries that are loaded at the first call.
        method.attribute(subject.network, subject.image[:1])
    start, busy = time.perf_counter(), time.process_time()
    table = evaluate_explanations([subject], methods, batch, data)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    bare = 0.0
    for row in table.rows:
        if row.seconds_per_image is not None:
            bare += row.seconds_per_image * IMAGES
            print(f"  {row.label:28s} {row.seconds_per_image * 1000:8.1f} ms per image  {row.note}")
        else:
            print(f"  {row.label:28s} {row.note}")
    print(
        f"{len(table.rows)} rows, {len(table.columns)} columns, {IMAGES} images, "
        f"{options.threads} threads: {seconds:.1f} s (target: below {TARGET:.0f} s), "
        f"{busy:.1f} s of processor; the methods alone on these images once {bare:.1f} s"
    )


if __name__ == "__main__":
    main()
