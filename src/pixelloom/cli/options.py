"""Options that commands share, and those of ``pixelloom sample``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, Token

from pixelloom.core.errors import UsageError

Device = Literal["auto", "cpu", "cuda"]
Batch = Literal["auto"] | int
Flag = Annotated[bool, Parameter(negative="", show_default=False)]


def _batch(_: object, tokens: Sequence[Token]) -> Batch:
    """The converter of --batch: by default "2.5" would be cut to 2."""
    word = tokens[0].value
    if word == "auto":
        return "auto"
    if not word.isdecimal() or int(word) < 1:
        raise UsageError(f"--batch: auto, or how many images at a time, 1 or more; not {word!r}")
    return int(word)


@Parameter(name="*")
@dataclass(frozen=True)
class DrawOptions:
    """What `sample` draws, how, and where it goes."""

    number: Annotated[int | None, Parameter(name=("--number", "-n"))] = None
    """How many, 25; with --each-class and --condition-from how many a row, 8."""
    seed: int = 0
    """Chooses the noise of every image, together with its number."""
    first: int = 0
    """Number of the first image, to go on where an earlier call stopped."""
    out: Path | None = None
    """A PNG with all of them; samples.png unless --each or --npy is given."""
    each: Path | None = None
    """A folder for one PNG an image, pixel for pixel."""
    npy: Path | None = None
    """A file for the levels, uint8 [N, C, H, W]."""
    force: Flag = False
    """Replace files that are there."""
    temperature: float = 1.0
    """Below 1 likelier images, above 1 more varied ones."""
    truncation: float | None = None
    """Of latent models: the largest absolute value in a noise vector; the smaller, the less varied the images."""
    class_: Annotated[int | None, Parameter(name="--class")] = None
    """Draw images of this class, 0 or more, from a model that was trained with --classes."""
    each_class: Flag = False
    """Draw -n images of every class, a row each."""
    guidance: float = 0.0
    """With --class or --each-class: how much to insist on it; logits (1 + w) told - w untold."""
    condition: Path | None = None
    """A picture to go by, for a model that was trained with --condition; `pixelloom info` tells its size."""
    condition_from: Literal["train", "val", "test"] | None = None
    """Go by pictures of this split of the training's data: a row each, with what was gone by and the truth."""
    rows: int | None = None
    """With --condition-from: how many pictures, 6, evenly spaced over the split."""
    given: Path | None = None
    """A picture whose upper rows are kept; the rest is drawn."""
    keep_rows: int | None = None
    """How many rows of it; by default half."""
    method: Literal["fast", "plain"] = "fast"
    """fast computes every feature once; plain is the loop of one pass a pixel."""
    batch: Annotated[Batch, Parameter(converter=_batch)] = "auto"
    """Images drawn at a time; auto as many as a bounded memory holds. Halved when memory runs out."""
    precision: Literal["fp32", "bf16", "fp64"] | None = None
    """Of the network's arithmetic; by default that of its weights."""
    threads: int | None = None
    """CPU threads to use; by default chosen by measuring steps, at most the cores that may be used."""
    device: Device = "auto"
    """auto is CUDA where there is one."""
    columns: int | None = None
    """Tiles a row of --out."""
    scale: int | None = None
    """Pixels of --out a pixel of the image."""

    @property
    def images(self) -> int:
        """How many, or how many a row."""
        return self.number or (8 if self.each_class or self.condition_from else 25)

    def words(self) -> list[str]:
        """These options as a command line has them, without those left at their default."""
        words: list[str] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                name = "-n" if field.name == "number" else f"--{field.name.rstrip('_').replace('_', '-')}"
                words += [name] if value is True else [name, str(value)]
        return words


NO_DRAWING = DrawOptions()
