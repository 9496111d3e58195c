"""``pixelloom sample``: any number of images in bounded memory, of which none is lost once it is drawn."""

from __future__ import annotations

import logging
import re
import shlex
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelloom.cli import outputs
from pixelloom.cli.common import image_of, loaded, log_threads
from pixelloom.cli.conditioning import Rows, check, rows_of
from pixelloom.cli.console import Meter, memory, say
from pixelloom.cli.options import NO_DRAWING, DrawOptions
from pixelloom.core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from pixelloom.core.types import ImageSpec
    from pixelloom.engine.signals import Signals
    from pixelloom.models.family import Ability, GenerativeModel

_log = logging.getLogger("pixelloom")
_HELD = 1 << 26  # bytes of levels that one call of the sampler returns at most

Draw = Callable[..., "Tensor"]
"""(n, first, batch, on_step, and what the rows tell) -> levels uint8 [n, C, H, W]"""


def sample(model: str, /, *, options: DrawOptions = NO_DRAWING) -> None:
    """Draw images. The same seed gives the same pictures, whatever the batch.

    An interrupt (Ctrl-C) keeps the images that are done, and says how to go on.

    Args:
        model: A run folder, a model folder, or the name of a run under runs/.
        options: How many, how, and where to.
    """
    from pixelloom.engine.signals import Signals

    if options.out is None and options.each is None and options.npy is None:
        options = replace(options, out=Path("samples.png"))
    _check(options)
    found = loaded(model, options.device)
    _check_abilities(found, options)
    rows = rows_of(options, found)
    options = replace(options, number=options.images * rows.count)
    outputs.check(options, rows.folders)
    draw, batch = _plan(found, options)
    drawing = _Drawing(
        draw,
        replace(options, batch=batch),
        outputs.Targets(options, found.spec, rows),
        rows,
        max(rows.count, _HELD // found.spec.dims),
    )
    with Signals() as signals:
        try:
            drawing.run(batch, signals)
            drawing.targets.close()
        except BaseException:  # a signal, a full disk, no memory, a fault of ours: what is done is done
            drawing.rescue(model)
            raise
    labels = outputs.labels_beside(options.npy) if options.npy and rows.folders else None
    for target in filter(None, (options.out, options.each, options.npy, labels)):
        say(str(target))


def _check(options: DrawOptions) -> None:
    """What can be found wrong before the model is loaded."""
    from pixelloom.heads.discrete import check_temperature
    from pixelloom.sampling.latent_noise import check_truncation

    for option, value, least in (
        ("-n", options.number, 1),
        ("--seed", options.seed, 0),
        ("--first", options.first, 0),
        ("--columns", options.columns, 1),
        ("--scale", options.scale, 1),
        ("--rows", options.rows, 1),
        ("--threads", options.threads, 1),
    ):
        if value is not None and value < least:
            raise UsageError(f"{option}: must be {least} or more, not {value}")
    check_temperature(options.temperature)
    check_truncation(options.truncation, "--truncation")
    if options.given is None and options.keep_rows is not None:
        raise UsageError("--keep-rows: of which picture? name it with --given")
    check(options)
    outputs.check(options)


@dataclass
class _Drawing:
    """Draws batch after batch into the targets.

    Attributes:
        draw: what draws them.
        options: with the number of images at a time; the last that fitted the memory, if one did not.
        targets: where the images go.
        rows: what they are drawn by.
        held: how many images one call of ``draw`` may return.
    """

    draw: Draw
    options: DrawOptions
    targets: outputs.Targets
    rows: Rows
    held: int

    def run(self, batch: int, signals: Signals) -> None:
        """Draw all of them; a batch that does not fit the memory is halved.

        Raises:
            Interrupted: after a signal.
            UsageError: if a single image does not fit the memory, or the disk is full.
        """
        from pixelloom.engine.memory import out_of_memory

        number = self.options.images
        with Meter(f"drawing {counted(number)}", number) as meter:
            while self.targets.done < number:
                rest = number - self.targets.done
                try:
                    self._some(min(rest, max(batch, self.held // batch * batch)), batch, meter, signals)
                except (MemoryError, RuntimeError) as error:
                    if not out_of_memory(error):
                        raise
                    count = min(batch, number - self.targets.done)
                    if count <= 1:
                        raise UsageError("out of memory with a single image; --device cpu may have more") from error
                    batch = count // 2
                    self.options = replace(self.options, batch=batch)
                    _log.warning("out of memory with %s at a time; going on with --batch %d", counted(count), batch)

    def _some(self, count: int, batch: int, meter: Meter, signals: Signals) -> None:
        """The next images, in whole batches: each goes to the targets after its last step."""
        from pixelloom.engine.signals import Interrupted

        drawn = False

        def on_step(step: int, steps: int, images: Tensor) -> None:
            nonlocal drawn
            done, drawn = self.targets.taken, True
            meter.show(
                done + len(images) * step / steps, f"{done} done, step {step} of {steps} of the next {len(images)}"
            )
            if step == steps:
                self.targets.put(images.cpu().numpy())
            if signals.received and self.targets.done < self.options.images:
                raise Interrupted(f"stopped by {signal.Signals(signals.received).name}", 128 + signals.received)

        self.targets.begin()
        first = self.options.first + self.targets.done
        images = self.draw(count, first=first, batch=batch, on_step=on_step, **self.rows.told(first, count))
        if not drawn:  # everything was given: not a step to take
            self.targets.put(images.numpy())

    def rescue(self, model: str) -> None:
        """Keep what is done, and say how to go on."""
        try:
            self.targets.close()
        except UsageError as error:
            _log.warning("%s", error)
        options, done = self.options, self.targets.done
        kept = ", ".join(map(str, self.targets.kept))
        if not kept:
            return
        rest = replace(
            options,
            number=(options.images - done) // self.rows.count,
            first=options.first + done,
            out=_beside(options.out, options.first + done),
            npy=_beside(options.npy, options.first + done),
        )
        command = shlex.join(["pixelloom", "sample", model, *rest.words()])
        more = f"; go on with: {command}" if rest.number else ""
        _log.info("kept %d of %d images in %s%s", done, options.images, kept, more)


def _beside(path: Path | None, first: int) -> Path | None:
    """A name for the images that follow: what is there stays."""
    return path and path.with_stem(re.sub(r"-from-\d+$", "", path.stem) + f"-from-{first}")


# Option -> the ability that it needs.
_NEEDS: dict[str, Ability] = {
    "temperature": "temperature",
    "truncation": "truncation",
    "guidance": "guidance",
    "condition": "condition",
    "condition_from": "condition",
    "given": "completion",
    "method": "method",
    "precision": "precision",
}
_PASSED = ("temperature", "truncation", "guidance", "method", "precision")  # to the model's sample


def _check_abilities(model: GenerativeModel, options: DrawOptions) -> None:
    """Raises UsageError for an option that needs an ability which the model lacks."""
    from pixelloom.models.registry import require

    for name, ability in _NEEDS.items():
        if getattr(options, name) != getattr(NO_DRAWING, name):
            require(model, ability, f"--{name.replace('_', '-')}")


def _plan(model: GenerativeModel, options: DrawOptions) -> tuple[Draw, int]:
    """A function that samples, and the batch size; logs the cost.

    Raises:
        UsageError: if options do not fit the model.
        DataError: if an image file cannot be read.
    """
    from pixelloom.models.registry import family_of

    settings: dict[str, Any] = {name: getattr(options, name) for name in _PASSED if _NEEDS[name] in model.can}
    settings["threads"] = options.threads
    if options.given is not None:
        settings["given"], settings["mask"] = _known(options.given, options.keep_rows, model.spec)
    asked = None if options.batch == "auto" else options.batch
    cost = family_of(model).sampling_cost(model, options.images, asked, settings)
    size = "" if cost.bytes_per_image is None else f", {memory(cost.bytes_per_image)} per image"
    _log.info("%s%s, batches of %s", cost.work, size, counted(cost.batch))
    log_threads(model, options.threads)
    return partial(model.sample, seed=options.seed, **settings), cost.batch


def _known(path: Path, rows: int | None, spec: ImageSpec) -> tuple[Tensor, Tensor]:
    """A picture as the model's levels, uint8 [1, C, H, W], and where it counts, bool of the same shape."""
    import torch

    rows = spec.height // 2 if rows is None else rows
    if not 0 <= rows <= spec.height:
        raise UsageError(f"--keep-rows: 0 to {spec.height} rows, not {rows}")
    levels = image_of("--given", path, spec, fitted=True)
    mask = torch.zeros(1, *spec.shape, dtype=torch.bool)
    mask[:, :, :rows] = True
    return levels, mask


def counted(n: int) -> str:
    """So many images, in words."""
    return f"{n} image" if n == 1 else f"{n} images"
