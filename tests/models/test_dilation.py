"""Finer maps from deep layers: dilation in place of strides."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pellucid.models.backbones import Backbone, CutError
from pellucid.models.interpretable_cnn import InterpretableCNN
from tests.models.receptive_fields import looks_at


def coarse_and_fine(
    name: str, output_stride: int, stride: int | None = 32, node: str | None = None
) -> tuple[Backbone, Backbone]:
    """A network as it is, and dilated, with the same weights."""
    torch.manual_seed(0)
    coarse = Backbone(name, stride=stride, node=node)
    fine = Backbone(name, node=node, output_stride=output_stride)
    fine.load_state_dict(coarse.state_dict())
    return coarse.double().eval(), fine.double().eval()


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """Equal to rounding; untrained networks can have tiny activations."""
    scale = expected.std()
    torch.testing.assert_close(actual / scale, expected / scale, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [("mobilenet_v2", 16), ("mobilenet_v2", 8), ("resnet18", 16), ("resnet50", 8)],
)
@pytest.mark.usefixtures("quick_classifiers")
def test_cells_of_before_keep_their_values_and_places(name: str, output_stride: int) -> None:
    coarse, fine = coarse_and_fine(name, output_stride)
    skipped = 32 // output_stride
    image = torch.randn(2, 3, 128, 192).double()
    with torch.no_grad():
        before, after = coarse(image), fine(image)
    assert after.shape[-2:] == (128 // output_stride, 192 // output_stride)
    assert_same(after[..., ::skipped, ::skipped], before)
    assert (fine.stride, fine.offset) == (output_stride, coarse.offset)
    # The new ones are no copies.
    new = (after[..., 1::skipped, ::skipped] - before).std()
    assert new > before.std() / 10
    assert len(fine.stages) == len(coarse.stages)


def test_a_network_that_is_cut_by_its_graph() -> None:
    coarse, fine = coarse_and_fine("shufflenet_v2_x0_5", 16)
    image = torch.randn(1, 3, 128, 128).double()
    with torch.no_grad():
        assert_same(fine(image)[..., ::2, ::2], coarse(image))


def test_up_to_a_node() -> None:
    coarse, fine = coarse_and_fine("resnet18", 16, stride=None, node="layer4.0")
    image = torch.randn(1, 3, 128, 128).double()
    with torch.no_grad():
        assert_same(fine(image)[..., ::2, ::2], coarse(image))


@pytest.mark.usefixtures("quick_classifiers")
def test_new_cells_look_where_they_are_said_to() -> None:
    fine = Backbone("resnet18", output_stride=16)
    assert fine.offset is not None
    expected = [fine.offset + 16 * cell for cell in (2, 3)]
    assert looks_at(fine, 2, 3) == pytest.approx(expected, abs=1e-3)


def test_pooling_that_lowers_the_resolution_moves_by_one_cell() -> None:
    fine = Backbone("densenet121", output_stride=16).eval()
    with torch.no_grad():
        assert fine(torch.zeros(1, 3, 128, 128)).shape[-2:] == (7, 7)
    assert fine.stride == 16


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("mobilenet_v2", {"output_stride": 32}, r"output_stride of mobilenet_v2 must be one of "),
        ("mobilenet_v2", {"output_stride": 3}, r"2, 4, 8, 16, below the stride of 32 .*, got 3"),
        ("resnet18", {"output_stride": 16, "stride": 32}, r"stride must be left out \(null\)"),
        ("small", {"output_stride": 4}, r"output_stride of small must be one of "),
        ("densenet121", {"output_stride": 8}, r"cannot be dilated: .*AvgPool2d.*leave output_st"),
        ("timm/resnet18d", {"output_stride": 16}, r"branches come out in different sizes"),
        ("swin_t", {"output_stride": 16}, r"swin_t cannot be dilated: .* is in the way"),
    ],
)
def test_what_cannot_be_dilated_is_said(name: str, options: dict[str, int], says: str) -> None:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    with pytest.raises(CutError, match=says):
        Backbone(name, **options)


def test_layers_stay_in_the_mode_they_were_in() -> None:
    assert all(module.training for module in Backbone("resnet18", output_stride=16).modules())


@pytest.fixture
def model() -> InterpretableCNN:
    torch.manual_seed(0)
    return InterpretableCNN(3, "mobilenet_v2", output_stride=16, num_units=4)


def test_the_model_has_fine_maps_of_the_last_layer(model: InterpretableCNN) -> None:
    top, added = model.eval().maps(torch.zeros(1, 3, 64, 64))
    assert top.shape == (1, 1280, 4, 4)
    assert added.shape == (1, 4, 4, 4)


def test_weights_of_a_dilated_model_fit_one_that_is_not(
    model: InterpretableCNN, tmp_path: Path
) -> None:
    file = tmp_path / "model.ckpt"
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}, file)
    coarse = Backbone("mobilenet_v2", str(file), stride=32)
    own: dict[str, Tensor] = model.backbone.state_dict()
    assert all(torch.equal(own[name], value) for name, value in coarse.state_dict().items())
