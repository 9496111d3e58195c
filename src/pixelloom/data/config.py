"""The ``data`` section of a run's configuration: the data set and its transforms."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

_THRESHOLD = re.compile(r"threshold@(\d*\.?\d+)")
_SIDES = re.compile(r"(\d+)x(\d+)")
_MAX_SIDE = 1 << 12


class DataConfig(BaseModel):
    """A data set and its transforms, applied in this order: gray, size, levels or binarization."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(
        "digits", description="name of a data set, or path of a folder, zip, .npz, .npy or list of files"
    )
    root: Path | None = Field(None, description="folder with <name>/<published files>; default: $PIXELLOOM_DATA")
    levels: int | None = Field(None, ge=2, le=256, description="quantize values to this number of levels")
    binarize: str = Field("none", description="none, static, dynamic or threshold@T with 0 <= T < 1")
    size: int | str | None = Field(None, description="side in pixels, or HEIGHTxWIDTH")
    gray: bool = Field(False, description="one channel, ITU-R 601 luma")
    fit: Literal["crop", "resize", "pad", "error"] = Field("crop", description="how images of another size are fitted")
    background: str = Field("white", description="color behind transparent pixels and around padded images")
    bits: Literal[8] | None = Field(None, description="8: keep the upper 8 bits of 16-bit files")
    frames: Literal["first", "all"] = Field("first", description="frames to read of animated and multipage files")
    bad_images: Literal["skip", "error"] = Field("skip", description="damaged files: skip them, or stop at the first")
    seed: int = Field(
        0, ge=0, lt=1 << 63, description="seed of shapes, colors, static bits and the splits of your own images"
    )
    cache: Path | None = Field(None, description="folder for decoded images; default: $PIXELLOOM_CACHE")
    limit: int | None = Field(None, ge=1, description="train on the first LIMIT images only")

    @field_validator("binarize")
    @classmethod
    def _known_rule(cls, rule: str) -> str:
        match = _THRESHOLD.fullmatch(rule)
        if rule not in ("none", "static", "dynamic") and not (match and 0 <= float(match[1]) < 1):
            raise ValueError(f"choose none, static, dynamic or threshold@T with 0 <= T < 1, not {rule!r}")
        return rule

    @field_validator("size")
    @classmethod
    def _positive_sides(cls, size: int | str | None) -> int | str | None:
        if isinstance(size, str) and size.isdigit():
            size = int(size)
        if size is not None and not all(1 <= side <= _MAX_SIDE for side in _sides(size)):
            raise ValueError(f"choose a side in pixels (1 to {_MAX_SIDE}) or HEIGHTxWIDTH, not {size!r}")
        return size

    @model_validator(mode="after")
    def _one_rule_for_levels(self) -> DataConfig:
        if self.binarize != "none" and self.levels not in (None, 2):
            raise ValueError(f"binarize={self.binarize} gives 2 levels, but levels is {self.levels}; remove one")
        return self

    @property
    def sides(self) -> tuple[int, int] | None:
        """The requested (height, width); None to keep the size of the images."""
        return None if self.size is None else _sides(self.size)

    @property
    def threshold(self) -> float | None:
        """T of ``threshold@T``, else None."""
        match = _THRESHOLD.fullmatch(self.binarize)
        return float(match[1]) if match else None


def _sides(size: int | str) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    match = _SIDES.fullmatch(size)
    return (int(match[1]), int(match[2])) if match else (0, 0)
