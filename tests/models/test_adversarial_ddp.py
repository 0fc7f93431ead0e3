"""Under Lightning's DDP on two processes, players train as on one process with the whole batch."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pellucid.batch import Batch
from pellucid.callbacks import FiniteLoss
from pellucid.errors import UserError
from pellucid.models.ac_gan import ACGAN
from pellucid.models.adversarial import AdversarialModel
from pellucid.models.factor_vae import FactorVAE
from pellucid.models.gan import GAN
from pellucid.models.info_gan import InfoGAN
from pellucid.models.layers.codes import Codes
from pellucid.models.layers.random_affine import random_affine
from tests.models.test_interpretable_cnn_ddp import without_batch_statistics

ROWS, UPDATES = 8, 2
SMALL: dict[str, Any] = {"network": "infogan_svhn", "num_noise": 4}
MODELS: dict[str, Callable[[], AdversarialModel]] = {
    "GAN": lambda: GAN(**SMALL, gradient_clip=0.5),
    "InfoGAN": lambda: InfoGAN(
        **SMALL, categorical=(3, 2), q_hidden=8, pairs_weight=2.0, pairs_balance=2.0, ema_decay=0.9
    ),
    "ACGAN": lambda: ACGAN(3, **SMALL, decay="linear"),
    "FactorVAE": lambda: FactorVAE(
        32, 1, num_latents=4, encoder="mlp", discriminator_width=8, discriminator_layers=2
    ),
}
OWN = {"missed", "running_kl", "running_weight"}
"""Running means of what is told of training, of the first process's images alone."""


class Gradients(pl.Callback):
    """The gradients that each optimiser steps with, before they are clipped."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Keep them."""
        named = pl_module.named_parameters()
        self.seen.append({name: p.grad.clone() for name, p in named if p.grad is not None})


def whole_batches() -> list[Batch]:
    source = torch.Generator().manual_seed(1)
    return [
        {
            "image": torch.rand(ROWS, 1, 32, 32, generator=source).round(),
            "label": torch.randint(0, 3, (ROWS,), generator=source),
        }
        for _ in range(UPDATES)
    ]


def rows_of(rank: int | None) -> Tensor:
    """Which rows of a batch a process has; FactorVAE halves them once more."""
    return torch.arange(ROWS) if rank is None else torch.tensor([[0, 1, 4, 5], [2, 3, 6, 7]])[rank]


def draw_whole(patch: pytest.MonkeyPatch, model: Any, rank: int | None) -> None:
    """Let a process draw for all rows and keep its own, as all processes draw otherwise."""
    source, rows = torch.Generator().manual_seed(5), rows_of(rank)
    half = rows[: len(rows) // 2]

    def normal(like: Tensor, *_: Any, **__: Any) -> Tensor:
        drawn = torch.randn(ROWS // 2, like.shape[1], generator=source)
        return drawn[half]

    def sample(batch: Batch) -> Codes:
        codes = model.codes.sample(ROWS, torch.device("cpu"), source)
        return Codes(
            noise=codes.noise[rows],
            continuous=codes.continuous[rows],
            categories=codes.categories[rows],
        )

    def copies(image: Tensor, strength: float) -> Tensor:
        whole = image.new_zeros(ROWS, *image.shape[1:])
        whole[rows] = image
        torch.manual_seed(int(torch.randint(10**6, (1,), generator=source)))
        return random_affine(whole, strength)[rows]

    if isinstance(model, FactorVAE):
        patch.setattr(torch, "randn_like", normal)
        # Each process permutes its own codes: here within each code, which rows do not share.
        patch.setattr("pellucid.models.factor_vae.permute_codes", lambda codes: codes.flip(1))
    else:
        patch.setattr(model, "sample", sample)
        patch.setattr("pellucid.models.info_gan.random_affine", copies)


def loader(rank: int | None) -> DataLoader[Any]:
    rows = rows_of(rank)
    batches = [{name: value[rows] for name, value in batch.items()} for batch in whole_batches()]
    return DataLoader(batches, batch_size=None)


def fit(name: str, strategy: str, rank: int | None) -> dict[str, Any]:
    """Two updates; ``rank`` None: on one process with all rows."""
    torch.manual_seed(0)
    model, gradients = MODELS[name](), Gradients()
    for child in model.children():
        without_batch_statistics(child)
    with pytest.MonkeyPatch.context() as patch:
        draw_whole(patch, model, rank)
        if rank is not None:
            # Lightning then takes the processes as they are.
            patch.setenv("LOCAL_RANK", str(rank))
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1 if rank is None else 2,
            strategy=strategy,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[gradients, FiniteLoss()],
        )
        trainer.fit(model, loader(rank))
    figures = {key: float(value) for key, value in trainer.callback_metrics.items()}
    assert trainer.global_step == 2 * UPDATES
    return {"gradients": gradients.seen, "figures": figures, "state": model.state_dict()}


def fit_here(name: str, strategy: str) -> dict[str, Any]:
    before = dict(os.environ)
    try:
        return fit(name, strategy, torch.distributed.get_rank())
    finally:
        os.environ.clear()
        os.environ.update(before)


def refusal(name: str) -> str:
    with pytest.raises(UserError) as error:
        fit_here(name, "ddp")
    return str(error.value)


@pytest.mark.ddp
@pytest.mark.parametrize("name", MODELS)
def test_two_processes_train_as_one(run_on_two, name):
    whole = fit(name, "auto", None)
    halves = run_on_two(fit_here, name, "ddp_find_unused_parameters_true")
    for half in halves:
        assert half["figures"] == pytest.approx(whole["figures"], rel=1e-4, abs=1e-5)
        for ours, wanted in zip(half["gradients"], whole["gradients"], strict=True):
            assert ours.keys() == wanted.keys()
            for key, gradient in wanted.items():
                torch.testing.assert_close(ours[key], gradient, rtol=1e-3, atol=1e-5, msg=key)
        for key, value in whole["state"].items():
            if key not in OWN:
                torch.testing.assert_close(half["state"][key], value, rtol=1e-3, atol=1e-4)
    for key, value in halves[0]["state"].items():
        if key not in OWN:
            torch.testing.assert_close(halves[1]["state"][key], value, rtol=0, atol=0)


@pytest.mark.ddp
@pytest.mark.parametrize("name", MODELS)
def test_plain_ddp_is_refused_on_both(run_on_two, name):
    for message in run_on_two(refusal, name):
        assert f"trainer.strategy: plain 'ddp' cannot train {name}" in message
        assert "use ddp_find_unused_parameters_true" in message
