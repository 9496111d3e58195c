"""Checks of model inputs: images, labels, conditioning images, partly known images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pixelloom.core.errors import UsageError, did_you_mean, shortened
from pixelloom.core.types import Conditioning, ImageSpec, Labels, Levels
from pixelloom.data.conditions import Condition
from pixelloom.layers.compiled import uncompiled
from pixelloom.layers.copies import copy_of

if TYPE_CHECKING:
    from pixelloom.models.description import Description

_log = logging.getLogger("pixelloom")
_INTEGERS = ("bool", "uint8", "int8", "int16", "int32", "int64")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}
Precision = Literal["fp32", "bf16", "fp64"]
LabelsLike = Tensor | Labels | Sequence[int] | Sequence[str] | int | str | None
"""Classes by name or by index; None for none."""
NO_NULL_CLASS = (
    "this model was trained with label_dropout=0, so it has no null class; train with --label-dropout 0.1 for one"
)
_LARGEST = (1 << 63) - 1  # of a seed or an index
_LISTED = 20  # names of classes in an error


def with_float64(device: str | torch.device) -> torch.device:
    """The device, or the CPU instead of MPS: samples and likelihoods of pixel models need float64, with a warning."""
    if torch.device(device).type == "mps":
        _log.warning("device: MPS has no float64; samples and likelihoods of pixel models are computed on the CPU")
        return torch.device("cpu")
    return torch.device(device)


def at_least(name: str, given: int, least: int) -> None:
    """Raises UsageError for a smaller number, one of 2^63 or more, or what is no whole number."""
    if isinstance(given, bool | np.bool_) or not isinstance(given, int | np.integer):
        raise UsageError(f"{name}: must be a whole number, not {given!r}")
    if given < least:
        raise UsageError(f"{name}: must be {least} or more, not {given}")
    if given > _LARGEST:
        raise UsageError(f"{name}: must be {least} to {_LARGEST} (2^63 - 1), not {shortened(str(given), 40)}")


def class_index(name: str, about: Description, what: str = "class") -> int:
    """The index of a class: the class of that name, or that number if no class has it as its name.

    Raises:
        UsageError: for an unconditional model, and for a name or number that the model lacks.
    """
    names = about.class_names
    if not names:
        raise UsageError(f"{what} {shortened(name)}: this model is unconditional (trained without --classes)")
    if name in names:
        return names.index(name)
    if name.isascii() and name.isdecimal() and len(name) < 10 and int(name) < len(names):
        return int(name)
    if names == tuple(map(str, range(len(names)))):
        raise UsageError(f"{what} {shortened(name)}: this model has classes 0 to {len(names) - 1}")
    listed = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
    raise UsageError(f"{what} {shortened(name)}: no class has this name.{did_you_mean(name, names)} Classes: {listed}")


def check_levels(images: Tensor | Levels, spec: ImageSpec, name: str = "images") -> Tensor:
    """Check images and return them as uint8 [N, C, H, W].

    Raises:
        UsageError: for floats, another shape, or values at or above the model's levels.
    """
    if not isinstance(images, Tensor | np.ndarray):
        raise UsageError(f"{name}: levels are a tensor or an array of integers, not {shortened(repr(images))}")
    if str(images.dtype).removeprefix("torch.") not in _INTEGERS:
        raise UsageError(f"{name}: levels are integers 0..{spec.levels - 1}, not {images.dtype}; quantize them first")
    # A read-only array (a memory map of a data set, say) is copied, since torch has no read-only tensors.
    x = torch.from_numpy(np.require(images, requirements=["C", "W"])) if isinstance(images, np.ndarray) else images
    if x.ndim != 4 or tuple(x.shape[1:]) != spec.shape:
        raise UsageError(f"{name}: the model takes [N, {', '.join(map(str, spec.shape))}], not {list(x.shape)}")
    if x.numel() and (int(x.min()) < 0 or int(x.max()) >= spec.levels):
        raise UsageError(f"{name}: levels go from 0 to {spec.levels - 1}, found {int(x.min())} to {int(x.max())}")
    return x.to(torch.uint8)


def check_labels(
    labels: LabelsLike, about: Description, n: int, device: torch.device, *, null: bool = True
) -> Tensor | None:
    """Check labels and return them as int64 [n]; label ``classes`` is the null class.

    Args:
        labels: names or indices of classes, n or one for all; None is the null class.
        about: description of the model.
        n: number of images.
        device: of the result.
        null: whether the null class was trained.

    Raises:
        UsageError: for labels that the model lacks, or another number of them than n or 1.
    """
    classes = about.classes
    if not classes:
        if labels is not None:
            raise UsageError("labels: this model is unconditional (trained without --classes)")
        return None
    if isinstance(labels, str):
        labels = class_index(labels, about)
    elif isinstance(labels, np.ndarray | list | tuple) and len(labels) and isinstance(labels[0], str):
        labels = [class_index(str(label), about) for label in labels]
    try:
        given = torch.as_tensor(classes if labels is None else labels, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"labels: names or numbers of classes, not {shortened(repr(labels))}") from None
    if given.is_floating_point() or given.ndim > 1 or given.numel() not in (1, n):
        raise UsageError(f"labels: {n} class numbers or one for all, not {list(given.shape)} of {given.dtype}")
    if given.numel() and not 0 <= int(given.min()) <= int(given.max()) <= classes:
        raise UsageError(
            f"labels: classes are numbered 0 to {classes - 1}, found {int(given.min())} to {int(given.max())}"
        )
    if not null and given.numel() and int(given.max()) == classes:
        raise UsageError(f"labels: a class is needed: {NO_NULL_CLASS}")
    return given.long().expand(n)


def check_guidance(guidance: float, about: Description, *, logits: bool) -> None:
    """Raises UsageError unless it is 0, or positive for a head of logits and a network with a null class."""
    if not guidance >= 0 or (guidance and (not about.classes or not logits)):
        raise UsageError("guidance: 0 or more, for a model with classes and a head of logits")
    if guidance and not getattr(about, "null_class", True):
        raise UsageError(f"guidance: {NO_NULL_CLASS}")


def check_condition(given: Tensor | Levels | None, condition: Condition | None, n: int) -> Tensor | None:
    """Check conditioning images and return their levels, uint8 [n or 1, c, h, w].

    Raises:
        UsageError: if they are missing for a model that needs them, given to one that takes none, or do not fit.
    """
    if condition is None:
        if given is not None:
            raise UsageError("condition: this model takes no conditioning image; train one that does with --condition")
        return None
    if given is None and condition.default is not None:
        return condition.default
    if given is None:
        raise UsageError(f"condition: this model needs a conditioning image, {condition}")
    levels = check_levels(given, condition.spec, "condition")
    if len(levels) not in (1, n):
        raise UsageError(f"condition: {n} conditioning images or one for all, not {len(levels)}")
    return levels


def booleans(mask: object, meaning: str) -> Tensor:
    """A mask as a tensor of booleans.

    Raises:
        UsageError: saying its ``meaning``, for values other than true, false, 0 and 1.
    """
    try:
        found = torch.as_tensor(mask)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"mask: a tensor of booleans is needed, not {shortened(repr(mask))}") from None
    if found.numel() and not bool(((found == 0) | (found == 1)).all()):
        raise UsageError(f"mask: {meaning}")
    return found.bool()


def check_known(
    given: Tensor | Levels | None,
    mask: Tensor | None,
    spec: ImageSpec,
    n: int,
    device: torch.device,
    condition: Tensor | None = None,
    rule: Condition | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Check partly known images and the mask of their known values, and return both as [n, C, H, W] on a device.

    Without them, the known values of conditioning images of the rule ``mask`` are returned, if there are any.

    Raises:
        UsageError: if one is given without the other, or their shapes do not fit.
    """
    if (given is None) != (mask is None):
        raise UsageError("given, mask: give both, the partly known images and the mask of their known values")
    if given is None and condition is not None and rule is not None and rule.masks:
        given, mask = rule.known(condition)
    if given is None or mask is None:
        return None, None
    known = check_levels(given, spec)
    where = booleans(mask, "true or 1 where values are known, false or 0 elsewhere; it has other values")
    try:
        return known.expand(n, *spec.shape).to(device), where.expand(n, *spec.shape).to(device)
    except RuntimeError:
        raise UsageError(
            f"given, mask: shapes {tuple(known.shape)} and {tuple(where.shape)} do not fit {n} images of {spec.shape}"
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


def in_dtype(conditioning: Conditioning, dtype: torch.dtype) -> Conditioning:
    """Conditioning in the precision of a network; labels stay integers."""
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in conditioning.items()}


def in_precision(network: nn.Module, precision: Precision | None) -> nn.Module:
    """The network itself, or a copy if its weights have another precision.

    Raises:
        UsageError: for an unknown precision.
    """
    if precision not in (None, *PRECISIONS):
        raise UsageError(f"precision: {', '.join(PRECISIONS)}, not {precision!r}")
    if precision is None or next(network.parameters()).dtype == PRECISIONS[precision]:
        return network
    return copy_of(uncompiled(network)).to(PRECISIONS[precision])
