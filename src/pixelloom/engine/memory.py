"""The memory of a process: keeping what is freed, and telling a lack of it from other errors."""

from __future__ import annotations

import ctypes
import functools
import sys

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names of <malloc.h>
_BLOCK = 1 << 30  # bytes; larger tensors are still mapped and unmapped one by one


@functools.cache
def keep_freed_memory() -> bool:
    """Tell glibc to reuse large blocks in place of returning them to the system; True where that was possible.

    By default every tensor above 32 MB is mapped afresh, and its pages are faulted in and zeroed at first touch: a
    third of the time of a step on a CPU. The peak of the memory in use stays what it was. See mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _BLOCK)) and bool(mallopt(_M_TRIM_THRESHOLD, 2 * _BLOCK - 1))


def out_of_memory(error: BaseException) -> bool:
    """Whether the device or the host ran out of memory: torch has a class for the first only."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
