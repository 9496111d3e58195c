"""Data sets of arrays and tensors in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pixelloom.core.errors import DataError, UsageError
from pixelloom.data.config import DataConfig
from pixelloom.data.io.array_roles import assign_roles
from pixelloom.data.io.cache import cache_folder
from pixelloom.data.io.folders import decoded_arrays
from pixelloom.data.io.npy import StoredArray
from pixelloom.data.splits import NAMES, Dataset, Split
from pixelloom.data.transforms import transformed
from pixelloom.data.user_splits import from_user

NAME = "arrays"
"""``DataConfig.source`` of data from memory, which cannot be read again."""


def dataset_of(
    images: Any,
    labels: Any = None,
    *,
    classes: Sequence[str] = (),
    config: DataConfig | None = None,
    name: str = NAME,
) -> Dataset:
    """A data set of images in memory: NumPy arrays, tensors, or sequences of them.

    Without splits, 80 % of the images are train, 10 % val and 10 % test.

    Args:
        images: uint8 or bool, [N, H, W], [N, H, W, C] or [N, C, H, W], other types with ``config.range``; or a pair
            (images, labels); or {"train": images or pair, "val": ..., "test": ...}.
        labels: integers or texts [N], or one-hot [N, K].
        classes: names of the classes 0, 1, ...
        config: transforms, and ``seed`` of the splits.
        name: of the data, for messages.

    Raises:
        DataError: for arrays that are not images or labels, with what to do for their values.
        UsageError: for labels given twice, unknown splits, or transforms that do not fit.
    """
    config = config or DataConfig(source=name)
    parts = images if isinstance(images, Mapping) else {"": images}
    if unknown := [str(split) for split in parts if split not in (*NAMES, "")]:
        raise UsageError(f"{name}: unknown split {unknown[0]!r}; choose {', '.join(NAMES)}")
    if not parts:
        raise DataError(f"{name}: no images")
    keys: dict[str, StoredArray] = {}
    for split, part in parts.items():
        own, own_labels = part if isinstance(part, tuple) and len(part) == 2 else (part, labels)
        if own_labels is not labels and labels is not None:
            raise UsageError(f"{name}: labels are given twice; give (images, labels) or labels=")
        if split and labels is not None:
            raise UsageError(f'{name}: give labels with their split, {{"{split}": (images, labels)}}')
        prefix = f"{split}_" if split else ""
        keys[f"{prefix}images"] = StoredArray.of(f"{prefix}images", as_array(own, f"{name}: {prefix}images"))
        if own_labels is not None:
            keys[f"{prefix}labels"] = StoredArray.of(f"{prefix}labels", as_array(own_labels, f"{name}: {prefix}labels"))
    if classes:
        keys["classes"] = StoredArray.of("classes", np.array(list(classes), np.str_))
    arrays = assign_roles(Path(name), keys, config.reading, config.labeling)
    decoded = decoded_arrays(arrays, config.reading, cache_folder(config.cache), None)
    whole = Split(decoded.images, decoded.labels, decoded.source_levels)
    data = from_user(name, whole, decoded.splits, decoded.classes, decoded.note, config.seed)
    return transformed(data, config)


def as_array(values: Any, name: str) -> npt.NDArray[Any]:
    """A NumPy array of a tensor on any device, a PIL image, or a sequence of arrays of one shape.

    Raises:
        DataError: for values that are not an array of numbers or texts.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if not values.dtype.is_floating_point or values.dtype.itemsize >= 4:
            return np.asarray(values.numpy())
        return np.asarray(values.float().numpy())  # bfloat16 has no NumPy type
    if isinstance(values, list | tuple) and values and hasattr(values[0], "detach"):
        values = [as_array(value, name) for value in values]
    try:
        array = np.asarray(values)
    except ValueError:  # of several shapes
        array = np.empty(0, object)
    if array.dtype.kind not in "iufbU" or not array.ndim:
        raise DataError(f"{name}: not an array of numbers ({type(values).__name__}); give arrays of one shape")
    return array
