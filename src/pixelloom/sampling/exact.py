"""Convolutions in full precision, whatever the process has set: a likelihood, and the same image on every device, need
more than the 10 bits of a factor that TensorFloat-32, torch's default for convolutions on CUDA, keeps.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

# cuDNN's flags belong to the process: without the lock one thread would end the other's full precision.
_FLAGS = threading.RLock()


@contextlib.contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Within, convolutions on a device are computed in float32, and deterministically."""
    if device.type != "cuda":
        yield
        return
    with _FLAGS, torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield
