"""The calibration of a model as a file of its folder: safetensors with a checksum, written atomically, never unpickled.

The tensors are the calibration scores of each kind, ``scores.KIND`` float64 [n], and ``expected`` float64 [H, W], the
expected bits of each pixel. The metadata hold the reference, and what all of it depends on: weights and description of
the model and the background model, the training data, the data settings and the compressor. A calibration of anything
else is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from pixelloom.core.errors import ModelError, explain
from pixelloom.engine.safetensors_io import load_tensors, save_tensors
from pixelloom.metrics.anomaly import threshold
from pixelloom.metrics.scores import Kind, Reference, compressors
from pixelloom.models.description import CALIBRATION
from pixelloom.runs.anomaly import Calibration, Scorer, fingerprint

_REMEDY = "calibrate again with --save, or remove the file"
_SCORES, _EXPECTED = "scores.", "expected"


@dataclass(frozen=True)
class Kept:
    """A calibration and the settings it was made with.

    Attributes:
        calibration: of the model.
        kind: of the score whose threshold was chosen.
        false_alarms: rate of that threshold.
        settings: fields of the data configuration by which the calibration images were read, beyond those of training;
            None for a split of the training data.
        path: the file; None for a calibration that is in none.
    """

    calibration: Calibration
    kind: Kind
    false_alarms: float
    settings: Mapping[str, Any] | None = None
    path: Path | None = None

    @property
    def threshold(self) -> float:
        """The score above which images are flagged."""
        return threshold(self.calibration.of(self.kind), self.false_alarms)


class _Basis(BaseModel):
    """What a calibration depends on, each as a SHA-256 or a version."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    weights: str
    background: str
    data: str
    compressor: str

    def changed(self, now: _Basis) -> list[str]:
        """The parts that differ, in words."""
        background = "no background model" if not self.background else "another background model"
        words = {
            "weights": "other weights or settings of the model",
            "background": "a background model" if not now.background else background,
            "data": "other training data of the model",
            "compressor": f"other lossless compressors ({self.compressor}; now {now.compressor})",
        }
        return [text for name, text in words.items() if getattr(self, name) != getattr(now, name)]


class _About(BaseModel):
    """The metadata of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Kind
    false_alarms: float
    threshold: float
    title: str
    mean: tuple[float, float]
    covariance: tuple[tuple[float, float], tuple[float, float]]
    scale: float
    settings: dict[str, Any] | None
    basis: _Basis
    format: Literal["calibration"] = "calibration"


def _plain(settings: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Settings as JSON has them, without the folder of the data sets."""
    found = None if settings is None else {name: value for name, value in settings.items() if name != "root"}
    plain: dict[str, Any] | None = json.loads(json.dumps(found, default=str))
    return plain


def _basis(scorer: Scorer) -> _Basis:
    record = scorer.model.description.training
    data = None if record.data is None else record.data.model_dump(mode="json", exclude={"root", "cache"})
    return _Basis(
        weights=fingerprint(scorer.model),
        background="" if scorer.background is None else fingerprint(scorer.background),
        data=sha256(json.dumps([data, record.content], sort_keys=True).encode()).hexdigest(),
        compressor=compressors(),
    )


def keep(folder: Path, scorer: Scorer, kept: Kept) -> Path:
    """Write a calibration to a model folder, in place of an earlier one.

    Raises:
        ModelError: if it cannot be written; the earlier one is then unchanged.
    """
    found = kept.calibration
    about = _About(
        kind=kept.kind,
        false_alarms=kept.false_alarms,
        threshold=kept.threshold,
        title=found.title,
        mean=found.reference.mean,
        covariance=found.reference.covariance,
        scale=found.scale,
        settings=_plain(kept.settings),
        basis=_basis(scorer),
    )
    tensors = {f"{_SCORES}{kind}": torch.from_numpy(scores.copy()) for kind, scores in found.scores.items()}
    if found.expected is not None:
        tensors[_EXPECTED] = torch.from_numpy(found.expected.copy())
    path = folder / CALIBRATION
    save_tensors(path, tensors, about.model_dump(mode="json"))
    return path


def kept_by(folder: Path, scorer: Scorer, settings: Mapping[str, Any] | None = None) -> Kept | None:
    """Read the calibration of a model folder; None if there is none.

    Args:
        folder: the model folder.
        scorer: its model, and the background model.
        settings: fields of the data configuration by which images are read now; None for any.

    Raises:
        ModelError: for a damaged file, or a calibration of another model, background model or compressor, or of images
            that were read by other settings.
    """
    path = folder / CALIBRATION
    if not path.exists():
        return None
    try:
        tensors, meta = load_tensors(path)
    except ModelError as error:
        what = str(error).removesuffix(".").removesuffix("; use another copy")
        raise ModelError(f"{what}; {_REMEDY}") from error
    try:
        about = _About.model_validate(meta)
    except ValidationError as error:
        raise ModelError(f"{path}: is no calibration ({explain(error)}); {_REMEDY}") from error
    if changed := about.basis.changed(_basis(scorer)):
        raise ModelError(f"{path}: is a calibration of {' and '.join(changed)}; {_REMEDY}")
    before, now = about.settings, _plain(settings)
    if before is not None and now is not None and before != now:
        names = sorted(name for name in before | now if before.get(name) != now.get(name))
        was = ", ".join(f"{name}={before.get(name, 'as in training')}" for name in names)
        raise ModelError(f"{path}: its images were read with other data settings ({was}); {_REMEDY}")
    return _rebuilt(path, about, tensors, scorer)


def _rebuilt(path: Path, about: _About, tensors: Mapping[str, Tensor], scorer: Scorer) -> Kept:
    """The calibration; raises ModelError unless its tensors fit the metadata and the model."""
    spec = scorer.model.spec
    shapes = {f"{_SCORES}{kind}": None for kind in scorer.kinds} | {_EXPECTED: (spec.height, spec.width)}
    first = tensors.get(f"{_SCORES}{about.kind}")
    fits = first is not None and set(shapes) - {_EXPECTED} <= tensors.keys() <= set(shapes)
    for name, values in tensors.items():
        shape = shapes.get(name) or (None if first is None else tuple(first.shape))
        fits = fits and values.dtype == torch.float64 and tuple(values.shape) == shape
        fits = fits and (values.ndim == 2) == (name == _EXPECTED) and bool(torch.isfinite(values).all())
    if not fits:
        raise ModelError(f"{path}: is no calibration of this model (its scores do not fit); {_REMEDY}")
    scores = {kind: tensors[f"{_SCORES}{kind}"].numpy() for kind in scorer.kinds}
    expected = tensors[_EXPECTED].numpy() if _EXPECTED in tensors else None
    reference = Reference(about.mean, about.covariance)
    kept = Kept(
        Calibration(about.title, reference, scores, expected, about.scale),
        about.kind,
        about.false_alarms,
        about.settings,
    )
    if not np.isclose(kept.threshold, about.threshold, rtol=1e-12):
        raise ModelError(f"{path}: its threshold is not that of its scores; {_REMEDY}")
    return kept
