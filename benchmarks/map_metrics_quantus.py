"""Metrics of heat maps against Quantus: 100 random cases, and the seconds of its pixel flipping.

Usage: python benchmarks/map_metrics_quantus.py [--threads 1]

Needs ``pip install quantus`` in an environment of its own (it asks for other versions of common
packages); nothing of Pellucid depends on it. Images have one channel: with several, Quantus flips
the channels of a pixel one after the other, we flip pixels.
"""

import argparse
import time
import warnings

import numpy as np
import quantus
import torch
from torch import nn

from pellucid.metrics import maps as ours

CASES, SIZE = 100, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 8, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
    network = nn.Sequential(*layers, nn.Linear(128, 4)).eval()
    heat, image = torch.rand(CASES, SIZE, SIZE), torch.randn(CASES, 1, SIZE, SIZE)
    mask = torch.rand(CASES, SIZE, SIZE) < torch.linspace(0.1, 0.6, CASES)[:, None, None]
    with torch.no_grad():
        label = network(image).argmax(1)
    given = {
        "model": network,
        "x_batch": image.numpy(),
        "y_batch": label.numpy(),
        "a_batch": heat[:, None].numpy(),
        "s_batch": mask[:, None].numpy(),
        "device": "cpu",
    }
    quiet = {"disable_warnings": True}
    pairs = {
        "relevance mass": (ours.relevance_mass(heat, mask), quantus.RelevanceMassAccuracy),
        "relevance rank": (ours.relevance_rank(heat, mask), quantus.RelevanceRankAccuracy),
        "pointing game": (ours.pointing_game(heat, mask), quantus.PointingGame),
        "gini": (ours.map_gini(heat), quantus.Sparseness),
        "entropy in nats": (ours.map_entropy(heat, normalise=False), quantus.Complexity),
    }
    for name, (found, rival) in pairs.items():
        wanted = np.asarray(rival(**quiet)(**given), dtype=float)
        print(f"{name:16s} off by at most {np.abs(found.numpy() - wanted).max():.1e}")
    few = {k: v[:64] if k.endswith("batch") else v for k, v in given.items()}
    for pixels in (64, 1):
        flipping = quantus.PixelFlipping(features_in_step=pixels, perturb_baseline=0.0, **quiet)
        start = time.process_time()
        wanted = np.asarray(flipping(**few))
        slow, start = time.process_time() - start, time.process_time()
        found = ours.perturbation_curve(
            network,
            image[:64],
            heat[:64],
            label[:64],
            way="deletion",
            baseline="zero",
            steps=SIZE * SIZE // pixels,
        )
        fast = time.process_time() - start
        print(
            f"deletion of 64 maps, {pixels} pixels a step: off by at most "
            f"{np.abs(found[:, 1:].numpy() - wanted).max():.1e}; {fast:.2f} s, Quantus {slow:.2f} s"
            f" ({slow / fast:.1f} times)",
            flush=True,
        )


if __name__ == "__main__":
    main()
