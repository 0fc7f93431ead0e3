"""What a training process does with memory that a step has freed."""

import ctypes
import os
import platform

# Parameters of glibc's mallopt, <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = 2**30
# Older releases of glibc take no more than 32 MiB.
_LARGEST = (2**30, 32 * 2**20)
_OTHERS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let freed memory stay with the process, for the next step to take.

    A training step on a CPU frees and takes the same activations each time. As it comes, glibc
    gives blocks of more than 128 KiB, later of some MB, back to the system, which clears every page
    anew: up to a sixth of the time of a small network's step, and on some machines half of a large
    one's. Here blocks of up to 1 GiB stay, up to 1 GiB of them beyond what is in use. Nothing
    happens where the user has set glibc's own variables, or where there is no glibc.

    Returns:
        Whether it was set.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _OTHERS):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    largest = any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST)
    return bool(largest and mallopt(_TRIM_THRESHOLD, _KEPT))
