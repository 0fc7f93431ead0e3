"""An update of GAN, InfoGAN and AC-GAN under Lightning against a bare loop of the same networks.

Usage: python benchmarks/gan_step.py [--models gan info_gan ac_gan] [--updates 12] [--repeats 5]

64 x 64, grey, batch 64, networks ``dcgan``: both players' losses, backward passes and Adam's steps,
data, figures and checks of the command line's callbacks included. The bare loop has neither
Lightning nor logging. The two take turns, so that a drift of the machine's speed meets both.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from pellucid.batch import Batch
from pellucid.callbacks import FiniteLoss
from pellucid.models.ac_gan import ACGAN
from pellucid.models.adversarial import AdversarialModel
from pellucid.models.gan import GAN
from pellucid.models.info_gan import InfoGAN

MODELS: dict[str, Callable[[], AdversarialModel]] = {
    "gan": lambda: GAN("dcgan"),
    "info_gan": lambda: InfoGAN("dcgan"),
    "ac_gan": lambda: ACGAN(10, "dcgan"),
}


def batch_of(rows: list[tuple[torch.Tensor, ...]]) -> Batch:
    image, label = (torch.stack(column) for column in zip(*rows, strict=True))
    return {"image": image, "label": label}


def loader(updates: int) -> DataLoader[Batch]:
    count = 64 * updates
    images = torch.rand(count, 1, 64, 64)
    return DataLoader(TensorDataset(images, torch.arange(count) % 10), 64, collate_fn=batch_of)


def bare_loop(model: AdversarialModel, updates: int) -> float:
    """Seconds of an update, without what Lightning and the base class do around it."""
    players = [
        (turn, torch.optim.Adam(list(turn.parameters()), turn.lr, turn.betas, fused=True))
        for turn in model.turns()
    ]
    model.train()
    times, start = [], time.perf_counter()
    for batch in loader(updates):
        for turn, optimizer in players:
            for other, _ in players:
                for module in other.modules:
                    module.requires_grad_(other is turn)
            optimizer.zero_grad()
            turn.loss(batch)["loss"].backward()
            optimizer.step()
        times.append(time.perf_counter() - start)
        start = time.perf_counter()
    return statistics.median(times[2:])


class Watch(pl.Callback):
    """Times from the end of one batch to that of the next."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: object) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())


def ours(model: AdversarialModel, updates: int) -> float:
    """Seconds of an update under Lightning, with the figures and checks of a run."""
    watch = Watch()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[FiniteLoss(), watch],
    )
    trainer.fit(model, loader(updates))
    gaps = [b - a for a, b in zip(watch.ends, watch.ends[1:], strict=False)]
    return statistics.median(gaps[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.models:
        torch.manual_seed(0)
        model, bare = MODELS[name](), MODELS[name]()
        pairs = [
            (ours(model, options.updates), bare_loop(bare, options.updates))
            for _ in range(options.repeats)
        ]
        ratios = [a / b for a, b in pairs]
        print(
            f"{name}: {statistics.median(a for a, _ in pairs):.3f} s an update, bare loop "
            f"{statistics.median(b for _, b in pairs):.3f} s, ratio "
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
