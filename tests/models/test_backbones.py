"""Every backbone by name; weights files that fit and that do not."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from pellucid.batch import BatchError
from pellucid.models.backbones import _SPECS, BACKBONES, Backbone, WeightsError, read_weights


@pytest.mark.parametrize("name", BACKBONES)
def test_strides_and_signs(name: str) -> None:
    for stride in _SPECS[name].strides:
        with torch.no_grad():
            maps = Backbone(name, stride=stride).eval()(torch.randn(1, 3, 128, 128))
        assert abs(maps.shape[-1] - 128 / stride) <= 1
        assert (maps >= 0).all()
        assert not any(getattr(m, "inplace", False) for m in Backbone(name).modules())


@pytest.mark.parametrize("channels", [1, 4])
def test_images_without_three_channels_are_named(channels: int) -> None:
    backbone = Backbone("small")
    with pytest.raises(
        BatchError, match=rf"3 channels .* got \(2, {channels}, 64, 64\); data.chan"
    ):
        backbone(torch.zeros(2, channels, 64, 64))


def linearise(module: nn.Module) -> None:
    """Keep what moves positions: strides, padding, the centres of windows."""
    for name, child in module.named_children():
        if isinstance(child, nn.MaxPool2d):
            mean = nn.AvgPool2d(child.kernel_size, child.stride, child.padding)
            setattr(module, name, mean)
        elif isinstance(child, (nn.LayerNorm, nn.BatchNorm2d, nn.GELU, nn.ReLU, nn.ReLU6)):
            setattr(module, name, nn.Identity())
        else:
            linearise(child)
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        weight = torch.full_like(module.weight, 1 / module.weight[0].numel())
        if isinstance(module, nn.Conv2d) and module.kernel_size[0] % 2:
            # The middle of the window alone, so that no receptive field meets the border.
            middle = module.kernel_size[0] // 2
            weight[:, :, middle, middle] = 1 / weight.shape[1]
            weight[:, :, torch.arange(weight.shape[2]) != middle] = 0
            weight[:, :, :, torch.arange(weight.shape[3]) != middle] = 0
        module.weight.data, module.bias = weight, None


@pytest.mark.parametrize("name", BACKBONES)
def test_offset_and_stride_are_those_of_the_receptive_field(name: str) -> None:
    for stride in _SPECS[name].strides:
        backbone = Backbone(name, stride=stride).eval().double()
        linearise(backbone)
        image = torch.zeros(1, 3, 192, 224, dtype=torch.float64, requires_grad=True)
        maps = backbone(image)
        for row, column in ((2, 3), (3, 2)):
            (gradient,) = torch.autograd.grad(maps[0, :, row, column].sum(), image, None, True)
            seen = gradient[0].sum(0) / gradient.sum()
            y = float((seen.sum(1) * torch.arange(192)).sum())
            x = float((seen.sum(0) * torch.arange(224)).sum())
            assert y == pytest.approx(backbone.offset + stride * row, abs=1e-6)
            assert x == pytest.approx(backbone.offset + stride * column, abs=1e-6)


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


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return path


def test_weights_file_is_loaded(resnet_file: Path) -> None:
    state = torch.load(resnet_file, weights_only=True)
    backbone = Backbone("resnet18", str(resnet_file))
    loaded = backbone.stages[3][1].conv2.weight  # type: ignore[index, union-attr]
    assert torch.equal(loaded, state["layer3.1.conv2.weight"])


@pytest.mark.parametrize("form", ["state_dict", "module.", "model.", "old"])
def test_forms_of_a_weights_file(resnet_file: Path, tmp_path: Path, form: str) -> None:
    state: Any = torch.load(resnet_file, weights_only=True)
    if form == "state_dict":
        content: Any = {"state_dict": state, "epoch": 3}
    elif form == "old":  # from before batch normalisation counted its batches
        content = {k: v for k, v in state.items() if "num_batches_tracked" not in k}
    else:
        content = {form + key: value for key, value in state.items()}
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    backbone = Backbone("resnet18", str(path))
    assert torch.equal(backbone.stages[0].conv1.weight, state["conv1.weight"])  # type: ignore[union-attr]


class Trap:
    def __reduce__(self) -> Any:
        return os.system, ("touch trapped",)


def test_wrong_files_are_refused(
    resnet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        WeightsError, match=r"not of a mobilenet_v2: \d+ tensors missing.*unexpected"
    ):
        Backbone("mobilenet_v2", str(resnet_file))
    with pytest.raises(WeightsError, match=r"not of a resnet50.*of another shape \(layer1"):
        Backbone("resnet50", str(resnet_file))
    truncated = tmp_path / "truncated.pth"
    truncated.write_bytes(resnet_file.read_bytes()[:100_000])
    text = tmp_path / "text.pth"
    text.write_text("not weights")
    code = tmp_path / "code.pth"
    code.write_bytes(pickle.dumps({"conv1.weight": Trap()}))
    torch.save({"conv1.weight": Trap()}, tmp_path / "zipped.pth")
    page = tmp_path / "page.pth"
    page.write_text("a\nb\n")  # a pickle's first opcode to the unpickler: IndexError
    for path in (truncated, text, page, code, tmp_path / "zipped.pth"):
        with pytest.raises(WeightsError, match=f"{path.name}.*cannot be read"):
            read_weights(str(path))
    assert not (tmp_path / "trapped").exists()
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds no state dict"):
        read_weights(str(tmp_path / "list.pth"))
    with pytest.raises(WeightsError, match=r"IMAGENET1K_V1.*there is no file 'IMAGENET1K_V9'"):
        Backbone("resnet18", "IMAGENET1K_V9")


def test_torchvision_weights_by_name(
    resnet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The real code path, with the file where torch.hub keeps what it has downloaded.
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / weights.url.rsplit("/", 1)[1]).write_bytes(resnet_file.read_bytes())
    backbone = Backbone("resnet18", "IMAGENET1K_V1")
    state = torch.load(resnet_file, weights_only=True)
    assert torch.equal(backbone.stages[0].conv1.weight, state["conv1.weight"])  # type: ignore[union-attr]


def test_a_failed_download_names_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(WeightsError, match=r"'DEFAULT' could not be downloaded \(no route"):
        Backbone("resnet18", "DEFAULT")


def test_weights_of_another_network_by_name() -> None:
    with pytest.raises(WeightsError, match=r"there is no file 'VGG16_Weights\.DEFAULT'"):
        Backbone("resnet18", "VGG16_Weights.DEFAULT")


def test_wrong_names() -> None:
    with pytest.raises(ValueError, match=r"alexnet.*got 'alexnt'; did you mean 'alexnet'"):
        Backbone("alexnt")
    with pytest.raises(ValueError, match="stride of resnet18 must be one of 4, 8, 16, 32, got 5"):
        Backbone("resnet18", stride=5)
