"""The ``data`` section of a run's configuration: the data set and its transforms."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pixelloom.data.io.split_names import SPLITS

if TYPE_CHECKING:  # NumPy and Pillow, which the command line does not need
    from pixelloom.data.io.layout import Labeling
    from pixelloom.data.io.reading import Reading

_COLOR = re.compile(r"#[0-9a-f]{6}")
_THRESHOLD = re.compile(r"threshold@(\d*\.?\d+)")
_SIDES = re.compile(r"(\d+)x(\d+)")
_SHAPE = re.compile(r"\d+x\d+(x\d+)?")
_MAX_SIDE = 1 << 12


class DataConfig(BaseModel):
    """A data set and its transforms, applied in this order: gray, size, levels, palette or binarization."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(
        "digits", description="name of a data set, path of a folder, zip, .npz, .npy or list of files, or hf:USER/NAME"
    )
    root: Path | None = Field(None, description="folder with <name>/<published files>; default: $PIXELLOOM_DATA")
    levels: int | None = Field(None, ge=2, le=256, description="quantize values to this number of levels")
    palette: int | str | None = Field(
        None,
        description="color images as indices of a palette: its number of colors, fitted to the training images, or the "
        "colors, as #rrggbb,#rrggbb",
    )
    binarize: str = Field("none", description="none, static, dynamic or threshold@T with 0 <= T < 1")
    size: int | str | None = Field(None, description="side in pixels, or HEIGHTxWIDTH")
    gray: bool = Field(False, description="one channel, ITU-R 601 luma")
    fit: Literal["crop", "resize", "pad", "tiles", "error"] = Field(
        "crop", description="how images of another size are fitted; tiles cuts files into pieces of the size"
    )
    resample: Literal["antialias", "nearest"] = Field(
        "antialias", description="filter for resizing; nearest adds no colors, for sprites and pixel art"
    )
    background: str = Field("white", description="color behind transparent pixels and around padded images")
    bits: Literal[8] | None = Field(None, description="8: keep the upper 8 bits of 16-bit files")
    range: str | None = Field(
        None,
        description="values that become 0 to 255 in 16-bit files and arrays of other types: LOW:HIGH, or max for 0 to "
        "the largest of a file",
    )
    frames: Literal["first", "all"] = Field("first", description="frames to read of animated and multipage files")
    bad_images: Literal["skip", "error"] = Field("skip", description="damaged files: skip them, or stop at the first")
    splits: str | None = Field(
        None, description="folders of splits, as train=FOLDER,test=FOLDER, or none; default: by their names"
    )
    class_level: int | None = Field(None, ge=1, description="folder level that names the class; default: the first")
    labels: str | None = Field(None, description="file with labels, or none to ignore labels")
    label_column: int | None = Field(None, ge=0, description="which label to take of several per image, from 0")
    image_column: str | None = Field(None, description="column of images in Parquet files; default: found by its type")
    shape: str | None = Field(None, description="shape of flat images in arrays, HEIGHTxWIDTH or CHANNELSxHEIGHTxWIDTH")
    transpose: bool = Field(False, description="swap rows and columns of the images in arrays, as EMNIST needs")
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

    @field_validator("palette")
    @classmethod
    def _valid_palette(cls, palette: int | str | None) -> int | str | None:
        return None if palette is None else checked_palette(palette)

    @field_validator("size")
    @classmethod
    def _positive_sides(cls, size: int | str | None) -> int | str | None:
        if isinstance(size, str) and size.isdigit():
            size = int(size)
        if size is not None and not all(1 <= side <= _MAX_SIDE for side in _sides(size)):
            raise ValueError(f"choose a side in pixels (1 to {_MAX_SIDE}) or HEIGHTxWIDTH, not {size!r}")
        return size

    @field_validator("range")
    @classmethod
    def _valid_range(cls, text: str | None) -> str | None:
        if text is not None:
            from pixelloom.data.io.value_range import ValueRange

            ValueRange.parse(text)
        return text

    @field_validator("splits")
    @classmethod
    def _valid_splits(cls, text: str | None) -> str | None:
        _split_folders(text)
        return text

    @field_validator("shape")
    @classmethod
    def _valid_shape(cls, text: str | None) -> str | None:
        if text is not None and (not _SHAPE.fullmatch(text) or not all(1 <= n <= _MAX_SIDE for n in _numbers(text))):
            raise ValueError(f"choose HEIGHTxWIDTH or CHANNELSxHEIGHTxWIDTH, such as 28x28, not {text!r}")
        return text

    @model_validator(mode="after")
    def _one_scale(self) -> DataConfig:
        if self.bits is not None and self.range is not None:
            raise ValueError("bits=8 is range=0:65535; give one of bits and range")
        return self

    @model_validator(mode="after")
    def _one_rule_for_levels(self) -> DataConfig:
        if self.binarize != "none" and self.levels not in (None, 2):
            raise ValueError(f"binarize={self.binarize} gives 2 levels, but levels is {self.levels}; remove one")
        return self

    @model_validator(mode="after")
    def _colors_for_a_palette(self) -> DataConfig:
        if self.palette is not None and (self.binarize != "none" or self.levels is not None or self.gray):
            raise ValueError(
                "palette gives color images levels of its own; remove gray, levels and binarize, or palette"
            )
        return self

    @property
    def sides(self) -> tuple[int, int] | None:
        """The requested (height, width); None to keep the size of the images."""
        return None if self.size is None else _sides(self.size)

    @property
    def reading(self) -> Reading:
        """The options of reading files and arrays."""
        from pixelloom.data.io.reading import Reading
        from pixelloom.data.io.value_range import ValueRange

        return Reading(
            self.sides,
            self.gray,
            self.fit,
            self.background,
            self.bits,
            self.frames,
            self.bad_images,
            None if self.range is None else ValueRange.parse(self.range),
            None if self.shape is None else _numbers(self.shape),
            self.transpose,
            self.resample,
        )

    @property
    def labeling(self) -> Labeling:
        """The options of finding splits and classes."""
        from pixelloom.data.io.layout import Labeling

        return Labeling(
            _split_folders(self.splits), self.class_level, self.labels, self.label_column, self.image_column
        )

    @property
    def threshold(self) -> float | None:
        """T of ``threshold@T``, else None."""
        match = _THRESHOLD.fullmatch(self.binarize)
        return float(match[1]) if match else None


def checked_palette(palette: int | str) -> int | str:
    """A number of colors from 2 to 256, or as many different colors, "#rrggbb,...", in lower case.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(palette, str) and palette.isdecimal() and len(palette) < 4:
        palette = int(palette)
    if isinstance(palette, int):
        if not 2 <= palette <= 256:
            raise ValueError(f"choose 2 to 256 colors, not {palette}")
        return palette
    colors = [color.strip() for color in palette.lower().split(",")]
    if not all(_COLOR.fullmatch(color) for color in colors):
        raise ValueError("give a number of colors, or colors as #rrggbb,#rrggbb")
    if not 2 <= len(set(colors)) == len(colors) <= 256:
        raise ValueError(f"choose 2 to 256 different colors, not {len(colors)} with {len(set(colors))} different ones")
    return ",".join(colors)


def _sides(size: int | str) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    match = _SIDES.fullmatch(size)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _numbers(shape: str) -> tuple[int, ...]:
    return tuple(int(side) for side in shape.split("x"))


def _split_folders(text: str | None) -> tuple[tuple[str, str], ...] | None:
    """(folder, split) pairs of ``train=FOLDER,test=FOLDER``; () for none.

    Raises:
        ValueError: for another text.
    """
    if text is None:
        return None
    if text == "none":
        return ()
    pairs = [(folder, split) for split, _, folder in (item.partition("=") for item in text.split(","))]
    if not all(folder and split in SPLITS for folder, split in pairs) or len(dict(pairs)) < len(pairs):
        raise ValueError(f"choose train=FOLDER,val=FOLDER,test=FOLDER (some of them) or none, not {text!r}")
    return tuple(pairs)
