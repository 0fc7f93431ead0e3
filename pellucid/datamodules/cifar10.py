"""CIFAR-10: 60,000 photographs of ten kinds of things in colour, 32 x 32 pixels.

Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, Technical Report, University of
Toronto, 2009. Read through torchvision, which checks the published files' MD5 sums.
"""

import torch
from einops import rearrange
from torch import Tensor
from torchvision import datasets

from pellucid.datamodules.torchvision_images import Channels, TorchvisionImages

_SOURCE = datasets.CIFAR10


class CIFAR10(TorchvisionImages):
    """CIFAR-10, ten classes.

    ``test`` is the published test set, 10,000 images; ``val`` is taken from the 50,000 published
    training images, of each class the same share. ``all`` is all 60,000. About 180 MB of memory.

    Args:
        root: Folder that holds ``cifar-10-batches-py`` as published (Python version), unpacked.
        download: Whether torchvision may fetch what is missing there.
        channels: 3 for colours; 1 for greys (luma), for models that want greys.
        normalise: Whether values have mean 0 and standard deviation 1 over the training images;
            otherwise they are in [0, 1].
        val_share: Share of the published training images that are for validation, in (0, 1).
        split_seed: Seed of the choice of these; apart from ``seed``, so that runs with several
            seeds are validated on the same images.
        image_size: Height and width of the images in pixels; 32 leaves them as published.
        batch_size: Images per batch and device.
        num_workers: Processes that load images; 0, which loads in the training process, is fast.
        seed: Seed of shuffling.

    Raises:
        DataError: A file is missing and ``download`` is off; :meth:`prepare_data` raises it for
            a file that is not the published one.
        ValueError: An argument is out of its range.
    """

    title = "CIFAR-10"
    names = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    folder = _SOURCE.base_folder
    files = (*(f for f, _ in _SOURCE.train_list + _SOURCE.test_list), _SOURCE.meta["filename"])
    # The colours' as commonly published; the grey mean follows from theirs (0.299 R + 0.587 G +
    # 0.114 B), the grey deviation is rounded.
    moments = {
        1: ((0.481,), (0.24,)),
        3: ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    }

    def __init__(
        self,
        root: str,
        download: bool = False,
        channels: Channels = 3,
        normalise: bool = True,
        val_share: float = 0.1,
        split_seed: int = 0,
        image_size: int = 32,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            root,
            download,
            channels,
            normalise,
            val_share,
            split_seed,
            image_size,
            batch_size,
            num_workers,
            seed,
        )

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        """(N, 3, 32, 32) uint8 images and (N,) int64 labels, through torchvision."""
        source = datasets.CIFAR10(self.root, train=train, download=self.download)
        images = rearrange(torch.from_numpy(source.data), "n h w c -> n c h w")
        return images, torch.tensor(source.targets)
