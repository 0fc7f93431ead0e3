"""A training step of each generator against a bare PyTorch loop of the same network and batch.

    python benchmarks/generator_step.py [--models VAE BetaVAE ...] [--steps 40] [--threads 1]

Ours runs under Lightning with what the command line adds (loggers, watched losses, clock). The bare
loop (``bare_generators.py``) has our data loader; further loops have an ordinary ``DataLoader``
that decodes one item at a time: from PNG files, from an npz file of each image, or from one npz
file that is decoded whole beforehand. Rivals have a process of their own, as they would, and after
each of our steps each takes one, so that whatever else the machine does meets all alike. Figures
are the processor's time of a step, or with ``--clock wall`` the wall's, as it must be on an
accelerator (``--block 50``: so many steps before another takes its turn). ``--updates 100`` gives
the beta-VAE family so many updates of one batch, which a GPU replays from a graph; rivals then take
as many steps.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import bare_generators as bare
import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import pil_to_tensor

from pellucid.callbacks import FiniteLoss, Stopwatch
from pellucid.cli.memory import keep_freed_memory
from pellucid.cli.quiet import quiet
from pellucid.datamodules.dsprites import DSprites
from pellucid.logging import make_loggers
from pellucid.models.ac_gan import ACGAN
from pellucid.models.beta_tcvae import BetaTCVAE
from pellucid.models.beta_vae import BetaVAE
from pellucid.models.factor_vae import FactorVAE
from pellucid.models.gan import GAN
from pellucid.models.info_gan import InfoGAN
from pellucid.models.vae import VAE

BATCH = 64
WARM_UP = 3
DECODED = 2048  # Pictures in the files that ordinary loaders read.


@dataclass(frozen=True)
class Case:
    """A model and its bare twin."""

    make: Callable[[], Any]
    bare: Callable[[Any], bare.Step]
    """Of a model, its training step in bare PyTorch."""
    batch: int = BATCH


CASES: dict[str, Case] = {
    "VAE": Case(lambda: VAE(64, 1), bare.vae(lambda rec, kl, *_: rec + kl)),
    "BetaVAE": Case(lambda: BetaVAE(64, 1), bare.vae(lambda rec, kl, *_: rec + 4 * kl)),
    "BetaVAE, capacity": Case(
        lambda: BetaVAE(64, 1, objective="capacity"),
        bare.vae(lambda rec, kl, *_: rec + 1000 * (kl - 1).abs()),
    ),
    "BetaTCVAE": Case(
        lambda: BetaTCVAE(64, 1, dataset_size=bare.TRAINING_SET),
        bare.vae(lambda rec, kl, *rest: rec + kl + 5 * bare.weighted_correlation(*rest)),
    ),
    "FactorVAE": Case(lambda: FactorVAE(64, 1), bare.factor_vae, batch=2 * BATCH),
    "GAN": Case(lambda: GAN("dcgan"), bare.gan(bare.latents_of(74, 0, 0))),
    "InfoGAN": Case(
        lambda: InfoGAN("dcgan"),
        bare.gan(bare.latents_of(62, 2, 10), lambda model: [model.q], bare.code_loss),
    ),
    "ACGAN": Case(
        lambda: ACGAN(3, "dcgan"),
        bare.gan(
            bare.latents_of(62, 0, 3),
            lambda model: [model.classifier],
            lambda model, x, codes: F.cross_entropy(model.classifier(x), codes[1]),
            lambda model, x, label: F.cross_entropy(model.classifier(x), label),
        ),
    ),
}
"""A generator of another kind is one more line: its constructor and its bare loop."""


class Pictures(Dataset[tuple[Tensor, int]]):
    """dSprites as files that are decoded item by item; written where they are not there."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind, self.folder = kind, folder / kind
        if not self.folder.is_dir():
            self._write()
        if kind == "array":
            self.array = np.load(self.folder / "pictures.npz")["imgs"]

    def _write(self) -> None:
        self.folder.mkdir()
        images = DSprites().images_of(
            torch.stack([torch.randint(0, n, (DECODED,)) for n in (3, 6, 40, 32, 32)], 1)
        )
        bytes_ = images[:, 0].to(torch.uint8).numpy()
        if self.kind == "array":
            np.savez_compressed(self.folder / "pictures.npz", imgs=bytes_)
        for number, picture in enumerate(bytes_):
            if self.kind == "png":
                Image.fromarray(picture * 255).save(self.folder / f"{number}.png")
            elif self.kind == "npz":
                np.savez_compressed(self.folder / f"{number}.npz", img=picture)

    def __len__(self) -> int:
        return DECODED

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self.kind == "png":
            with Image.open(self.folder / f"{index}.png") as picture:
                return pil_to_tensor(picture).float() / 255, index % 3
        if self.kind == "npz":
            with np.load(self.folder / f"{index}.npz") as file:
                pixels = file["img"]
        else:
            pixels = self.array[index]
        return torch.from_numpy(pixels.astype(np.float32))[None], index % 3


class Turns(pl.Callback):
    """Times our steps, and after each block of them has the rivals take as many."""

    def __init__(self, rivals: Connection, name: str, options: Any) -> None:
        self.rivals, self.name, self.block = rivals, name, options.block
        self.steps = options.block * options.updates
        self.kinds = ("bare", *options.files)
        self.now = clock(options)
        self.seconds: dict[str, list[float]] = {name: [] for name in ("ours", *self.kinds)}
        self.start: float | None = None

    def on_train_batch_end(self, *arguments: Any) -> None:
        """Look at the clock, and let the rivals take their turns."""
        if (arguments[4] + 1) % self.block:
            return
        if self.start is not None:
            self.seconds["ours"].append((self.now() - self.start) / self.steps)
        for kind in self.kinds:
            self.rivals.send((self.name, kind))
            seconds = self.rivals.recv()
            if self.start is not None:
                self.seconds[kind].append(seconds)
        self.start = self.now()


def clock(options: Any) -> Callable[[], float]:
    """Seconds of this process's processor time, or of the wall, once the device is idle."""

    def now() -> float:
        if options.accelerator == "gpu":
            torch.cuda.synchronize()
        return time.process_time() if options.clock == "cpu" else time.perf_counter()

    return now


def serve(connection: Connection, folder: Path, options: Any) -> None:
    """The process of the rivals: a block of steps of the one that is named."""
    torch.set_num_threads(options.threads)
    now = clock(options)
    device = torch.device("cuda" if options.accelerator == "gpu" else "cpu")
    steps: dict[tuple[str, str], Callable[[], None]] = {}
    while (wanted := connection.recv()) is not None:
        if wanted not in steps:
            steps = {other: step for other, step in steps.items() if other[0] == wanted[0]}
            steps[wanted] = make_rival(*wanted, folder, device)
        start = now()
        for _ in range(options.block * options.updates):
            steps[wanted]()
        connection.send((now() - start) / (options.block * options.updates))


def make_rival(name: str, kind: str, folder: Path, device: torch.device) -> Callable[[], None]:
    """A step of a bare loop on our batches, or on those of an ordinary loader."""
    case = CASES[name]
    step = case.bare(case.make().to(device).to(memory_format=torch.contiguous_format))
    if kind == "bare":
        batches = our_batches(case, device)
    else:
        batches = decoded(case, device, Pictures(folder, kind))
    return lambda: step(*next(batches))


def measure(name: str, rivals: Connection, folder: Path, options: Any) -> dict[str, list[float]]:
    """Seconds of each step, ours and the rivals', warm."""
    case, gpu, model = CASES[name], options.accelerator == "gpu", CASES[name].make()
    if options.updates > 1:
        model = type(model)(**{**model.hparams, "updates_per_batch": options.updates})
    turns = Turns(rivals, name, options)
    with quiet():
        trainer = pl.Trainer(
            accelerator=options.accelerator,
            devices=1,
            max_epochs=1,
            limit_train_batches=options.steps * options.block,
            limit_val_batches=0,
            logger=make_loggers([], folder, "step"),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[FiniteLoss(), Stopwatch(), turns],
        )
        size = case.batch * options.updates
        trainer.fit(model, DSprites(batch_size=size, on_device=gpu))
    return {kind: seconds[WARM_UP:] for kind, seconds in turns.seconds.items()}


def our_batches(case: Case, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels of our loader."""
    data = DSprites(batch_size=case.batch, on_device=device.type != "cpu")
    for batch in data.train_dataloader():
        yield batch["image"].to(device), batch["label"].to(device)


def decoded(
    case: Case, device: torch.device, pictures: Pictures
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels of an ordinary loader, without end."""
    loader = DataLoader(pictures, case.batch, shuffle=True)
    while True:
        for image, label in loader:
            yield image.to(device), label.to(device)


def show(name: str, seconds: dict[str, list[float]]) -> None:
    ours = seconds.pop("ours")
    print(f"{name}: ours {1e3 * statistics.median(ours):.1f} ms a step", end="")
    for rival, theirs in seconds.items():
        # Pair by pair: whatever slows the machine down meets the neighbours alike.
        pairs = sorted(a / b for a, b in zip(ours, theirs, strict=True))
        middle = statistics.median(pairs)
        print(
            f"; {rival} {1e3 * statistics.median(theirs):.1f} ms, ratio {middle:.3f} "
            f"({pairs[len(pairs) // 4]:.3f} to {pairs[3 * len(pairs) // 4]:.3f}), "
            f"{1 / middle:.2f} times the images per second",
            end="",
        )
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--block", type=int, default=1)
    parser.add_argument("--updates", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", default="cpu", choices=("cpu", "wall"))
    parser.add_argument("--accelerator", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--files", nargs="*", default=["png", "npz", "array"])
    parser.add_argument("--free-memory", action="store_true", help="ours with glibc as it comes")
    options = parser.parse_args()
    graphed = [name for name in CASES if "VAE" in name]
    if options.updates > 1 and not set(options.models) <= set(graphed):
        parser.error(f"--updates is for {', '.join(graphed)}: name them with --models")
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    if not options.free_memory:
        keep_freed_memory()  # As the command line does.
    with tempfile.TemporaryDirectory() as folder:
        here, there = Pipe()
        rivals = get_context("spawn").Process(
            target=serve, args=(there, Path(folder), options), daemon=True
        )
        rivals.start()
        for name in options.models:
            show(name, measure(name, here, Path(folder), options))
        here.send(None)
        rivals.join()


if __name__ == "__main__":
    main()
