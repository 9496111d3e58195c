"""Memory of the process: reuse of freed blocks, and detection of out-of-memory errors."""

from __future__ import annotations

import ctypes
import functools
import sys

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names of <malloc.h>
_BLOCK = 1 << 30  # bytes; larger tensors are still mapped and unmapped individually


@functools.cache
def keep_freed_memory() -> bool:
    """Make glibc reuse large blocks instead of returning them to the system. Returns True if that was possible.

    By default each tensor above 32 MiB is mapped anew, and its pages are zeroed at first access, which costs time in
    each step on a CPU. False on other systems, with musl, and with versions of glibc that limit the threshold to
    32 MiB, as mallopt(3) documents; then nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _BLOCK)) and bool(mallopt(_M_TRIM_THRESHOLD, 2 * _BLOCK - 1))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device or the host is out of memory; torch has a class for the device only."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
