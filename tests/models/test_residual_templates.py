"""The constraint of a part template in a residual network: after the last sum, inside a block."""

import pytest
import torch
from torch import Tensor, nn

from pellucid.models.backbones import Backbone
from pellucid.models.interpretable_cnn import InterpretableCNN
from pellucid.models.layers.part_template import PartTemplate, peak_cells, positive_templates


def share_outside(maps: Tensor, peaks: Tensor) -> float:
    """Share of the maps' energy where the masks of templates at given peaks are zero."""
    outside = positive_templates(peaks, *maps.shape[-2:]) <= 0
    maps = maps.detach()
    return float((maps.square() * outside).sum() / maps.square().sum())


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_after_the_last_sum_everything_lies_within_the_template(name: str) -> None:
    torch.manual_seed(0)
    model = InterpretableCNN(2, name, num_units=4).eval()
    seen: list[Tensor] = []
    model.added.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randn(2, 3, 128, 128)
    top, _ = model.maps(images)
    assert share_outside(top, peak_cells(top)) > 0.2
    assert share_outside(seen[0], peak_cells(top)) == 0.0
    assert seen[0].sum() > 0


def test_the_scores_see_the_masked_map_and_nothing_else() -> None:
    torch.manual_seed(0)
    model = InterpretableCNN(2, "resnet18", num_units=4).eval()
    first, second = torch.randn(2, 1, 3, 96, 96)
    assert not torch.equal(model(first), model(second))
    masked = model.top_template(model.backbone(first))
    model.top_template.register_forward_hook(lambda *_: masked)
    assert torch.equal(model(first), model(second))


def test_inside_a_block_the_skip_connection_carries_the_rest_past_the_template() -> None:
    torch.manual_seed(0)
    backbone = Backbone("resnet18", stride=16).eval()
    block = backbone.stages[-1].get_submodule("1")
    template = PartTemplate()
    block.bn2 = nn.Sequential(block.bn2, nn.ReLU(), template)
    branch: list[Tensor] = []
    peaks: list[Tensor] = []
    template.register_forward_hook(lambda _, inputs, masked: branch.append(masked.clone()))
    template.register_forward_pre_hook(lambda _, inputs: peaks.append(peak_cells(inputs[0])))
    maps = backbone(torch.randn(2, 3, 128, 128))
    # The template does its work on the branch, and the sum, which is in place, undoes it.
    assert share_outside(branch[0], peaks[0]) == 0.0
    assert share_outside(maps, peaks[0]) > 0.2
    assert share_outside(maps, peak_cells(maps)) > 0.2
