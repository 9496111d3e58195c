"""Options that commands share, and those of ``pixelloom sample``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, Token
from cyclopts.validators import Number

from pixelloom.core.errors import UsageError, shortened
from pixelloom.core.numbers import as_integer, as_number

Device = Literal["auto", "cpu", "cuda", "mps"]
Batch = Literal["auto"] | int
Flag = Annotated[bool, Parameter(negative="", show_default=False)]


def whole_number(_: object, tokens: Sequence[Token]) -> int:
    """The converter of integers: cyclopts alone would turn 2.5 into 2, and Python takes 1_0."""
    if (found := as_integer(tokens[0].value)) is None:
        raise ValueError(f"{shortened(tokens[0].value)!r} is not a whole number.")
    return found


def number(_: object, tokens: Sequence[Token]) -> float:
    """The converter of other numbers: finite, in decimal notation."""
    if (found := as_number(tokens[0].value)) is None:
        raise ValueError(f"{shortened(tokens[0].value)!r} is not a number.")
    return float(found)


def one_of(values: Sequence[int]) -> Callable[[object, Sequence[Token]], int]:
    """The converter of an option that takes some integers only."""

    def converter(_: object, tokens: Sequence[Token]) -> int:
        if (found := as_integer(tokens[0].value)) is None or found not in values:
            raise ValueError(f"{shortened(tokens[0].value)!r} is none of {', '.join(map(str, values))}.")
        return found

    return converter


_FROM_ONE = Parameter(validator=Number(gte=1), converter=whole_number)
_FROM_ZERO = Parameter(validator=Number(gte=0, lte=(1 << 63) - 1), converter=whole_number)
Index = Annotated[int, _FROM_ZERO]
"""A seed or an index."""
OptionalIndex = Annotated[int | None, _FROM_ZERO]
Count = Annotated[int, _FROM_ONE]
OptionalCount = Annotated[int | None, _FROM_ONE]
Real = Annotated[float, Parameter(converter=number)]
OptionalReal = Annotated[float | None, Parameter(converter=number)]
OptionalNumber = Annotated[int | None, Parameter(name=("--number", "-n")), _FROM_ONE]
"""The option -n."""
ClassName = Annotated[str | None, Parameter(name="--class", allow_leading_hyphen=True)]
"""The option --class."""


def _batch(_: object, tokens: Sequence[Token]) -> Batch:
    """The converter of --batch: without it "2.5" would be cut to 2."""
    word = tokens[0].value
    if word == "auto":
        return "auto"
    found = as_integer(word)
    if found is None or found < 1:
        raise UsageError(f"--batch: auto or a number of images, 1 or more; not {shortened(word)!r}")
    return found


@Parameter(name="*")
@dataclass(frozen=True)
class DrawOptions:
    """Number, conditioning, method and output of `sample`."""

    number: OptionalNumber = None
    """Number of images; default: 25, or 8 per row with --each-class or --condition-from."""
    seed: Index = 0
    """Seed of the noise; image i depends on the seed and i alone."""
    first: Index = 0
    """Index of the first image."""
    out: Path | None = None
    """PNG with all images; default: samples.png (samples-2.png ... if it exists), unless --each or --npy is given."""
    each: Path | None = None
    """Folder with one PNG per image, pixel for pixel."""
    npy: Path | None = None
    """NumPy file with the levels, uint8 [N, C, H, W]."""
    force: Flag = False
    """Overwrite existing files."""
    temperature: Real = 1.0
    """Divisor of the logits of a pixel model; below 1 likelier, above 1 more varied images."""
    top_k: OptionalCount = None
    """Draw each value of a pixel model from its K likeliest levels alone."""
    top_p: OptionalReal = None
    """Draw each value from the fewest levels, the likeliest ones, whose probabilities sum to P or more (nucleus)."""
    truncation: OptionalReal = None
    """Bound on the absolute values of a GAN's latent vectors; smaller gives less varied images."""
    class_: ClassName = None
    """Class of the images by name, or by number from 0 if no class has that name; `pixelloom info` lists them."""
    each_class: Flag = False
    """Sample -n images of each class, one row per class."""
    guidance: Real = 0.0
    """Weight w of classifier-free guidance, (1 + w) cond - w uncond, with --class or --each-class."""
    condition: Path | None = None
    """Conditioning image, for a model trained with --condition; `pixelloom info` shows its size."""
    condition_from: Literal["train", "val", "test"] | None = None
    """Take conditioning images from this split of the training data; a row each, with the original image."""
    rows: OptionalCount = None
    """Number of images that --condition-from takes, at even spacing in the split; default: 6."""
    given: Path | None = None
    """Image to complete: its upper rows are kept, the rest is sampled."""
    keep_rows: OptionalIndex = None
    """Number of rows of --given to keep; default: half."""
    method: Literal["fast", "plain"] = "fast"
    """fast computes each feature once; plain runs the network once per pixel."""
    batch: Annotated[Batch, Parameter(converter=_batch)] = "auto"
    """Images per batch; auto fits a bounded memory. Halved if memory runs out."""
    precision: Literal["fp32", "bf16", "fp64"] | None = None
    """Precision of the network; default: that of its weights."""
    threads: OptionalCount = None
    """CPU threads; default: chosen by measured time."""
    device: Device = "auto"
    """auto: cuda if available."""
    devices: Count = 1
    """Number of processes, which share the cores or have one GPU each; the images are those of one process."""
    columns: OptionalCount = None
    """Images per row of --out."""
    scale: OptionalCount = None
    """PNG pixels per image pixel in --out."""

    @property
    def images(self) -> int:
        """Number of images, or of images per row."""
        return self.number or (8 if self.each_class or self.condition_from else 25)

    def words(self) -> list[str]:
        """These options as words of a command line, without defaults."""
        words: list[str] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                name = "-n" if field.name == "number" else f"--{field.name.rstrip('_').replace('_', '-')}"
                words += [name] if value is True else [name, str(value)]
        return words


DEFAULT_DRAW_OPTIONS = DrawOptions()
