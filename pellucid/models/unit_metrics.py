"""Which units the tests measure, and by which metrics: a model's own, or those of any layer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from pellucid.batch import Batch
from pellucid.errors import nearest
from pellucid.metrics.location_instability import peak_positions
from pellucid.metrics.suite import METRICS, Units, make_suite, update_suite
from pellucid.models.backbones import Backbone
from pellucid.models.backbones.graph import CutError, NetworkGraph
from pellucid.models.explanation import Explanation

if TYPE_CHECKING:
    from pellucid.models.base import InterpretableModel, Stage


@dataclass(frozen=True)
class Layer:
    """A layer whose output is measured.

    Attributes:
        name: Its name in the model, as ``model.named_modules()`` has it.
        num_units: Channels of its output.
        grid: Stride and offset in pixels of the cells of its maps; None: not known.
        signed: Whether it gives activations below zero.
    """

    name: str
    num_units: int
    grid: tuple[float, float] | None
    signed: bool

    @classmethod
    def find(cls, model: "InterpretableModel", name: str, channels: int, size: int) -> "Layer":
        """Look a layer up, and run the model once to see what it gives.

        Args:
            model: The model.
            name: Name of the layer.
            channels: Channels of the images.
            size: Height and width of the images in pixels.

        Raises:
            ValueError: There is no such layer, or its output is no maps (B, U, h, w).
        """
        maps = see_layer(model, name, channels, size)
        known = dict(model.named_modules())
        if not isinstance(maps, Tensor) or maps.ndim != 4:
            given = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            last = [full for full in known if isinstance(known[full], nn.Conv2d)][-1:]
            hint = f"; choose a convolution or what follows it, as {last[0]!r}" if last else ""
            raise ValueError(f"layer {name!r} gives no maps (B, U, h, w) but {given}{hint}")
        grid = _grid(model, name, (maps.shape[-2], maps.shape[-1]), size)
        return cls(name, maps.shape[1], grid, bool((maps < 0).any()))


def see_layer(model: "InterpretableModel", name: str, channels: int, size: int) -> Any:
    """What a layer gives when the model explains two images of noise.

    Args:
        model: The model.
        name: Name of the layer.
        channels: Channels of the images.
        size: Height and width of the images in pixels.

    Raises:
        ValueError: There is no such layer, or it does not run.
    """
    known = dict(model.named_modules())
    if not name or name not in known:
        layers = [full for full in known if full and not full.startswith("stage_metrics")]
        raise ValueError(f"there is no layer {name!r}; {nearest(name, layers)}")
    # Noise, as it shows which activations can be below zero; the same at each call.
    image = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    training = {module: module.training for module in model.modules()}
    try:
        with watch(model.eval(), name) as seen, torch.no_grad():
            model.explain({"image": image.to(model.device)})
    finally:
        for module, mode in training.items():
            module.training = mode
    if not seen:
        raise ValueError(f"layer {name!r} does not run when the model explains an image")
    return seen[-1]


@contextmanager
def watch(model: nn.Module, layer: str | None) -> Iterator[list[Any]]:
    """Collect what a layer gives while the model runs.

    Args:
        model: The model.
        layer: Name of the layer; None: collect nothing.
    """
    seen: list[Any] = []
    if layer is None:
        yield seen
        return
    handle = model.get_submodule(layer).register_forward_hook(
        lambda module, inputs, output: seen.append(output)
    )
    try:
        yield seen
    finally:
        handle.remove()


def _grid(
    model: nn.Module, name: str, cells: tuple[int, int], size: int
) -> tuple[float, float] | None:
    """Where the cells of a layer look, if the layer is in a backbone or right above one."""
    for prefix, module in model.named_modules():
        if not isinstance(module, Backbone):
            continue
        inside = f"{prefix}.stages."
        if name.startswith(inside):
            try:
                network = nn.Sequential(*module.stages)
                cut = NetworkGraph(prefix, network).at_node(name.removeprefix(inside))
            except CutError:
                continue
            return None if cut.offset is None else (cut.stride, cut.offset)
        # What keeps the size of the backbone's maps looks straight down on them.
        if cells == (size // module.stride,) * 2:
            return module.grid
    return None


class UnitMetrics:
    """The metrics of units that a model's validation and tests report.

    Args:
        layer: Name of a layer in place of the model's own units; None: those.
        names: Keys of :data:`pellucid.metrics.suite.METRICS`; None: all.

    Raises:
        ValueError: There is no such metric.
    """

    def __init__(self, layer: str | None = None, names: Sequence[str] | None = None) -> None:
        for name in names or ():
            if name not in METRICS:
                raise ValueError(f"there is no metric {name!r}; {nearest(name, METRICS)}")
        self.layer, self.names = layer, names
        self._found: Layer | None = None

    def find_layer(self, model: "InterpretableModel", data: Any) -> Layer | None:
        """The layer, found once; None where the model's own units are measured.

        Args:
            model: The model.
            data: The data module, for the images' size.

        Raises:
            ValueError: There is no such layer, or its output is no maps.
        """
        if self.layer is not None and self._found is None:
            self._found = Layer.find(model, self.layer, len(data.mean), data.image_size)
        return self._found

    def make(
        self, model: "InterpretableModel", data: Any, stage: "Stage"
    ) -> tuple[dict[str, Metric], dict[str, str]]:
        """Build the metrics of a stage, new ones at each call.

        Args:
            model: The model.
            data: The data module.
            stage: The stage; training has none, validation those that are quick.

        Returns:
            Metrics by key, and the reasons for those that were left out, likewise.
        """
        layer = self.find_layer(model, data)
        count = model.num_units if layer is None else layer.num_units
        if stage == "train" or count is None:
            return {}, {}
        if layer is None:
            lacking = dict(model.lacks())
        else:
            what = "needs what each unit adds to the score, which is not known of the layer"
            lacking = {"decision_sparsity": f"{what} {layer.name}"}
            if layer.signed:
                lacking["part_interpretability"] = (
                    f"needs activations from 0 on, and {layer.name} gives some below: choose the "
                    "layer after it"
                )
        return make_suite(count, data, names=self.names, each_epoch=stage == "val", lacking=lacking)

    def explain(self, model: "InterpretableModel", image: Tensor) -> Explanation:
        """A model's explanation of images, with a measured layer's units in place of its own.

        Args:
            model: The model.
            image: (B, C, H, W).
        """
        layer = self._found
        if layer is None:
            return model.explain({"image": image})
        with watch(model, layer.name) as seen:
            explanation = model.explain({"image": image})
        maps, size = seen[-1].detach(), (image.shape[-2], image.shape[-1])
        return replace(
            explanation,
            maps=maps,
            map_sign="signed" if layer.signed else "positive",
            map_range=None,
            positions=peak_positions(maps.float(), size, layer.grid)[1],
            contributions=None,
            bias=None,
            unit_names=tuple(f"{layer.name} {i}" for i in range(layer.num_units)),
        )

    def update(
        self,
        model: "InterpretableModel",
        metrics: dict[str, Metric],
        outputs: dict[str, Tensor],
        batch: Batch,
        seen: Sequence[Any],
    ) -> None:
        """Give one batch to the metrics.

        Args:
            model: The model.
            metrics: Of those that :meth:`make` has built.
            outputs: What the model's ``step`` returned, detached.
            batch: The batch.
            seen: What :func:`watch` saw of the layer in that step.
        """
        layer, image = self._found, batch["image"]

        def look(image: Tensor) -> Tensor:
            with torch.no_grad():
                maps = self.explain(model, image).maps
            if maps is None:
                raise ValueError("num_units is given, but explain() gives no maps (B, U, h, w)")
            return maps

        def respond(image: Tensor) -> Tensor:
            maps = look(image)
            # A unit that noise drives to NaN is on no landmark any more.
            return torch.where(maps.isfinite(), maps, 0.0)

        if layer is None:
            maps, grid = outputs["maps"], model.unit_grid
        else:
            # Features that are kept of frozen layers do not pass through them again.
            whole = bool(seen) and len(seen[-1]) == len(image)
            maps, grid = seen[-1].detach() if whole else look(image), layer.grid
        contributions = outputs.get("contributions")
        known = maps.flatten(1).isfinite().all(1)
        if not known.all():
            # One image on which a model fails must not cost the figures of all others.
            if not known.any():
                return
            fields: Any = batch
            kept: Any = {name: value[known.to(value.device)] for name, value in fields.items()}
            batch, maps = kept, maps[known]
            contributions = None if contributions is None else contributions[known]
        update_suite(
            metrics,
            Units(
                batch=batch,
                maps=maps,
                respond=respond,
                grid=grid,
                contributions=contributions,
                num_images=_images_of_pass(model),
            ),
        )


def _images_of_pass(model: "InterpretableModel") -> int | None:
    """No fewer images than a validation or test looks at over all processes; None: not known."""
    trainer = model.trainer
    if trainer.testing:
        loader, batches = trainer.test_dataloaders, trainer.num_test_batches
    else:
        loader, batches = trainer.val_dataloaders, trainer.num_val_batches
    size = getattr(loader, "batch_size", None)
    if size is None or len(batches) != 1 or batches[0] == float("inf"):
        return None
    return int(batches[0]) * int(size) * trainer.world_size
