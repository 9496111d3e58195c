"""What the images of ``pixelloom sample`` are drawn by: nothing, a class, a picture; or one row each of several.

Image number i belongs to row i modulo the number of rows, so that a number alone tells what an image was drawn by.
"""

from __future__ import annotations

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


@dataclass(frozen=True)
class Rows:
    """Several rows, or one for all images.

    Attributes:
        count: of rows.
        labels: class for each row, int64 [count], or one for all.
        condition: picture to go by for each row, levels uint8 [count or 1, c, h, w].
        names: of the rows.
        folders: of the images of each row, if they go into one each.
        left: an image at the beginning of each row, levels uint8 [count, C, H, W].
        right: and at its end.
    """

    count: int = 1
    labels: Tensor | None = None
    condition: Tensor | None = None
    names: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    left: Levels | None = None
    right: Levels | None = None

    def told(self, first: int, n: int) -> dict[str, Tensor]:
        """What a model is told about images first .. first + n - 1."""
        import torch

        row = torch.arange(first, first + n) % self.count
        given = {"labels": self.labels, "condition": self.condition}
        return {name: value[row % len(value)] for name, value in given.items() if value is not None}

    def classes(self, first: int, n: int) -> Labels:
        """Of images first .. first + n - 1, int64 [n], where the rows have them."""
        found: Labels = self.told(first, n)["labels"].numpy()
        return found


def check(options: DrawOptions) -> None:
    """What can be found wrong before the model is loaded."""
    for one, other in (("condition", "condition_from"), ("class_", "each_class"), ("condition_from", "each_class")):
        if getattr(options, one) not in (None, False) and getattr(options, other) not in (None, False):
            raise UsageError(f"{_option(one)}, {_option(other)}: choose one of them")
    if options.guidance and options.class_ is None and not options.each_class:
        raise UsageError("--guidance: towards which class? name it with --class, or draw --each-class")
    if options.rows is not None and options.condition_from is None:
        raise UsageError("--rows: of which pictures? name a split with --condition-from")
    if options.columns is not None and (options.each_class or options.condition_from):
        raise UsageError("--columns: rows are as long as -n says")


def _option(name: str) -> str:
    return f"--{name.rstrip('_').replace('_', '-')}"


def rows_of(options: DrawOptions, model: GenerativeModel) -> Rows:
    """What was asked for, for this model.

    Raises:
        UsageError: for a class or picture that the model does not know, or one that it needs.
        DataError: if a picture or data set cannot be read.
    """
    import torch

    condition, one = model.condition, options.class_
    check_class(one, model.description.classes)
    labels = None if one is None else torch.tensor([one])
    if condition is not None and not (options.condition or options.condition_from):
        raise UsageError(
            f"--condition: this model needs a conditioning image, {condition}; name a file, or a split of the data "
            "with --condition-from"
        )
    if condition is not None and options.condition_from:
        return _of_split(options, model, condition, labels)
    given = None if condition is None or options.condition is None else read(options.condition, condition)
    return _of_classes(model, given) if options.each_class else Rows(labels=labels, condition=given)


def check_class(one: int | None, classes: int) -> None:
    """Raises UsageError for a class that a model of so many does not know."""
    if one is not None and not 0 <= one < classes:
        known = f"has classes 0 to {classes - 1}" if classes else "was trained without classes (train --classes)"
        raise UsageError(f"--class {one}: this model {known}")


def _of_classes(model: GenerativeModel, condition: Tensor | None) -> Rows:
    import torch

    classes = model.description.classes
    if not classes:
        raise UsageError("--each-class: this model was trained without classes (train --classes)")
    known = list(model.description.training.classes)
    numbers = list(map(str, range(classes)))
    names = known if len(known) == classes else numbers
    both = tuple(name if name == number else f"{number} {name}" for number, name in zip(numbers, names, strict=True))
    folders = tuple("".join(c if c.isalnum() or c in " ._-" else "-" for c in name).strip(" .") for name in both)
    return Rows(classes, torch.arange(classes), condition, both, folders)


def _of_split(options: DrawOptions, model: GenerativeModel, condition: Condition, labels: Tensor | None) -> Rows:
    from pixelloom.runs.evaluate import data_for, some_images

    assert options.condition_from is not None
    wanted = options.rows or 6
    truth = some_images(model.spec, data_for(model), options.condition_from, wanted)
    seen = condition.of(truth)
    return Rows(len(truth), labels, seen, left=condition.to_images(seen).numpy(), right=truth.numpy())


def read(path: Path, condition: Condition) -> Tensor:
    """A picture to go by, levels uint8 [1, c, h, w].

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
