"""VAE, beta-VAE, beta-TCVAE and FactorVAE: objectives, explanations, data, precision."""

import copy
import math
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.nn.parallel import DistributedDataParallel

from pellucid.batch import Batch
from pellucid.callbacks import FiniteLoss
from pellucid.checkpoint import ORIGIN
from pellucid.cli.options import PellucidCLI
from pellucid.errors import UserError
from pellucid.losses.total_correlation import kl_decomposition
from pellucid.metrics.classifier_fid import ClassifierFID
from pellucid.models.beta_tcvae import BetaTCVAE
from pellucid.models.beta_vae import BetaVAE, capacity_at
from pellucid.models.factor_vae import FactorVAE
from pellucid.models.judge import Judge
from pellucid.models.vae import KL_MEMORY, VAE
from tests.helpers import TinyData, TinyModel

SMALL: dict[str, Any] = {"image_size": 8, "channels": 3, "num_latents": 4, "encoder": "mlp"}
FACTOR: dict[str, Any] = {"discriminator_width": 8, "discriminator_layers": 2}
MODELS = {
    "vae": lambda **o: VAE(**SMALL, **o),
    "beta": lambda **o: BetaVAE(**SMALL, **o),
    "capacity": lambda **o: BetaVAE(**SMALL, objective="capacity", capacity_steps=10, **o),
    "tcvae": lambda **o: BetaTCVAE(**SMALL, dataset_size=24, **o),
    "factor": lambda **o: FactorVAE(**SMALL, **FACTOR, **o),
}


def make(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return MODELS[name](**options)


def images(rows: int = 6, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return {"image": torch.rand(rows, 3, 8, 8, generator=generator).round()}


def terms_by_hand(model: VAE, batch: Batch, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, reconstruction (B,) and KL (B, L), with torch's distributions."""
    mean, log_variance = model.encoder(batch["image"]).chunk(2, 1)
    posterior = Normal(mean, (log_variance / 2).exp())
    torch.manual_seed(seed)
    codes = mean + posterior.scale * torch.randn_like(mean)
    likelihood = Bernoulli(logits=model.decoder(codes)).log_prob(batch["image"])
    prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    return codes, -likelihood.sum((1, 2, 3)), kl_divergence(posterior, prior)


def figures(model: VAE, batch: Batch, stage: Any = "val", seed: int = 1) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return model.step(batch, stage)


def trainer(folder: Any = None, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        **{"max_epochs": 1, "accelerator": "cpu", "logger": False, **options},
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[FiniteLoss()],
    )


@pytest.mark.parametrize("name", MODELS)
def test_the_bound_is_that_of_torch_distributions(name):
    model, batch = make(name), images()
    found = figures(model, batch)
    codes, reconstruction, kl = terms_by_hand(model, batch)
    torch.testing.assert_close(found["reconstruction"], reconstruction.mean())
    torch.testing.assert_close(found["kl"], kl.sum(1).mean())
    torch.testing.assert_close(found["elbo"], -(reconstruction + kl.sum(1)).mean())
    torch.testing.assert_close(found["kl_per_latent"], kl)
    torch.testing.assert_close(found["codes"], model.encoder(batch["image"])[:, :4])
    assert codes.shape == (6, model.num_codes)


def test_each_objective_is_its_equation():
    batch = images()

    def check(model: VAE, wanted: Any) -> None:
        codes, reconstruction, kl = terms_by_hand(model, batch)
        mean, log_variance = model.encoder(batch["image"]).chunk(2, 1)
        terms = (codes, mean, log_variance, reconstruction.mean(), kl.sum(1).mean())
        torch.testing.assert_close(figures(model, batch)["loss"], wanted(model, *terms))

    def tcvae(model, codes, mean, log_variance, reconstruction, kl):
        parts = kl_decomposition(codes, mean, log_variance, 24, "minibatch_stratified")
        extra = sum(w * part for w, part in zip((-0.5, 4.0, 2.0), parts, strict=True))
        return reconstruction + kl + extra

    def factor(model, codes, mean, log_variance, reconstruction, kl):
        share = model.discriminator(codes).softmax(1)[:, 0]
        return reconstruction + kl + 7 * (share / (1 - share)).log().mean()

    check(make("vae"), lambda m, z, mu, lv, reconstruction, kl: reconstruction + kl)
    check(make("beta", beta=3.0), lambda m, z, mu, lv, reconstruction, kl: reconstruction + 3 * kl)
    stratified = {"alpha": 0.5, "beta": 5.0, "gamma": 3.0, "estimator": "minibatch_stratified"}
    check(make("tcvae", **stratified), tcvae)
    check(make("factor", gamma=7.0), factor)
    for capacity in (0.0, 25.0):
        model = make("capacity", gamma=11.0)
        model.capacity.fill_(capacity)
        model.eval()
        check(model, lambda m, z, mu, lv, rec, kl, c=capacity: rec + 11 * (kl - c).abs())


def test_the_plain_cases_of_each_objective_are_a_vae():
    batch = images()
    plain = figures(make("vae"), batch)["loss"]
    torch.testing.assert_close(figures(make("beta", beta=1.0), batch)["loss"], plain)
    torch.testing.assert_close(figures(make("tcvae", beta=1.0), batch)["loss"], plain)
    torch.testing.assert_close(figures(make("factor", gamma=0.0), batch)["loss"], plain)


def test_a_gaussian_likelihood_counts_its_constants():
    model, batch = make("vae", likelihood="gaussian", decoder_std=0.3), images()
    found = figures(model, batch)["reconstruction"]
    codes, _, _ = terms_by_hand(model, batch)
    density = Normal(model.decoder(codes), 0.3).log_prob(batch["image"]).sum((1, 2, 3))
    torch.testing.assert_close(found, -density.mean())


def test_the_capacity_at_its_ends():
    assert [capacity_at(step, 25.0, 100) for step in (0, 1, 50, 100, 10**6)] == [
        0, 0.25, 12.5, 25, 25,
    ]  # fmt: skip


def test_the_capacity_rises_in_training_and_is_kept():
    model = make("capacity", capacity_max=5.0)
    loop = trainer(max_epochs=2, limit_train_batches=2)
    loop.fit(model, TinyData())
    # Four steps of ten; the last one began at step 3.
    assert model.capacity.item() == pytest.approx(1.5)
    fresh = make("capacity", capacity_max=5.0)
    fresh.load_state_dict(model.state_dict())
    assert figures(fresh.eval(), images())["capacity"].item() == pytest.approx(1.5)


def test_beta_rises_from_zero_in_training_alone(monkeypatch):
    model = make("beta", beta=6.0, warmup_steps=4)
    betas = []
    for step in (0, 1, 3, 4, 9):
        monkeypatch.setattr(BetaVAE, "global_step", step)
        found = figures(model.train(), images(), "train")
        betas.append(((found["loss"] - found["reconstruction"]) / found["kl"]).item())
    assert betas == pytest.approx([0, 1.5, 4.5, 6, 6], abs=1e-3)
    monkeypatch.setattr(BetaVAE, "global_step", 1)
    found = figures(model.eval(), images())
    want = found["reconstruction"] + 6 * found["kl"]
    torch.testing.assert_close(found["loss"], want)


def test_the_gradient_is_that_of_finite_differences():
    model, batch = make("tcvae"), images(3)
    # Losses are in single precision: a wide step.
    weight, step = model.encoder[-1].bias, 1e-2
    figures(model, batch)["loss"].backward()
    at = weight.grad.abs().argmax()
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            weight[at] += sign * step
            values.append(figures(model, batch)["loss"].item())
            weight[at] -= sign * step
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(weight.grad[at].item(), rel=0.02)


@pytest.mark.parametrize("name", MODELS)
def test_it_learns_and_explains(name):
    # Against random images and gamma 40 the codes of so small a FactorVAE can run off.
    options = {"gamma": 6.0} if name == "factor" else {}
    model, data = make(name, lr=1e-3, **options), TinyData(length=16)
    model.image_range.use(data.mean, data.std)
    batch = next(iter(data.dataloader("train")))
    before = figures(model.eval(), batch)["reconstruction"]
    loop = trainer(max_epochs=30, limit_val_batches=1)
    loop.fit(model, data)
    assert loop.global_step == 60 * (2 if name == "factor" else 1)
    start = loop.callback_metrics
    assert {"train/loss", "val/loss", "val/elbo", "val/kl", "val/reconstruction"} <= start.keys()
    assert ("val/total_correlation_estimate" in start) == (name in ("tcvae", "factor"))
    after = figures(model.eval(), batch)
    assert after["reconstruction"] < before - 1
    assert after["kl"] < 40
    check_explanation(model, batch)


def check_explanation(model: VAE, batch: Batch) -> None:
    explanation = model.explain(batch)
    traversals = explanation.traversals
    assert traversals is not None
    assert explanation.scores.shape == (8, 0)
    assert explanation.target.tolist() == [0] * 8
    assert explanation.reconstruction.shape == (8, 3, 8, 8)
    assert traversals.images.shape == (8, 4, 11, 3, 8, 8)
    assert (traversals.images >= 0).all()
    assert (traversals.images <= 1).all()
    assert traversals.values[3, 2].tolist() == pytest.approx(
        [-3 + 0.6 * i for i in range(11)], abs=1e-6
    )
    assert traversals.importance_name == "KL"
    order = [int(name.removeprefix("latent ")) for name in traversals.names]
    kl = (model.running_kl / model.running_weight)[order]
    torch.testing.assert_close(traversals.importance, kl)
    assert (kl.diff() <= 0).all()
    # The sixth value of the second latent shown is 0: all else is the image's own code.
    codes = explanation.codes.clone()
    torch.testing.assert_close(traversals.codes, codes[:, order])
    codes[:, order[1]] = 0
    torch.testing.assert_close(traversals.images[:, 1, 5], model.decode(codes))
    torch.testing.assert_close(explanation.reconstruction, model.decode(explanation.codes))


def test_the_running_kl_is_that_of_the_training_images_of_late():
    model, kl = make("vae"), []
    for seed in range(3):
        figures(model, images(seed=seed), "train", seed)
        kl.append(terms_by_hand(model, images(seed=seed))[2].mean(0))
    weights = [KL_MEMORY**2, KL_MEMORY, 1]
    wanted = sum(w * k for w, k in zip(weights, kl, strict=True)) / sum(weights)
    torch.testing.assert_close(model.mean_kl(torch.zeros(4)), wanted)
    figures(model, images(seed=9), "val")
    torch.testing.assert_close(model.mean_kl(torch.zeros(4)), wanted)


def test_a_latent_that_died_in_a_quick_run_is_dead_at_its_end():
    """As the active units of its test say: below 0.01 nats the report calls it dead."""
    model = make("vae")
    for step in range(1000):
        model._remember(torch.tensor([5.0 if step < 300 else 0.0, 1.0, 0.5, 2.0]))
    found = model.mean_kl(torch.zeros(4))
    assert found[0] < 0.01
    torch.testing.assert_close(found[1:], torch.tensor([1.0, 0.5, 2.0]))


def test_an_untrained_model_sorts_by_the_images_at_hand():
    model = make("vae")
    wanted = terms_by_hand(model, images())[2].mean(0).sort(descending=True).values
    torch.testing.assert_close(model.explain(images()).traversals.importance, wanted)


def test_traversals_have_the_range_and_steps_that_are_asked_for():
    model = make("vae", traversal_range=2.0, traversal_steps=3)
    values = model.explain(images()).traversals.values
    assert values.shape == (6, 4, 3)
    assert values[0, 0].tolist() == [-2, 0, 2]


def test_predictions_are_codes_without_pictures():
    model = make("vae")
    explanation = model.predict_step(images(), 0)
    torch.testing.assert_close(explanation.codes, model.encoder(images()["image"])[:, :4])
    assert explanation.traversals is None
    assert explanation.reconstruction is None


def test_pictures_from_the_prior_are_judged_in_tests(tmp_path):
    """By the distance of features; a model that draws the data's own images would have none."""
    path, data = tmp_path / "judge.ckpt", TinyData()
    teacher = trainer()
    teacher.fit(TinyModel(3), data)
    teacher.save_checkpoint(path)
    # As the command line's callback does.
    content = torch.load(path, weights_only=True)
    content[ORIGIN] = {"model": "tests.helpers.TinyModel"}
    torch.save(content, path)
    for name in ("beta", "factor"):
        model = make(name, judge=str(path))
        loop = trainer(limit_train_batches=1)
        loop.fit(model, data)
        assert "val/classifier_fid" not in loop.callback_metrics
        found = loop.test(model, data, verbose=False)[0]
        batches = list(data.test_dataloader())
        pixels = [model.image_range(batch["image"]) for batch in batches]
        prior = [
            torch.randn(8, 4, generator=torch.Generator().manual_seed(first))
            for first in (0, 8, 16)
        ]
        judge, fid = Judge.read(str(path)), ClassifierFID(4)
        with torch.no_grad():
            drawn = [model.eval().decode(codes) for codes in prior]
            fid.update(judge(torch.cat(pixels))[0], judge(torch.cat(drawn))[0])
            means = [model.encode(image).mean for image in pixels]
            errors = [
                (model.decode(m) - x).square().mean() for m, x in zip(means, pixels, strict=True)
            ]
        assert found["test/classifier_fid"] == pytest.approx(float(fid.compute()), rel=1e-3)
        assert found["test/reconstruction_error"] == pytest.approx(float(sum(errors)) / 3, rel=1e-4)
        loop.save_checkpoint(tmp_path / "model.ckpt")
        saved = torch.load(tmp_path / "model.ckpt", weights_only=True)
        assert saved["hyper_parameters"]["judge"] == "none"
    alone = make("vae")
    assert list(alone.make_metrics(data, "test")) == ["reconstruction_error"]
    assert "give the checkpoint of one as model.judge" in alone.skipped_metrics["classifier_fid"]


class Normalised(TinyData):
    """Pixels of 0 and 1, normalised."""

    mean = (0.2, 0.4, 0.6)
    std = (0.5, 0.25, 0.1)


def test_the_normalisation_of_the_data_is_undone(tmp_path):
    data, model = Normalised(), make("vae")
    loop = pl.Trainer(
        max_epochs=1, limit_train_batches=1, limit_val_batches=0, accelerator="cpu",
        logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    loop.fit(model, data)
    pixels = images()["image"]
    mean, std = (torch.tensor(v)[:, None, None] for v in (data.mean, data.std))
    batch: Batch = {"image": (pixels - mean) / std}
    wanted = model.encoder(pixels)[:, :4]
    torch.testing.assert_close(model.explain(batch).codes, wanted)
    # The checkpoint alone knows it too; other data at hand say it themselves.
    path = tmp_path / "model.ckpt"
    loop.save_checkpoint(path)
    loaded = VAE.load_from_checkpoint(path, weights_only=True, map_location="cpu")
    torch.testing.assert_close(loaded.explain(batch).codes, wanted)
    other = TinyData()
    other.mean, other.std = (0.0,) * 3, (1.0,) * 3
    loop.test(model, other, ckpt_path=str(path), verbose=False, weights_only=True)
    torch.testing.assert_close(model.explain({"image": pixels}).codes, wanted)


def test_values_outside_of_the_range_by_rounding_are_cut():
    model = make("vae")
    pixels = images()["image"]
    over = {"image": pixels + (pixels - 0.5) * 1e-3}
    torch.testing.assert_close(figures(model, over)["loss"], figures(model, images())["loss"])


def test_data_of_another_size_are_refused():
    with pytest.raises(UserError, match="is 8, but TinyData makes images of 16 pixels"):
        trainer().fit(make("vae"), TinyData(image_size=16))
    model = VAE(8, 1, encoder="mlp")
    with pytest.raises(ValueError, match="channels is 1, but the data's images have 3"):
        trainer().fit(model, TinyData())


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"length": 1}])
def test_a_batch_that_cannot_be_halved_is_refused_before_training(options):
    message = "data.batch_size: FactorVAE halves each batch: it must have at least 2 images, got 1"
    with pytest.raises(UserError, match=message):
        trainer().fit(make("factor"), TinyData(**options))


def test_size_and_channels_come_from_the_data_on_the_command_line():
    words = ["--model=pellucid.models.vae.VAE", "--data=tests.helpers.TinyData"]
    words += ["--data.image_size=16", "--model.encoder=mlp"]
    cli = PellucidCLI("fit", words)
    assert (cli.model.image_size, cli.model.channels) == (16, 3)
    assert not {"image_size", "channels"} & cli.complete_config()["model"]["init_args"].keys()
    assert PellucidCLI("fit", [*words, "--model.channels=3"]).model.channels == 3
    with pytest.raises(UserError, match="VAE is given 1, TinyData has 3: leave it out"):
        PellucidCLI("fit", [*words, "--model.channels=1"])


def test_the_size_of_the_training_set_comes_from_the_data():
    model = make("tcvae")
    assert model.dataset_size == 24
    model = BetaTCVAE(**SMALL)
    with pytest.raises(ValueError, match="give dataset_size, the number of training images"):
        figures(model, images())
    trainer(limit_train_batches=1, limit_val_batches=0).fit(model, TinyData(length=17))
    assert model.dataset_size == 17


@pytest.mark.parametrize("name", MODELS)
def test_half_precision_stays_near(name):
    model, batch = make(name), images()
    whole = figures(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = figures(model, batch)
    for key in ("loss", "reconstruction", "kl"):
        assert half[key].dtype == torch.float32
        torch.testing.assert_close(half[key], whole[key], rtol=0.03, atol=0.3)


def test_each_player_of_factor_vae_changes_its_own_weights_alone():
    model = make("factor", lr=1e-2, discriminator_lr=1e-2)
    seen: list[dict[str, Tensor]] = []
    keep = lambda *_: seen.append(copy.deepcopy(model.state_dict()))  # noqa: E731
    model.on_before_optimizer_step = keep
    trainer(limit_train_batches=1, limit_val_batches=0).fit(model, TinyData())
    first, second, last = [*seen, model.state_dict()]
    names = [name for name, _ in model.named_parameters()]
    changed = [
        {name for name in names if not torch.equal(a[name], b[name])}
        for a, b in ((first, second), (second, last))
    ]
    assert changed[0] == {name for name in names if not name.startswith("discriminator")}
    assert changed[1] == {name for name in names if name.startswith("discriminator")}


def test_the_discriminator_sees_the_codes_of_one_half_and_permuted_ones_of_the_other(monkeypatch):
    model, seen = make("factor"), []
    model.discriminator = nn.Identity()
    monkeypatch.setattr(
        "pellucid.models.factor_vae.discriminator_loss", lambda *a: seen.append(a) or a[0].mean()
    )
    monkeypatch.setattr("pellucid.models.factor_vae.permute_codes", lambda codes: codes + 100)
    batch = images(6)
    torch.manual_seed(1)
    model._vae_loss(batch)
    model._discriminator_loss(batch)
    torch.manual_seed(1)
    mean, log_variance = model.encoder(batch["image"]).chunk(2, 1)
    std = (log_variance / 2).exp()
    first = mean[:3] + std[:3] * torch.randn(3, 4)
    second = mean[3:] + std[3:] * torch.randn(3, 4)
    torch.testing.assert_close(seen[0], (first.detach(), second.detach() + 100))
    with pytest.raises(ValueError, match=r"data\.batch_size must be at least 2"):
        model._vae_loss(images(1))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vae", {"lr": 0.0}, "lr must be greater than 0, got 0"),
        ("vae", {"traversal_steps": 1}, "traversal_steps must be at least 2, got 1"),
        ("vae", {"traversal_range": -1.0}, "traversal_range must be greater than 0, got -1"),
        ("vae", {"likelihood": "poisson"}, "likelihood must be bernoulli or gaussian"),
        ("vae", {"decoder_std": math.inf}, "decoder_std must be finite, got inf"),
        ("beta", {"beta": -1.0}, "beta must be at least 0, got -1"),
        ("capacity", {"capacity_max": math.inf}, "capacity_max must be finite, got inf"),
        ("beta", {"objective": "free_bits"}, "objective must be higgins or capacity"),
        ("capacity", {"capacity_max": -1.0}, "capacity_max must be at least 0, got -1"),
        ("capacity", {"gamma": -1.0}, "gamma must be at least 0, got -1"),
        ("tcvae", {"alpha": -1.0}, "alpha must be at least 0, got -1"),
        ("tcvae", {"estimator": "exact"}, "estimator must be minibatch_weighted or"),
        ("factor", {"gamma": -1.0}, "gamma must be at least 0, got -1"),
        ("factor", {"discriminator_lr": 0.0}, "discriminator_lr must be greater than 0, got 0"),
        ("factor", {"gradient_clip": 0.0}, "gradient_clip must be above 0, got 0"),
    ],
)
def test_wrong_arguments_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        make(name, **options)


def test_wrong_sizes_are_named():
    for options, message in (
        ({"num_latents": 0}, "num_latents must be at least 1, got 0"),
        ({"encoder": "burgess"}, "encoder 'burgess' is for images of 32 or 64 pixels, got .* 8"),
    ):
        with pytest.raises(ValueError, match=message):
            VAE(**(SMALL | options))
    with pytest.raises(ValueError, match="capacity_steps must be at least 1, got 0"):
        BetaVAE(**SMALL, capacity_steps=0)
    with pytest.raises(ValueError, match="dataset_size must be at least 1, got 0"):
        BetaTCVAE(**SMALL, dataset_size=0)
    for name in ("discriminator_width", "discriminator_layers"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            FactorVAE(**SMALL, **(FACTOR | {name: 0}))


class Step(nn.Module):
    """The training step as a forward pass, which is what DistributedDataParallel wraps."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.model = make(name)
        if name == "capacity":
            # Between the divergences of the halves, where a loss of each half is another one.
            self.model.capacity.fill_(0.05)
            self.model.eval()

    def forward(self, batch: Batch, noise: Tensor) -> dict[str, Tensor]:
        self.model.bound = lambda image: bound_with(self.model, image, noise)
        return self.model.step(batch, "train")


def bound_with(model: VAE, image: Tensor, noise: Tensor) -> Any:
    """The model's bound with given noise: processes draw other noise than one does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn_like", lambda _: noise)
        return VAE.bound(model, image)


def gradients(name: str, distributed: bool) -> dict[str, Any]:
    step, batch = Step(name), images(8)
    noise = torch.randn(8, 4, generator=torch.Generator().manual_seed(5))
    module: nn.Module = step
    if distributed:
        half = slice(4 * torch.distributed.get_rank(), 4 * torch.distributed.get_rank() + 4)
        batch, noise = {"image": batch["image"][half]}, noise[half]
        module = DistributedDataParallel(step, broadcast_buffers=False)
    loss = module(batch, noise)["loss"]
    loss.backward()
    return {"loss": loss.detach(), "gradients": [p.grad.clone() for p in step.parameters()]}


@pytest.mark.ddp
@pytest.mark.parametrize("name", ["vae", "capacity", "tcvae"])
def test_two_processes_train_as_one(run_on_two, name):
    whole, halves = gradients(name, False), run_on_two(gradients, name, True)
    torch.testing.assert_close(torch.stack([h["loss"] for h in halves]).mean(), whole["loss"])
    for half in halves:
        for ours, theirs in zip(half["gradients"], whole["gradients"], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
