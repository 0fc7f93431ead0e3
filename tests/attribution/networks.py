"""Networks that attribution is tested on, with weights by chance."""

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from pellucid.attribution.method import ClassScores
from pellucid.models.attention_classifier import AttentionClassifier
from pellucid.models.interpretable_cnn import InterpretableCNN


def calibrated(network: nn.Module, size: int, count: int = 8) -> nn.Module:
    """Give batch normalisation the statistics of noise, and offsets, so that biases matter."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
        if norm.affine:
            nn.init.normal_(norm.bias, std=0.2)
    network.train()
    with torch.no_grad():
        network(torch.randn(count, 3, size, size))
    return network.eval()


class Plain(nn.Module):
    """Two convolutions, max pooling and two linear layers, of modules used once."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.second = nn.Conv2d(6, 8, 3)
        self.relu2 = nn.ReLU()
        self.hidden = nn.Linear(8 * 16, 7)
        self.relu3 = nn.ReLU()
        self.last = nn.Linear(7, classes)

    def forward(self, image):
        maps = self.relu2(self.second(self.pool(self.relu1(self.first(image)))))
        return self.last(self.relu3(self.hidden(maps.reshape(len(image), -1))))


class Careless(Plain):
    """The same, written as libraries cannot read it: functional, in place, shared, clamped."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.ReLU(inplace=True)

    def forward(self, image):
        maps = F.max_pool2d(self.shared(self.first(image)), 3, 2, padding=1)
        maps = torch.clamp(self.second(maps), min=0)
        return self.last(self.shared(self.hidden(torch.flatten(maps, 1))))


class Residual(nn.Module):
    """A residual sum, in place, batch normalisation, and an average over places."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.last = nn.Linear(6, classes)

    def forward(self, image):
        before = F.relu(self.norm(self.first(image)))
        after = self.second(before)
        after += before
        return self.last(F.relu(after).mean((2, 3)))


def pair(seed: int = 0) -> tuple[Plain, Careless]:
    """One network, written in two ways."""
    torch.manual_seed(seed)
    plain, careless = Plain().eval(), Careless().eval()
    careless.load_state_dict(plain.state_dict())
    return plain, careless


def published(name: str, size: int) -> nn.Module:
    """One of the networks of the table in the docs, for images of a side."""
    torch.manual_seed(0)
    if name == "our small CNN":
        model = InterpretableCNN(4, backbone="small", templates=False)
        calibrated(model, size)
        return ClassScores(model)
    if name == "ViT-B/16":
        # Two of its twelve equal layers.
        network = torchvision.models.VisionTransformer(size, 16, 2, 12, 768, 3072)
        nn.init.normal_(network.heads[-1].weight, std=0.02)  # Zero as it is built.
        return network.eval()
    names = {"ResNet-18": "resnet18", "VGG-16": "vgg16", "MobileNetV2": "mobilenet_v2"}
    return calibrated(torchvision.models.get_model(names[name]), size)


def own_models() -> dict[str, nn.Module]:
    """Models of the house that attend or mask."""
    torch.manual_seed(0)
    models = {
        "templates": InterpretableCNN(4, backbone="small"),
        "sigmoid": InterpretableCNN(2, backbone="small", head="sigmoid"),
        "soft": AttentionClassifier(4, backbone="small", attention="soft", heads=2),
        "cam": AttentionClassifier(4, backbone="small", attention="cam"),
    }
    return {name: ClassScores(calibrated(model, 32)) for name, model in models.items()}
