"""Checks of model inputs: images, labels, conditioning images, partly known images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pixelloom.core.errors import UsageError
from pixelloom.core.types import Conditioning, ImageSpec, Labels, Levels
from pixelloom.data.conditions import Condition

_INTEGERS = ("bool", "uint8", "int8", "int16", "int32", "int64")
LabelsLike = Tensor | Labels | Sequence[int] | int | None


def at_least(name: str, given: int, least: int) -> None:
    """Raises UsageError for a smaller number."""
    if given < least:
        raise UsageError(f"{name}: must be {least} or more, not {given}")


def check_levels(images: Tensor | Levels, spec: ImageSpec, name: str = "images") -> Tensor:
    """Check images and return them as uint8 [N, C, H, W].

    Raises:
        UsageError: for floats, another shape, or values at or above the model's levels.
    """
    if str(images.dtype).removeprefix("torch.") not in _INTEGERS:
        raise UsageError(f"{name}: levels are integers 0..{spec.levels - 1}, not {images.dtype}; quantize them first")
    # A read-only array (a memory map of a data set, say) is copied, since torch has no read-only tensors.
    x = torch.from_numpy(np.require(images, requirements=["C", "W"])) if isinstance(images, np.ndarray) else images
    if x.ndim != 4 or tuple(x.shape[1:]) != spec.shape:
        raise UsageError(f"{name}: the model takes [N, {', '.join(map(str, spec.shape))}], not {list(x.shape)}")
    if x.numel() and (int(x.min()) < 0 or int(x.max()) >= spec.levels):
        raise UsageError(f"{name}: levels go from 0 to {spec.levels - 1}, found {int(x.min())} to {int(x.max())}")
    return x.to(torch.uint8)


def check_labels(labels: LabelsLike, classes: int, n: int, device: torch.device) -> Tensor | None:
    """Check labels and return them as int64 [n]; label ``classes`` is the null class.

    Raises:
        UsageError: for labels out of range, or another number of them than n or 1.
    """
    if not classes:
        if labels is not None:
            raise UsageError("labels: this model is unconditional (trained without --classes)")
        return None
    given = torch.as_tensor(classes if labels is None else labels, device=device)
    if given.is_floating_point() or given.ndim > 1 or given.numel() not in (1, n):
        raise UsageError(f"labels: {n} class numbers or one for all, not {list(given.shape)} of {given.dtype}")
    if given.numel() and not 0 <= int(given.min()) <= int(given.max()) <= classes:
        raise UsageError(
            f"labels: classes are numbered 0 to {classes - 1}, found {int(given.min())} to {int(given.max())}"
        )
    return given.long().expand(n)


def check_condition(given: Tensor | Levels | None, condition: Condition | None, n: int) -> Tensor | None:
    """Check conditioning images and return their levels, uint8 [n or 1, c, h, w].

    Raises:
        UsageError: if they are missing for a model that needs them, given to one that takes none, or do not fit.
    """
    if condition is None:
        if given is not None:
            raise UsageError("condition: this model takes no conditioning image; train one that does with --condition")
        return None
    if given is None:
        raise UsageError(f"condition: this model needs a conditioning image, {condition}")
    levels = check_levels(given, condition.spec, "condition")
    if len(levels) not in (1, n):
        raise UsageError(f"condition: {n} conditioning images or one for all, not {len(levels)}")
    return levels


def check_known(
    given: Tensor | Levels | None, mask: Tensor | None, spec: ImageSpec, n: int
) -> tuple[Tensor | None, Tensor | None]:
    """Check partly known images and the mask of their known values, and return both as [n, C, H, W].

    Raises:
        UsageError: if one is given without the other, or their shapes do not fit.
    """
    if (given is None) != (mask is None):
        raise UsageError("given, mask: give both, the partly known images and the mask of their known values")
    if given is None or mask is None:
        return None, None
    known = check_levels(given, spec)
    try:
        return known.expand(n, *spec.shape), torch.as_tensor(mask).bool().expand(n, *spec.shape)
    except RuntimeError:
        raise UsageError(
            f"given, mask: shapes {tuple(known.shape)} and {tuple(mask.shape)} do not fit {n} images of {spec.shape}"
        ) from None


def of_batch(condition: Tensor | None, rows: slice) -> Tensor | None:
    """Conditioning images of a batch; a single one is for all."""
    return condition if condition is None or len(condition) == 1 else condition[rows]


def with_null_class(conditioning: Conditioning, classes: int) -> Conditioning:
    """The conditioning of a batch, followed by the same with the null class: cond and uncond of guidance."""
    n, uncond = len(conditioning["labels"]), {"labels": torch.full_like(conditioning["labels"], classes)}
    return {
        name: value if len(value) < n else torch.cat((value, uncond.get(name, value)))
        for name, value in conditioning.items()
    }
