"""What models share whose networks are trained against each other, each by an optimiser of its own.

Under Lightning this is manual optimisation:

- A batch is one *update*: each player takes its turn (gradients zeroed, loss, backward, clipping,
  optimiser step), while the weights of the others stand still and take no gradient.
- Lightning's ``global_step`` counts every ``optimizer.step()``, so it grows by the number of turns
  with each batch, and so does what ``trainer.max_steps`` limits: 5,000 updates of two players are
  ``max_steps: 10000``. :attr:`~AdversarialModel.updates` counts updates.
- Lightning refuses ``trainer.gradient_clip_val`` and ``trainer.accumulate_grad_batches`` here; the
  models take ``gradient_clip``.
- On several devices the strategy must look for parameters without a gradient, since no loss reaches
  those of all players: ``ddp_find_unused_parameters_true``.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pellucid.batch import Batch
from pellucid.errors import UserError
from pellucid.models.base import InterpretableModel, Stage
from pellucid.models.layers.image_range import ImageRange, follow_the_data

Decay = Literal["none", "linear"]
"""``linear``: learning rates fall to zero over the second half of the training."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A player: what it minimises, and what it may change."""

    name: str
    """As ``discriminator``; its loss is logged as ``discriminator_loss``."""
    loss: Callable[[Batch], dict[str, Tensor]]
    """Gives ``loss``, what the player minimises, and any other scalars to log."""
    modules: Sequence[nn.Module]
    """The networks whose weights it changes; those of all other turns stand still."""
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The weights that it changes."""
        for module in self.modules:
            yield from module.parameters()


class AdversarialModel(InterpretableModel):
    """Base of models with several players; a subclass gives :meth:`turns` and :meth:`evaluate`.

    Of a training step, ``loss`` is that of the turn ``objective``, and ``NAME_loss`` that of the
    turn ``NAME``. No figure tells which epoch of an adversarial training is the best, so
    ``best.ckpt`` is that of the last epoch unless ``--monitor`` names a figure.

    Args:
        channels: Channels of the images.
        gradient_clip: Largest Euclidean norm of the gradient of one player's weights, above 0;
            None: not clipped.
        decay: Whether learning rates fall to zero over the second half of the training.

    Raises:
        ValueError: An argument is outside its range.
    """

    automatic_optimization: bool = False
    monitor: ClassVar[str | None] = None
    tests_all: ClassVar[bool] = False
    objective: ClassVar[str] = "generator"
    """The turn whose loss is ``loss``."""

    def __init__(
        self, channels: int = 1, gradient_clip: float | None = None, decay: Decay = "none"
    ) -> None:
        check_clip(gradient_clip)
        if decay not in get_args(Decay):
            raise ValueError(f"decay must be none or linear, got {decay!r}")
        super().__init__()
        self.gradient_clip, self.decay = gradient_clip, decay
        self.image_range = ImageRange(channels)
        self.register_load_state_dict_post_hook(follow_the_data)  # type: ignore[no-untyped-call]
        self._turns: tuple[Turn, ...] = ()

    @abstractmethod
    def turns(self) -> Sequence[Turn]:
        """The players, in the order in which they take their turns at each batch."""

    @abstractmethod
    def evaluate(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """One batch without training; see :meth:`InterpretableModel.step`."""

    @property
    def updates(self) -> int:
        """Number of training batches that every player has learned from so far."""
        return int(self.global_step) // len(self.turns())

    def pixels(self, batch: Batch) -> Tensor:
        """Images (B, C, H, W) of a batch in [0, 1], as they were before normalisation."""
        pixels: Tensor = self.image_range(batch["image"])
        return pixels

    def setup(self, stage: str) -> None:
        """Take over how the data module normalises; see :meth:`InterpretableModel.setup`."""
        super().setup(stage)
        if (data := getattr(self.trainer, "datamodule", None)) is not None:
            try:
                self.image_range.use(data.mean, data.std)
            except ValueError as error:
                raise UserError("model.channels", str(error)) from error

    def configure_optimizers(self) -> Any:
        """Adam for each player, in the order of their turns."""
        # A fused step unscales half-precision gradients itself, too late for clipping them.
        fused = getattr(self.trainer.precision_plugin, "scaler", None) is None
        optimizers = [
            Adam(list(turn.parameters()), turn.lr, turn.betas, fused=fused) for turn in self.turns()
        ]
        if self.decay == "none":
            return optimizers
        return optimizers, [self._linear_decay(optimizer) for optimizer in optimizers]

    def _linear_decay(self, optimizer: Optimizer) -> LambdaLR:
        trainer: Any = self.trainer
        steps = trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise UserError("model.decay", "'linear' needs an end: give trainer.max_epochs")
        updates = steps
        if trainer.max_steps > 0:
            # Batches until max_steps optimiser steps, if the epochs do not end before.
            updates = min(updates, math.ceil(trainer.max_steps / len(self.turns())))
        schedule = LambdaLR(optimizer, lambda update: min(1.0, 2 * (1 - update / updates)))
        # A resumed run that would take longer is refused, as with Lightning's own schedules.
        schedule.total_steps = steps  # type: ignore[attr-defined]
        return schedule

    def on_fit_start(self) -> None:
        """Refuse a strategy under which the backward pass of one player would wait for others.

        Raises:
            UserError: Names the strategy to use.
        """
        strategy = self.trainer.strategy
        if isinstance(strategy, DDPStrategy):
            options = strategy._ddp_kwargs  # There is no public name.
            if not options.get("find_unused_parameters"):
                raise UserError(
                    "trainer.strategy",
                    f"plain 'ddp' cannot train {type(self).__name__}, whose losses reach a part of "
                    "its parameters each; use ddp_find_unused_parameters_true",
                )
        self._turns = tuple(self.turns())

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """In training an update of every player, else :meth:`evaluate`.

        Returns:
            Detached; see :meth:`InterpretableModel.step`.
        """
        return self._update(batch) if stage == "train" else self.evaluate(batch, stage)

    def _update(self, batch: Batch) -> dict[str, Tensor]:
        optimizers: Any = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        outputs = self._take_turns(batch, optimizers)
        for schedule in self._schedules():
            schedule.step()
        self.on_update()
        return outputs

    def bare_turns(self, batch: Batch) -> dict[str, Tensor]:
        """An update without Lightning, which reads nothing from the device.

        Args:
            batch: The batch.

        Returns:
            Detached scalars, as of :meth:`step`.
        """
        return self._take_turns(batch, self.trainer.optimizers, bare=True)

    def _take_turns(
        self, batch: Batch, optimizers: Sequence[Any], *, bare: bool = False
    ) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = {}
        for turn, optimizer in zip(self._turns, optimizers, strict=True):
            for each in optimizers:
                each.zero_grad()
            with self._others_stand_still(turn):
                found = turn.loss(batch)
                loss = found.pop("loss")
                shown = {f"{turn.name}_loss": loss.detach()}
                shown |= {name: value.detach() for name, value in found.items()}
                if bare:
                    loss.backward()  # type: ignore[no-untyped-call]
                else:
                    # Before the weights change, so that a loss that is not finite stops the run.
                    self._show(shown, "train")
                    self.manual_backward(loss)
            if bare:  # Else Lightning calls it.
                self.on_before_optimizer_step(optimizer)
            optimizer.step()
            outputs |= shown
        return {"loss": outputs[f"{self.objective}_loss"], **outputs}

    def on_update(self) -> None:
        """After all players have taken their turns at a batch."""

    @contextmanager
    def _others_stand_still(self, turn: Turn) -> Iterator[None]:
        """Save the backward pass the gradients of weights that do not change in this turn."""
        own = set(turn.parameters())
        still = [
            parameter
            for other in self._turns
            for parameter in other.parameters()
            if parameter not in own and parameter.requires_grad
        ]
        for parameter in still:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in still:
                parameter.requires_grad_(True)

    def _schedules(self) -> list[Any]:
        schedules: Any = self.lr_schedulers()
        if schedules is None:
            return []
        return schedules if isinstance(schedules, list) else [schedules]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradient; in half precision it has been unscaled by now."""
        if self.gradient_clip is not None:
            own = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(own, self.gradient_clip)


def check_clip(gradient_clip: float | None) -> None:
    """Check the largest norm of a gradient.

    Args:
        gradient_clip: The norm; None: gradients are not clipped.

    Raises:
        ValueError: It is not above 0, and would leave weights where they are, or turn them round.
    """
    if gradient_clip is not None and not gradient_clip > 0:
        raise ValueError(
            f"gradient_clip must be above 0, got {gradient_clip}; null leaves gradients as they are"
        )
