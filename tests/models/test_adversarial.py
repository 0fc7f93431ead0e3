"""Manual optimisation under Lightning against a bare loop, and its traps."""

import os
import signal
from collections.abc import Sequence

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from pellucid.batch import Batch
from pellucid.callbacks import CheckMonitors, FiniteLoss
from pellucid.errors import RunFailure, UserError
from pellucid.models.adversarial import AdversarialModel, Decay, Turn
from pellucid.models.base import Stage
from pellucid.models.explanation import Explanation
from pellucid.models.gan import GAN
from tests.helpers import TinyData, call, only_run, write_config
from tests.test_resume import assert_same_run, best_score

CONFIG = """\
# A game on coloured squares, for tests.
trainer:
  max_epochs: 2
  accelerator: cpu
  devices: 1
  enable_progress_bar: false
model:
  class_path: tests.models.test_adversarial.Duel
data:
  class_path: tests.helpers.TinyData
  init_args: {image_size: 2}
"""
BATCHES = 3
"""Of an epoch of the tiny data."""


class Duel(AdversarialModel):
    """A player that draws with noise, and one that judges; twelve weights between them."""

    def __init__(
        self,
        gradient_clip: float | None = None,
        decay: Decay = "none",
        poison_step: int | None = None,
    ) -> None:
        super().__init__(3, gradient_clip, decay)
        self.save_hyperparameters()
        self.poison_step = poison_step
        self.critic = nn.Linear(3, 1, bias=False)
        self.generator = nn.Linear(2, 3)

    def turns(self) -> Sequence[Turn]:
        return (
            Turn(name="critic", loss=self.critic_turn, modules=[self.critic], lr=0.1),
            Turn(name="generator", loss=self.generator_turn, modules=[self.generator], lr=0.05),
        )

    def draw(self, batch: Batch) -> Tensor:
        drawn: Tensor = self.generator(torch.randn(len(batch["image"]), 2))
        return drawn

    def critic_turn(self, batch: Batch) -> dict[str, Tensor]:
        if os.environ.get("DUEL_SIGNAL_AT") == str(self.global_step):
            signal.raise_signal(signal.SIGINT)
        gap = self.critic(self.draw(batch).detach()) - self.critic(batch["image"].mean((2, 3)))
        return {"loss": gap.square().mean() + gap.mean(), "gap": gap.mean()}

    def generator_turn(self, batch: Batch) -> dict[str, Tensor]:
        loss = -self.critic(self.draw(batch)).mean()
        return {"loss": loss * torch.nan if self.global_step == self.poison_step else loss}

    def evaluate(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        return {"loss": self.critic(batch["image"].mean((2, 3))).mean()}

    def explain(self, batch: Batch, target: Tensor | None = None) -> Explanation:
        count = len(batch["image"])
        return Explanation(scores=torch.zeros(count, 0), target=torch.zeros(count).long())


def fit(model: AdversarialModel, data: TinyData | None = None, **options) -> pl.Trainer:
    options = {"max_epochs": 2, "precision": "32-true", "callbacks": []} | options
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
    trainer.fit(model, data or TinyData(image_size=2))
    return trainer


def duel(**options) -> Duel:
    torch.manual_seed(0)
    return Duel(**options)


def bare_loop(clip: float | None, decay: str, epochs: int = 2) -> Duel:
    """The same training, written down step by step."""
    model, data = duel(), TinyData(image_size=2)
    critic = torch.optim.Adam(model.critic.parameters(), 0.1)
    generator = torch.optim.Adam(model.generator.parameters(), 0.05)
    updates = epochs * BATCHES
    update = 0
    for epoch in range(epochs):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            share = 1.0 if decay == "none" else min(1.0, 2 * (1 - update / updates))
            for optimizer, module, turn in (
                (critic, model.critic, model.critic_turn),
                (generator, model.generator, model.generator_turn),
            ):
                optimizer.param_groups[0]["lr"] = share * {critic: 0.1, generator: 0.05}[optimizer]
                model.zero_grad()
                turn(batch)["loss"].backward()
                if clip is not None:
                    norm = torch.cat([p.grad.flatten() for p in module.parameters()]).norm()
                    for p in module.parameters():
                        p.grad *= min(1.0, clip / (float(norm) + 1e-6))
                optimizer.step()
            update += 1
    return model


@pytest.mark.parametrize(
    ("clip", "decay"), [(None, "none"), (0.05, "none"), (None, "linear"), (0.05, "linear")]
)
def test_training_is_that_of_a_bare_loop(clip, decay):
    expected = bare_loop(clip, decay)
    model, start = duel(gradient_clip=clip, decay=decay), duel()
    duel()  # Leaves the random generator as it was before the bare loop.
    fit(model)
    wanted, first = dict(expected.named_parameters()), dict(start.named_parameters())
    for name, value in model.named_parameters():
        torch.testing.assert_close(value, wanted[name])
        assert not torch.equal(value, first[name])


def test_each_optimiser_step_counts_and_updates_count_batches():
    model = duel()
    trainer = fit(model)
    assert (trainer.global_step, model.updates) == (4 * BATCHES, 2 * BATCHES)
    model = duel()
    # Steps are counted per player: six of them are three batches.
    trainer = fit(model, max_epochs=9, max_steps=6)
    assert (trainer.global_step, model.updates) == (6, 3)


def test_max_steps_is_the_end_of_a_decay():
    rates = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"] / 0.1)

    fit(duel(decay="linear"), max_epochs=9, max_steps=8, callbacks=[Watch()])
    assert rates == pytest.approx([1, 1, 1, 0.5])


def test_a_player_takes_no_gradient_in_the_turn_of_another():
    seen = []

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            with_gradient = {n for n, p in pl_module.named_parameters() if p.grad is not None}
            seen.append({name.split(".")[0] for name in with_gradient})

    model = duel()
    fit(model, max_epochs=1, callbacks=[Watch()])
    assert seen == [{"critic"}, {"generator"}] * BATCHES
    assert all(p.requires_grad for p in model.parameters())


def test_a_loss_that_is_not_finite_stops_before_the_weights_change():
    whole = duel()
    fit(whole, max_steps=2)
    model = duel(poison_step=3)
    before = [p.clone() for p in whole.generator.parameters()]
    with pytest.raises(RunFailure, match=r"generator_loss is nan \(epoch 0, step 3\)"):
        fit(model, callbacks=[FiniteLoss()])
    for value, expected in zip(model.generator.parameters(), before, strict=True):
        assert torch.equal(value, expected)


def test_each_scalar_is_logged_once_and_shown_once():
    shown = []

    class Watch(FiniteLoss):
        def on_step(self, trainer, outputs, stage):
            shown.append((stage, sorted(outputs)))

    trainer = fit(duel(), max_epochs=1, callbacks=[Watch()])
    assert shown.count(("train", ["critic_loss", "gap"])) == BATCHES
    assert shown.count(("train", ["generator_loss"])) == BATCHES
    assert sum(stage == "train" for stage, _ in shown) == 2 * BATCHES
    figures = trainer.callback_metrics
    assert {"train/loss", "train/critic_loss", "train/gap", "val/loss"} <= figures.keys()
    assert figures["train/loss"] == figures["train/generator_loss"]


def test_bfloat16_trains_weights_of_full_precision():
    model = duel(gradient_clip=1.0)
    fit(model, precision="bf16-mixed")
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient_clip": 0.0}, r"gradient_clip must be above 0, got 0.0"),
        ({"decay": "cosine"}, r"decay must be none or linear, got 'cosine'"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        Duel(**options)


def test_a_decay_without_an_end_is_refused(tmp_path, capsys):
    config = write_config(tmp_path, CONFIG)
    words = ["fit", "--config", config, "--run_root", tmp_path / "runs", "--model.decay=linear"]
    assert call(*words, "--trainer.max_epochs=-1") == 2
    assert "model.decay: 'linear' needs an end" in capsys.readouterr().err


def test_plain_ddp_is_refused_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "0")
    config = write_config(tmp_path, CONFIG)
    words = ["fit", "--config", config, "--run_root", tmp_path / "runs"]
    try:
        assert call(*words, "--trainer.strategy=ddp") == 2
        errors = capsys.readouterr().err
        assert "trainer.strategy: plain 'ddp' cannot train Duel" in errors
        assert "ddp_find_unused_parameters_true" in errors
        assert "Traceback" not in errors
        assert call(*words, "--trainer.strategy=ddp_find_unused_parameters_true") == 0
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("gradient_clip_val=1.0", "give model.gradient_clip 1.0"),
        ("accumulate_grad_batches=2", "give a larger data.batch_size"),
    ],
)
def test_what_lightning_cannot_do_for_several_optimisers_is_refused(
    option, remedy, tmp_path, capsys
):
    config = write_config(tmp_path, CONFIG)
    words = ["fit", "--config", config, "--run_root", tmp_path / "runs"]
    assert call(*words, f"--trainer.{option}") == 2
    errors = capsys.readouterr().err
    name, value = option.split("=")
    assert f"trainer.{name}: {value} is not for Duel, which has an optimiser for each of" in errors
    assert remedy in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("step", [8, 10])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, capsys, step):
    """In the second epoch, at its start and in its middle; all weights, figures and states."""
    config = write_config(tmp_path, CONFIG)
    options = ["--trainer.max_epochs=3", "--model.decay=linear"]
    words = ["fit", "--config", config, *options]
    monkeypatch.setenv("DUEL_SIGNAL_AT", str(step))
    assert call(*words, "--run_root", tmp_path / "stopped") == 130
    monkeypatch.delenv("DUEL_SIGNAL_AT")
    run = only_run(tmp_path / "stopped")
    command = capsys.readouterr().out.strip().splitlines()[-1].split()
    assert call(*command[1:]) == 0
    assert call(*words, "--run_root", tmp_path / "whole") == 0
    whole = only_run(tmp_path / "whole")
    assert_same_run(run, whole)
    ends = [torch.load(r / "checkpoints/last.ckpt", weights_only=True) for r in (run, whole)]
    assert [end["global_step"] for end in ends] == [6 * BATCHES] * 2
    for ours, theirs in zip(*(end["optimizer_states"] for end in ends), strict=True):
        assert ours["param_groups"] == theirs["param_groups"]
        for number, state in theirs["state"].items():
            assert all(torch.equal(state[k], ours["state"][number][k]) for k in state)
    assert ends[0]["lr_schedulers"] == ends[1]["lr_schedulers"]


def test_the_best_checkpoint_is_the_last_where_nothing_tells(tmp_path):
    words = ["fit", "--config", write_config(tmp_path, CONFIG)]
    assert call(*words, "--run_root", tmp_path / "plain") == 0
    run = only_run(tmp_path / "plain")
    best, last = (
        torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True) for name in ("best", "last")
    )
    assert best["epoch"] == last["epoch"] == 1
    assert all(torch.equal(best["state_dict"][k], v) for k, v in last["state_dict"].items())
    # A figure that the user names chooses all the same.
    options = ["--monitor=val/loss", "--mode=max"]
    assert call(*words, "--run_root", tmp_path / "chosen", *options) == 0
    assert best_score(only_run(tmp_path / "chosen")) is not None


def test_no_monitor_is_nothing_to_check():
    assert GAN.monitor is None
    fit(duel(), max_epochs=1, callbacks=[CheckMonitors()])


def test_data_of_another_size_are_refused(tmp_path, capsys):
    text = CONFIG.replace("tests.models.test_adversarial.Duel", "pellucid.models.gan.GAN")
    words = ["fit", "--config", write_config(tmp_path, text), "--run_root", tmp_path / "runs"]
    assert call(*words) == 2
    errors = capsys.readouterr().err
    assert "model.network: 'infogan_mnist' draws images of 28 pixels, the data have 2" in errors
    assert "Traceback" not in errors


def test_data_of_other_channels_are_refused():
    """Outside of the command line, which takes them from the data."""
    with pytest.raises(UserError, match=r"model.channels: channels is 1, but the data's .* have 3"):
        fit(GAN(), TinyData(image_size=28))
