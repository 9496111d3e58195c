"""``pixelloom sample``: any number of images in bounded memory, of which none is lost once it is drawn."""

from __future__ import annotations

import logging
import re
import shlex
import signal
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pixelloom.cli import targets
from pixelloom.cli.console import Meter, memory, say
from pixelloom.cli.options import NO_DRAWING, DrawOptions
from pixelloom.cli.rows import Rows, check, rows_of
from pixelloom.cli.using import loaded, picture, settle_threads
from pixelloom.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from pixelloom.engine.signals import Signals
    from pixelloom.models import PixelModel
    from pixelloom.types import ImageSpec

_log = logging.getLogger("pixelloom")
_HELD = 1 << 26  # bytes of levels that one call of the sampler returns at most


def sample(model: str, /, *, options: DrawOptions = NO_DRAWING) -> None:
    """Draw images. The same seed gives the same pictures, whatever the batch.

    An interrupt (Ctrl-C) keeps the images that are done, and says how to go on.

    Args:
        model: A run folder, a model folder, or the name of a run under runs/.
        options: How many, how, and where to.
    """
    from pixelloom.engine.signals import Signals
    from pixelloom.families import need
    from pixelloom.models import PixelModel

    if options.out is None and options.each is None and options.npy is None:
        options = replace(options, out=Path("samples.png"))
    _check(options)
    found = need(loaded(model, options.device), PixelModel, "pixelloom sample")
    rows = rows_of(options, found)
    options = replace(options, number=options.images * rows.count)
    targets.check(options, rows.folders)
    known, mask = _known(options.given, options.keep_rows, found.spec) if options.given else (None, None)
    batch = _planned(found, options, mask)
    drawing = _Drawing(
        partial(
            found.sample,
            seed=options.seed,
            temperature=options.temperature,
            given=known,
            mask=mask,
            guidance=options.guidance,
            method=options.method,
            precision=options.precision,
        ),
        replace(options, batch=batch),
        targets.Targets(options, found.spec, rows),
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
    labels = targets.labels_beside(options.npy) if options.npy and rows.folders else None
    for target in filter(None, (options.out, options.each, options.npy, labels)):
        say(str(target))


def _check(options: DrawOptions) -> None:
    """What can be found wrong before the model is loaded."""
    from pixelloom.likelihoods import check_temperature

    for option, value, least in (
        ("-n", options.number, 1),
        ("--seed", options.seed, 0),
        ("--first", options.first, 0),
        ("--columns", options.columns, 1),
        ("--scale", options.scale, 1),
        ("--rows", options.rows, 1),
    ):
        if value is not None and value < least:
            raise UsageError(f"{option}: must be {least} or more, not {value}")
    check_temperature(options.temperature)
    if options.given is None and options.keep_rows is not None:
        raise UsageError("--keep-rows: of which picture? name it with --given")
    check(options)
    targets.check(options)


def _planned(model: PixelModel, options: DrawOptions, mask: Tensor | None) -> int:
    """Images at a time; says what drawing them takes."""
    from pixelloom.models import PLAIN_BATCH

    spec, asked = model.spec, None if options.batch == "auto" else options.batch
    if options.method == "plain":
        batch = asked or min(options.images, PLAIN_BATCH)
        settle_threads(model, batch)
        passes = spec.height * spec.width * model.head.groups
        _log.info("%d passes of the network, %s at a time", passes, _images(batch))
        return batch
    sampler = model.fast_sampler(options.precision, mask, options.guidance)
    batch = asked or sampler.batch(options.images)
    settle_threads(model, batch, sampler.steps)
    pixels = spec.height * spec.width if mask is None else int((~mask[0]).any(0).sum())
    each = memory(sampler.bytes_per_image)
    _log.info("%d steps for %d pixels, %s an image, %s at a time", sampler.steps, pixels, each, _images(batch))
    return batch


def _images(n: int) -> str:
    return f"{n} image" if n == 1 else f"{n} images"


def _known(path: Path, rows: int | None, spec: ImageSpec) -> tuple[Tensor, Tensor]:
    """A picture as the model's levels, uint8 [1, C, H, W], and where it counts, bool of the same shape."""
    import torch

    rows = spec.height // 2 if rows is None else rows
    if not 0 <= rows <= spec.height:
        raise UsageError(f"--keep-rows: 0 to {spec.height} rows, not {rows}")
    levels = picture("--given", path, spec, fitted=True)
    mask = torch.zeros(1, *spec.shape, dtype=torch.bool)
    mask[:, :, :rows] = True
    return levels, mask


@dataclass
class _Drawing:
    """Draws batch after batch into the targets.

    Attributes:
        draw: (n, first, batch, on_step) -> images
        options: with the number of images at a time; the last that fitted the memory, if one did not.
        targets: where the images go.
        rows: what they are drawn by.
        held: how many images one call of ``draw`` may return.
    """

    draw: Callable[..., Tensor]
    options: DrawOptions
    targets: targets.Targets
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
        with Meter(f"drawing {_images(number)}", number) as meter:
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
                    _log.warning("out of memory with %s at a time; going on with --batch %d", _images(count), batch)

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
