"""Weights by name and from files: what fits, what is refused, and what comes with them."""

import os
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from pellucid.models.backbones import Backbone, Normalisation, WeightsError, read_weights
from pellucid.models.interpretable_cnn import InterpretableCNN

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return path


def test_weights_file_is_loaded(resnet_file: Path) -> None:
    state = torch.load(resnet_file, weights_only=True)
    backbone = Backbone("resnet18", str(resnet_file))
    loaded = backbone.stages[3][1].conv2.weight
    assert torch.equal(loaded, state["layer3.1.conv2.weight"])


FORMS = ["plain", "state_dict", "module.", "model.", "lightning", "compiled", "old", "safetensors"]


def write_form(state: dict[str, Tensor], folder: Path, form: str) -> Path:
    """The same weights as various tools write them."""
    if form == "safetensors":
        torch_file = pytest.importorskip("safetensors.torch")
        torch_file.save_file(state, folder / "weights.safetensors")
        return folder / "weights.safetensors"
    content: Any = dict(state)
    if form == "state_dict":
        content = {"state_dict": state, "epoch": 3}
    elif form == "old":  # from before batch normalisation counted its batches
        content = {k: v for k, v in state.items() if "num_batches_tracked" not in k}
    elif form == "lightning":  # has tensors of its own beside those of the network
        inside = {f"model.{key}": value for key, value in state.items()}
        own = {"criterion.weight": torch.ones(3), "ema.layer1.0.conv1.weight": torch.ones(1)}
        content = {"state_dict": {**own, **inside}, "hyper_parameters": {"lr": 0.1}, "loops": {}}
    elif form == "compiled":
        content = {f"module._orig_mod.model.{key}": value for key, value in state.items()}
    elif form.endswith("."):
        content = {form + key: value for key, value in state.items()}
    torch.save(content, folder / "weights.pth")
    return folder / "weights.pth"


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_weights_file(resnet_file: Path, tmp_path: Path, form: str) -> None:
    state = torch.load(resnet_file, weights_only=True)
    file = write_form(state, tmp_path, form)
    backbone = Backbone("resnet18", str(file))
    own = backbone.state_dict()
    for stage, name in enumerate(("layer1", "layer2", "layer3"), 1):
        for key, tensor in own.items():
            if key.startswith(f"stages.{stage}.") and "tracked" not in key:
                assert torch.equal(tensor, state[f"{name}.{key.removeprefix(f'stages.{stage}.')}"])
    assert torch.equal(own["stages.0.conv1.weight"], state["conv1.weight"])
    loaded = backbone.loaded
    assert loaded is not None
    assert loaded.total == len(state) + {"lightning": 2, "old": -20}.get(form, 0)
    counters = sum("tracked" in key for key in own)
    assert loaded.tensors == len(own) - (counters if form == "old" else 0)
    assert (backbone.normalisation, loaded.unexpected) == (None, ())
    assert str(loaded).startswith(
        f"weights: loaded {loaded.tensors} of {loaded.total} tensors of {file}; "
    )


def test_weights_of_a_traced_network_reach_it(tmp_path: Path) -> None:
    torch.manual_seed(2)
    network = torchvision.models.shufflenet_v2_x0_5().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_()
    torch.save({**network.state_dict(), "teacher.weight": torch.ones(1)}, tmp_path / "net.pth")
    backbone = Backbone("shufflenet_v2_x0_5", str(tmp_path / "net.pth"), node="stage4").eval()
    image = torch.randn(1, 3, 64, 64)
    seen: list[Tensor] = []
    network.stage4.register_forward_hook(lambda *call: seen.append(call[2]))
    network(image)
    torch.testing.assert_close(backbone(image), seen[0].relu())
    assert backbone.loaded is not None
    assert backbone.loaded.unexpected == ("teacher.weight",)
    assert "1 to no layer (teacher.weight)" in str(backbone.loaded)


def test_names_of_old_densenets_are_understood(tmp_path: Path) -> None:
    # The files that torchvision publishes have norm.1 where its modules have norm1.
    state = torchvision.models.densenet121().state_dict()
    old = {
        ".".join(
            f"{part[:-1]}.{part[-1]}"
            if "denselayer" in key and part[:-1] in ("norm", "conv")
            else part
            for part in key.split(".")
        ): tensor
        for key, tensor in state.items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "densenet.pth")
    backbone = Backbone("densenet121", str(tmp_path / "densenet.pth"))
    name = "denselayer3.conv2.weight"
    mine = backbone.state_dict()[f"stages.1.0.{name}"]
    assert torch.equal(mine, state[f"features.denseblock1.{name}"])


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
    torch.save({"state_dict": {"conv1.weight": torch.ones(1)}, "loss": Trap()}, tmp_path / "l.ckpt")
    for path in (truncated, text, page):
        with pytest.raises(WeightsError, match=rf"{path.name}.*cannot be read: it is truncated"):
            read_weights(path)
    for path in (code, tmp_path / "zipped.pth", tmp_path / "l.ckpt"):
        with pytest.raises(WeightsError, match=rf"{path.name}.*which could be code \(none of it"):
            read_weights(path)
    assert not (tmp_path / "trapped").exists()
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match=r"holds no state dict \(names and tensors\) but a list"):
        read_weights(tmp_path / "list.pth")
    # As timm's and DeiT's training scripts write them.
    torch.save({"model": {"a": torch.ones(1)}, "epoch": 3}, tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"but model, epoch; save the state_dict alone"):
        read_weights(tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"IMAGENET1K_V1.*there is no file 'IMAGENET1K_V9'"):
        Backbone("resnet18", "IMAGENET1K_V9")


def test_a_deeper_network_is_not_taken_for_a_shallow_one(tmp_path: Path) -> None:
    # Every tensor of a ResNet-18 is in a ResNet-34, in the same shape.
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "resnet34.pth")
    with pytest.raises(
        WeightsError, match=r"not of a resnet18: \d+ unexpected \(layer1\.2"
    ) as found:
        Backbone("resnet18", str(tmp_path / "resnet34.pth"))
    assert found.value.missing == ()
    assert "layer3.5.conv2.weight" in found.value.unexpected


def test_a_refusal_lists_every_tensor(resnet_file: Path, tmp_path: Path) -> None:
    state = torch.load(resnet_file, weights_only=True)
    del state["bn1.weight"], state["layer3.1.conv1.weight"], state["layer4.0.conv1.weight"]
    state |= {"conv1.weight": torch.ones(64, 1, 7, 7), "extra": torch.ones(1)}
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(WeightsError) as found:
        Backbone("resnet18", str(tmp_path / "wrong.pth"))
    error = found.value
    # What lies above the cut is not needed.
    assert error.missing == ("bn1.weight", "layer3.1.conv1.weight")
    assert (error.unexpected, error.misshapen) == (("extra",), ("conv1.weight",))
    assert "2 tensors missing (bn1.weight, layer3.1.conv1.weight); 1 unexpected (extra)" in str(
        error
    )
    assert "(64, 1, 7, 7) in the file, (64, 3, 7, 7) wanted" in str(error)


def test_weights_that_are_no_numbers_are_refused(resnet_file: Path, tmp_path: Path) -> None:
    """Training with them would end with a loss that is not finite, and blame the learning rate."""
    state = torch.load(resnet_file, weights_only=True)
    state["fc.weight"][0, 0] = torch.nan  # Not used: no reason to refuse.
    torch.save(state, tmp_path / "diverged.pth")
    Backbone("resnet18", str(tmp_path / "diverged.pth"))
    state["layer1.0.conv1.weight"][1, 2, 0, 1] = torch.inf
    state["bn1.running_var"][3] = torch.nan
    torch.save(state, tmp_path / "diverged.pth")
    match = r"diverged.pth' .* not finite: 2 tensors \(bn1.running_var, layer1.0.conv1.weight\)"
    with pytest.raises(WeightsError, match=match):
        Backbone("resnet18", str(tmp_path / "diverged.pth"))


def test_a_truncated_safetensors_file_is_refused(tmp_path: Path) -> None:
    torch_file = pytest.importorskip("safetensors.torch")
    torch_file.save_file({"conv1.weight": torch.ones(100)}, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    for name, content in (("short.safetensors", whole[:-9]), ("other.bin", whole[:-9])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=rf"{name}.*truncated or no safetensors"):
            read_weights(tmp_path / name)
    (tmp_path / "other.bin").write_bytes(whole)
    assert read_weights(tmp_path / "other.bin").state["conv1.weight"].sum() == 100


def own_checkpoint(
    folder: Path, record: Any = None, **options: Any
) -> tuple[Path, InterpretableCNN]:
    """What Lightning writes of one of our models, and the model."""
    torch.manual_seed(3)
    model = InterpretableCNN(2, num_units=4, **options)
    content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(content)
    if record is not None:
        content["normalisation"] = record
    torch.save(content, folder / "best.ckpt")
    return folder / "best.ckpt", model


CUTS = [
    ({"stride": 16}, {"stride": 16}),
    ({"stride": 32}, {"stride": 8}),
    ({"node": "layer3.1"}, {"stride": 16}),
    ({"stride": 16}, {"node": "layer3.0"}),
]


@pytest.mark.parametrize(("theirs", "ours"), CUTS)
def test_our_own_checkpoints_are_weights(theirs: Any, ours: Any, tmp_path: Path) -> None:
    record = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]}
    path, model = own_checkpoint(tmp_path, record, backbone="resnet18", **theirs)
    backbone = Backbone("resnet18", str(path), **ours)
    # A network with the same weights, put together without a look at names.
    network = torchvision.models.resnet18()
    weights = [*model.backbone.state_dict().values()]
    for target, tensor in zip(network.state_dict().values(), weights, strict=False):
        target.copy_(tensor)
    for mine, expected in zip(
        backbone.state_dict().values(), network.state_dict().values(), strict=False
    ):
        assert torch.equal(mine, expected)
    assert backbone.normalisation == Normalisation((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    assert backbone.loaded is not None
    assert backbone.loaded.total == len(model.state_dict())


def test_our_own_checkpoints_of_other_backbones_are_refused(tmp_path: Path) -> None:
    path, _ = own_checkpoint(tmp_path, backbone="resnet18", stride=8)
    with pytest.raises(WeightsError, match="with the backbone 'resnet18', not of a mobilenet_v2"):
        Backbone("mobilenet_v2", str(path))
    with pytest.raises(WeightsError, match=r"not of a resnet18: \d+ tensors missing \(layer3"):
        Backbone("resnet18", str(path), stride=16)


@pytest.mark.parametrize("record", [{"mean": 1, "std": 2}, {"mean": [1.0]}, ["mean"], "mean"])
def test_a_record_that_makes_no_sense_is_none(record: Any, tmp_path: Path) -> None:
    path, _ = own_checkpoint(tmp_path, record, backbone="small")
    assert Backbone("small", str(path)).normalisation is None


def test_a_model_remembers_what_its_weights_want(tmp_path: Path) -> None:
    record = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    path, _ = own_checkpoint(tmp_path, record, backbone="small")
    model = InterpretableCNN(3, "small", str(path))
    assert model.normalisation == Normalisation((0.5,) * 3, (0.25,) * 3)
    saved: dict[str, Any] = {"hyper_parameters": {}}
    model.on_save_checkpoint(saved)
    assert saved["normalisation"] == record
    assert saved["hyper_parameters"] == {"weights": "none"}
    # From the checkpoint alone, and with the data that it was really trained on.
    again = InterpretableCNN(3, "small")
    assert again.normalisation is None
    again.on_load_checkpoint(saved)
    assert again.normalisation == model.normalisation
    data = SimpleNamespace(mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    model._trainer = SimpleNamespace(datamodule=data)  # type: ignore[assignment]
    model.on_save_checkpoint(saved)
    assert saved["normalisation"] == {"mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]}


def test_torchvision_weights_by_name(
    resnet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The real code path, with the file where torch.hub keeps what it has downloaded.
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / weights.url.rsplit("/", 1)[1]).write_bytes(resnet_file.read_bytes())
    state = torch.load(resnet_file, weights_only=True)
    backbone = Backbone("resnet18", "ResNet18_Weights.IMAGENET1K_V1")
    assert backbone.normalisation == IMAGENET
    backbone = Backbone("resnet18", "IMAGENET1K_V1", node="layer2")
    assert torch.equal(backbone.stages[0].conv1.weight, state["conv1.weight"])
    assert backbone.normalisation == IMAGENET


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


def test_timm_weights_by_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(4)
    donor, asked = timm.create_model("test_resnet"), []
    create = timm.create_model

    def offline(name: str, pretrained: bool = False) -> nn.Module:
        asked.append((name, pretrained))
        network: nn.Module = donor if pretrained else create(name)
        return network

    monkeypatch.setattr(timm, "create_model", offline)
    config = timm.get_pretrained_cfg("test_resnet.r160_in1k")
    for weights in ("r160_in1k", "DEFAULT"):
        backbone = Backbone("timm/test_resnet", weights, 8)
        assert asked[-1] == ("test_resnet.r160_in1k", True)
        assert backbone.normalisation == Normalisation(tuple(config.mean), tuple(config.std))
        assert torch.equal(backbone.state_dict()["stages.0.conv1.0.weight"], donor.conv1[0].weight)


def test_a_tag_in_the_name_is_the_record_of_a_file(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("test_byobnet").state_dict(), tmp_path / "net.pth")
    config = timm.get_pretrained_cfg("test_byobnet.r160_in1k")
    tagged = Backbone("timm/test_byobnet.r160_in1k", str(tmp_path / "net.pth"), 8)
    assert tagged.normalisation == Normalisation(tuple(config.mean), tuple(config.std))
    assert Backbone("timm/test_byobnet", str(tmp_path / "net.pth"), 8).normalisation is None


def test_wrong_names_of_timm() -> None:
    pytest.importorskip("timm")
    with pytest.raises(
        ValueError, match="'timm/resnet19' is not in timm; did you mean 'timm/resne"
    ):
        Backbone("timm/resnet19")
    with pytest.raises(ValueError, match=r"tag that timm does not know; did you mean 'a\d_in1k"):
        Backbone("timm/resnet18.a9_in1k")
    with pytest.raises(WeightsError, match=r"must be one of none, .*r160_in1k.* no file 'in22k'"):
        Backbone("timm/test_resnet", "in22k")


@pytest.mark.parametrize("module", ["timm", "safetensors"])
def test_what_an_extra_is_needed_for(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "net.safetensors").write_bytes(bytes(20))
    name, file = {"timm": ("timm/resnet18", "none"), "safetensors": ("small", "net.safetensors")}[
        module
    ]
    with pytest.raises(ValueError, match=rf"pip install 'pellucid\[{module}\]'"):
        Backbone(name, str(tmp_path / file) if file != "none" else file)


MOBILENET = os.environ.get("PELLUCID_MOBILENET_V2", "")


@pytest.mark.skipif(not Path(MOBILENET).is_file(), reason="PELLUCID_MOBILENET_V2 names no file")
def test_real_weights() -> None:
    backbone = Backbone("mobilenet_v2", MOBILENET).eval()
    assert backbone.loaded is not None
    assert backbone.loaded.total == len(torchvision.models.mobilenet_v2().state_dict())
    assert backbone.loaded.unexpected == ()
    # Filters that were trained are far from those that were drawn.
    means = [m.running_mean for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert min(float(mean.abs().max()) for mean in means) > 0
    with pytest.raises(WeightsError, match="not of a resnet18"):
        Backbone("resnet18", MOBILENET)
