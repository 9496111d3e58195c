"""What was measured on what: the part of a result that is the same for every benchmark."""

from __future__ import annotations

import platform
from datetime import date

import torch


def facts() -> dict[str, object]:
    """Threads, hardware, versions, date."""
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": str(torch.cpu.get_capabilities().get("cpu_name", platform.processor())),
        "date": date.today().isoformat(),
    }
