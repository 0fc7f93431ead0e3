"""Every post-hoc method by its name."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from pellucid.attribution.method import AttributionMethod
from pellucid.errors import nearest

_CLASSES: Mapping[str, str] = {
    "saliency": "gradients.Saliency",
    "input_x_gradient": "gradients.InputXGradient",
    "guided_backprop": "rectified_gradients.GuidedBackprop",
    "deconvnet": "rectified_gradients.Deconvnet",
    "smooth_grad": "smooth_grad.SmoothGrad",
    "integrated_gradients": "integrated_gradients.IntegratedGradients",
    "deep_lift": "deep_lift.DeepLift",
    "lrp": "lrp.LRP",
    "cam": "cam.CAM",
    "grad_cam": "grad_cam.GradCAM",
    "occlusion": "occlusion.Occlusion",
    "lime": "lime.Lime",
    "kernel_shap": "kernel_shap.KernelShap",
    "meaningful_perturbation": "meaningful_perturbation.MeaningfulPerturbation",
    "l2x": "l2x.L2X",
}
"""File and class below this package; a file is read when its method is asked for."""


def _maker(path: str) -> Callable[..., AttributionMethod]:
    def make(*args: Any, **options: Any) -> AttributionMethod:
        file, name = path.rsplit(".", 1)
        found = getattr(import_module(f"pellucid.attribution.{file}"), name)
        method: AttributionMethod = found(*args, **options)
        return method

    return make


METHODS: Mapping[str, Callable[..., AttributionMethod]] = {
    name: _maker(path) for name, path in _CLASSES.items()
}
"""Makes each method; its options are those of its class."""


def make_method(name: str, **options: Any) -> AttributionMethod:
    """A method by its name.

    Args:
        name: A key of :data:`METHODS`.
        options: Options of the method's constructor.

    Raises:
        ValueError: There is no such method, or an option is outside its range.
    """
    if name not in METHODS:
        raise ValueError(f"there is no attribution method {name!r}; {nearest(name, METHODS)}")
    return METHODS[name](**options)
