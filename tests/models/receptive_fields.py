"""Where the cells of a feature map look, by back-propagation through a linear copy."""

import copy

import torch
from torch import nn

_STAY_PUT = (nn.LayerNorm, nn.BatchNorm2d, nn.GELU, nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU)


def linearise(module: nn.Module) -> None:
    """Keep what moves positions: strides, padding, the centres of windows."""
    for name, child in module.named_children():
        if isinstance(child, nn.MaxPool2d):
            mean = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode)
            setattr(module, name, mean)
        elif isinstance(child, _STAY_PUT):
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


def looks_at(network: nn.Module, row: int, column: int) -> tuple[float, float]:
    """Centre (y, x) in pixels of what one cell of a network's map sees."""
    size = (192, 224)
    linear = copy.deepcopy(network).eval().float()
    linearise(linear)
    image = torch.ones(1, 3, *size, requires_grad=True)
    value = linear(image)[0, :, row, column].mean()
    (gradient,) = torch.autograd.grad(value, image)
    seen = gradient[0].double().sum(0) / gradient.double().sum()
    y = float((seen.sum(1) * torch.arange(size[0])).sum())
    x = float((seen.sum(0) * torch.arange(size[1])).sum())
    return y, x
