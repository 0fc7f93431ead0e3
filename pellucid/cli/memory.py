"""What a training process does with memory that a step has freed."""

import ctypes
import os
import platform

# Parameters of glibc's mallopt, <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = 512 * 2**20
_LARGEST = 32 * 2**20
_OTHERS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let freed memory stay with the process, for the next step to take.

    A training step on a CPU frees and takes the same activations each time. As it comes, glibc
    gives blocks of more than 128 KiB, later of some MB, back to the system, which clears every page
    anew: up to a sixth of the time of a small network's step. Here up to 512 MiB stay. Nothing
    happens where the user has set glibc's own variables, or where there is no glibc.

    Returns:
        Whether it was set.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _OTHERS):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Blocks of over 32 MiB are rare, and their pages would lie idle.
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _KEPT))
