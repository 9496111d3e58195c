"""The table of named data sets, and :func:`load`: from a configuration to splits of uint8 levels."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np

from pixelloom.core.errors import DataError, did_you_mean
from pixelloom.core.types import ImageSpec
from pixelloom.data import synthetic
from pixelloom.data.config import DataConfig
from pixelloom.data.hub_source import source_path
from pixelloom.data.io import published_formats
from pixelloom.data.io.download import PUBLISHED, Progress, provide
from pixelloom.data.io.folders import KINDS, exists, expanded, read_images
from pixelloom.data.io.idx import read_idx
from pixelloom.data.io.published_formats import CIFAR_CLASSES
from pixelloom.data.io.reading import printable
from pixelloom.data.splits import (
    NAMES,
    Dataset,
    Split,
    assemble,
    content_hashes,
    count_note,
    from_published,
    from_splits,
    split_by_hash,
)
from pixelloom.data.transforms import in_color, resized, transformed
from pixelloom.data.user_splits import from_user
from pixelloom.hub.reference import is_reference

log = logging.getLogger("pixelloom")

__all__ = ["DATASETS", "DataConfig", "Dataset", "Entry", "Split", "load", "load_for"]

DIGITS = tuple("0123456789")
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclass(frozen=True)
class Entry:
    """Reader and one-line description of a named data set."""

    read: Callable[[DataConfig, Progress | None], Dataset]
    description: str


def load(config: DataConfig, progress: Progress | None = None) -> Dataset:
    """Load the data set of a configuration in disjoint splits.

    Transforms are applied in this order: gray, size, then quantization or binarization.

    Args:
        config: name or path of the data, and its transforms.
        progress: called while missing files are downloaded.

    Raises:
        DataError: for an unknown name, and files that are missing, damaged or have too few images.
        UsageError: for an option that does not fit the images.
    """
    entry = DATASETS.get(config.source)
    if entry and Path(config.source).exists():
        log.warning("%s: the data set of this name is used, not the folder or file ./%s", config.source, config.source)
    data = resized(entry.read(config, progress), config) if entry else _user_images(config)
    return transformed(data, config)


def load_for(spec: ImageSpec, config: DataConfig, progress: Progress | None = None) -> Dataset:
    """Load a data set for a model of images of one shape. For a color model, gray images get three equal channels.

    Raises:
        DataError: as :func:`load`, and for images of another shape or number of levels.
    """
    if spec.palette is not None:  # that of the model, whatever the data are
        none = {"gray": False, "levels": None, "binarize": "none"}
        config = config.model_copy(update={"palette": spec.palette, **none})
    data = load(config, progress)
    if spec.channels == 3 and data.spec == replace(spec, channels=1):
        data = in_color(data)
    if data.spec != spec:
        raise DataError(
            f"{config.source}: images are {data.spec}, the model was trained on {spec}; "
            "convert them with --size, --gray, --levels or --binarize"
        )
    return data


def _digits(_: DataConfig, __: Progress | None) -> Dataset:
    with resources.files("pixelloom.data").joinpath("embedded/digits.npz").open("rb") as file:
        archive = np.load(file, allow_pickle=False)
        images, labels = archive["images"], archive["labels"].astype(np.int64)
    test, val, train = split_by_hash(content_hashes(images), 0.16, 0.08)
    whole = Split(images, labels, 17)
    return assemble("digits", whole.subset(train), whole.subset(val), whole.subset(test), DIGITS)


def _idx(name: str, classes: tuple[str, ...], config: DataConfig, progress: Progress | None) -> Dataset:
    files = [remote.name for remote in PUBLISHED[name]]

    def located(folder: Path, file: str) -> Path:
        """The file, or its unzipped copy if only that exists."""
        plain = folder / file.removesuffix(".gz")
        return plain if not (folder / file).is_file() and plain.is_file() else folder / file

    folder = provide(name, config.root, lambda folder: all(located(folder, f).is_file() for f in files), progress)
    splits: list[Split] = []
    for image_file, label_file in (files[:2], files[2:]):
        images, labels = (
            read_idx(located(folder, image_file)),
            read_idx(located(folder, label_file)),
        )
        if (
            images.dtype != np.uint8
            or images.shape[1:] != (28, 28)
            or labels.shape != images.shape[:1]
            or labels.max(initial=0) > 9
        ):
            raise DataError(
                f"{located(folder, image_file)}: {images.shape} images with {labels.shape} labels in {label_file}, "
                f"not N 28x28 images and N labels in 0..9; download both again"
            )
        splits.append(Split(images[:, None], labels.astype(np.int64)))  # [N, 28, 28] -> [N, 1, 28, 28]
    whole, test = splits
    return from_published(name, whole, test, classes, (60000, 10000))


def _cifar10(config: DataConfig, progress: Progress | None) -> Dataset:
    folder = provide("cifar10", config.root, lambda folder: bool(published_formats.cifar_files(folder)), progress)
    batches = published_formats.cifar_files(folder)
    train, test = (Split(*published_formats.read_cifar(batches[name])) for name in ("train", "test"))
    return from_published("cifar10", train, test, CIFAR_CLASSES, (50000, 10000))


def _binarized_mnist(config: DataConfig, progress: Progress | None) -> Dataset:
    files = [remote.name for remote in PUBLISHED["binarized-mnist"]]
    folder = provide("binarized-mnist", config.root, lambda f: all((f / file).is_file() for file in files), progress)
    train, val, test = (Split(published_formats.read_amat(folder / file, 28, 28), levels=2) for file in files)
    notes = [
        count_note("training", train, 50000),
        count_note("validation", val, 10000),
        count_note("test", test, 10000),
    ]
    return from_splits("binarized-mnist", train, val, test, (), *notes)


def _shapes(config: DataConfig, _: Progress | None) -> Dataset:
    sides = config.sides or (32, 32)
    train, val, test = (Split(*synthetic.shapes(n, *sides, config.seed, i)) for i, n in enumerate((6000, 1000, 1000)))
    return from_splits("shapes", train, val, test, synthetic.SHAPES)


def _colored_mnist(config: DataConfig, progress: Progress | None) -> Dataset:
    gray = _mnist(config, progress)

    def colored(split: Split, stream: int) -> Split:
        images, labels = split.all()
        return Split(synthetic.color_digits(images, config.seed, stream), labels, synthetic.COLOR_LEVELS)

    train, val, test = (colored(gray.split(name), i) for i, name in enumerate(NAMES))
    return from_splits("colored-mnist", train, val, test, DIGITS, gray.note)


def _sevens_and_eights(config: DataConfig, progress: Progress | None) -> Dataset:
    gray = _mnist(config, progress)
    sides = config.sides or (64, 64)

    def chosen(split: Split, count: int, stream: int) -> Split:
        labels = np.asarray(split.labels)
        members = synthetic.choose(labels, (7, 8), count, config.seed, stream)
        return Split(synthetic.resample(split.take(members)[0], *sides), (labels[members] == 8).astype(np.int64))

    # Images of each digit, from MNIST's train, val and test splits: few for training, enough for metrics.
    counts = (200, 400, 900)
    train, val, test = (chosen(gray.split(name), counts[i], i) for i, name in enumerate(NAMES))
    return from_splits("sevens-and-eights", train, val, test, ("7", "8"), gray.note)


_mnist = partial(_idx, "mnist", DIGITS)

DATASETS: dict[str, Entry] = {
    "digits": Entry(_digits, "1797 handwritten digits, 1x8x8, 17 levels (UCI, CC BY 4.0); included in the package"),
    "shapes": Entry(_shapes, "colored circles, squares and triangles, 3x32x32 or any size; synthetic"),
    "mnist": Entry(_mnist, "handwritten digits, 1x28x28"),
    "fashion-mnist": Entry(partial(_idx, "fashion-mnist", FASHION), "clothing, 1x28x28 (MIT)"),
    "cifar10": Entry(_cifar10, "photographs of ten classes, 3x32x32"),
    "binarized-mnist": Entry(_binarized_mnist, "Larochelle's static binarization of MNIST, 1x28x28, 2 levels"),
    "colored-mnist": Entry(
        _colored_mnist, "MNIST digits inverted into patches of a colored scene, 3x28x28, 4 levels; from mnist"
    ),
    "sevens-and-eights": Entry(_sevens_and_eights, "200 sevens and 200 eights for training, 1x64x64; from mnist"),
}


def check_source(source: str) -> None:
    """Check that a data set or a path has this name; needs no torch, so that a typo is a fast error.

    Raises:
        DataError: otherwise. A data set of the hub is not looked up.
    """
    path = expanded(Path(source))
    if source in DATASETS or is_reference(source) or exists(path):
        return
    if path.name == source and not path.suffix:
        raise DataError(
            f"data.source: no data set or path is named {printable(source)!r}."
            f"{did_you_mean(source, DATASETS)} Choose {', '.join(DATASETS)}, or give the path of {KINDS}"
        )
    raise DataError(f"{printable(source)}: no such file or folder; give {KINDS}")


def _user_images(config: DataConfig) -> Dataset:
    """Read a user's images; splits are named by folders or arrays, or 80/10/10 by content hash."""
    path = source_path(config)
    check_source(config.source)
    decoded = read_images(path, config.reading, config.cache, config.labeling)
    whole = Split(decoded.images, decoded.labels, decoded.source_levels)
    commit = f"commit {path.name} of the hub" if is_reference(config.source) else ""
    note = "; ".join(filter(None, (decoded.note, commit)))
    return from_user(config.source, whole, decoded.splits, decoded.classes, note, config.seed, decoded.files)
