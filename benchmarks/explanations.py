"""The whole evaluation table: own explanation, 8 methods, 2 baselines, 64 images of 64 x 64.

Usage: python benchmarks/explanations.py [--threads 2] [--methods saliency grad_cam ...] [RUN]

All metrics, each method also on a network whose parameters are drawn anew, and the true effects of
parts, as ``pellucid evaluate`` makes them. RUN is that of a classifier of 64 x 64 figures, as
`cnn_parts`; without it the network is the plain twin of `icnn_parts` with random weights. That is
for a quick look: integrated gradients take as many steps as completeness needs, which are others on
a trained network. A method that refuses the network makes no row, and fewer than 8 no table: part
templates, which cut gradients off, are refused by integrated gradients. The time without metrics is
that of the methods alone, on the 64 images once: what the bare library calls cost.
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
from pellucid.attribution.method import ClassScores, UnsupportedNetwork
from pellucid.attribution.methods import METHODS, make_method
from pellucid.cli.evaluate import DEFAULT_METHODS
from pellucid.cli.quiet import quiet
from pellucid.cli.trained import open_trained
from pellucid.datamodules.base import ImageDataModule
from pellucid.datamodules.synthetic_parts import SyntheticParts
from pellucid.models.base import InterpretableModel
from pellucid.models.interpretable_cnn import InterpretableCNN

IMAGES, SIDE = 64, 64
TARGET = 120.0
"""Seconds on two cores."""


def subject_of(run: Path | None) -> tuple[InterpretableModel, ImageDataModule]:
    """A run's model and data, or a model with random weights."""
    if run is None:
        torch.manual_seed(0)
        model = InterpretableCNN(4, backbone="small", num_units=64, templates=False)
        return model.eval(), SyntheticParts(test_size=IMAGES)
    with quiet():
        trained = open_trained("benchmark", run)
    return trained.model, trained.data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [name for name in DEFAULT_METHODS if name in METHODS]
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=names)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    model, data = subject_of(options.run)
    dataset = data.dataset("test")
    batch = default_collate([dataset[i] for i in range(IMAGES)])
    if batch["image"].shape[-2:] != (SIDE, SIDE):
        raise SystemExit(f"images must be {SIDE} x {SIDE}, got {tuple(batch['image'].shape[-2:])}")
    subject = make_subject(ClassScores(model), batch["image"])
    methods = [OwnExplanation(), *(make_method(name) for name in options.methods)]
    for method in methods:  # Libraries that are loaded at the first call.
        try:
            method.attribute(subject.network, subject.image[:1])
        except UnsupportedNetwork as error:
            print(f"  {method.label}: refused, {error}")
    start, busy = time.perf_counter(), time.process_time()
    table = evaluate_explanations([subject], methods, batch, data)
    table.as_dict()  # Bootstrap intervals are made when the table is written.
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    bare = 0.0
    for row in table.rows:
        if row.seconds_per_image is not None:
            bare += row.seconds_per_image * IMAGES
            print(f"  {row.label:28s} {row.seconds_per_image * 1000:8.1f} ms per image  {row.note}")
        else:
            print(f"  {row.label:28s} {row.note}")
    judged = sum(row.kind == "post_hoc" and row.heat is not None for row in table.rows)
    print(
        f"{judged} methods, {len(table.rows)} rows, {len(table.columns)} columns, {IMAGES} images, "
        f"{options.threads} threads: {seconds:.1f} s (target: 8 methods below {TARGET:.0f} s), "
        f"{busy:.1f} s of processor; the methods alone on these images once {bare:.1f} s"
    )


if __name__ == "__main__":
    main()
