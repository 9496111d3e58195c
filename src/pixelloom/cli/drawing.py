"""``pixelloom sample``: any number of images in bounded memory, of which none is lost once it is drawn."""

from __future__ import annotations

import logging
import re
import shlex
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pixelloom.cli import drawers, targets
from pixelloom.cli.console import Meter, say
from pixelloom.cli.drawers import Draw, counted
from pixelloom.cli.options import NO_DRAWING, DrawOptions
from pixelloom.cli.rows import Rows, check, rows_of
from pixelloom.cli.using import loaded
from pixelloom.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from pixelloom.engine.signals import Signals

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

    if options.out is None and options.each is None and options.npy is None:
        options = replace(options, out=Path("samples.png"))
    _check(options)
    found = loaded(model, options.device)
    drawers.check(found, options)
    rows = rows_of(options, found)
    options = replace(options, number=options.images * rows.count)
    targets.check(options, rows.folders)
    draw, batch = drawers.plan(found, options)
    drawing = _Drawing(
        draw,
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
    from pixelloom.sampling.latent import check_truncation

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
    targets.check(options)


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
