"""What Lightning says that does not concern the user."""

import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_NOISE = (
    # Images are made or cached in memory in the data modules that have no workers on purpose.
    ".*does not have many workers.*",
    # Figures are logged per epoch, so the interval for steps does not matter.
    ".*smaller than the logging interval.*",
    # A resumed run goes on in its own directory, which is not empty then.
    ".*exists and is not empty.*",
    # Frozen layers keep their batch statistics on purpose.
    ".*in eval mode at the start of training.*",
    # `run` gives the loader of the images of all splits beside its own data module.
    ".*Using `DistributedSampler` with the dataloaders.*",
    # Two checkpoints are kept, best and last, and both are named wherever they are used.
    ".*multiple `ModelCheckpoint`.*",
    # Only a fit goes on with the callbacks of the checkpoint's run.
    ".*callbacks used to create the checkpoint need to be provided.*",
    # Lightning with a newer torch.
    ".*isinstance\\(treespec, LeafSpec\\).*",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what Lightning says that does not concern the user; each with its reason above."""
    levels = {}
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric"):
        logger = logging.getLogger(name)
        levels[name] = logger.level
        # Devices found, seeds set, tips for other products: the config has the first two.
        logger.setLevel(logging.WARNING)
    before = signal.getsignal(signal.SIGINT)
    try:
        with warnings.catch_warnings():
            for pattern in _NOISE:
                warnings.filterwarnings("ignore", pattern)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        # Lightning ignores Ctrl-C after the first one, for good.
        with suppress(ValueError):
            signal.signal(signal.SIGINT, before)
