"""A training step of each generator against a bare PyTorch loop of the same network and batch.

    python benchmarks/generator_step.py [--models VAE BetaVAE ...] [--steps 40] [--rounds 5]

Ours runs under Lightning with what the command line adds (loggers, watched losses, clock). The bare
loop has the same networks in PyTorch's default layout, the objective written out, Adam as it comes
and our data loader; a third loop has an
ordinary ``DataLoader`` that decodes one item at a time, from PNG files or from an npz file. Turn by
turn in one process; per step the processor's time, which other work on the machine disturbs least,
or with ``--clock wall`` the wall's, as it must be on an accelerator.
"""

import argparse
import io
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import pil_to_tensor

from pellucid.callbacks import FiniteLoss, Stopwatch
from pellucid.cli.quiet import quiet
from pellucid.datamodules.dsprites import DSprites
from pellucid.logging import make_loggers
from pellucid.models.base import InterpretableModel
from pellucid.models.beta_tcvae import BetaTCVAE
from pellucid.models.beta_vae import BetaVAE
from pellucid.models.factor_vae import FactorVAE
from pellucid.models.vae import VAE

BATCH = 64
WARM_UP = 5
DECODED = 2048  # Pictures in the files that ordinary loaders read.
TRAINING_SET = 737_280


@dataclass(frozen=True)
class Case:
    """A model and its bare twin."""

    make: Callable[[], Any]
    bare: Callable[[Any, Tensor], Callable[[Tensor], None]]
    """Of a model and the device, a function that trains on one batch of images."""
    batch: int = BATCH


def vae_terms(model: Any, image: Tensor) -> tuple[Tensor, ...]:
    mean, log_variance = model.encoder(image).chunk(2, 1)
    codes = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
    drawn = model.decoder(codes)
    reconstruction = F.binary_cross_entropy_with_logits(drawn, image, reduction="sum") / len(image)
    kl = (mean**2 + log_variance.exp() - log_variance - 1).sum(1).mean() / 2
    return reconstruction, kl, codes, mean, log_variance


def bare_vae(objective: Callable[..., Tensor]) -> Callable[[Any, Any], Callable[[Tensor], None]]:
    def prepare(model: Any, device: Any) -> Callable[[Tensor], None]:
        optimizer = torch.optim.Adam(model.parameters(), 1e-4)

        def step(image: Tensor) -> None:
            loss = objective(*vae_terms(model, image))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return step

    return prepare


def weighted_correlation(codes: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    away = (codes[:, None] - mean[None]) ** 2
    log_density = -0.5 * (away / log_variance.exp() + log_variance + np.log(2 * np.pi))
    normaliser = np.log(TRAINING_SET * len(codes))
    joint = log_density.sum(2).logsumexp(1) - normaliser
    return (joint - (log_density.logsumexp(1) - normaliser).sum(1)).mean()


def bare_factor_vae(model: Any, device: Any) -> Callable[[Tensor], None]:
    networks = [*model.encoder.parameters(), *model.decoder.parameters()]
    first = torch.optim.Adam(networks, 1e-4)
    second = torch.optim.Adam(model.discriminator.parameters(), 1e-4, (0.5, 0.9))

    def step(image: Tensor) -> None:
        own, other = image.chunk(2)
        reconstruction, kl, codes, *_ = vae_terms(model, own)
        logits = model.discriminator(codes)
        loss = reconstruction + kl + 40 * (logits[:, 0] - logits[:, 1]).mean()
        first.zero_grad()
        loss.backward(inputs=networks)
        first.step()
        with torch.no_grad():
            mean, log_variance = model.encoder(other).chunk(2, 1)
            drawn = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
            order = torch.rand_like(drawn).argsort(0)
            permuted = drawn.gather(0, order)
        zeros = torch.zeros(len(codes), dtype=torch.int64, device=image.device)
        loss = F.cross_entropy(model.discriminator(codes.detach()), zeros)
        loss = (loss + F.cross_entropy(model.discriminator(permuted), zeros + 1)) / 2
        second.zero_grad()
        loss.backward()
        second.step()

    return step


CASES: dict[str, Case] = {
    "VAE": Case(lambda: VAE(64, 1), bare_vae(lambda rec, kl, *_: rec + kl)),
    "BetaVAE": Case(lambda: BetaVAE(64, 1), bare_vae(lambda rec, kl, *_: rec + 4 * kl)),
    "BetaVAE, capacity": Case(
        lambda: BetaVAE(64, 1, objective="capacity"),
        bare_vae(lambda rec, kl, *_: rec + 1000 * (kl - 1).abs()),
    ),
    "BetaTCVAE": Case(
        lambda: BetaTCVAE(64, 1, dataset_size=TRAINING_SET),
        bare_vae(lambda rec, kl, *rest: rec + kl + 5 * weighted_correlation(*rest)),
    ),
    "FactorVAE": Case(lambda: FactorVAE(64, 1), bare_factor_vae, batch=2 * BATCH),
}
"""A generator of another kind is one more line: its constructor and its bare loop."""


class Pictures(Dataset[Tensor]):
    """dSprites as files that are decoded item by item."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind = kind
        images = DSprites().images_of(
            torch.stack([torch.randint(0, n, (DECODED,)) for n in (3, 6, 40, 32, 32)], 1)
        )
        bytes_ = images[:, 0].to(torch.uint8).numpy()
        if kind == "npz":
            np.savez_compressed(folder / "pictures.npz", imgs=bytes_)
            self.array = np.load(folder / "pictures.npz")["imgs"]
        else:
            for number, picture in enumerate(bytes_):
                Image.fromarray(picture * 255).save(folder / f"{number}.png")
            self.files = [folder / f"{number}.png" for number in range(DECODED)]

    def __len__(self) -> int:
        return DECODED

    def __getitem__(self, index: int) -> Tensor:
        if self.kind == "npz":
            return torch.from_numpy(self.array[index].astype(np.float32))[None]
        with Image.open(io.BytesIO(self.files[index].read_bytes())) as picture:
            return pil_to_tensor(picture).float() / 255


class Ticks(pl.Callback):
    """The clock after each step."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now, self.ticks = now, []

    def on_train_batch_end(self, *_: Any) -> None:
        """Look at the clock."""
        self.ticks.append(self.now())


def ours(case: Case, steps: int, now: Callable[[], float], accelerator: str) -> list[float]:
    """Seconds of each step under Lightning."""
    ticks = Ticks(now)
    model: InterpretableModel = case.make()
    with tempfile.TemporaryDirectory() as folder, quiet():
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=1,
            max_epochs=1,
            limit_train_batches=steps,
            limit_val_batches=0,
            logger=make_loggers([], Path(folder), "step"),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[FiniteLoss(), Stopwatch(), ticks],
        )
        on_device = accelerator != "cpu"
        trainer.fit(model, DSprites(batch_size=case.batch, on_device=on_device))
    return [b - a for a, b in zip(ticks.ticks[WARM_UP:], ticks.ticks[WARM_UP + 1 :], strict=False)]


def loop(
    case: Case,
    steps: int,
    now: Callable[[], float],
    device: torch.device,
    batches: Iterator[Any],
    prepare: Callable[[Any], Tensor],
) -> list[float]:
    """Seconds of each step of the bare loop."""
    model = case.make().to(device).to(memory_format=torch.contiguous_format)
    step = case.bare(model, device)
    ticks = []
    for _ in range(steps):
        step(prepare(next(batches)))
        ticks.append(now())
    return [b - a for a, b in zip(ticks[WARM_UP:], ticks[WARM_UP + 1 :], strict=False)]


def our_batches(case: Case, device: torch.device) -> tuple[Iterator[Any], Callable[..., Tensor]]:
    data = DSprites(batch_size=case.batch, on_device=device.type != "cpu")

    def prepare(batch: Any) -> Tensor:
        if device.type != "cpu":
            batch = {name: value.to(device) for name, value in batch.items()}
            batch = data.on_after_batch_transfer(batch, 0)
        image: Tensor = batch["image"]
        return image

    return iter(data.train_dataloader()), prepare


def endless(loader: DataLoader[Tensor]) -> Iterator[Tensor]:
    while True:
        yield from loader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", default="cpu", choices=("cpu", "wall"))
    parser.add_argument("--accelerator", default="cpu", choices=("cpu", "gpu"))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    now = time.process_time if options.clock == "cpu" else time.perf_counter
    device = torch.device("cuda" if options.accelerator == "gpu" else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        files = {kind: Pictures(Path(folder), kind) for kind in ("png", "npz")}
        for name in options.models:
            case, found = CASES[name], {key: [] for key in ("ours", "bare", *files)}
            for _ in range(options.rounds):
                found["ours"] += ours(case, options.steps, now, options.accelerator)
                batches, prepare = our_batches(case, device)
                found["bare"] += loop(case, options.steps, now, device, batches, prepare)
                for kind, pictures in files.items():
                    ordinary = endless(DataLoader(pictures, case.batch, shuffle=True))
                    found[kind] += loop(
                        case, options.steps, now, device, ordinary, lambda b: b.to(device)
                    )
            mean = {key: statistics.mean(sorted(s)[: len(s) * 9 // 10]) for key, s in found.items()}
            step, speed = mean["ours"], {key: case.batch / value for key, value in mean.items()}
            print(
                f"{name}: step {1e3 * step:.1f} ms, bare loop {1e3 * mean['bare']:.1f} ms, ratio "
                f"{step / mean['bare']:.3f}; images per second {speed['ours']:.0f}, bare loop on "
                f"PNG files {speed['png']:.0f} (ours {speed['ours'] / speed['png']:.2f} times), "
                f"on npz {speed['npz']:.0f} ({speed['ours'] / speed['npz']:.2f} times)",
                flush=True,
            )


if __name__ == "__main__":
    main()
