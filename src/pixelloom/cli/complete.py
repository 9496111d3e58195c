"""``pixelloom complete``: draws the hidden pixels of images, given all known ones."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from pixelloom.cli import outputs
from pixelloom.cli.common import check_model, image_of, loaded
from pixelloom.cli.conditioning import class_of
from pixelloom.cli.console import Meter, say
from pixelloom.cli.options import ClassName, Count, Device, Flag, Index, OptionalCount, Real, whole_number
from pixelloom.core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from pixelloom.core.types import ImageSpec, Levels
    from pixelloom.models.completion import Completions
    from pixelloom.models.pixel import PixelModel

_log = logging.getLogger("pixelloom")
_TOGETHER = 8  # images that are completed in one call
_HIDDEN = (59, 110, 165)  # RGB, of hidden pixels in the first column


@Parameter(name="*")
@dataclass(frozen=True)
class CompleteOptions:
    """Hidden pixels, number, method and output of `complete`."""

    mask: Path | None = None
    """Image file of the model's size: white pixels are hidden and drawn, black ones are known."""
    box: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """ROW,COLUMN,HEIGHT,WIDTH of a hidden box, from 0."""
    hide: str | None = None
    """Hidden region: bottom, top, left, right, center, or a share of random pixels such as 75%."""
    number: Annotated[int, Parameter(name=("--number", "-n"), validator=Number(gte=1), converter=whole_number)] = 8
    """Completions of each image."""
    method: Literal["auto", "order", "mask", "particles"] = "auto"
    """order, mask or particles; auto takes an exact one if the model has it."""
    particles: Count = 256
    """Number of particles, with the method particles."""
    rows: OptionalCount = None
    """Without image files: number of test images, at even spacing in the split; default: 6."""
    seed: Index = 0
    """Seed of the samples."""
    temperature: Real = 1.0
    """Divisor of the logits; below 1 for likelier completions."""
    class_: ClassName = None
    """Class of all images, by name or number, for a model that was trained with --classes."""
    out: Path | None = None
    """PNG with a row per image: given, completions, truth; default: completed.png, completed-2.png and so on."""
    npy: Path | None = None
    """Write the completions as a NumPy array as well, levels uint8 [images, n, C, H, W]."""
    json: Flag = False
    """Print one JSON object: method, log-probabilities in nats, effective sample sizes."""
    device: Device = "auto"
    """auto is CUDA where there is one."""
    force: Flag = False
    """Replace outputs that exist."""


DEFAULT = CompleteOptions()


def complete(model: str, /, *images: Path, options: CompleteOptions = DEFAULT) -> None:
    """Complete partly known images: draw the hidden pixels given all known ones, which stay as they are.

    Args:
        model: Run folder, model folder, or name of a run under runs/ or of a pretrained model.
        images: Image files, fitted to the model; by default images of the test split that the model was trained on.
        options: Hidden pixels, number, method and output.
    """
    check_model(model)
    from pixelloom.models.completion import warn_of_collapse
    from pixelloom.models.registry import require

    out = outputs.free(Path("completed.png"), force=options.force) if options.out is None else options.out
    outputs.check_image(out, options.force)
    if options.npy is not None:
        if options.npy.suffix != ".npy":
            raise UsageError(f"--npy {options.npy}: writes a NumPy array; name a file that ends in .npy")
        outputs.check_file(options.npy, options.force)
    _one_of(options)
    if images and options.rows is not None:
        raise UsageError("--rows: is for images of the test split; leave it out with image files")
    found = loaded(model, options.device)
    require(found, "completion", "pixelloom complete")
    label, hidden = class_of(options.class_, found), _mask(options, found.spec)
    levels = _images(found, images, options)
    for path in filter(None, (out, options.npy)):
        outputs.probe(path.parent)
    done = _completed(found, levels, hidden, label, options)  # type: ignore[arg-type]  # the ability of pixel models
    warn_of_collapse(done, options.particles)
    if options.npy is not None:
        outputs.write_array(options.npy, done.images.numpy())
    with outputs.writing(out):
        _grid(found.spec, levels, hidden, done, out)
    _report(done, hidden, found.spec, [str(path) for path in filter(None, (out, options.npy))], as_json=options.json)


def _one_of(options: CompleteOptions) -> None:
    given = [name for name in ("mask", "box", "hide") if getattr(options, name) is not None]
    if len(given) != 1:
        wrong = "give one of them" if not given else "choose one of them"
        raise UsageError(f"--mask, --box, --hide: {wrong}, to say which pixels are hidden, such as --hide bottom")


def _mask(options: CompleteOptions, spec: ImageSpec) -> Tensor:
    """The hidden pixels, bool [H, W].

    Raises:
        UsageError: for an unknown region, a box outside the image, or a mask of another size.
    """
    from pixelloom.core.types import ImageSpec
    from pixelloom.data.masks import box, region

    if options.hide is not None:
        return region(options.hide, spec.height, spec.width, options.seed)
    if options.box is not None:
        numbers = [number.strip() for number in options.box.split(",")]
        if len(numbers) != 4 or not all(number.isdecimal() and len(number) < 10 for number in numbers):
            raise UsageError(f"--box: four numbers ROW,COLUMN,HEIGHT,WIDTH, from 0, not {options.box!r}")
        row, column, height, width = map(int, numbers)
        return box((row, column, height, width), spec.height, spec.width)
    assert options.mask is not None
    levels = image_of("--mask", options.mask, ImageSpec(1, spec.height, spec.width, 256))[0, 0]
    if tuple(levels.shape) != (spec.height, spec.width):
        size = "x".join(map(str, levels.shape))
        raise UsageError(f"--mask {options.mask}: is {size} pixels, the model's images have {spec.height}x{spec.width}")
    return levels >= 128


def _images(model: Any, paths: tuple[Path, ...], options: CompleteOptions) -> Tensor:
    """The images, levels uint8 [N, C, H, W]."""
    import torch

    from pixelloom.runs.evaluate import data_for, some_images

    if paths:
        return torch.cat([image_of("IMAGE", path, model.spec, fitted=True) for path in paths])
    return some_images(model.spec, data_for(model), "test", options.rows or 6)


def _completed(
    model: PixelModel, levels: Tensor, hidden: Tensor, label: int | None, options: CompleteOptions
) -> Completions:
    """Complete some images at a time, with progress; the memory of a batch does not grow with their number."""
    import torch

    from pixelloom.models.completion import Completions
    from pixelloom.models.completion import complete as draw

    parts: list[Completions] = []
    condition = None if model.condition is None or model.condition.masks else model.condition.of(levels)
    with Meter(f"completing {len(levels)} images", len(levels)) as meter:
        for first in range(0, len(levels), _TOGETHER):
            some = slice(first, first + _TOGETHER)
            found = draw(
                model, levels[some], hidden, options.number, seed=options.seed, method=options.method,
                labels=label, condition=None if condition is None else condition[some],
                temperature=options.temperature, particles=options.particles, first=first,
            )  # fmt: skip
            parts.append(found)
            meter.show(first + len(found.images))
    sizes = [part.ess for part in parts if part.ess is not None]
    return Completions(
        torch.cat([part.images for part in parts]),
        torch.cat([part.log_prob for part in parts]),
        torch.cat(sizes) if sizes else None,
        parts[0].method,
    )


def _grid(spec: ImageSpec, levels: Tensor, hidden: Tensor, done: Completions, out: Path) -> None:
    """A row per image: the given pixels with hidden ones in blue, the completions, the image itself."""
    import numpy as np

    from pixelloom.data.pixels import to_bytes
    from pixelloom.viz.grid import save_png, table

    def shown(images: Tensor) -> Levels:
        """Levels [N, C, H, W] -> RGB bytes [N, 3, H, W]."""
        found = to_bytes(images.numpy(), spec.display)
        return np.repeat(found, 3, axis=1) if found.shape[1] == 1 else found[:, :3]

    truth = shown(levels)
    given = np.where(hidden.numpy(), np.array(_HIDDEN, np.uint8)[:, None, None], truth)
    drawn = shown(done.images.transpose(0, 1).flatten(0, 1))  # [N, n, ...] -> [n * N, ...]: image i is of row i % N
    save_png(table(drawn, 256, len(levels), left=given, right=truth), out)


def _report(done: Completions, hidden: Tensor, spec: ImageSpec, paths: list[str], *, as_json: bool) -> None:
    """Log what was done; print the outputs, or one JSON object."""
    values = int(hidden.sum()) * spec.channels
    words = {"order": "exact, in a pixel order", "mask": "given all known pixels", "particles": "by particles"}
    _log.info("method: %s (%s); %d of %d values hidden", done.method, words[done.method], values, spec.dims)
    if values:
        mean = -float(done.log_prob.mean())
        _log.info("completions: %.2f nats each, %.4f nats per hidden value", mean, mean / values)
    if done.ess is not None:
        _log.info("effective sample size: at least %.1f (smallest over the images)", float(done.ess.min()))
    if not as_json:
        for path in paths:
            say(path)
        return
    found = {
        "method": done.method,
        "hidden_values": values,
        "log_prob": done.log_prob.tolist(),
        "ess": None if done.ess is None else done.ess.tolist(),
        "outputs": paths,
    }
    say(json.dumps(found))
