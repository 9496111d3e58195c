"""Memory of the process: reuse of freed blocks, and detection of out-of-memory errors."""

from __future__ import annotations

import ctypes
import errno
import functools
import sys

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names of <malloc.h>
_BLOCK = 1 << 30  # bytes; larger tensors are still mapped and unmapped individually

_NO_MEMORY = (  # of messages, in lower case
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "not enough memory",
    "could not create a primitive",  # oneDNN
    "could not create a memory object",
    "std::bad_alloc",
    "alloc_failed",  # cuBLAS, cuDNN
)


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
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)
