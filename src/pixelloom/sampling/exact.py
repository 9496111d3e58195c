"""Convolutions in full float32 precision. TensorFloat-32, torch's default for convolutions on CUDA, keeps 10 bits of
each factor: too few for likelihoods, and for equal images on every device.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

# cuDNN's flags are global: without the lock, one thread could end the full precision of another.
_FLAGS = threading.RLock()


@contextlib.contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Context in which convolutions on a device are deterministic and in float32."""
    if device.type != "cuda":
        yield
        return
    with _FLAGS, torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield
