"""The table of methods and networks in the docs, against what the methods do.

``python -m tests.attribution.test_compatibility`` writes the table anew.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from pellucid.attribution.method import TOLERANCE, UnsupportedNetwork
from pellucid.attribution.methods import METHODS, make_method
from tests.attribution.networks import published

DOCS = Path(__file__).resolve().parents[2] / "docs/attribution.md"
BLOCK = re.compile(r"(?<=<!-- table: begin -->\n).*(?=<!-- table: end -->)", re.DOTALL)
SIZES = {"our small CNN": 64, "ResNet-18": 64, "VGG-16": 64, "MobileNetV2": 64, "ViT-B/16": 64}
# What a method does on a network does not depend on how well it does it.
QUICK: Mapping[str, dict[str, object]] = {
    "smooth_grad": {"samples": 1},
    "occlusion": {"window": 32},
    "lime": {"superpixels": "grid", "num_superpixels": 4, "samples": 8},
    "kernel_shap": {"superpixels": "grid", "num_superpixels": 4, "samples": 14},
    "meaningful_perturbation": {"iterations": 1},
}


def cell(name: str, network: nn.Module, image: torch.Tensor) -> str:
    """What one method does on one network."""
    try:
        found = make_method(name, **QUICK.get(name, {})).attribute(network, image)
    except UnsupportedNetwork as error:
        return f"refused: `{error.layer}`: {error.reason}"
    assert torch.isfinite(found.heat).all()
    assert float(found.heat.abs().max()) > 0, f"{name} is zero"
    if not make_method(name).promises_completeness:
        return "works"
    assert found.completeness_error is not None
    worst = float(found.completeness_error.max())
    return "works, completeness error below 0.001" if worst <= TOLERANCE else f"error {worst:.1e}"


def rows(methods: list[str]) -> dict[str, list[str]]:
    """The cells of each method, network by network."""
    found: dict[str, list[str]] = {name: [] for name in methods}
    for network, size in SIZES.items():
        built = published(network, size)
        image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(5))
        for name in methods:
            found[name].append(cell(name, built, image))
    return found


def text(cells: Mapping[str, list[str]]) -> str:
    """The table in Markdown."""
    lines = ["| method | " + " | ".join(SIZES) + " |", "|---" * (len(SIZES) + 1) + "|"]
    lines += [f"| `{name}` | " + " | ".join(found) + " |" for name, found in cells.items()]
    return "\n".join(lines) + "\n"


def tried() -> list[str]:
    """Methods that explain a network as it comes: l2x explains with a network of its own."""
    return [name for name in METHODS if name != "l2x"]


@pytest.mark.slow
def test_the_table_in_the_docs_is_true():
    (written,) = BLOCK.findall(DOCS.read_text())
    found = text(rows(tried()))
    assert "error" not in found.replace("completeness error below", "")
    assert written == found


def main(write: Callable[[str], object] = DOCS.write_text) -> None:
    table = text(rows(tried()))
    print(table)
    write(BLOCK.sub(lambda _: table, DOCS.read_text()))


if __name__ == "__main__":
    main()
