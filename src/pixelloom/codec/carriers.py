"""Carriers: the precisions that hold the integers of a lowered network, and the settings under which they are exact.

float64 and float32 hold the same integers; the second is faster, and has traps. Without oneDNN, torch gives float32
convolutions of 16 or more images to NNPACK, whose Winograd transforms are not sums of products of the given integers.
Reduced precision of float32 products (bfloat16, TF32) and autocast shorten the factors. :func:`exact_arithmetic`
excludes them, whatever the program around it has set. What it cannot know of, the known answer of an export finds.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

_SETTINGS = threading.RLock()  # they belong to the whole process


def on_cpu() -> contextlib.AbstractContextManager[object]:
    """Context in which tensors are made on the CPU.

    A device as a context calls a Python function for each operation of torch, which takes as long as a small one: it is
    entered only where another device is the default.
    """
    device = torch.get_default_device()
    return contextlib.nullcontext() if device.type == "cpu" else torch.device("cpu")


@contextlib.contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Context in which float32 sums of products are taken by multiplications and additions in full precision."""
    mkldnn = torch.backends.mkldnn
    products = (mkldnn.matmul, mkldnn.conv)  # type: ignore[attr-defined]
    with (
        _SETTINGS,
        on_cpu(),
        torch.autocast("cpu", enabled=False),
        torch.backends.nnpack.flags(enabled=False),
    ):
        before = [each.fp32_precision for each in products]
        enabled = mkldnn.set_flags(True, None, None, None)[0]  # type: ignore[no-untyped-call]  # oneDNN alone: the other flags stay
        try:
            for each in products:
                each.fp32_precision = "ieee"
            yield
        finally:
            for each, precision in zip(products, before, strict=True):
                each.fp32_precision = precision
            mkldnn.set_flags(enabled, None, None, None)  # type: ignore[no-untyped-call]
