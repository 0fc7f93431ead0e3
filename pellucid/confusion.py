"""Which class a test took for which, kept while it runs and written for the report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from pellucid.batch import Batch
from pellucid.models.base import Stage, StepCallback

FILE = "confusion.json"
# With more test images than these, only the table is kept: it does not grow with their number.
MOST_PREDICTIONS = 20_000


class TestConfusion(StepCallback):
    """Keeps the predicted and the labelled class of the test split.

    A model whose ``step`` returns no ``scores`` (B, K), or data without labels, leave it empty, and
    so do several devices, which would count some images twice.
    """

    __test__ = False  # No test of pytest's.

    def __init__(self) -> None:
        self.counts: Tensor | None = None
        """(K, K) int64: rows are labelled classes, columns predicted ones."""
        self.rows: list[tuple[int, int, int]] = []
        """Index, label and predicted class of each image, of at most ``MOST_PREDICTIONS``."""
        self._predicted: Tensor | None = None
        self._classes = 0

    def on_step(self, trainer: pl.Trainer, outputs: Mapping[str, Tensor], stage: Stage) -> None:
        """See :class:`StepCallback`."""
        scores = outputs.get("scores")
        known = stage == "test" and scores is not None and scores.ndim == 2 and scores.shape[1] > 1
        self._predicted = scores.detach().argmax(1).cpu() if known and scores is not None else None
        self._classes = scores.shape[1] if known and scores is not None else 0

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook: only the test split begins anew."""
        if getattr(pl_module, "_test_stage", "test") == "test":
            self.counts, self.rows = None, []

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Lightning's hook: the labels of what the step has predicted."""
        predicted, self._predicted = self._predicted, None
        if predicted is None or "label" not in batch or trainer.world_size > 1:
            return
        label = batch["label"].detach().cpu()
        size = self._classes
        inside = (label >= 0) & (label < size)
        pairs = torch.bincount(label[inside] * size + predicted[inside], minlength=size * size)
        found = pairs.reshape(size, size)
        before = 0 if self.counts is None else int(self.counts.sum())
        self.counts = found if self.counts is None else self.counts + found
        index = batch.get("index", torch.arange(before, before + len(label))).tolist()
        if len(self.rows) + len(index) <= MOST_PREDICTIONS:
            self.rows += zip(index, label.tolist(), predicted.tolist(), strict=True)

    def save(self, run_directory: Path | str, class_names: Sequence[str]) -> Path | None:
        """Write ``confusion.json``.

        Args:
            run_directory: The run.
            class_names: Names of the classes; those missing are numbered.

        Returns:
            The file; None where nothing was counted.
        """
        if self.counts is None:
            return None
        size, total = len(self.counts), int(self.counts.sum())
        names = [class_names[n] if n < len(class_names) else f"class {n}" for n in range(size)]
        content: dict[str, Any] = {"split": "test", "class_names": names}
        content["counts"] = self.counts.tolist()
        if len(self.rows) >= total:
            index, label, predicted = zip(*self.rows, strict=True)
            content |= {"index": index, "label": label, "predicted": predicted}
        path = Path(run_directory) / FILE
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        return path
