"""A model and a data module small enough to be trained inside a test, and wrong ones on purpose."""

import json
import os
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchmetrics import Accuracy, Metric

from pellucid.batch import Batch
from pellucid.cli import main
from pellucid.datamodules.base import ImageDataModule, Split
from pellucid.models.base import InterpretableModel, Stage
from pellucid.models.explanation import Explanation


class MeanPeak(Metric):
    """Mean peak of each unit's map: a metric with a figure per unit."""

    full_state_update = True

    def __init__(self) -> None:
        super().__init__()
        self.add_state("peaks", torch.zeros(4), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, maps: Tensor) -> None:
        self.peaks += maps.amax((2, 3)).sum(0)
        self.images += len(maps)

    def compute(self) -> Tensor:
        return self.per_unit().mean()

    def per_unit(self) -> Tensor:
        return self.peaks / self.images


class TinyModel(InterpretableModel):
    """One convolution whose filters are the units; dropout makes it depend on the random state."""

    requires: ClassVar[frozenset[str]] = frozenset({"image", "label"})

    def __init__(
        self,
        num_classes: int,
        lr: float = 0.05,
        width: int = 4,
        filter_loss_weight: float = 0.1,
        backbone: Literal["small", "large"] = "small",
        poison_step: int | None = None,
        poison_gradient: bool = False,
        measure_units: bool = False,
    ) -> None:
        super().__init__()
        if not lr > 0:
            raise ValueError(f"lr must be above 0, got {lr}; the usual value is 0.05")
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.save_hyperparameters()
        self.lr, self.filter_loss_weight, self.poison_step = lr, filter_loss_weight, poison_step
        self.poison_gradient, self.measure_units = poison_gradient, measure_units
        self.features = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(width, num_classes)
        self.num_classes = num_classes

    def maps(self, batch: Batch) -> Tensor:
        return F.relu(self.features(batch["image"]))

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        if stage == "train" and os.environ.get("TINY_SIGNAL_AT_STEP") == str(self.global_step):
            os.kill(os.getpid(), signal.Signals[os.environ["TINY_SIGNAL"]])
        maps = self.maps(batch)
        logits = self.head(self.dropout(maps.mean((2, 3))))
        classification = F.cross_entropy(logits, batch["label"])
        filter_loss = maps.square().mean()
        if stage == "train" and self.global_step == self.poison_step:
            filter_loss = (
                (filter_loss - filter_loss).sqrt()
                if self.poison_gradient
                else (filter_loss * torch.nan)
            )
        return {
            "loss": classification + self.filter_loss_weight * filter_loss,
            "classification_loss": classification,
            "filter_loss": filter_loss,
            "logits": logits,
            "maps": maps,
        }

    def make_metrics(self, data: Any, stage: Stage) -> Mapping[str, Metric]:
        if "parts" not in data.provides:
            self.skipped_metrics["location_instability"] = "the data has no landmarks"
        accuracy: Metric = Accuracy("multiclass", num_classes=self.num_classes)
        return {"accuracy": accuracy} | ({"mean_peak": MeanPeak()} if self.measure_units else {})

    def update_metrics(
        self, metrics: Mapping[str, Metric], outputs: dict[str, Tensor], batch: Batch
    ) -> None:
        metrics["accuracy"].update(outputs["logits"], batch["label"])
        if "mean_peak" in metrics:
            metrics["mean_peak"].update(outputs["maps"])

    def explain(self, batch: Batch, target: Tensor | None = None) -> Explanation:
        maps = self.maps(batch)
        scores = self.head(maps.mean((2, 3)))
        target = scores.argmax(1) if target is None else target
        best = maps.flatten(2).argmax(2)
        scale = batch["image"].shape[-1] / maps.shape[-1]
        return Explanation(
            scores=scores,
            target=target,
            maps=maps,
            positions=torch.stack((best % maps.shape[-1], best // maps.shape[-1]), 2) * scale,
            contributions=maps.mean((2, 3)) * self.head.weight[target],
            bias=self.head.bias[target],
            unit_names=tuple(f"filter {i}" for i in range(maps.shape[1])),
        )

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), self.lr)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


class NeedsMasks(TinyModel):
    """A model that needs a field which the tiny data does not have."""

    requires: ClassVar[frozenset[str]] = frozenset({"image", "label", "part_masks"})


class OneCycle(TinyModel):
    """A model whose learning rate is planned for a number of steps."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class MonitorsLandmarks(TinyModel):
    """A model whose best checkpoint is chosen by a metric that needs landmarks."""

    monitor: ClassVar[str] = "val/location_instability"


class ColouredSquares(Dataset[Batch]):
    """Noise with a square; the channel that the square is bright in is the class."""

    def __init__(self, length: int, size: int, classes: int, offset: int) -> None:
        self.length, self.size, self.classes, self.offset = length, size, classes, offset

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Batch:
        generator = torch.Generator().manual_seed(self.offset + index)
        image = torch.randn(3, self.size, self.size, generator=generator)
        label = index % self.classes
        half = self.size // 2
        image[label % 3, :half, :half] += 2.0
        return {"image": image, "label": torch.tensor(label), "index": torch.tensor(index)}


class TinyData(ImageDataModule):
    """Three classes of coloured squares."""

    provides: ClassVar[frozenset[str]] = frozenset({"image", "label", "index"})

    def __init__(
        self,
        root: str = "",
        length: int = 24,
        classes: int = 3,
        categories: list[str] | None = None,
        hide_labels: bool = False,
        image_size: int = 8,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(image_size, batch_size, num_workers, seed)
        self.root, self.length, self.classes = root, length, classes
        self.categories = categories
        if hide_labels:
            self.provides = frozenset({"image", "index"})  # type: ignore[misc]

    def make_dataset(self, split: Split) -> Dataset[Batch]:
        if self.root:
            raise FileNotFoundError(f"{self.root}/{split} does not exist; set data.root")
        offset = {"train": 0, "val": 10_000, "test": 20_000, "all": 30_000}[split]
        return ColouredSquares(self.length, self.image_size, self.classes, offset)

    @property
    def class_names(self) -> Sequence[str]:
        return self.categories or [f"class {i}" for i in range(self.classes)]


CONFIG = """\
# Coloured squares, for tests.
trainer:
  max_epochs: 2
  accelerator: cpu
  devices: 1
  enable_progress_bar: false
model:
  class_path: tests.helpers.TinyModel
data:
  class_path: tests.helpers.TinyData
"""


def write_config(folder: Path, text: str = CONFIG) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path


def call(*words: object) -> int:
    """Run the command line in this process.

    Returns:
        The exit status.
    """
    try:
        main([str(word) for word in words])
    except SystemExit as error:
        return int(error.code or 0)
    return 0


def only_run(root: Path, experiment: str = "tiny") -> Path:
    """The one run of an experiment."""
    (run,) = (root / experiment).iterdir()
    return run


def write_photos(root: Path, classes: Sequence[str] = ("cat", "fox"), count: int = 4) -> Path:
    """A user's own images in the layout of ImageFolderParts, with ``keypoints.json`` beside them.

    Returns:
        ``root``.
    """
    images: list[dict[str, Any]] = []
    for split in ("train", "val", "test"):
        for shade, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                path = folder / f"{split}_{name}_{i}.jpg"
                picture = Image.new("RGB", (60, 50), (20 * i, 90 + 60 * shade, 90))
                picture.paste((250, 250, 250), (10 + i, 10, 20 + i, 20))
                picture.save(path)
                file = path.relative_to(root).as_posix()
                images.append({"id": len(images), "file_name": file, "width": 60, "height": 50})
    keypoints = {
        "images": images,
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "keypoints": [15, 15, 2, 40, 30, 0]}
            for i in range(len(images))
        ],
        "categories": [{"id": 1, "name": "animal", "keypoints": ["head", "legs"]}],
    }
    (root / "keypoints.json").write_text(json.dumps(keypoints))
    return root


class CodeBlock(NamedTuple):
    """A fenced block of a Markdown page."""

    language: str
    text: str
    line: int


def code_blocks(page: Path) -> list[CodeBlock]:
    """All fenced blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    fences = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [CodeBlock(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in fences]
