"""Which codes the tests score, and by which disentanglement scores: a model's own, or a layer's."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pellucid.batch import Batch
from pellucid.metrics.disentanglement.score_settings import ScoreSettings
from pellucid.metrics.disentanglement.scores import DisentanglementScores
from pellucid.metrics.disentanglement.suite import (
    SCORES,
    Scores,
    check_names,
    chosen_scores,
)
from pellucid.metrics.disentanglement.udr import CODES_FILE
from pellucid.metrics.resampling import Resampled
from pellucid.models.unit_metrics import see_layer, watch

if TYPE_CHECKING:
    from pellucid.models.base import InterpretableModel, Stage

SAVED_ROWS = 10_000


class CodeScores:
    """The disentanglement scores that a model's validation and tests report.

    Args:
        settings: How scores are computed; None: as published.
        names: Keys of :data:`pellucid.metrics.disentanglement.suite.SCORES`; None: all.
        layer: Name of a layer whose output is scored in place of the model's own codes, its maps
            averaged over places; None: the codes. Where a step looks through it several times, the
            last look counts, which is at the batch's own images.

    Raises:
        ValueError: If there is no such score.
    """

    def __init__(
        self,
        settings: ScoreSettings | None = None,
        names: Sequence[str] | None = None,
        layer: str | None = None,
    ) -> None:
        check_names(names)
        self.settings, self.names, self.layer = settings or ScoreSettings(), names, layer
        self._width: int | None = None
        self._metric: DisentanglementScores | None = None
        self._tested: DisentanglementScores | None = None
        self._figures: dict[str, float] = {}
        self._own = Scores({}, {}, {}, {})

    def find_layer(self, model: "InterpretableModel", data: Any) -> None:
        """Look the layer up, and how many codes it gives.

        Args:
            model: The model.
            data: The data module, for the images' size.

        Raises:
            ValueError: There is no such layer, or its output is neither (B, L) nor (B, L, h, w).
        """
        if self.layer is None or self._width is not None:
            return
        output = see_layer(model, self.layer, len(data.mean), data.image_size)
        self._width = _pooled(output, self.layer).shape[1]

    def score_keys(self, model: "InterpretableModel", data: Any, stage: "Stage") -> list[str]:
        """Keys of what a stage reports: what validation tells each epoch, or what a test tells.

        Args:
            model: The model.
            data: The data module.
            stage: The stage; none but ``val`` and ``test`` has any.
        """
        if stage not in ("val", "test") or (self.layer is None and model.num_codes is None):
            return []
        chosen = chosen_scores(
            self.names, factors="factors" in data.provides, each_epoch=stage == "val"
        )
        return [key for entry in chosen.values() for key in entry.keys]

    def skipped(self, model: "InterpretableModel", data: Any) -> dict[str, str]:
        """Why scores are left out, by key, of models that have codes.

        Args:
            model: The model.
            data: The data module.
        """
        if "factors" in data.provides or (self.layer is None and model.num_codes is None):
            return {}
        why = f"needs factors, which {type(data).__name__} does not provide"
        wanted = [e for n, e in SCORES.items() if self.names is None or n in self.names]
        return {key: why for entry in wanted if entry.needs_factors for key in entry.keys}

    def resampling(self, stage: "Stage") -> dict[str, int]:
        """How a model's own scores of a stage are resampled for their spread: in tests alone.

        Args:
            stage: The stage.
        """
        times = self.settings.resamplings if stage == "test" else 0
        return {"resamplings": times, "seed": self.settings.seed}

    def begin(self, model: "InterpretableModel", stage: "Stage") -> None:
        """Make room for the codes of a pass over a split.

        Args:
            model: The model.
            stage: The stage.
        """
        self._metric = None
        trainer = model.trainer
        data = getattr(trainer, "datamodule", None)
        loader: Any = trainer.val_dataloaders if stage == "val" else trainer.test_dataloaders
        # Several loaders at once are the user's own: no split of the data.
        dataset = getattr(loader, "dataset", None)
        if data is None or dataset is None or trainer.sanity_checking:
            return
        if not self.score_keys(model, data, stage):
            return
        self.find_layer(model, data)
        num_codes = model.num_codes if self._width is None else self._width
        assert num_codes is not None
        known = "factors" in data.provides
        self._metric = DisentanglementScores(
            num_codes,
            len(dataset),
            len(dataset[0]["factors"]) if known else 0,
            settings=self.settings,
            names=self.names,
            each_epoch=stage == "val",
            factor_names=tuple(getattr(data, "factor_names", ())) or None,
        ).to(model.device)

    def update(
        self,
        model: "InterpretableModel",
        outputs: Mapping[str, Tensor],
        batch: Batch,
        seen: Sequence[Any],
    ) -> None:
        """Keep the codes of one batch.

        Args:
            model: The model.
            outputs: What the model's ``step`` returned.
            batch: The batch.
            seen: What :func:`watch` saw of the layer in that step.
        """
        if self._metric is None:
            return
        kl = None
        if self.layer is None:
            if "codes" not in outputs:
                raise ValueError("num_codes is given, but step() returns no codes (B, L) in tests")
            codes, kl = outputs["codes"].detach(), outputs.get("kl_per_latent")
        else:
            # Features that are kept of frozen layers do not pass through them again.
            if not seen or len(seen[-1]) != len(batch["image"]):
                with watch(model, self.layer) as seen, torch.no_grad():
                    model.explain({"image": batch["image"]})
            codes = _pooled(seen[-1].detach(), self.layer)
        factors = batch.get("factors") if self._metric.num_factors else None
        kl = None if kl is None else kl.detach()
        means = batch["image"].float().mean((1, 2, 3))
        self._metric.update(codes, factors, batch.get("index"), kl, means)

    def end(self, model: "InterpretableModel", stage: "Stage") -> None:
        """Compute and log the scores of a pass; runs on every process.

        Args:
            model: The model.
            stage: The stage.
        """
        if stage == "test":
            self._read_own(model)
        metric, self._metric = self._metric, None
        if metric is None:
            return
        found = metric.compute()
        for key in metric.score_keys():
            # Each epoch has all of its figures, so that a monitor finds its own.
            value = found.get(key, torch.tensor(torch.nan) if stage == "val" else None)
            if value is not None:
                model.log(f"{stage}/{key}", value, on_epoch=True, on_step=False, sync_dist=True)
        if stage == "test":
            self._tested = metric
            self._figures = {key: float(value) for key, value in found.items()}
            model.skipped_metrics |= metric.skipped

    def _read_own(self, model: "InterpretableModel") -> None:
        """The model's own scores, and how much they vary, before Lightning resets them."""
        own = {n: m for n, m in model.metrics_of("test").items() if isinstance(m, Resampled)}
        values = {name: float(metric.compute()) for name, metric in own.items()}
        spread = {name: metric.spread() for name, metric in own.items()}
        known = {name: value for name, value in spread.items() if math.isfinite(value)}
        samples = {name: metric.sample_sizes() for name, metric in own.items()}
        self._own = Scores(values, known, {}, samples)

    def report(self) -> dict[str, Any] | None:
        """Settings of the last test's scores, their spread, and of how many images each is.

        None: there was no score.
        """
        metric, own = self._tested, self._own
        if metric is None and not own.values:
            return None
        kl = None if metric is None else metric.rows.get("kl_per_latent")
        return {
            "settings": self.settings.as_dict(),
            "layer": self.layer,
            "images": None if metric is None else len(metric.rows.get("index", ())),
            "codes": None if metric is None else metric.num_codes,
            "values": self._figures | own.values,
            "std": ({} if metric is None else metric.spread) | own.spread,
            "samples": ({} if metric is None else metric.samples) | own.samples,
            "kl_per_latent": None if kl is None else kl.tolist(),
            "kl_per_latent_std": None if metric is None else metric.kl_spread,
        }

    def save(self, directory: Path) -> Path | None:
        """Write codes of up to 10,000 test images to ``codes.npz``, for UDR over several runs.

        Args:
            directory: The run.

        Returns:
            The file; None: no codes were tested.
        """
        if self._tested is None or not self._tested.rows:
            return None
        rows = dict(self._tested.rows)
        order = np.argsort(rows["index"])[:SAVED_ROWS]
        rows |= {name: row[order] for name, row in rows.items() if name != "kl_per_latent"}
        path = directory / CODES_FILE
        np.savez_compressed(path, allow_pickle=False, **rows)
        return path


def _pooled(output: Any, layer: str) -> Tensor:
    """(B, L) what a layer gives, averaged over places."""
    if isinstance(output, Tensor) and output.ndim == 4:
        return output.mean((2, 3))
    if not isinstance(output, Tensor) or output.ndim != 2:
        given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"layer {layer!r} gives neither codes (B, L) nor maps (B, L, h, w) but {given}; choose "
            "another layer"
        )
    return output
