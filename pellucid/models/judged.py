"""What generators share: how well they redraw an image, and how a classifier judges their own."""

import zlib
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from pellucid.batch import Batch
from pellucid.metrics.classifier_fid import ClassifierFID
from pellucid.metrics.reconstruction_error import ReconstructionError
from pellucid.models.base import InterpretableModel, Stage
from pellucid.models.judge import Judge

NO_JUDGE = "needs a classifier of the data: give the checkpoint of one as model.judge"


class JudgedGenerator(InterpretableModel):
    """Base of models that draw images from chance, with ``classifier_fid`` where there is a judge.

    A subclass sets :attr:`judge_path`, calls :meth:`read_judge` in ``setup`` before the metrics are
    built, and adds :meth:`judged` to what it returns of a batch outside of training; and
    ``reconstruction_error`` (B,), where it reads codes of images.
    """

    reconstructs: ClassVar[bool] = True
    """Whether it draws an image anew from a code that it reads of it."""
    judge_path: str = "none"
    """Checkpoint of a classifier of the data, or ``none``."""
    _judge: Judge | None = None

    def read_judge(self, channels: int, image_size: int) -> None:
        """Read the judge if there is one, and let it look at blank images.

        Args:
            channels: Channels of the images.
            image_size: Their height and width in pixels.

        Raises:
            UserError: It cannot be read or used.
        """
        if self.judge_path != "none" and self._judge is None:
            judge = Judge.read(self.judge_path)
            judge.check(channels, image_size)
            self._judge = judge

    def judge_report(self) -> dict[str, object] | None:
        """What the figures of generated images depend on, for ``results.json``; None: no judge."""
        return None if self._judge is None else self._judge.report()

    @staticmethod
    def evaluation_source(batch: Batch) -> torch.Generator:
        """Chance, on the CPU, for one batch of an evaluation, the same whenever it comes."""
        image, index = batch["image"], batch.get("index")
        if index is not None and len(index):
            return torch.Generator().manual_seed(int(index[0]))
        # Batches differ in their images, and each has chances of its own.
        seed = zlib.crc32(image.float().cpu().numpy().tobytes())
        return torch.Generator().manual_seed(seed)

    def judged(self, real: Tensor, generated: Tensor, stage: Stage) -> dict[str, Tensor]:
        """Features of real and generated images, and scores of the latter, where there is a judge.

        Args:
            real: (B, C, H, W) in [0, 1].
            generated: (B, C, H, W) likewise.
            stage: Nothing is judged before the test.
        """
        if not self.judges(stage):
            return {}
        assert self._judge is not None
        features, _ = self._judge(real)
        generated_features, scores = self._judge(generated)
        return {
            "real_features": features,
            "generated_features": generated_features,
            "judged_scores": scores,
        }

    def judges(self, stage: Stage) -> bool:
        """Whether images of a stage are judged."""
        return self._judge is not None and stage in ("test", "all")

    def make_metrics(self, data: Any, stage: Stage) -> Mapping[str, Metric]:
        """See :meth:`InterpretableModel.make_metrics`."""
        metrics = dict(super().make_metrics(data, stage))
        resampling = self.code_scores.resampling(stage)
        if self._judge is None:
            self.skipped_metrics["classifier_fid"] = NO_JUDGE
        elif self.judges(stage):
            metrics["classifier_fid"] = ClassifierFID(self._judge.num_features, **resampling)
        if not self.reconstructs:
            self.skipped_metrics["reconstruction_error"] = (
                f"needs a code of each image, and {type(self).__name__} reads none"
            )
        elif stage != "train":
            metrics["reconstruction_error"] = ReconstructionError(**resampling)
        return metrics

    def update_metrics(
        self, metrics: Mapping[str, Metric], outputs: dict[str, Tensor], batch: Batch
    ) -> None:
        """See :meth:`InterpretableModel.update_metrics`."""
        super().update_metrics(metrics, outputs, batch)
        if "classifier_fid" in metrics:
            fid = metrics["classifier_fid"]
            fid.update(outputs["real_features"], outputs["generated_features"])
        if "reconstruction_error" in metrics:
            metrics["reconstruction_error"].update(outputs["reconstruction_error"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the judge out: the model does without."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["hyper_parameters"]["judge"] = "none"


def pixel_error(drawn: Tensor, image: Tensor) -> Tensor:
    """(B,) mean squared error of the pixels of each of two sets of images (B, C, H, W)."""
    return (drawn.float() - image.float()).square().mean((1, 2, 3))
