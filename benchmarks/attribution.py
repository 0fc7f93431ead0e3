"""What the interface adds to each method: 64 images against the bare call, turn by turn.

Usage: python benchmarks/attribution.py [--methods saliency lrp ...] [--repeats 5] [--threads 1]

ResNet-18, 64 images of 64 x 64, one known class per image; processor time of what `pellucid
explain` runs (check, attribution, completeness error) against the library alone: Captum, zennit for
LRP, and for class activation maps, which no library has, a hook and a product. The two take turns,
so that a drift of the machine's speed meets both. SmoothGrad with 4 samples, occlusion with windows
of 32 pixels, LIME and KernelSHAP with 32 samples of 9 squares, so that both do the same; integrated
gradients with 49 gradients, as many as Captum takes of itself (50), since how many ours takes
depends on the network. Meaningful perturbation and L2X are in no library.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
import torchvision
from captum._utils.models.linear_model import SkLearnRidge
from captum.attr import (
    Deconvolution,
    DeepLift,
    GuidedBackprop,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    LayerGradCam,
    Lime,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from torch import Tensor, nn

from pellucid.attribution.method import AttributionMethod
from pellucid.attribution.methods import make_method
from pellucid.attribution.superpixels import Superpixels

STEPS, SAMPLES, SQUARES = 24, 32, 9
"""Of integrated gradients; of LIME and KernelSHAP."""


class Block(nn.Module):
    """A basic block whose modules are used once, as Captum's DeepLIFT and zennit want them."""

    def __init__(self, block: nn.Module, fused: bool) -> None:
        super().__init__()
        from zennit.layer import Sum

        convolutions = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
        self.first, self.second = (merged(*pair, fused) for pair in convolutions)
        down = block.downsample
        self.down = nn.Identity() if down is None else merged(*down, fused)
        self.relu, self.top, self.sum = nn.ReLU(), nn.ReLU(), Sum()

    def forward(self, maps: Tensor) -> Tensor:
        """As torchvision's."""
        after = self.second(self.relu(self.first(maps)))
        return self.top(self.sum(torch.stack([after, self.down(maps)], dim=-1)))


def merged(convolution: nn.Conv2d, norm: nn.BatchNorm2d, fused: bool) -> nn.Module:
    if fused:
        return nn.utils.fuse_conv_bn_eval(convolution, norm)
    return nn.Sequential(convolution, norm)


def explicit(network: nn.Module, fused: bool) -> nn.Module:
    """The same ResNet of modules that are used once and sums that are modules."""
    layers = (network.layer1, network.layer2, network.layer3, network.layer4)
    blocks = [Block(block, fused) for layer in layers for block in layer]
    stem = [merged(network.conv1, network.bn1, fused), nn.ReLU(), network.maxpool]
    return nn.Sequential(*stem, *blocks, network.avgpool, nn.Flatten(), network.fc).eval()


def zennit_lrp(network: nn.Module) -> Callable[[Tensor, Tensor], object]:
    from zennit.attribution import Gradient
    from zennit.composites import LayerMapComposite
    from zennit.layer import Sum
    from zennit.rules import Epsilon, Norm, Pass, ZPlus
    from zennit.types import Convolution

    rules = [
        (Convolution, ZPlus(zero_params="bias")),
        (nn.Linear, Epsilon()),
        (nn.ReLU, Pass()),
        ((Sum, nn.AdaptiveAvgPool2d), Norm()),
    ]
    composite, other = LayerMapComposite(rules), explicit(network, fused=True)

    def run(image: Tensor, target: Tensor) -> object:
        with Gradient(other, composite) as attributor:
            return attributor(image.clone(), torch.eye(1000)[target])

    return run


def class_maps(network: nn.Module) -> Callable[[Tensor, Tensor], object]:
    def run(image: Tensor, target: Tensor) -> object:
        seen = []
        handle = network.layer4.register_forward_hook(lambda m, i, out: seen.append(out))
        with torch.no_grad():
            network(image)
        handle.remove()
        return torch.einsum("bc,bchw->bhw", network.fc.weight[target], seen[0])

    return run


def image_by_image(method: Lime | KernelShap) -> Callable[[Tensor, Tensor], object]:
    """Captum's call for superpixels takes one image at a time."""

    def run(image: Tensor, target: Tensor) -> object:
        squares = Superpixels("grid", SQUARES, "zero").cut(image)
        return [
            method.attribute(
                one[None],
                target=wanted,
                feature_mask=labels[None, None],
                n_samples=SAMPLES,
                perturbations_per_eval=SAMPLES,
            )
            for one, wanted, labels in zip(image, target.tolist(), squares, strict=True)
        ]

    return run


def rivals(network: nn.Module) -> dict[str, tuple[AttributionMethod, Callable[..., object]]]:
    """Each of our methods, and the bare call."""
    noisy = NoiseTunnel(Saliency(network))
    path, occlusion = IntegratedGradients(network), Occlusion(network)
    window = {"sliding_window_shapes": (3, 32, 32), "strides": (3, 32, 32)}
    once = explicit(network, fused=False)
    bare: dict[str, Callable[..., object]] = {
        "saliency": lambda x, t: Saliency(network).attribute(x, t),
        "input_x_gradient": lambda x, t: InputXGradient(network).attribute(x, t),
        "guided_backprop": lambda x, t: GuidedBackprop(once).attribute(x, t),
        "deconvnet": lambda x, t: Deconvolution(once).attribute(x, t),
        "smooth_grad": lambda x, t: noisy.attribute(x, nt_samples=4, stdevs=0.5, target=t),
        # Ours takes a trapezoidal and a midpoint sum.
        "integrated_gradients": lambda x, t: path.attribute(
            x, target=t, n_steps=2 * STEPS + 1, internal_batch_size=64
        ),
        "deep_lift": lambda x, t: DeepLift(once).attribute(x, target=t),
        "lrp": zennit_lrp(network),
        "cam": class_maps(network),
        "grad_cam": lambda x, t: LayerGradCam(network, network.layer4).attribute(x, t),
        "occlusion": lambda x, t: occlusion.attribute(x, target=t, **window),
        "lime": image_by_image(Lime(network, SkLearnRidge(alpha=1.0))),
        "kernel_shap": image_by_image(KernelShap(network)),
    }
    squares = {"superpixels": "grid", "num_superpixels": SQUARES, "samples": SAMPLES}
    options = {
        "lime": squares,
        "kernel_shap": squares,
        "smooth_grad": {"samples": 4},
        "integrated_gradients": {"steps": STEPS, "most_steps": STEPS},
        "occlusion": {"window": 32},
        "grad_cam": {"layer": "layer4"},
    }
    return {name: (make_method(name, **options.get(name, {})), run) for name, run in bare.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    network = torchvision.models.resnet18().eval()
    image = torch.randn(options.images, 3, 64, 64)
    target = torch.arange(options.images) % 1000
    for name, (method, bare) in rivals(network).items():
        if options.methods and name not in options.methods:
            continue
        times: list[list[float]] = [[], []]
        for turn in range(options.repeats + 1):
            for which, run in enumerate((partial(method.attribute, network), bare)):
                start = time.process_time()
                run(image, target)
                if turn:  # the first one warms up
                    times[which].append(time.process_time() - start)
        ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
        ours, theirs = map(statistics.median, times)
        print(f"{name}: {ours:.2f} s, bare {theirs:.2f} s, ratio {ratio:.3f}", flush=True)


if __name__ == "__main__":
    main()
