"""Options that several commands share. Each stands for a field of the configuration; unset is None."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter, Token

from pixelloom.core.errors import UsageError

Device = Literal["auto", "cpu", "cuda"]
Batch = Literal["auto"] | int
Flag = Annotated[bool, Parameter(negative="", show_default=False)]

_DATA = Group("Data", sort_key=1)
_TRAINING = Group("Training", sort_key=2)
_FIELDS = Group("Any field of the configuration (pixelloom config RECIPE prints them all)", sort_key=3)


@Parameter(name="*", group=_DATA)
@dataclass(frozen=True)
class DataOptions:
    """Which pictures, and in which form."""

    data: str | None = None
    """Name of a data set, or path of a folder, zip, .npz, .npy or .txt list of pictures."""
    data_root: str | None = None
    """Folder that holds <name>/<published files>; else $PIXELLOOM_DATA."""
    levels: int | None = None
    """Levels of each value, 2 to 256."""
    binarize: str | None = None
    """none, static, dynamic, or threshold@T such as threshold@0.33."""
    size: str | None = None
    """Side in pixels, or HEIGHTxWIDTH."""
    gray: bool | None = None
    """One channel."""
    fit: Literal["crop", "resize", "pad", "error"] | None = None
    """What to do with pictures of another size."""
    background: str | None = None
    """Color beneath transparent pixels and around padded pictures."""
    bits: Literal[8] | None = None
    """8 reads 16-bit files by their upper 8 bits."""
    frames: Literal["first", "all"] | None = None
    """Of animated and multipage files."""
    bad_images: Literal["skip", "error"] | None = None
    """What to do with damaged files."""

    def settings(self) -> dict[str, object]:
        """Fields of the data configuration that were set."""
        names = {"data": "source", "data_root": "root"}
        return {names.get(name, name): value for name, value in set_fields(self).items()}


@Parameter(name="*", group=_TRAINING)
@dataclass(frozen=True)
class TrainOptions:
    """How long, where and from which seed."""

    minutes: float | None = None
    """Budget in wall-clock time; a budget given here takes the place of the recipe's."""
    images: int | None = None
    """Budget in images seen."""
    epochs: float | None = None
    """Budget in passes over the training set."""
    seed: int | None = None
    """Of the weights, the order of the data, dropout and samples."""
    precision: Literal["auto", "fp32", "bf16"] | None = None
    """auto is bf16 where the hardware has it."""
    device: Device | None = None
    """auto is CUDA where there is one."""
    devices: int | None = None
    """Processes on this machine, one device each."""
    threads: int | None = None
    """CPU threads of a process; by default chosen by measuring steps before the first one, and kept in config.yaml."""


@Parameter(name="*", group=_FIELDS)
@dataclass(frozen=True)
class Fields:
    """Dotted fields of the configuration; values are read as YAML."""

    model: Annotated[dict[str, str] | None, Parameter(name="--model")] = None
    """The network, as in --model.channels 64"""
    data: Annotated[dict[str, str] | None, Parameter(name="--data")] = None
    """As in --data.limit 1000"""
    head: Annotated[dict[str, str] | None, Parameter(name="--head")] = None
    """As in --head.channels independent"""
    optim: Annotated[dict[str, str] | None, Parameter(name="--optim")] = None
    """As in --optim.lr 1e-3"""
    train: Annotated[dict[str, str] | None, Parameter(name="--train")] = None
    """As in --train.batch 64"""
    discriminator: Annotated[dict[str, str] | None, Parameter(name="--discriminator")] = None
    """As in --discriminator.lr 4e-4"""
    generator: Annotated[dict[str, str] | None, Parameter(name="--generator")] = None
    """As in --generator.lr 1e-4"""
    penalties: Annotated[dict[str, str] | None, Parameter(name="--penalties")] = None
    """As in --penalties.r1 10"""
    augment: Annotated[dict[str, str] | None, Parameter(name="--augment")] = None
    """As in --augment.translation 0.125; set one to 0 for none"""
    loss: Literal["non-saturating", "hinge", "least-squares", "wasserstein", "relativistic"] | None = None
    """Of generator and discriminator."""
    d_steps: int | None = None
    """Steps of the discriminator for one of the generator."""
    joint_batch: bool | None = None
    """One pass of the discriminator over real and generated images."""
    matching_aware: bool | None = None
    """With --classes: real images told as another class than theirs count as generated ones too."""
    features: Literal["auto", "lenet-mnist", "random", "pixels"] | None = None
    """By which the kernel distance that chooses the best latent model is measured."""
    inputs: Literal["unit", "symmetric", "standard", "embedding"] | None = None
    """Model space: [0, 1], [-1, 1], mean 0 and deviation 1, or a learned vector for each level."""
    embedding: int | None = None
    """With --inputs embedding: features of each vector."""
    classes: bool | None = None
    """Tell the network the class of each image, from the labels of the data."""
    label_dropout: float | None = None
    """Share of the images whose class is not told in training."""
    condition: str | None = None
    """Picture that the network goes by, made of the image itself: downsample@2, downsample@4, ..., or edges."""
    validation_images: int | None = None
    """Images of the validation split that are scored while training."""
    samples: int | None = None
    """Images drawn at the end."""

    def dotted(self) -> dict[str, object]:
        """{"model.channels": "64", "samples": 9}; a hyphen in a field's name may stand for its underscore."""
        flat: dict[str, object] = {}
        for name, value in set_fields(self).items():
            if isinstance(value, dict):
                flat |= {f"{name}.{key.replace('-', '_')}": item for key, item in value.items()}
            else:
                flat[name] = value
        return flat


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


def set_fields(options: DataOptions | TrainOptions | Fields) -> dict[str, object]:
    """The options that were given."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: value for name, value in values.items() if value is not None}


NO_DATA, NO_TRAINING, NO_FIELDS, NO_DRAWING = DataOptions(), TrainOptions(), Fields(), DrawOptions()
