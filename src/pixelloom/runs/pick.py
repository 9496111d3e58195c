"""The recipe of a run that names data but no recipe: a table of rules, the first of which that applies is used.

:data:`RULES` is also the table of docs/how-to/which-recipe.md. Nothing here reads files; see
:mod:`pixelloom.runs.image_facts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pixelloom.networks.gan.resolutions import SIZES

TINY = 12
"""Largest side of images for the recipe ``digits``, whose network has a small receptive field."""
FEW_LEVELS = 16
FEW_COLOR_LEVELS = 4
"""Largest number of levels of a color image for a pixel model: it draws three channels of each pixel in turn."""
FEW_IMAGES = 25
"""Fewer images are too few to select a GAN by its KID, which needs 20 for validation."""
LONG = 60.0
"""Minutes on one CPU core from which on 64x64 pixels are affordable; on CUDA any budget is long enough."""
CPU_SIDE, LARGE_SIDE = 32, 64
"""Largest side of images in pixels, within a short and a long time."""
IMAGES = 60_000
"""Budget of a pixel model in images, if none is given; GANs have that of their recipe."""


@dataclass(frozen=True)
class ImageFacts:
    """What the rules know of a data set.

    Attributes:
        count: number of images of all splits.
        height: in pixels, after ``--size``; for images of several sizes the median of the shorter sides.
        width: likewise.
        channels: 1 or 3.
        levels: number of levels per channel that keeps all values that were seen apart, at most 256.
        stored: number of levels of the data as they are configured.
        colors: number of different colors or gray values that were seen, at most 256.
        sized: whether ``--size`` is given.
        mixed: whether images have several sizes.
        palette: whether ``--palette`` is given.
    """

    count: int
    height: int
    width: int
    channels: int
    levels: int
    stored: int = 256
    colors: int = 256
    sized: bool = False
    mixed: bool = False
    palette: bool = False

    @property
    def square(self) -> bool:
        """Whether a GAN takes images of this size."""
        return self.height == self.width and self.height in SIZES

    @property
    def side(self) -> int:
        """The shorter side."""
        return min(self.height, self.width)

    def __str__(self) -> str:
        black_and_white = self.levels == 2 and self.channels == 1
        kind = "color" if self.channels == 3 or self.palette else "black-and-white" if black_and_white else "gray"
        size = "several sizes" if self.mixed else f"{self.height}x{self.width}"
        what = "colors" if self.channels == 3 or self.palette else "gray values"
        few = f", {self.colors} {what}" if self.colors <= FEW_LEVELS and not black_and_white else ""
        return f"{self.count:,} {kind} image{'s' * (self.count != 1)} of {size}{few}"


@dataclass(frozen=True)
class Means:
    """Device and budget of a run: whether it has CUDA, and its budget in minutes if it has one."""

    cuda: bool = False
    minutes: float | None = None

    @property
    def long(self) -> bool:
        """Whether 64x64 pixels are affordable."""
        return self.cuda or (self.minutes or 0) >= LONG

    def __str__(self) -> str:
        budget = "" if self.minutes is None else f", {self.minutes:g} minute{'s' * (self.minutes != 1)}"
        return ("CUDA" if self.cuda else "CPU") + budget


@dataclass(frozen=True)
class Rule:
    """One row of the table.

    Attributes:
        when: condition in words.
        applies: the condition.
        recipe: name of the recipe.
        why: reason, for the log line and the page.
        gan: whether the recipe is one of a GAN, which takes squares of certain sizes.
        levels: largest number of levels; images of more are quantized.
    """

    when: str
    applies: Callable[[ImageFacts, Means], bool]
    recipe: str
    why: str
    gan: bool = False
    levels: int = 256


@dataclass(frozen=True)
class Choice:
    """A recipe, the settings that are changed for the images, and the reason."""

    recipe: str
    overrides: Mapping[str, object]
    why: str


RULES = (
    Rule(
        "`--palette`",
        lambda images, _: images.palette,
        "gated-pixelcnn",
        "a pixel model of indices has only colors of the palette, and one value a pixel",
    ),
    Rule(
        f"both sides at most {TINY} pixels",
        lambda images, _: max(images.height, images.width) <= TINY,
        "digits",
        "a small pixel model learns images of this size in a minute",
        levels=2 * FEW_LEVELS,
    ),
    Rule(
        f"fewer than {FEW_IMAGES} images",
        lambda images, _: images.count < FEW_IMAGES,
        "gated-pixelcnn",
        "so few images cannot validate a GAN; expect a model that repeats them",
        levels=FEW_LEVELS,
    ),
    Rule(
        "two levels (black and white)",
        lambda images, _: images.levels == 2 and images.channels == 1,
        "gated-pixelcnn",
        "a pixel model with exact likelihood is good at two levels within minutes",
    ),
    Rule(
        f"gray with at most {FEW_LEVELS} levels",
        lambda images, _: images.levels <= FEW_LEVELS and images.channels == 1,
        "gated-pixelcnn",
        "a pixel model with exact likelihood is good at few levels within minutes",
    ),
    Rule(
        f"color with at most {FEW_COLOR_LEVELS} levels per channel",
        lambda images, _: images.levels <= FEW_COLOR_LEVELS,
        "gated-pixelcnn",
        "a pixel model with exact likelihood is good at few colors within minutes",
    ),
    Rule(
        "`--size` other than a square of " + ", ".join(map(str, SIZES)),
        lambda images, _: images.sized and not images.square,
        "gated-pixelcnn",
        f"GANs take squares of {', '.join(map(str, SIZES))} pixels only, and a pixel model few levels",
        levels=FEW_LEVELS,
    ),
    Rule(
        f"a side of {LARGE_SIDE} and more, with CUDA or a budget of {LONG:g} minutes and more",
        lambda images, means: means.long and images.side >= LARGE_SIDE,
        "sagan",
        "self-attention and spectral norm give better images than `dcgan` once there is time for them",
        gan=True,
    ),
    Rule(
        "all others: gray and color images of many levels",
        lambda *_: True,
        "dcgan",
        "a GAN has whole shapes within minutes, a pixel model of color images only textures",
        gan=True,
    ),
)
"""The first rule that applies is used."""


def pick(images: ImageFacts, means: Means, *, budget: bool = False) -> Choice:
    """Pick the recipe for some images, with a size and number of levels that its network can learn in the time.

    Args:
        images: description of the images.
        means: device and budget.
        budget: whether a budget is given; otherwise pixel models get one of IMAGES images.
    """
    rule = next(rule for rule in RULES if rule.applies(images, means))
    changes: dict[str, object] = {}
    if not images.sized and (size := _size(images, means, rule)):
        changes["data.size"] = size
    levels = min(images.levels, rule.levels)
    if not rule.gan and levels != images.stored:
        changes["data.levels"] = levels
    if not (budget or rule.gan):
        changes["train.images"] = IMAGES
    given = "".join(f" --{name.partition('.')[2]} {value}" for name, value in changes.items())
    return Choice(rule.recipe, changes, f"{rule.recipe}{given} for {images} ({means}): {rule.why}")


def _size(images: ImageFacts, means: Means, rule: Rule) -> int | str | None:
    """The size to resize to; None to keep that of the images."""
    most = LARGE_SIDE if means.long else CPU_SIDE
    if rule.gan:
        side = min(most, min(SIZES, key=lambda size: (abs(size - images.side), -size)))
        return None if images.square and not images.mixed and images.height == side else side
    if images.mixed or max(images.height, images.width) > most:
        return min(most, images.side)
    return None
