"""Grad-CAM against a loop over images and channels."""

import pytest
import torch
from torch import nn

from pellucid.attribution.grad_cam import grad_cam
from pellucid.models.interpretable_cnn import InterpretableCNN


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, stride=2),
        nn.BatchNorm2d(5),
        nn.ReLU(inplace=True),
        nn.Conv2d(5, 6, 3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(6 * 25, 4),
    )


def loop(net: nn.Sequential, image, target, depth):
    """Equations 1 and 2 of the paper, one image at a time."""
    found = []
    for one, wanted in zip(image, target.tolist(), strict=True):
        maps = net[:depth](one[None]).detach().requires_grad_()
        net[depth:](maps.clone())[0, wanted].backward()
        heat = torch.zeros(maps.shape[2:])
        for channel in range(maps.shape[1]):
            alpha = 0.0
            for row in maps.grad[0, channel].tolist():
                alpha += sum(row)
            heat += alpha / heat.numel() * maps.detach()[0, channel]
        found.append(heat.clamp(min=0))
    return torch.stack(found)


@pytest.mark.parametrize("depth", [1, 3, 5])
def test_it_agrees_with_a_loop(depth):
    net, image = network(), torch.randn(6, 3, 15, 15)
    target = torch.tensor([0, 1, 2, 3, 0, 1])
    found = grad_cam(net, image, target, layer=str(depth - 1))
    assert net.training
    assert net[0].weight.grad is None
    assert float(found.max()) > 0
    torch.testing.assert_close(found, loop(net.eval(), image, target, depth), atol=1e-5, rtol=1e-4)


def test_the_predicted_class_is_explained_by_default_also_where_gradients_are_off():
    net, image = network().eval().requires_grad_(False), torch.randn(4, 3, 15, 15)
    predicted = net(image).argmax(1)
    wanted = grad_cam(net, image, predicted, layer="4")
    with torch.no_grad():
        assert torch.equal(grad_cam(net, image, layer="4"), wanted)
    with torch.inference_mode():
        assert torch.equal(grad_cam(net, image.clone(), layer="4"), wanted)
    assert not net.training


def test_a_model_of_the_house_is_explained_at_its_backbone():
    model = InterpretableCNN(3, backbone="small", templates=False, filter_loss_weight=0.0)
    image = torch.randn(2, 3, 32, 32)
    found = grad_cam(model, image)
    maps = model.eval().backbone(image)
    assert found.shape == (2, *maps.shape[2:])
    torch.testing.assert_close(found, grad_cam(model, image, layer="backbone"))
    torch.testing.assert_close(found, grad_cam(model, image, scores=model.class_scores))
    with pytest.raises(ValueError, match=r"scores do not depend on the layer.*give scores="):
        grad_cam(model, image, scores=torch.no_grad()(model.class_scores))


def test_wrong_layers_are_named():
    net, image = network(), torch.randn(2, 3, 15, 15)
    with pytest.raises(ValueError, match="Sequential has no backbone: name the layer"):
        grad_cam(net, image)
    with pytest.raises(ValueError, match=r"layer must be the name of a module.*got 'top'"):
        grad_cam(net, image, layer="top")
    with pytest.raises(ValueError, match=r"the layer gives no maps .* but \(2, 4\)"):
        grad_cam(net, image, layer="6")
    with pytest.raises(ValueError, match="layer '0' does not run"):
        grad_cam(net, image, layer="0", scores=lambda x: x.mean((2, 3)))
    assert net.training
