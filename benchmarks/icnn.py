"""The interpretable CNN against its plain twin: every run, and the table of them.

Usage:
  python benchmarks/icnn.py run parts [--seeds 0 1 2]
  python benchmarks/icnn.py run animal_part --root DIR --weights FILE [--categories ...]
  python benchmarks/icnn.py run animals --root DIR --weights FILE
  python benchmarks/icnn.py table

Every run is one ``pellucid run`` of a shipped config; those that have finished are not run again,
so a benchmark that was stopped goes on. ``--share 0/2`` and ``--share 1/2`` in two terminals, each
with OMP_NUM_THREADS=1, take half of the runs each. ``--share-features`` computes what the frozen
backbone makes of an image once for all runs of a category: the same figures but for rounding, in a
third of the time. The table is made from the runs' results.json.
"""

import argparse
import hashlib
import json
import statistics
from collections import defaultdict
from pathlib import Path

import torch
import yaml
from torch import Tensor

from pellucid.cli import main as pellucid
from pellucid.models.backbones import Backbone

FIGURES = ("accuracy", "location_instability", "part_interpretability")


class SharedFeatures:
    """Runs frozen backbones that have the same weights once on each image."""

    def __init__(self) -> None:
        self.known: dict[bytes, Tensor] = {}
        self.compute = Backbone.run

    def install(self) -> None:
        """Have every backbone ask here first."""

        def run(
            backbone: Backbone, features: Tensor, first: int = 0, last: int | None = None
        ) -> Tensor:
            return self.run(backbone, features, first, last)

        Backbone.run = run  # type: ignore[method-assign]

    def run(self, backbone: Backbone, features: Tensor, first: int, last: int | None) -> Tensor:
        """What stages make of images; only what trained ones make is computed anew."""
        stages = list(backbone.stages)[first:last]
        trained = any(p.requires_grad for stage in stages for p in stage.parameters())
        if first or not stages or trained:
            return self.compute(backbone, features, first, last)
        keys = [hashlib.sha1(image.numpy().tobytes()).digest() for image in features]
        new = [i for i, key in enumerate(keys) if key not in self.known]
        if new:
            found = self.compute(backbone, features[new], first, last)
            self.known |= {keys[i]: one.clone() for i, one in zip(new, found, strict=True)}
        return torch.stack([self.known[key] for key in keys])


def run(options: argparse.Namespace) -> None:
    categories = options.categories or [None]
    if options.which == "animal_part" and options.categories is None:
        folders = Path(options.root, "detanimalpart").glob("*_obj")
        categories = sorted(folder.name.removesuffix("_obj") for folder in folders)
    wanted = [
        (seed, category, kind)
        for seed in options.seeds
        for category in categories
        for kind in ("cnn", "icnn")
    ]
    part, parts = map(int, options.share.split("/"))
    wanted = wanted[part::parts]
    shared = SharedFeatures()
    if options.share_features:
        mine = categories[part::parts]
        wanted = [(s, c, k) for c in mine for s in options.seeds for k in ("cnn", "icnn")]
        shared.install()
    before = None
    for seed, category, kind in wanted:
        if category != before:
            shared.known.clear()
        before = category
        name = f"{kind}_{options.which}"
        label = "-".join(str(x) for x in (name, category, f"seed{seed}") if x is not None)
        if list(Path(options.runs, label).glob("*/results.json")):
            continue
        words = ["run", "--config", name, "--experiment", label, "--seed_everything", str(seed)]
        words += ["--run_root", options.runs]
        if options.root:
            words += ["--data.root", options.root]
        if options.weights:
            words += ["--model.weights", options.weights]
        if category:
            words += ["--data.categories", f"[{category}]"]
        print(label, flush=True)
        try:
            pellucid([*words, *options.extra])
        except SystemExit as end:
            if end.code:
                raise


def table(options: argparse.Namespace) -> None:
    found: dict[tuple[str, str, str], list[dict[str, float]]] = defaultdict(list)
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for path in sorted(Path(options.runs).glob("*/*/results.json")):
        results = json.loads(path.read_text())
        config = yaml.safe_load((path.parent / "config.yaml").read_text())
        name, *rest = results["experiment"].split("-")
        kind, which = name.split("_", 1)
        category = rest[0] if len(rest) > 1 else "all"
        entry = dict(results["metrics"], seed=config["seed_everything"])
        found[which, category, kind].append(entry)
        seconds[which, category].append(results["fit_seconds"])
    for which in sorted({key[0] for key in found}):
        for stage in ("test", "all"):
            rows = sorted({key[1] for key in found if key[0] == which})
            print(f"\n{which}, {stage} (mean over seeds; plain, interpretable, ratio)")
            means: dict[str, list[tuple[float, float]]] = defaultdict(list)
            for category in rows:
                cells = []
                plain, ours = found[which, category, "cnn"], found[which, category, "icnn"]
                for figure in FIGURES:
                    key = f"{stage}/{figure}"
                    pair = [[e[key] for e in side if key in e] for side in (plain, ours)]
                    if not all(pair):
                        continue
                    a, b = (statistics.mean(side) for side in pair)
                    means[figure].append((a, b))
                    cells.append(f"{figure} {a:.4f} {b:.4f} {b / a if a else float('nan'):.3f}")
                time = statistics.mean(seconds[which, category])
                seeds = sorted({e["seed"] for e in plain + ours})
                print(f"  {category:10s} seeds {seeds}: {'; '.join(cells)}; fit {time:.0f} s")
            if len(rows) > 1:
                for figure, pairs in means.items():
                    a, b = (statistics.mean(side) for side in zip(*pairs, strict=True))
                    print(f"  mean {figure} {a:.4f} {b:.4f} {b / a if a else float('nan'):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run")
    one.set_defaults(command=run)
    one.add_argument("which", choices=("parts", "animal_part", "animals"))
    one.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    one.add_argument("--categories", nargs="+")
    one.add_argument("--root")
    one.add_argument("--weights")
    one.add_argument("--share", default="0/1", help="which part of the runs, as in 0/2")
    one.add_argument("--share-features", action="store_true")
    one.add_argument("--extra", nargs=argparse.REMAINDER, default=[], help="for pellucid run")
    two = commands.add_parser("table")
    two.set_defaults(command=table)
    for each in (one, two):
        each.add_argument("--runs", default="runs/benchmark", help="folder of the runs")
    options = parser.parse_args()
    options.command(options)


if __name__ == "__main__":
    main()
