"""A batch that is cut into many updates trains as so many batches do."""

import copy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from pellucid.callbacks import FiniteLoss
from pellucid.datamodules.dsprites import DSprites
from pellucid.errors import RunFailure, UserError
from pellucid.models.beta_tcvae import BetaTCVAE
from pellucid.models.beta_vae import BetaVAE
from pellucid.models.factor_vae import FactorVAE
from pellucid.models.repeated_updates import WARM_UP, RepeatedUpdates
from pellucid.models.vae import VAE
from tests.helpers import call

CASES: dict[str, tuple[type[VAE], dict[str, Any]]] = {
    "vae": (VAE, {}),
    "capacity": (BetaVAE, {"objective": "capacity", "capacity_max": 5.0, "capacity_steps": 9}),
    "warm": (BetaVAE, {"warmup_steps": 7}),
    "restart": (BetaVAE, {"restart_step": 6}),
    "tc": (BetaTCVAE, {"dataset_size": 40}),
    "stratified": (BetaTCVAE, {"dataset_size": 40, "estimator": "minibatch_stratified"}),
    "factor": (FactorVAE, {"discriminator_width": 8, "discriminator_layers": 1}),
    "factor, restart": (
        FactorVAE,
        {"discriminator_width": 8, "discriminator_layers": 1, "restart_step": 12},
    ),
    "clipped": (
        FactorVAE,
        {"discriminator_width": 8, "discriminator_layers": 1, "gradient_clip": 0.5},
    ),
}


def train(
    name: str,
    parts: int,
    size: int = 8,
    steps: int = -1,
    images: int = 40,
    ckpt_path: Path | None = None,
    **options: Any,
) -> Any:
    """A model trained for two epochs on batches of ``parts`` times ``size`` images."""
    kind, arguments = CASES[name]
    pl.seed_everything(0, verbose=False)
    model = kind(
        image_size=32, channels=1, num_latents=3, encoder="burgess", updates_per_batch=parts,
        **arguments,
    )  # fmt: skip
    data = DSprites(
        image_size=32, train_size=images, val_size=4, test_size=4, batch_size=parts * size
    )
    trainer = pl.Trainer(
        max_epochs=2 if steps < 0 else -1, max_steps=steps, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        **{"accelerator": "cpu", "limit_val_batches": 0, **options},
    )  # fmt: skip
    trainer.fit(model, data, ckpt_path=ckpt_path)
    return model, trainer


@pytest.mark.parametrize("name", CASES)
def test_weights_are_those_of_so_many_batches(name, caplog):
    caplog.set_level("INFO", "pellucid")
    one, whole = train(name, 1)
    many, cut = train(name, 5)
    found = [text for text in caplog.messages if "start anew: [0, 1, 2]" in text]
    assert len(found) == 2 * ("restart" in name)
    assert whole.global_step == cut.global_step == 10 * (1 + name.startswith(("factor", "clip")))
    for (key, want), got in zip(one.state_dict().items(), many.state_dict().values(), strict=True):
        assert torch.equal(want, got), key
    assert float(one.running_weight) > 5
    want, got = (t.callback_metrics for t in (whole, cut))
    assert set(want) == set(got)
    for key in want:
        torch.testing.assert_close(want[key], got[key], msg=key)


def test_what_is_left_over_is_an_update_of_fewer_images():
    one, whole = train("vae", 1, images=36)
    many, cut = train("vae", 3, images=36)
    assert whole.global_step == cut.global_step == 10
    assert torch.equal(one.decoder[0].weight, many.decoder[0].weight)
    want, got = (t.callback_metrics["train/loss"] for t in (whole, cut))
    torch.testing.assert_close(want, got)


@pytest.mark.parametrize(("images", "steps"), [(1, 2), (17, 4)])
def test_a_single_image_is_an_update_where_it_is_all(images, steps):
    _, trainer = train("vae", 2, images=images)
    assert trainer.global_step == steps


@pytest.mark.parametrize(("name", "steps"), [("vae", 7), ("factor", 14)])
def test_it_stops_at_max_steps_within_a_batch(name, steps):
    one, whole = train(name, 1, steps=steps)
    many, cut = train(name, 5, steps=steps)
    assert whole.global_step == cut.global_step == steps
    assert torch.equal(one.decoder[0].weight, many.decoder[0].weight)


def test_a_resumed_run_counts_on(tmp_path):
    _, half = train("capacity", 5, steps=5)
    half.save_checkpoint(tmp_path / "half.ckpt")
    model, rest = train("capacity", 5, steps=8, ckpt_path=tmp_path / "half.ckpt")
    assert rest.global_step == 8
    assert float(model.capacity) == pytest.approx(5 * 7 / 9)  # Of the update that began at step 7.


def test_a_loss_that_is_not_finite_stops_the_run(monkeypatch):
    class Broken(VAE):
        def criterion(self, bound: Any) -> dict[str, Tensor]:
            return {"loss": bound.kl * float("nan")}

    monkeypatch.setitem(CASES, "broken", (Broken, {}))
    with pytest.raises(RunFailure, match="the loss is not finite: "):
        train("broken", 5, callbacks=[FiniteLoss()])


def test_a_gradient_that_is_not_finite_stops_the_run(monkeypatch):
    class Broken(VAE):
        def criterion(self, bound: Any) -> dict[str, Tensor]:
            return {"loss": bound.kl + (bound.posterior.mean * 0).sqrt().sum()}

    monkeypatch.setitem(CASES, "broken", (Broken, {}))
    with pytest.raises(RunFailure, match="not finite: norm of the weights is nan"):
        train("broken", 5, steps=1, callbacks=[FiniteLoss()])


def test_a_run_is_not_resumed_with_steps_that_are_counted_apart(tmp_path):
    _, half = train("vae", 1, steps=2)
    half.save_checkpoint(tmp_path / "half.ckpt")
    with pytest.raises(UserError, match="is 5, and was 1 in the run to be resumed"):
        train("vae", 5, steps=4, ckpt_path=tmp_path / "half.ckpt")
    _, half = train("factor", 1, steps=4)
    half.save_checkpoint(tmp_path / "factor.ckpt")
    _, rest = train("factor", 5, steps=8, ckpt_path=tmp_path / "factor.ckpt")
    assert rest.global_step == 8


def test_a_model_whose_fit_was_interrupted_can_be_copied():
    model, _ = train("vae", 5)
    model._repeated = object()
    assert copy.deepcopy(model)._repeated is None


def test_a_checkpoint_of_a_graph_goes_on_without_one():
    model = VAE(image_size=32, channels=1, encoder="burgess", updates_per_batch=2)
    groups = [{"lr": 0.1, "capturable": True}]
    model.on_load_checkpoint({"optimizer_states": [{"param_groups": groups}]})
    assert groups == [{"lr": 0.1, "capturable": False}]


@pytest.mark.parametrize(
    ("name", "parts", "size", "message"),
    [
        ("vae", 0, 8, "updates_per_batch must be at least 1, got 0"),
        ("factor", 5, 1, "at least 2 images for each of model.updates_per_batch, got 1"),
    ],
)
def test_wrong_parts_are_named(name, parts, size, message):
    with pytest.raises((ValueError, UserError), match=message):
        train(name, parts, size)


def test_a_batch_that_does_not_divide_is_named(monkeypatch):
    monkeypatch.setattr(DSprites, "batch_size", property(lambda _: 7, lambda *_: None), False)
    with pytest.raises(UserError, match="7 images cannot be cut into 2 equal parts"):
        train("vae", 2)


def test_several_devices_are_refused(monkeypatch):
    monkeypatch.setattr(pl.Trainer, "world_size", property(lambda _: 2))
    model = VAE(image_size=32, channels=1, encoder="burgess", updates_per_batch=2)
    model.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(UserError, match="is for one device, got 2"):
        model.on_fit_start()


@pytest.mark.parametrize("option", ["gradient_clip_val=1.0", "accumulate_grad_batches=2"])
def test_options_of_one_optimiser_are_refused_by_name(option, tmp_path, capsys):
    words = ["fit", "--config=beta_vae_dsprites_quick", "--model.updates_per_batch=2"]
    assert call(*words, f"--trainer.{option}", "--run_root", tmp_path / "runs") == 2
    name, value = option.split("=")
    problem = f"trainer.{name}: {value} is not for model.updates_per_batch; give 1 there"
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@cuda
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", CASES)
def test_a_graph_makes_the_updates_that_its_kernels_make(name, precision, monkeypatch):
    # Without noise, since a graph draws its own.
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    monkeypatch.setattr(
        torch, "rand", lambda *shape, device=None: torch.zeros(*shape[0], device=device)
    )
    options = {"accelerator": "gpu", "devices": 1, "precision": precision}
    taken: list[RepeatedUpdates] = []
    capture = RepeatedUpdates._capture
    monkeypatch.setattr(
        RepeatedUpdates, "_capture", lambda self, image: [capture(self, image), taken.append(self)]
    )
    # Two batches of ten updates, and one with a part of four images.
    graphed, _ = train(name, 10, images=164, **options)
    assert len(taken) == 1
    monkeypatch.setattr(RepeatedUpdates, "_of", RepeatedUpdates._bare)
    plain, _ = train(name, 10, images=164, **options)
    for (key, want), got in zip(
        plain.state_dict().items(), graphed.state_dict().values(), strict=True
    ):
        close = {"rtol": 0.0, "atol": 2e-4 if precision == "32-true" else 1e-3}
        torch.testing.assert_close(want, got, msg=key, **close)


@cuda
def test_a_graph_is_taken_and_draws_new_noise():
    seen: list[Tensor] = []
    weight = torch.zeros(1, device="cuda", requires_grad=True)
    optimizer = torch.optim.Adam([weight], fused=True)

    def update(image: Tensor) -> dict[str, Tensor]:
        optimizer.zero_grad(set_to_none=True)
        loss = (weight + torch.randn_like(weight)).square().sum() * image.mean()
        loss.backward()
        optimizer.step()
        return {"loss": loss.detach()}

    repeated = RepeatedUpdates(update, lambda _: None, [optimizer], 4)
    for _ in range(WARM_UP + 4):
        seen.append(repeated(torch.ones(4, 1, 2, 2, device="cuda"))["loss"])
    assert repeated._graph is not None
    assert len({float(loss) for loss in seen}) == len(seen)
