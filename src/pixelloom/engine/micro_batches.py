"""Micro-batches for batches that would need too much memory on a CPU, where a process is killed without a message."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pixelloom.core.types import Batch
from pixelloom.engine.threads import first_rows, passes
from pixelloom.objectives.base import Objective

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MOST = 4 << 30
"""Bytes that a micro-batch may keep for the backward pass. It does not depend on the machine, so that runs repeat."""
_ROWS = 2  # images of the measured pass


def bytes_per_image(objective: Objective, batch: Batch, fabric: Fabric) -> float:
    """Bytes that autograd keeps per image in the largest phase, by a pass of two images. Nothing is changed."""
    parameters = {p.untyped_storage().data_ptr() for part in objective.parts.values() for p in part.parameters()}
    phases: list[int] = []

    @contextlib.contextmanager
    def counted() -> Iterator[None]:
        kept: dict[int, int] = {}

        def pack(value: Tensor) -> Tensor:
            storage = value.untyped_storage()
            if storage.data_ptr() not in parameters:
                kept[storage.data_ptr()] = storage.nbytes()
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            yield
        phases.append(sum(kept.values()))

    part = first_rows(batch, _ROWS)
    passes(objective, part, fabric, counted)
    return max(phases) / len(part.images)


def micro_batches(each: float, images: int, accumulate: int, most: int = MOST) -> int:
    """The smallest number of equal micro-batches, at least ``accumulate``, that keep at most ``most`` bytes each.

    Args:
        each: bytes per image.
        images: images of a process per step.
        accumulate: number of micro-batches in the configuration.
        most: bytes.
    """
    parts = [n for n in range(accumulate, images + 1) if images % n == 0]
    return next((n for n in parts if images // n * each <= most), parts[-1] if parts else accumulate)
