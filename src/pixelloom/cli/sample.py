"""``pixelloom sample``: samples any number of images in bounded memory, and keeps finished ones when interrupted."""

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
from pixelloom.cli.common import check_model, image_of, in_processes, loaded, log_threads
from pixelloom.cli.conditioning import Rows, check, rows_of
from pixelloom.cli.console import Meter, memory, say
from pixelloom.cli.options import DEFAULT_DRAW_OPTIONS, DrawOptions
from pixelloom.core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from pixelloom.core.types import ImageSpec
    from pixelloom.engine.signals import Signals
    from pixelloom.models.family import Ability, GenerativeModel

_log = logging.getLogger("pixelloom")
_HELD = 1 << 26  # bytes of images from one call of the sampler, at most

Draw = Callable[..., "Tensor"]
"""(n, first, batch, on_step, conditioning) -> levels uint8 [n, C, H, W]"""


def sample(model: str, /, *, options: DrawOptions = DEFAULT_DRAW_OPTIONS) -> None:
    """Sample images. The same seed gives the same images for any batch size.

    An interrupt (Ctrl-C) keeps the finished images, and prints the command that continues.

    Args:
        model: Run folder, model folder, or name of a run under runs/ or of a pretrained model.
        options: Number, conditioning, method and output.
    """
    check_model(model)
    if options.out is None and options.each is None and options.npy is None:
        options = replace(options, out=outputs.free(Path("samples.png"), force=options.force))
    _check(options)
    found = loaded(model, options.device)
    _check_abilities(found, options)
    with in_processes(found, options.devices, options.threads) as found:
        _sample(model, found, options)


def _sample(name: str, model: GenerativeModel, options: DrawOptions) -> None:
    """Sample, and print the names of the files."""
    from pixelloom.engine.signals import Signals

    rows = rows_of(options, model)
    options = replace(options, number=options.images * rows.count)
    outputs.check(options, rows.folders)
    draw, batch = _plan(model, options)
    drawing = _Drawing(
        draw,
        replace(options, batch=batch),
        outputs.Targets(options, model.spec, rows),
        rows,
        max(rows.count, _HELD // model.spec.dims),
    )
    with Signals() as signals:
        try:
            drawing.run(batch, signals)
            drawing.targets.close()
        except BaseException:  # whatever happened, keep the finished images
            drawing.rescue(name)
            raise
    labels = outputs.labels_path(options.npy) if options.npy and rows.folders else None
    for target in filter(None, (options.out, options.each, options.npy, labels)):
        say(str(target))


def _check(options: DrawOptions) -> None:
    """Checks that need no model."""
    from pixelloom.heads.discrete import check_temperature
    from pixelloom.heads.likeliest import check_likeliest
    from pixelloom.sampling.latent_noise import check_truncation

    check_temperature(options.temperature)
    check_likeliest(options.top_k, options.top_p)
    check_truncation(options.truncation, "--truncation")
    if options.given is None and options.keep_rows is not None:
        raise UsageError("--keep-rows: needs --given")
    check(options)
    outputs.check(options)


@dataclass
class _Drawing:
    """Samples batch after batch into the output files.

    Attributes:
        draw: samples images.
        options: options of the command, with the current batch size.
        targets: the output files.
        rows: labels and conditioning images.
        held: number of images that one call of ``draw`` may return.
    """

    draw: Draw
    options: DrawOptions
    targets: outputs.Targets
    rows: Rows
    held: int

    def run(self, batch: int, signals: Signals) -> None:
        """Sample all images; if memory runs out, the batch size is halved.

        Raises:
            Interrupted: after a signal.
            UsageError: if a single image does not fit the memory, or the disk is full.
        """
        from pixelloom.engine.memory import out_of_memory

        number = self.options.images
        with Meter(f"sampling {counted(number)}", number) as meter:
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
                    _log.warning("out of memory with batches of %s; continuing with --batch %d", counted(count), batch)

    def _some(self, count: int, batch: int, meter: Meter, signals: Signals) -> None:
        """Sample the next images in whole batches; a batch goes to the targets after its last step."""
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
        images = self.draw(count, first=first, batch=batch, on_step=on_step, **self.rows.conditioning(first, count))
        if not drawn:  # all pixels were given, so there was no step
            self.targets.put(images.numpy())

    def rescue(self, model: str) -> None:
        """Keep the finished images, and log the command that continues."""
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
        more = f"; continue with: {command}" if rest.number else ""
        _log.info("kept %d of %d images in %s%s", done, options.images, kept, more)


def _beside(path: Path | None, first: int) -> Path | None:
    """Another file name for the remaining images."""
    return path and path.with_stem(re.sub(r"-from-\d+$", "", path.stem) + f"-from-{first}")


# Option -> the ability that it needs.
_NEEDS: dict[str, Ability] = {
    "temperature": "temperature",
    "top_k": "temperature",
    "top_p": "temperature",
    "truncation": "truncation",
    "guidance": "guidance",
    "condition": "condition",
    "condition_from": "condition",
    "given": "given",
    "method": "method",
    "precision": "precision",
}
_PASSED = ("temperature", "top_k", "top_p", "truncation", "guidance", "method", "precision")  # to the model's sample


def _check_abilities(model: GenerativeModel, options: DrawOptions) -> None:
    """Raises UsageError for an option that needs an ability which the model lacks."""
    from pixelloom.models.registry import require

    for name, ability in _NEEDS.items():
        if getattr(options, name) != getattr(DEFAULT_DRAW_OPTIONS, name):
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
    log_threads(model, options.threads, options.devices)
    return partial(model.sample, seed=options.seed, **settings), cost.batch


def _known(path: Path, rows: int | None, spec: ImageSpec) -> tuple[Tensor, Tensor]:
    """An image in the model's levels, uint8 [1, C, H, W], and the mask of its known pixels, bool of the same shape."""
    import torch

    rows = spec.height // 2 if rows is None else rows
    if not 0 <= rows <= spec.height:
        raise UsageError(f"--keep-rows: 0 to {spec.height} rows, not {rows}")
    levels = image_of("--given", path, spec, fitted=True)
    mask = torch.zeros(1, *spec.shape, dtype=torch.bool)
    mask[:, :, :rows] = True
    return levels, mask


def counted(n: int) -> str:
    """A number of images in words."""
    return f"{n} image" if n == 1 else f"{n} images"
