"""Scores of any images by a model: from data and calibration to a row an image, and measures against outliers."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pixelloom.core.errors import DataError, UsageError
from pixelloom.core.types import Levels
from pixelloom.data.catalog import DATASETS, Dataset, load_for
from pixelloom.data.config import DataConfig
from pixelloom.data.image_source import FileImages, ImageSource, SplitImages, holds_files, open_files
from pixelloom.data.io.download import progress_bar
from pixelloom.data.splits import NAMES as SPLITS
from pixelloom.data.splits import Split
from pixelloom.metrics.anomaly import Detection, Scores, detection, p_values, threshold
from pixelloom.metrics.scores import Kind, Statistics
from pixelloom.models.family import GenerativeModel
from pixelloom.models.inputs import check_levels
from pixelloom.runs.anomaly import Calibration, Maps, OnImages, Part, Scorer, parts, spaced
from pixelloom.runs.config import Overrides
from pixelloom.runs.evaluate import data_for, load_data
from pixelloom.runs.identity import seen_in_training
from pixelloom.runs.matching import EVERY, default_split, split_of
from pixelloom.runs.score_table import Row, ScoreTable, in_a_line

OnMaps = Callable[[list[str], Levels, Maps], None]
"""Callback with names, images [n, C, H, W] and maps [n, H, W] of a batch."""
_log = logging.getLogger("pixelloom")


@dataclass(frozen=True)
class ImageScores:
    """Scores of N images.

    Attributes:
        rows: name and scores of each image.
        kind: of the score.
        threshold: exceeded by at most a share ``false_alarms`` of normal images.
        false_alarms: the promised rate.
        calibration: of the model.
    """

    rows: list[Row]
    kind: Kind
    threshold: float
    false_alarms: float
    calibration: Calibration

    @property
    def names(self) -> list[str]:
        """Names of the images."""
        return [row.image for row in self.rows]

    @property
    def scores(self) -> Scores:
        """Score of each image, float64 [N], larger for more anomalous images; NaN for files that cannot be read."""
        return self._column("score")

    @property
    def p_values(self) -> Scores:
        """Rank of each score among the calibration scores, float64 [N]."""
        return self._column("p_value")

    @property
    def flags(self) -> npt.NDArray[np.bool_]:
        """Whether each score exceeds the threshold, bool [N]."""
        return np.array([row.flag for row in self.rows], np.bool_)

    @property
    def bits_per_dim(self) -> Scores:
        """Bits per value of each image, float64 [N]."""
        return self._column("bits")

    @property
    def statistics(self) -> Statistics:
        """What the scores are computed from."""
        background = self._column("background") if "ratio" in self.calibration.scores else None
        return Statistics(self.bits_per_dim, self._column("coded"), background)

    def _column(self, name: str) -> Scores:
        values = (getattr(row, name) for row in self.rows)
        return np.array([math.nan if value is None else value for value in values], np.float64)

    def against(self, outliers: ImageScores) -> dict[Kind, Detection]:
        """How well each kind of score separates outliers from these images, taken as normal."""
        found: dict[Kind, Detection] = {}
        for kind in self.calibration.scores:
            both = [self.calibration.reference.score(kind, each.statistics) for each in (self, outliers)]
            normals, others = (values[~np.isnan(values)] for values in both)
            found[kind] = detection(normals, others)
        return found


@contextmanager
def opened(
    model: GenerativeModel, data: Any = None, split: str | None = None, changes: Overrides | None = None
) -> Iterator[ImageSource]:
    """Images for a model, fitted as its training images were.

    Args:
        model: the model.
        data: name or path of data, a configuration, levels uint8 [N, C, H, W], or other images in memory as in
            :func:`pixelloom.train`; None for the training data.
        split: train, val, test or all; default: test for the training data and named data sets, else all images.
        changes: fields of the data configuration.

    Raises:
        DataError: if the data cannot be read or do not fit the model.
        UsageError: for an unknown split.
    """
    if isinstance(data, Tensor | np.ndarray):
        levels = check_levels(data, model.spec).cpu().numpy()
        yield SplitImages("images", EVERY, Split(levels, None, model.spec.levels), model.spec, (), False)
        return
    if data is not None and not isinstance(data, str | Path | DataConfig):
        yield _of_split(load_data(model, data), split or EVERY)
        return
    config = data if isinstance(data, DataConfig) else data_for(model, None if data is None else str(data), changes)
    part = split or default_split(model, config)
    if part == EVERY and config.source not in DATASETS and holds_files(config):
        with open_files(config, model.spec) as source:
            yield source
        return
    with progress_bar() as shown:
        yield _of_split(load_for(model.spec, config, shown), part)


def _of_split(data: Dataset, name: str) -> SplitImages:
    parts_of = [data.split(part) for part in SPLITS]
    split = split_of(data, name)
    if name == EVERY and all(part.store is parts_of[0].store for part in parts_of):
        split = replace(parts_of[0], rows=None)  # all in their order, with those that occur twice
    return SplitImages(data.name, name, split, data.spec, tuple(map(str, data.classes)), data.dynamic)


@contextmanager
def normals(model: GenerativeModel, calibrate: Any = "val", changes: Overrides | None = None) -> Iterator[ImageSource]:
    """Held-out normal images: a split of the training data (val or test), or other data.

    ``changes`` are fields of the data configuration of other data.

    Raises:
        UsageError: for the training split, whose scores are too low.
        DataError: for data that the model was trained on, or without images.
    """
    if isinstance(calibrate, str) and calibrate in ("train", EVERY):
        raise UsageError(
            f"calibrate: the model was trained on images of {calibrate!r}, so their scores are too low for a "
            "threshold; calibrate on val, test, or other normal images"
        )
    own = is_own(calibrate)
    if not own and isinstance(calibrate, str | Path | DataConfig):
        _check_unseen(model, calibrate, changes)
    with opened(model, None if own else calibrate, calibrate if own else None, None if own else changes) as source:
        if not len(source.names):
            raise DataError(f"{source.title}: no held-out normal images; name some to calibrate on")
        yield source


def is_own(calibrate: Any) -> bool:
    """Whether calibration images are a split of the training data."""
    return isinstance(calibrate, str) and calibrate in SPLITS


def _check_unseen(model: GenerativeModel, data: str | Path | DataConfig, changes: Overrides | None) -> None:
    """Raises DataError for images that the model was trained on."""
    config = data if isinstance(data, DataConfig) else data_for(model, str(data), changes)
    if not model.description.training.content.get("train"):
        return
    with progress_bar() as shown:
        found = load_for(model.spec, config, shown)
    remark = seen_in_training(model.description.training, config, found, default_split(model, config))
    if remark:
        raise DataError(f"calibrate: {config.source}: {remark}")


def score_images(
    scorer: Scorer,
    calibration: Calibration,
    source: ImageSource,
    kind: Kind = "auto",
    false_alarms: float = 0.01,
    *,
    limit: int | None = None,
    csv: Path | None = None,
    on_maps: OnMaps | None = None,
    on_images: OnImages | None = None,
) -> ImageScores:
    """Score images, a batch at a time.

    Args:
        scorer: the model.
        calibration: of the scorer.
        source: the images.
        kind: of the score.
        false_alarms: the rate of the threshold.
        limit: number of images, evenly spaced; None for all.
        csv: write the rows to this file; an interrupted call continues.
        on_maps: takes the maps; needs ``scorer.maps``.
        on_images: progress.

    Raises:
        DataError: for too few calibration images, or no image.
        UsageError: for an unknown kind.
    """
    border = threshold(calibration.of(kind), false_alarms)
    rows = spaced(len(source.names), limit)
    if not rows:
        raise DataError(f"{source.title}: no image to score")

    def batches(after: int) -> Iterator[list[Row]]:
        def shown(done: int, _: int) -> None:
            if on_images is not None:
                on_images(after + done, len(rows))

        for part in parts(scorer, source, rows[after:], shown):
            batch = [Row(in_a_line(source.names[row])) for row in part.rows]
            for place, row in zip(part.taken.good, _rows(scorer, calibration, part, kind, border), strict=True):
                batch[place] = row._replace(image=batch[place].image)
            if on_maps is not None and part.bits is not None and calibration.expected is not None:
                excess = (part.bits - calibration.expected).astype(np.float32)
                on_maps([batch[place].image for place in part.taken.good], part.taken.images, excess)
            yield batch

    if csv is None:
        found = [row for batch in batches(0) for row in batch]
    else:
        with ScoreTable(csv, _key(scorer, calibration, source, rows, kind, border)) as table:
            for batch in batches(len(table.rows)):
                table.add(batch)
            found = table.rows
    if isinstance(source, FileImages) and source.changes:
        _log.info("%s: %s", source.title, "; ".join(source.notes()))
    return ImageScores(found, kind, border, false_alarms, calibration)


def _rows(scorer: Scorer, calibration: Calibration, part: Part, kind: Kind, border: float) -> list[Row]:
    """The rows of measured images, without names."""
    found = part.statistics
    scores = calibration.reference.score(kind, found)
    p = p_values(scores, calibration.of(kind))
    nats = found.bits * scorer.model.spec.dims * math.log(2)
    background = [None] * len(found) if found.background is None else found.background.tolist()
    columns = nats.tolist(), found.bits.tolist(), found.coded.tolist(), background, scores.tolist(), p.tolist()
    return [Row._make(["", *numbers, numbers[4] > border]) for numbers in zip(*columns, strict=True)]


def _key(
    scorer: Scorer, calibration: Calibration, source: ImageSource, rows: list[int], kind: Kind, border: float
) -> str:
    """What the rows of a table depend on, as a SHA-256."""
    about = [scorer.key(), source.key(rows), rows, kind, border, repr(calibration.reference), scorer.maps]
    scores = {name: values.tolist() for name, values in calibration.scores.items()}
    return hashlib.sha256(json.dumps([about, scores]).encode()).hexdigest()
