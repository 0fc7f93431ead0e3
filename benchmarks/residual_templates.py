"""Part templates inside residual blocks, and after the last residual sum of a ResNet-18.

Usage:
  python benchmarks/residual_templates.py [--steps 300] [--seed 0]

A template sets a map to zero where its mask is not above 0. Behind a residual sum the skip
connection adds what the mask has removed. For each place of the templates a ResNet-18 is trained
from scratch on the built-in figures; then, over test images and the 256 maps of ``layer3`` that
reach the classifier, the script prints the share of their energy (sum of squares) that lies where
the mask of their own template is zero.
"""

import argparse
import time

import torch
from torch import Tensor, nn

from pellucid.datamodules.synthetic_parts import SyntheticParts
from pellucid.models.backbones import Backbone
from pellucid.models.layers.part_template import PartTemplate, peak_cells, positive_templates

PLACES = ("none", "inside", "after")


class Classifier(nn.Module):
    """ResNet-18 up to ``layer3`` with a linear layer on its mean.

    Args:
        place: Where the templates are: ``none``, ``inside`` both blocks of ``layer3`` (on the
            branch, after its second convolution), or ``after`` the last residual sum.
        num_classes: Number of classes.
    """

    def __init__(self, place: str, num_classes: int) -> None:
        super().__init__()
        self.backbone = Backbone("resnet18", stride=16)
        self.after = PartTemplate() if place == "after" else nn.Identity()
        if place == "inside":
            for block in self.backbone.stages[-1]:
                # A branch's own maps are of either sign; a template wants them at least 0.
                block.bn2 = nn.Sequential(block.bn2, nn.ReLU(), PartTemplate())
        self.head = nn.Linear(self.backbone.channels, num_classes)

    def maps(self, image: Tensor) -> Tensor:
        """The maps (B, 256, h, w) that the linear layer sees."""
        return self.after(self.backbone(image))

    def forward(self, image: Tensor) -> Tensor:
        """Scores (B, num_classes)."""
        return self.head(self.maps(image).mean((2, 3)))


def masks(maps: Tensor) -> Tensor:
    """Where the mask of each map's own template is above 0."""
    return positive_templates(peak_cells(maps), *maps.shape[-2:]) > 0


def measure(place: str, steps: int, seed: int) -> tuple[float, float, float]:
    """Train, then give test accuracy, share of energy outside, and mean share of cells outside."""
    torch.manual_seed(seed)
    data = SyntheticParts(image_size=128, train_size=2000, test_size=200, batch_size=16)
    network = Classifier(place, data.num_classes)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    done = 0
    while done < steps:
        for batch in data.train_dataloader():
            loss = nn.functional.cross_entropy(network(batch["image"]), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if done == steps:
                break
    network.eval()
    right = outside = energy = cells = 0.0
    count = 0
    with torch.no_grad():
        for batch in data.test_dataloader():
            maps = network.maps(batch["image"])
            away = ~masks(maps)
            right += float((network(batch["image"]).argmax(1) == batch["label"]).sum())
            outside += float((maps.square() * away).sum())
            energy += float(maps.square().sum())
            cells += float(away.float().mean()) * len(maps)
            count += len(maps)
    return right / count, outside / energy, cells / count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300, help="training steps of 16 images")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{'templates':<10}{'accuracy':>10}{'energy outside':>16}{'cells outside':>15}{'s':>7}")
    for place in PLACES:
        start = time.perf_counter()
        accuracy, outside, cells = measure(place, options.steps, options.seed)
        seconds = time.perf_counter() - start
        print(
            f"{place:<10}{accuracy:>10.3f}{outside:>16.4f}{cells:>15.3f}{seconds:>7.0f}", flush=True
        )


if __name__ == "__main__":
    main()
