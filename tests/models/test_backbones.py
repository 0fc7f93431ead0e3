"""The backbones whose cuts were chosen by hand."""

import pytest
import torch
import torchvision

from pellucid.batch import BatchError
from pellucid.models.backbones import BACKBONES, Backbone
from pellucid.models.backbones.specs import SPECS
from tests.models.receptive_fields import looks_at


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.usefixtures("quick_classifiers")
def test_strides_and_signs(name: str) -> None:
    for stride in SPECS[name].strides:
        backbone = Backbone(name, stride=stride).eval()
        with torch.no_grad():
            maps = backbone(torch.randn(1, 3, 128, 128))
        assert abs(maps.shape[-1] - 128 / stride) <= 1
        assert maps.shape[1] == backbone.channels
        assert (maps >= 0).all()
        assert not any(getattr(m, "inplace", False) for m in backbone.modules())


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.usefixtures("quick_classifiers")
def test_offset_and_stride_are_those_of_the_receptive_field(name: str) -> None:
    for stride in SPECS[name].strides:
        backbone = Backbone(name, stride=stride)
        assert backbone.offset is not None
        expected = [backbone.offset + stride * cell for cell in (2, 3)]
        assert looks_at(backbone, 2, 3) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_without_three_channels_are_named(channels: int) -> None:
    backbone = Backbone("small")
    with pytest.raises(
        BatchError, match=rf"3 channels .* got \(2, {channels}, 64, 64\); data.chan"
    ):
        backbone(torch.zeros(2, channels, 64, 64))


def test_stages_add_up_to_the_network() -> None:
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v2().eval()
    path_free = Backbone("mobilenet_v2", stride=32).eval()
    keys = list(network.features.state_dict().values())
    mine = list(path_free.state_dict().values())
    assert len(keys) == len(mine)
    with torch.no_grad():
        for ours, theirs in zip(mine, keys, strict=True):
            ours.copy_(theirs)
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(path_free(image), network.features(image))


def test_wrong_names() -> None:
    with pytest.raises(ValueError, match=r"'small'.*got 'alexnt'; did you mean 'alexnet'"):
        Backbone("alexnt")
    with pytest.raises(ValueError, match="stride of resnet18 must be one of 4, 8, 16, 32, got 5"):
        Backbone("resnet18", stride=5)
