"""Drawing dSprites, and batches of it against loaders that decode images one by one.

Usage: python benchmarks/dsprites.py [--threads 1] [--batches 150] [--repeats 3]

Drawing is a whole process, from importing torch on: all 737,280 pictures, packed. Batches are 64
images of 64 x 64 and their factors, in random order. The rivals are ordinary DataLoaders, in the
training process too: one reads each picture and its factors from an ``.npz`` of its own, one
decodes PNGs, one indexes an array that was decoded whole (3 GB for all pictures) and collates. All
have the same pictures, which is checked first; the loaders take turns.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pellucid.datamodules.dsprites import DSprites

DRAW_ALL = """
import time
start = time.perf_counter()
import torch
torch.set_num_threads({threads})
from pellucid.datamodules.dsprites import _all_pictures, draw
imported, used = time.perf_counter(), time.process_time()
packed = _all_pictures(draw)
drawn = time.perf_counter()
print(len(packed), drawn - start, drawn - imported, time.process_time() - used)
"""
FILES = 4096  # Pictures that the rivals have on disk.


class Npz(Dataset[dict[str, Tensor]]):
    """One compressed file per picture."""

    def __init__(self, folder: Path, images: Tensor, factors: Tensor) -> None:
        self.folder = folder
        for i in range(len(images)):
            np.savez_compressed(folder / f"{i}.npz", imgs=images[i].byte(), factors=factors[i])

    def __len__(self) -> int:
        return len(list(self.folder.glob("*.npz")))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        with np.load(self.folder / f"{index}.npz") as file:
            image, factors = file["imgs"], file["factors"]
        return {"image": torch.from_numpy(image).float(), "factors": torch.from_numpy(factors)}


class Png(Dataset[dict[str, Tensor]]):
    """One PNG per picture."""

    def __init__(self, folder: Path, images: Tensor, factors: Tensor) -> None:
        self.folder, self.factors = folder, factors
        for i in range(len(images)):
            Image.fromarray((255 * images[i, 0]).byte().numpy()).save(folder / f"{i}.png")

    def __len__(self) -> int:
        return len(self.factors)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        with Image.open(self.folder / f"{index}.png") as file:
            image = torch.from_numpy(np.array(file))[None].float() / 255
        return {"image": image, "factors": self.factors[index]}


class Decoded(Dataset[dict[str, Tensor]]):
    """Bytes in memory, one a pixel."""

    def __init__(self, images: Tensor, factors: Tensor) -> None:
        self.images, self.factors = images.byte(), factors

    def __len__(self) -> int:
        return len(self.factors)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.images[index].float(), "factors": self.factors[index]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, default=150)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for _ in range(options.repeats):
        command = [sys.executable, "-c", DRAW_ALL.format(threads=options.threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        count, whole, drawing, used = (float(word) for word in done.stdout.split())
        print(
            f"{count:.0f} pictures, one process, {options.threads} thread(s): {whole:.1f} s with "
            f"imports, {drawing:.1f} s without ({used:.1f} s of a core's time)"
        )
    data = DSprites(train_size=FILES)
    device = DSprites(train_size=FILES, on_device=True)
    items = data.make_dataset("train")
    images, factors = (
        torch.stack([items[i][n] for i in range(FILES)]) for n in ("image", "factors")
    )
    with tempfile.TemporaryDirectory() as folder:
        (npz := Path(folder) / "npz").mkdir()
        (png := Path(folder) / "png").mkdir()
        rivals = {
            "npz": Npz(npz, images, factors),
            "png": Png(png, images, factors),
            "decoded array": Decoded(images, factors),
        }
        for rival in rivals.values():
            assert torch.equal(rival[7]["image"], images[7])
            assert torch.equal(rival[7]["factors"], factors[7])
        loaders = {
            "ours": data.train_dataloader(),
            "ours, packed whole (on_device)": device.train_dataloader(),
            **{name: DataLoader(r, 64, shuffle=True) for name, r in rivals.items()},
        }
        best = dict.fromkeys(loaders, 0.0)
        for _ in range(options.repeats + 1):  # The first turn warms up.
            for name, loader in loaders.items():
                best[name] = max(best[name], images_per_second(loader, options.batches))
    for name, figure in best.items():
        print(f"{name}: {figure:.0f} images a second, ours {best['ours'] / figure:.1f} times")


def images_per_second(loader: DataLoader, batches: int) -> float:
    """Of so many batches, over as many epochs as that takes, without what starts an epoch."""
    seconds, count = 0.0, 0
    while count < 64 * batches:
        iterator = iter(loader)
        next(iterator)
        start = time.perf_counter()
        for batch in iterator:
            count += len(batch["image"])
        seconds += time.perf_counter() - start
    return count / seconds


if __name__ == "__main__":
    main()
