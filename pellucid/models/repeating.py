"""What models share that can make many updates of one training batch."""

import math
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from pellucid.errors import UserError
from pellucid.models.base import InterpretableModel
from pellucid.models.repeated_updates import RepeatedUpdates


class RepeatingModel(InterpretableModel):
    """Base of models whose training batch may be cut into parts, with an update of each.

    A subclass calls :meth:`repeat_updates` in its constructor, and in a training step
    :meth:`update_by_parts` where :attr:`repeats`, else :meth:`before_update`.
    """

    counts_by_hand: ClassVar[bool] = False
    """Whether optimisation is manual whatever ``updates_per_batch`` is."""
    updates_per_batch: int = 1
    _repeated: RepeatedUpdates | None = None

    def repeat_updates(self, updates_per_batch: int) -> None:
        """Have so many updates of each training batch.

        Args:
            updates_per_batch: At least 1.

        Raises:
            ValueError: It is less.
        """
        if updates_per_batch < 1:
            raise ValueError(f"updates_per_batch must be at least 1, got {updates_per_batch}")
        self.updates_per_batch = updates_per_batch
        if updates_per_batch > 1:
            self.automatic_optimization = False

    @property
    def repeats(self) -> bool:
        """Whether a fit with several updates of each batch is going on."""
        return self._repeated is not None

    def before_update(self, image: Tensor) -> None:
        """What changes with the step, set before each update; whatever else of it is fixed.

        Args:
            image: (B, C, H, W) of the update, as in a batch.
        """

    @abstractmethod
    def bare_update(self, image: Tensor) -> dict[str, Tensor]:
        """One update without Lightning, which reads nothing from the device.

        Args:
            image: (B, C, H, W), as in a batch.

        Returns:
            Detached scalars, as of :meth:`step`.
        """

    def update_by_parts(self, image: Tensor) -> dict[str, Tensor]:
        """The updates of a batch.

        Args:
            image: (B, C, H, W), as in a batch.

        Returns:
            The mean of each scalar over the images.
        """
        assert self._repeated is not None
        counted: Any = self.optimizers()
        counted = counted if isinstance(counted, list) else [counted]

        def count() -> None:  # Lightning counts what is stepped through it; there is no public way.
            for optimizer in counted:
                optimizer._on_before_step()
                optimizer._on_after_step()

        most = None
        if self.trainer.max_steps > 0:
            most = math.ceil((self.trainer.max_steps - self.global_step) / len(counted))
        outputs = self._repeated(image, most, count)
        # Nobody has looked at the gradients.
        norms = torch._foreach_norm([weight.detach() for weight in self.parameters()])
        self._show({**outputs, "norm of the weights": torch.stack(norms).sum()}, "train")
        return outputs

    def on_fit_start(self) -> None:
        """Get ready for several updates of each batch.

        Raises:
            UserError: They cannot be made here.
        """
        super().on_fit_start()
        if self.updates_per_batch == 1:
            return
        where, trainer = "model.updates_per_batch", self.trainer
        if trainer.world_size > 1:
            raise UserError(where, f"is for one device, got {trainer.world_size}: give it as 1")
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise UserError(where, "cannot scale losses: use trainer.precision 32 or bf16-mixed")
        if trainer._detect_anomaly:
            raise UserError("trainer.detect_anomaly", f"is not for {where}: give 1 there")
        data: Any = getattr(trainer, "datamodule", None)
        if data is None:
            raise UserError(where, "needs a data module, whose batch_size it divides")
        size, left = divmod(data.batch_size, self.updates_per_batch)
        if left:
            raise UserError(
                "data.batch_size",
                f"{data.batch_size} images cannot be cut into {self.updates_per_batch} equal "
                "parts, one for each of model.updates_per_batch: give a multiple",
            )
        self._repeated = RepeatedUpdates(
            self.bare_update, self.before_update, trainer.optimizers, size
        )

    def on_fit_end(self) -> None:
        """Let go of the graph, which cannot be copied."""
        super().on_fit_end()
        self._repeated = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no graph."""
        state: dict[str, Any] = super().__getstate__()
        return {**state, "_repeated": None}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Optimisers made for a graph go on without one, on a CPU for example.

        Raises:
            UserError: Training would begin to count its steps anew.
        """
        super().on_load_checkpoint(checkpoint)
        before = checkpoint.get("hyper_parameters", {}).get("updates_per_batch", 1)
        fits = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        # Lightning counts the steps of these two by themselves.
        if fits and not self.counts_by_hand and (before > 1) != (self.updates_per_batch > 1):
            raise UserError(
                "model.updates_per_batch",
                f"is {self.updates_per_batch}, and was {before} in the run to be resumed, whose "
                f"steps cannot be counted on: give {before}",
            )
        for state in checkpoint.get("optimizer_states", ()):
            for group in state["param_groups"]:
                group["capturable"] = False
