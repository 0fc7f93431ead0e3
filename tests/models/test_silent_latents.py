"""Silent latents start anew, and the others stay as they are."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Adam

from pellucid.errors import UserError
from pellucid.models import vae
from pellucid.models.layers.decoders import make_decoder
from pellucid.models.layers.encoders import make_encoder
from pellucid.models.silent_latents import restart_silent
from tests.helpers import TinyData
from tests.models.test_vae import make

NETWORKS = {"burgess": 32, "locatello": 64, "infogan_mnist": 28, "mlp": 16}
SILENT = [0, 3]


def networks(name: Any) -> tuple[nn.Sequential, nn.Sequential, Tensor]:
    """An encoder of four latents of which two are silent, its decoder, and images."""
    torch.manual_seed(0)
    encoder = make_encoder(name, NETWORKS[name], 1, 8)
    decoder = make_decoder(name, NETWORKS[name], 1, 4)
    with torch.no_grad():
        blocks = torch.rand(50, 1, 4, 4).round()
        image = nn.functional.interpolate(blocks, size=NETWORKS[name])
        variance = encoder(image)[:, :4].var(0, correction=0)
        wanted = torch.tensor([0.0095, 0.0105, 2.0, 0.0001])
        encoder[-1].weight[:4] *= (wanted / variance).sqrt()[:, None]
        encoder[-1].bias.normal_()
    return encoder, decoder, image


@pytest.mark.parametrize("name", NETWORKS)
def test_silent_latents_start_anew(name):
    encoder, decoder, image = networks(name)
    optimizer = Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-9, fused=True)
    decoder(encoder(image)[:, :4]).sum().backward()
    optimizer.step()
    remembered = [value for state in optimizer.state.values() for value in state.values()]
    assert all(value.any() for value in remembered[:3])
    with torch.no_grad():
        before, weight = encoder(image).chunk(2, 1), decoder[0].weight.clone()

    assert restart_silent(encoder, decoder, image, [optimizer]) == SILENT

    with torch.no_grad():
        mean, log_variance = encoder(image).chunk(2, 1)
    torch.testing.assert_close(mean[:, SILENT].mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(mean[:, SILENT].std(0, correction=0), torch.ones(2))
    assert not log_variance[:, SILENT].any()
    assert abs(torch.corrcoef(mean[:, SILENT].T)[0, 1]) < 0.99
    for now, then in zip((mean, log_variance), before, strict=True):
        assert torch.equal(now[:, 1:3], then[:, 1:3])
    read = decoder[0].weight
    assert torch.equal(read[:, 1:3], weight[:, 1:3])
    bound = (6 / sum(read.shape)) ** 0.5
    assert read[:, SILENT].abs().max() <= bound
    assert 0.5 * bound < read[:, SILENT].std() * 3**0.5 < 1.5 * bound
    assert not torch.isclose(read[:, SILENT], weight[:, SILENT]).any(0).all()
    # In place, as a graph has it.
    now = [value for state in optimizer.state.values() for value in state.values()]
    assert all(one is other for one, other in zip(now, remembered, strict=True))
    assert not any(value.any() for value in now)

    # They are heard now.
    optimizer.state[encoder[-1].weight]["step"].fill_(1)
    assert restart_silent(encoder, decoder, image, [optimizer]) == []
    assert optimizer.state[encoder[-1].weight]["step"] == 1


def restart_here() -> list[dict[str, Tensor]]:
    encoder, decoder, image = networks("mlp")
    rank = torch.distributed.get_rank()
    torch.manual_seed(rank)
    assert restart_silent(encoder, decoder, image.chunk(2)[rank], []) == SILENT
    return [encoder.state_dict(), decoder.state_dict()]


@pytest.mark.ddp
def test_two_devices_draw_the_same(run_on_two):
    first, second = run_on_two(restart_here)
    encoder, decoder, image = networks("mlp")
    torch.manual_seed(0)
    restart_silent(encoder, decoder, image, [])
    for one, other, whole in zip(first, second, (encoder, decoder), strict=True):
        for key, wanted in whole.state_dict().items():
            assert torch.equal(one[key], other[key])
            torch.testing.assert_close(one[key], wanted, msg=key)


def test_an_encoder_that_is_constant_is_not_stretched_without_end():
    encoder, decoder, image = networks("burgess")
    assert restart_silent(encoder, decoder, image[:1].expand(5, -1, -1, -1), []) == [0, 1, 2, 3]
    assert encoder[-1].weight.abs().max() < 100
    assert encoder(image).isfinite().all()


def fit(model: Any, images: int = 32, batch_size: int = 8, **options: Any) -> pl.Trainer:
    """Two epochs."""
    trainer = pl.Trainer(
        max_epochs=2, limit_val_batches=0, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        **options,
    )  # fmt: skip
    trainer.fit(model, TinyData(length=images, batch_size=batch_size))
    return trainer


@pytest.mark.parametrize(
    ("name", "step", "found"),
    [
        ("vae", 0, []),
        ("tcvae", 3, [3]),
        ("beta", 1, [1]),
        ("capacity", 7, [7]),
        ("factor", 4, [4]),
        ("factor", 5, [6]),
    ],
)
def test_the_step_at_which_they_do(name, step, found, monkeypatch):
    model: Any = make(name, restart_step=step)
    seen: list[int] = []

    def restart(encoder: Any, decoder: Any, image: Tensor, optimizers: Any) -> list[int]:
        assert image.min() >= 0
        assert image.max() <= 1
        assert encoder is model.encoder
        assert decoder is model.decoder
        assert list(optimizers) == model.trainer.optimizers
        seen.append(model.global_step)
        return []

    monkeypatch.setattr(vae, "restart_silent", restart)
    fit(model)
    assert seen == found


def restarts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images that each call is given."""
    seen: list[int] = []
    monkeypatch.setattr(vae, "restart_silent", lambda _, __, image, ___: seen.append(len(image)))
    return seen


def test_a_step_of_several_batches_is_judged_once(monkeypatch):
    seen = restarts(monkeypatch)
    trainer = fit(make("vae", restart_step=2), accumulate_grad_batches=2)
    assert trainer.global_step == 4
    assert seen == [8]


def test_a_last_batch_of_few_images_is_not_judged_by(monkeypatch):
    seen = restarts(monkeypatch)
    fit(make("vae", restart_step=2), images=20)  # Steps 2 and 5 have 4 images.
    assert seen == [8]


def test_updates_of_few_images_are_refused():
    with pytest.raises(UserError, match="images of one update, at least 8, got 4: give a larger"):
        fit(make("vae", restart_step=2), batch_size=4)


@pytest.mark.parametrize("step", [8, 10**20])
def test_a_step_that_is_not_reached_is_told(step):
    with pytest.warns(UserWarning, match=f"{step} did not come: training ended at step 8"):
        fit(make("vae", restart_step=step))


def test_half_precision_sees_the_new_weights():
    model: Any = make("beta", restart_step=4, lr=1e-3, beta=0.0)
    with torch.no_grad():
        model.encoder[-1].weight[:4] *= 1e-3
    fit(model, precision="bf16-mixed")
    batch = next(iter(TinyData(length=32, batch_size=32).dataloader("train")))
    variance = model.encode(model.image_range(batch["image"])).mean.var(0)
    assert (variance > 0.2).all()


@pytest.mark.parametrize(
    ("step", "message"), [(-1, "must be at least 0, got -1"), (2.5, "must be a whole number")]
)
def test_a_wrong_step_is_named(step, message):
    with pytest.raises(ValueError, match=f"restart_step {message}"):
        make("vae", restart_step=step)
