"""MNIST: 70,000 handwritten digits in grey, 28 x 28 pixels.

LeCun, Bottou, Bengio, Haffner, *Gradient-Based Learning Applied to Document Recognition*,
Proceedings of the IEEE 86(11), 1998. Read through torchvision.
"""

from torch import Tensor
from torchvision import datasets

from pellucid.datamodules.torchvision_images import Channels, TorchvisionImages


class MNIST(TorchvisionImages):
    """MNIST, ten digits.

    ``test`` is the published test set, 10,000 images; ``val`` is taken from the 60,000 published
    training images, of each digit the same share. ``all`` is all 70,000. About 55 MB of memory.

    Args:
        root: Folder that holds ``MNIST/raw`` with the four published files, unpacked.
        download: Whether torchvision may fetch what is missing there.
        channels: 1 for greys; 3 repeats them as red, green and blue, for models that want colours.
        normalise: Whether values have mean 0 and standard deviation 1 over the training images;
            otherwise they are in [0, 1].
        val_share: Share of the published training images that are for validation, in (0, 1).
        split_seed: Seed of the choice of these; apart from ``seed``, so that runs with several
            seeds are validated on the same images.
        image_size: Height and width of the images in pixels; 28 leaves them as published.
        batch_size: Images per batch and device.
        num_workers: Processes that load images; 0, which loads in the training process, is fast.
        seed: Seed of shuffling.

    Raises:
        DataError: A file is missing and ``download`` is off; :meth:`prepare_data` raises it for
            a file that cannot be read.
        ValueError: An argument is out of its range.
    """

    title = "MNIST"
    names = tuple("0123456789")
    folder = "MNIST/raw"
    files = tuple(name.removesuffix(".gz") for name, _ in datasets.MNIST.resources)
    # Measured on the 60,000 training images.
    moments = {1: ((0.1307,), (0.3081,)), 3: ((0.1307,) * 3, (0.3081,) * 3)}

    def __init__(
        self,
        root: str,
        download: bool = False,
        channels: Channels = 1,
        normalise: bool = True,
        val_share: float = 0.1,
        split_seed: int = 0,
        image_size: int = 28,
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
        """(N, 1, 28, 28) uint8 images and (N,) int64 labels, through torchvision."""
        source = datasets.MNIST(self.root, train=train, download=self.download)
        return source.data[:, None], source.targets
