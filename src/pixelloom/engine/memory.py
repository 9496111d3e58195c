"""Keeping freed memory, so that each training step does not ask the operating system for it anew."""

from __future__ import annotations

import ctypes
import functools
import sys

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
