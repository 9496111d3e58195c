"""Detection of defects in data of the layout of MVTec AD (Bergmann et al. 2019): images and pixels.

test/good/NAME      normal images
test/DEFECT/NAME    images with a defect
ground_truth/DEFECT/NAME_mask.png    white where the defect is
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from pixelloom.core.errors import DataError
from pixelloom.core.types import ImageSpec, Levels
from pixelloom.data.config import DataConfig
from pixelloom.data.image_source import FileImages, fit_of_one
from pixelloom.data.io.decode import Reading, decode
from pixelloom.data.io.folders import expanded
from pixelloom.data.io.listing import Listing
from pixelloom.data.io.scan import open_listing
from pixelloom.metrics.anomaly import Detection, auroc
from pixelloom.metrics.scores import Kind
from pixelloom.runs.anomaly import Maps
from pixelloom.runs.score import ImageScores, OnMaps

_GOOD = "good"
_WHITE = 128  # bytes of a mask from here on


@dataclass(frozen=True)
class DefectSet:
    """Test images and the masks of their defects."""

    images: FileImages
    listing: Listing
    masks: dict[str, int]
    """Name of a test image -> row of its mask in the listing."""
    reading: Reading

    def mask(self, name: str) -> npt.NDArray[np.bool_]:
        """True where an image has a defect, bool [H, W], fitted as the image is."""
        assert self.reading.size is not None
        if name not in self.masks:
            return np.zeros(self.reading.size, np.bool_)
        row = self.masks[name]
        pixels = decode(self.listing.read(row), self.listing.names[row], self.reading).frames[0]
        return np.asarray(pixels[..., 0] >= _WHITE)


@contextmanager
def open_defects(config: DataConfig, spec: ImageSpec) -> Iterator[DefectSet]:
    """The test images of a folder in this layout.

    Raises:
        DataError: for another layout, or a defect image without a mask.
    """
    path = expanded(Path(config.source))
    if not path.exists():
        raise DataError(f"{path}: no such folder")
    with open_listing(path) as listing:
        rows = {name: row for row, name in enumerate(listing.names)}
        tests = [name for name in listing.names if name.startswith("test/") and name.count("/") == 2]
        masks: dict[str, int] = {}
        for name in tests:
            _, defect, file = name.split("/")
            if defect == _GOOD:
                continue
            mask = f"ground_truth/{defect}/{PurePosixPath(file).stem}_mask.png"
            if mask not in rows:
                raise DataError(f"{path}: {name} has no mask {mask}")
            masks[name] = rows[mask]
        if not masks or len(masks) == len(tests):
            raise DataError(f"{path}: not of the layout mvtec: test/good/IMAGE, test/DEFECT/IMAGE, ground_truth/DEFECT")
        chosen = listing.take(np.array([rows[name] for name in tests], np.int64))
        reading = Reading((spec.height, spec.width), gray=True, fit=fit_of_one(config))
        yield DefectSet(FileImages(chosen, config, spec), listing, masks, reading)


class PixelAreas:
    """Collects maps and masks for the AUROC of pixels: an ``on_maps`` of ``score_images``, before another one."""

    def __init__(self, defects: DefectSet, further: OnMaps | None = None) -> None:
        self._defects, self._further = defects, further
        self._maps: list[npt.NDArray[np.float32]] = []
        self._masks: list[npt.NDArray[np.bool_]] = []

    def __call__(self, names: list[str], images: Levels, maps: Maps) -> None:
        """Take a batch."""
        self._maps.extend(maps)
        self._masks.extend(map(self._defects.mask, names))
        if self._further is not None:
            self._further(names, images, maps)

    def auroc(self) -> float:
        """P(map at a pixel of a defect > map at another pixel of a test image), ties counted by half."""
        values, masks = np.stack(self._maps).astype(np.float64), np.stack(self._masks)
        if not masks.any() or masks.all():
            raise DataError("ground_truth: the masks are all black or all white at the size of the model's images")
        return auroc(values[~masks], values[masks])


def of_images(scored: ImageScores) -> dict[Kind, Detection]:
    """How well each kind of score separates images with a defect from good ones."""
    good = [row for row in scored.rows if row.image.split("/")[1] == _GOOD]
    bad = [row for row in scored.rows if row.image.split("/")[1] != _GOOD]
    return replace(scored, rows=good).against(replace(scored, rows=bad))
