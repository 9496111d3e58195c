"""Export a trained model for the codec: calibration images from its training data, and what lowering costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixelloom.codec.export import CALIBRATION, calibrated, entropy, refuse
from pixelloom.codec.model import CodecModel
from pixelloom.core.errors import DataError, UsageError
from pixelloom.data.splits import Split
from pixelloom.models.pixel import PixelModel
from pixelloom.runs.evaluate import load_data

_LOSS = 1e-3  # share of bits that the integers of profile 1 may cost


@dataclass(frozen=True)
class Exported:
    """An export, and bits/dim of N validation images before and after lowering.

    Attributes:
        codec: the export.
        model: bits/dim of the model in float32.
        lowered: bits/dim by the integer tables of the export, without a coder's rounding.
        n: number of images.
    """

    codec: CodecModel
    model: float
    lowered: float
    n: int

    @property
    def loss(self) -> float:
        """Additional bits, in percent."""
        return 100 * (self.lowered / self.model - 1)


def export(
    model: PixelModel,
    data: Any = None,
    *,
    calibration: int = CALIBRATION,
    validation: int = 64,
    label: str | int | None = None,
) -> Exported:
    """Lower a model, and measure what it costs on validation images.

    If it costs more than 0.1 %, the wider integers of profile 2 are taken.

    Args:
        model: a pixel model without conditioning image and further pixel orders.
        data: images for calibration (training split) and measurement (validation split): a name, a path or a
            configuration; None for the model's training data.
        calibration: number of images for calibration, evenly spaced.
        validation: number of images for the measurement, evenly spaced; none if 0.
        label: class of all images, by name or number, of a class-conditional model: the export is for images of that
            class. None is the null class.

    Raises:
        UsageError: for counts that are not positive, data that are not named, or a class that the model lacks.
        DataError: for data that do not fit the model, or are empty.
        ModelError: naming what cannot be lowered.
    """
    if calibration < 1 or validation < 0:
        raise UsageError(f"calibration: at least one image is needed, not {calibration}; validation: none or more")
    refuse(model)
    labels = model.labels_of(label, 1)
    found = load_data(model, data)
    train, val = (split if label is None else _of_class(split, labels) for split in (found.train, found.val))
    ranges = calibrated(model, _spaced(train, calibration, found.name), label)
    codec = ranges.lower()
    if not validation or not len(val):
        return Exported(codec, math.nan, math.nan, 0)
    levels = _spaced(val, validation, found.name)
    unit = levels.numel() * math.log(2)
    before = -float(model.log_prob(levels, label).sum()) / unit
    after = float(entropy(codec, levels).sum()) / levels.numel()
    if after > before * (1 + _LOSS):  # the wide integers are two to three times slower
        codec = ranges.lower(profile=2)
        after = float(entropy(codec, levels).sum()) / levels.numel()
    codec.card |= {
        "bits_per_dim": {"model": round(before, 5), "lowered": round(after, 5), "n": len(levels), "split": "val"},
        "data": found.name,
    }
    return Exported(codec, before, after, len(levels))


def _of_class(split: Split, label: Tensor | None) -> Split:
    """The images of a class; all of data without classes, or with static bits."""
    if label is None or split.labels is None or split.bits is not None:
        return split
    return split.subset(np.flatnonzero(split.labels == int(label)))


def _spaced(split: Split, n: int, name: str) -> Tensor:
    """Evenly spaced images, levels uint8 [n or fewer, C, H, W]."""
    if not len(split):
        raise DataError(f"{name}: has no training images for calibration; name other data")
    rows = np.unique(np.linspace(0, len(split) - 1, min(n, len(split))).round().astype(np.int64))
    return torch.from_numpy(split.take(rows)[0])
