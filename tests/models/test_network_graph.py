"""Any network cut at a stride or after a node."""

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import create_feature_extractor

from pellucid.models.backbones import Backbone, CutError
from pellucid.models.backbones.graph import PROBE_SIZE, NetworkGraph
from pellucid.models.backbones.networks import find_network
from tests.models.receptive_fields import looks_at


def graph_of(name: str) -> NetworkGraph:
    torch.manual_seed(0)
    found = find_network(name)
    return NetworkGraph(name, found.build(), found.leaves, found.functions)


def run(stages: list[nn.Module], image: Tensor) -> Tensor:
    for stage in stages:
        image = stage(image)
    return image


NODES = [
    ("resnet18", "layer3.1"),
    ("resnet18", "layer3.1.relu"),
    ("resnet18", "layer2.0.bn1"),
    ("densenet121", "features.transition1.pool"),
    ("shufflenet_v2_x0_5", "stage3"),
    ("efficientnet_b0", "features.4"),
    ("googlenet", "inception4a"),
]


@pytest.mark.parametrize(("name", "node"), NODES)
@pytest.mark.parametrize("training", [False, True])
# GoogLeNet has more outputs while training, which are no concern here.
@pytest.mark.filterwarnings("ignore:NOTE. The nodes obtained by tracing")
def test_a_node_gives_what_torchvision_says_it_gives(name: str, node: str, training: bool) -> None:
    graph = graph_of(name)
    image = torch.randn(2, 3, 64, 96)
    theirs = copy.deepcopy(graph.network)
    extractor = create_feature_extractor(theirs, [node]).train(training)
    ours = nn.ModuleList(graph.at_node(node).stages).train(training)
    with torch.no_grad():
        torch.manual_seed(1)  # of stochastic depth
        expected = extractor(image)[node]
        torch.manual_seed(1)
        found = run(list(ours), image)
    torch.testing.assert_close(found, expected if (expected >= 0).all() else expected.relu())
    # Statistics move along with it.
    moved = {name: tensor for name, tensor in theirs.state_dict().items() if "running" in name}
    own = graph.network.state_dict()
    assert all(torch.allclose(own[name], tensor, atol=1e-6) for name, tensor in moved.items())


GENERIC = [
    "squeezenet1_1",
    "shufflenet_v2_x0_5",
    "mnasnet0_5",
    "mobilenet_v3_small",
    "timm/test_resnet",
    "timm/tf_mobilenetv3_small_minimal_100",
]


class Severed(fx.Interpreter):
    """A network of which one node always gives the same."""

    def __init__(self, graph: NetworkGraph, node: fx.Node, value: Tensor) -> None:
        super().__init__(graph.network, graph=graph.graph)
        self.node, self.value = node, value

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        return self.value if n is self.node else value


@pytest.mark.parametrize("name", ["resnet18", "timm/test_resnet"])
def test_no_skip_connection_passes_by_where_a_stride_ends(name: str) -> None:
    pytest.importorskip("timm")
    graph = graph_of(name)
    graph.network.eval()
    images = torch.randn(2, 1, 3, *PROBE_SIZE)

    def answers(node: fx.Node) -> list[Tensor]:
        value = torch.rand(graph.shapes[node])
        return [Severed(graph, node, value).run(image) for image in images]

    with torch.no_grad():
        for stride in graph.strides:
            last = [found for found in graph._maps if found.stride == stride][-1]
            assert torch.equal(*answers(last.node))
        # Inside a block something goes past.
        ends = {found.node for found in graph._maps}
        maps = [node for node in graph.graph.nodes if graph._map(node) and node not in ends]
        assert not all(torch.equal(*answers(node)) for node in maps[-4:])


@pytest.mark.parametrize("name", GENERIC)
def test_every_stride_has_its_size_sign_and_stages(name: str) -> None:
    pytest.importorskip("timm")
    graph = graph_of(name)
    image = torch.randn(1, 3, 128, 192)
    assert {4, 8, 16} <= set(graph.strides)
    for stride in graph.strides:
        cut = graph.at_stride(stride)
        stages = nn.ModuleList(cut.stages).eval()
        with torch.no_grad():
            maps = run(list(stages), image)
        assert abs(maps.shape[2] - 128 / stride) <= 1
        assert abs(maps.shape[3] - 192 / stride) <= 1
        assert maps.shape[1] == cut.channels
        assert (maps >= 0).all()
        assert maps.std() > 0
        # A stage for each stride, to be frozen one after the other; none without parameters.
        assert 1 <= len(stages) <= sum(s <= stride for s in graph.strides)
        assert all(any(True for _ in stage.parameters()) for stage in stages)


@pytest.mark.parametrize("name", [*GENERIC[:3], "timm/resnet18d", *GENERIC[4:]])
def test_offsets_are_those_of_the_receptive_fields(name: str) -> None:
    pytest.importorskip("timm")
    graph = graph_of(name)
    for stride in graph.strides:
        cut = graph.at_stride(stride)
        assert cut.offset is not None
        expected = [cut.offset + stride * cell for cell in (2, 3)]
        assert looks_at(nn.Sequential(*cut.stages), 2, 3) == pytest.approx(expected, abs=1e-3)


def test_without_padding_maps_lack_cells_but_keep_their_stride() -> None:
    # Inception: 3 x 3 of stride 2, 3 x 3, 3 x 3 padded, pool of 3 of stride 2: 1, then 1 + 2, 3,
    # 3 + 2 pixels to the middle of the first window; 1 x 1, 3 x 3, pool: 5 + 4, 9 + 4.
    graph = graph_of("inception_v3")
    assert graph.strides == (2, 4, 8, 16, 32)
    assert [graph.at_stride(stride).offset for stride in (2, 4, 8)] == [3, 9, 13]


class Looped(nn.Module):
    """Two convolutions of stride 2 and a skip connection around the second one's map."""

    def __init__(self, around: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.inner = nn.Conv2d(4, 4, 3, 2, 1)
        self.last = nn.Conv2d(4, 4, 3, 2, 1)
        self.past = nn.Conv2d(4, 4, 5, 4, 2)
        self.head = nn.Linear(4, 2)
        self.around = around

    def forward(self, image: Tensor) -> Tensor:
        stem = self.stem(image)
        top = self.last(torch.relu(self.inner(stem)))
        if self.around:
            top = top + self.past(stem)
        return self.head(torch.relu(top).mean((2, 3)))


def test_a_stride_that_is_bypassed_is_not_offered() -> None:
    assert NetworkGraph("plain", Looped(False)).strides == (2, 4, 8)
    graph = NetworkGraph("looped", Looped(True))
    assert graph.strides == (2, 8)
    with pytest.raises(CutError, match="stride of looped must be one of 2, 8, got 4"):
        graph.at_stride(4)
    assert graph.at_node("inner").stride == 4  # asked for by name it is there all the same
    assert [len(graph.at_stride(stride).stages) for stride in (2, 8)] == [1, 2]
    assert graph.at_stride().stride == 8


class ChannelsLast(nn.Module):
    """What some transformers do: a grid of vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 8, 8)
        self.mix = nn.Linear(6, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, image: Tensor) -> Tensor:
        grid = self.mix(self.patches(image).permute(0, 2, 3, 1))
        return self.head(grid.mean((1, 2)))


def test_channels_that_come_last_are_put_first() -> None:
    network = ChannelsLast()
    cut = NetworkGraph("last", network).at_stride(8)
    image = torch.randn(2, 3, 32, 48)
    expected = network.mix(network.patches(image).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(run(cut.stages, image), expected.relu())
    assert (cut.channels, cut.offset) == (6, 3.5)


@pytest.mark.parametrize("name", ["vit_b_16", "timm/test_vit", "timm/xcit_nano_12_p16_224"])
def test_networks_of_tokens_are_refused(name: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(CutError, match=f"backbone '{name}'.*choose a convolutional network"):
        Backbone(name)


def test_making_the_graph_leaves_the_mode_of_each_module() -> None:
    network = torchvision.models.resnet18()
    network.layer1.eval()
    refused = nn.Sequential(nn.Flatten().eval(), nn.Linear(3, 3))
    for part, makes in ((network, nullcontext()), (refused, pytest.raises(CutError))):
        before = [module.training for module in part.modules()]
        with makes:
            NetworkGraph("half", part)
        assert [module.training for module in part.modules()] == before


def test_nodes_that_cannot_be_cut_after() -> None:
    with pytest.raises(
        CutError, match=r"node 'layer3.1.rel' is not in resnet18; did you mean 'lay"
    ):
        Backbone("resnet18", node="layer3.1.rel")
    with pytest.raises(CutError, match=r"node 'fc' of resnet18 gives no feature map.*'layer4.1"):
        Backbone("resnet18", node="fc")
    with pytest.raises(
        CutError, match=r"'layer3.1' of resnet18 has a stride of 16, got a stride of 8"
    ):
        Backbone("resnet18", stride=8, node="layer3.1")
    backbone = Backbone("resnet18", stride=16, node="layer3.1.relu")
    assert (backbone.stride, backbone.grid, len(backbone.stages)) == (16, (16, 0.0), 4)
    # The hand-cut stages hold the same layers, and are what the name alone stands for.
    assert torchvision.models.resnet18 is find_network("resnet18").build


def test_a_backbone_can_be_trained_frozen_and_copied() -> None:
    backbone = Backbone("shufflenet_v2_x0_5", stride=16)
    copied = copy.deepcopy(backbone)
    image = torch.randn(2, 3, 64, 64)
    backbone.stages[0].requires_grad_(False)
    backbone(image).sum().backward()
    touched = [any(p.grad is not None for p in stage.parameters()) for stage in backbone.stages]
    assert touched == [False, True, True]
    assert backbone.run(backbone.run(image, 0, 1), 1).shape == (2, backbone.channels, 4, 4)
    copied.load_state_dict(backbone.state_dict())
    assert torch.equal(copied.eval()(image), backbone.eval()(image))
