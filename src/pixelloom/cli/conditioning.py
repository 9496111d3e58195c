"""Conditioning of the images of ``pixelloom sample``: classes and conditioning images, one for all or one per row.

Image i belongs to row i modulo the number of rows, so its index determines its conditioning.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pixelloom.cli.common import image_of
from pixelloom.core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from pixelloom.cli.options import DrawOptions
    from pixelloom.core.types import Labels, Levels
    from pixelloom.data.conditions import Condition
    from pixelloom.models.family import GenerativeModel


_log = logging.getLogger("pixelloom")


@dataclass(frozen=True)
class Rows:
    """The conditioning of each row of images.

    Attributes:
        count: number of rows; 1 if all images have the same conditioning.
        labels: class of each row, int64 [count], or one for all.
        condition: conditioning image of each row, levels uint8 [count or 1, c, h, w].
        names: captions of the rows.
        folders: a folder name for each row, with --each.
        left: images to show at the left of the rows, levels uint8 [count, C, H, W].
        right: images to show at the right.
    """

    count: int = 1
    labels: Tensor | None = None
    condition: Tensor | None = None
    names: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    left: Levels | None = None
    right: Levels | None = None

    def conditioning(self, first: int, n: int) -> dict[str, Tensor]:
        """Labels and conditioning images of images first .. first + n - 1."""
        import torch

        row = torch.arange(first, first + n) % self.count
        given = {"labels": self.labels, "condition": self.condition}
        return {name: value[row % len(value)] for name, value in given.items() if value is not None}

    def classes(self, first: int, n: int) -> Labels:
        """Classes of images first .. first + n - 1, int64 [n]; the rows must have labels."""
        found: Labels = self.conditioning(first, n)["labels"].numpy()
        return found


def check(options: DrawOptions) -> None:
    """Checks that need no model."""
    for one, other in (("condition", "condition_from"), ("class_", "each_class"), ("condition_from", "each_class")):
        if getattr(options, one) not in (None, False) and getattr(options, other) not in (None, False):
            raise UsageError(f"{_option(one)}, {_option(other)}: choose one of them")
    if options.guidance and options.class_ is None and not options.each_class:
        raise UsageError("--guidance: needs --class or --each-class")
    if options.rows is not None and options.condition_from is None:
        raise UsageError("--rows: needs --condition-from")
    if options.columns is not None and (options.each_class or options.condition_from):
        raise UsageError("--columns: with --each-class or --condition-from, -n sets the length of the rows")


def _option(name: str) -> str:
    return f"--{name.rstrip('_').replace('_', '-')}"


def rows_of(options: DrawOptions, model: GenerativeModel) -> Rows:
    """The conditioning that the options ask for.

    Raises:
        UsageError: if classes or conditioning images do not fit the model, or one that it needs is missing.
        DataError: if an image file or data set cannot be read.
    """
    import torch

    condition, one = model.condition, class_of(options.class_, model)
    labels = None if one is None else torch.tensor([one])
    if condition is not None and condition.masks and (options.condition or options.condition_from):
        raise UsageError("--condition, --condition-from: use pixelloom complete, which takes images and hidden pixels")
    if condition is not None and condition.default is None and not (options.condition or options.condition_from):
        raise UsageError(
            f"--condition: this model needs a conditioning image, {condition}; name a file, or a split of the data "
            "with --condition-from"
        )
    if condition is not None and options.condition_from:
        return _of_split(options, model, condition, labels)
    given = None if condition is None or options.condition is None else read(options.condition, condition)
    return _of_classes(model, given) if options.each_class else Rows(labels=labels, condition=given)


def class_of(text: str | None, model: GenerativeModel) -> int | None:
    """The class that --class chooses: the one of that name, else the one of that number, from 0; None for None.

    Raises:
        UsageError: for a class that the model lacks.
    """
    from pixelloom.models.inputs import class_index

    if text is None:
        return None
    index = class_index(text, model.description, "--class")
    name = model.description.class_names[index]
    if name != text:
        _log.info("--class %s: no class has this name; it is number %s, %s", text, text, name)
    elif text.isdecimal() and int(text) != index:
        _log.info("--class %s: the class of this name, number %d", text, index)
    return index


def _of_classes(model: GenerativeModel, condition: Tensor | None) -> Rows:
    import torch

    classes = model.description.classes
    if not classes:
        raise UsageError("--each-class: this model is unconditional (trained without --classes)")
    names = model.description.class_names
    both = tuple(name if name == str(number) else f"{number} {name}" for number, name in enumerate(names))
    return Rows(classes, torch.arange(classes), condition, both, folder_names(names))


def folder_names(names: Sequence[str]) -> tuple[str, ...]:
    """A folder for each class, called as the class, so that the folders read back as the same classes.

    Characters that a file system may refuse become hyphens; a name that is empty or taken then gets its number.
    """
    found: list[str] = []
    for number, name in enumerate(names):
        folder = "".join(c if c.isalnum() or c in " ._-&+,'()" else "-" for c in name).strip(" .")
        taken = {other.casefold() for other in found}
        found.append(f"{folder} {number}".strip() if not folder or folder.casefold() in taken else folder)
    if changed := [f"{name!r} is {folder!r}" for name, folder in zip(names, found, strict=True) if name != folder]:
        _log.info("--each: folders of classes: %s", ", ".join(changed[:8]))
    return tuple(found)


def _of_split(options: DrawOptions, model: GenerativeModel, condition: Condition, labels: Tensor | None) -> Rows:
    from pixelloom.runs.evaluate import data_for, some_images

    assert options.condition_from is not None
    wanted = options.rows or 6
    truth = some_images(model.spec, data_for(model), options.condition_from, wanted)
    seen = condition.of(truth)
    return Rows(len(truth), labels, seen, left=condition.to_images(seen).numpy(), right=truth.numpy())


def read(path: Path, condition: Condition) -> Tensor:
    """Read a conditioning image, levels uint8 [1, c, h, w].

    Raises:
        UsageError: if it has another size.
        DataError: if it cannot be read.
    """
    spec = condition.spec
    levels = image_of("--condition", path, spec)
    if levels.shape[2:] != (spec.height, spec.width):
        size = "x".join(map(str, levels.shape[2:]))
        raise UsageError(
            f"--condition {path}: is {size} pixels, the model takes {spec.height}x{spec.width} ({condition})"
        )
    return levels
