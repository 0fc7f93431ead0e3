"""Fixed representations of a full grid of factors, whose scores are known or can be looped over."""

from itertools import product

import numpy as np

from pellucid.metrics.disentanglement import CodeTable

SIZES = (3, 4, 5)
REPEATS = 10


def grid() -> np.ndarray:
    """(600, 3) every combination ten times."""
    return np.tile(np.array(list(product(*map(range, SIZES)))), (REPEATS, 1))


def make(name: str) -> CodeTable:
    rng = np.random.default_rng(7)
    factors = grid()
    own = (factors - factors.mean(0)) / factors.std(0)
    noise = rng.normal(size=(len(factors), 2))
    if name == "perfect":
        codes = own
    elif name == "noisy":
        codes = own + 0.3 * rng.normal(size=own.shape)
    elif name == "rotated":
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        codes = own @ turn
    elif name == "random":
        codes = rng.normal(size=own.shape)
    elif name == "dead":
        codes = np.concatenate([own, 0.01 * noise], 1)
    elif name == "constant":
        codes = np.concatenate([own, np.full((len(own), 1), 2.0)], 1)
    else:
        assert name == "redundant"
        codes = np.concatenate([own, -2 * own], 1)
    return CodeTable(codes, factors)


NAMES = ("perfect", "noisy", "rotated", "random", "dead", "constant", "redundant")
