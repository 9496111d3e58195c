"""``pixelloom sample`` and ``evaluate``: what a trained model is for."""

from __future__ import annotations

import io
import logging
import os
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from pixelloom.cli.console import Meter, say, say_json
from pixelloom.cli.options import NO_DATA, DataOptions, Device, Flag
from pixelloom.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from pixelloom.metrics.likelihood import Likelihood
    from pixelloom.models import PixelModel
    from pixelloom.types import ImageSpec, Levels

_log = logging.getLogger("pixelloom")
_SMALL = 500_000_000  # multiply-adds of a pass; below, a second thread gains little and loses much on a busy machine


def sample(
    model: str,
    /,
    *,
    number: Annotated[int, Parameter(name=("--number", "-n"))] = 25,
    seed: int = 0,
    first: int = 0,
    out: Path | None = None,
    each: Path | None = None,
    npy: Path | None = None,
    force: Flag = False,
    method: Literal["plain"] = "plain",
    temperature: float = 1.0,
    batch: int = 64,
    device: Device = "auto",
    columns: int | None = None,
    scale: int | None = None,
    given: Path | None = None,
    keep_rows: int | None = None,
) -> None:
    """Draw images. The same seed gives the same pictures, whatever the batch.

    Args:
        model: A run folder, a model folder, or the name of a run under runs/.
        number: How many.
        seed: Chooses the noise of every image, together with its number.
        first: Number of the first image, to go on where an earlier call stopped.
        out: A PNG with all of them; samples.png unless --each or --npy is given.
        each: A folder for one PNG an image, pixel for pixel.
        npy: A file for the levels, uint8 [N, C, H, W].
        force: Replace files that are there.
        method: plain is the loop of one pass a pixel.
        temperature: Below 1 likelier images, above 1 more varied ones.
        batch: Images drawn at a time; halved when memory runs out.
        device: auto is CUDA where there is one.
        columns: Tiles a row of --out.
        scale: Pixels of --out a pixel of the image.
        given: A picture whose upper rows are kept; the rest is drawn.
        keep_rows: How many rows of it; by default half.
    """
    from pixelloom import plots

    if out is None and each is None and npy is None:
        out = Path("samples.png")
    for option, value in (("--batch", batch), ("--columns", columns), ("--scale", scale)):
        if value is not None and value < 1:
            raise UsageError(f"{option}: must be 1 or more, not {value}")
    singles = [each / f"{i:05d}.png" for i in range(first, first + number)] if each else []
    _check_targets([*filter(None, (out, npy)), *singles], given, force)
    found = _loaded(model, device)
    known, mask = _known(given, keep_rows, found.spec) if given else (None, None)
    if given is None and keep_rows is not None:
        raise UsageError("--keep-rows: of which picture? name it with --given")
    draw = partial(found.sample, seed=seed, temperature=temperature, method=method, given=known, mask=mask)
    _settle_threads(found, min(batch, number))
    images, levels = _draw(draw, number, first, batch, found.spec).numpy(), found.spec.levels
    if out:
        plots.save_png(plots.grid(images, levels, columns, scale), out)
    for path, image in zip(singles, images, strict=False):
        plots.save_png(plots.picture(image, levels), path)
    if npy:
        _save_npy(images, npy)
    for target in filter(None, (out, each, npy)):
        say(str(target))


def _save_npy(images: Levels, path: Path) -> None:
    import numpy as np

    from pixelloom.engine.tensors import write_bytes

    buffer = io.BytesIO()
    np.save(buffer, images, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def _loaded(name: str, device: Device) -> PixelModel:
    from pixelloom import api
    from pixelloom.engine.config import TrainConfig
    from pixelloom.engine.fabric import choose_device

    chosen = choose_device(TrainConfig(device=device))
    return api.load(name).to(chosen)


def _settle_threads(model: PixelModel, batch: int) -> None:
    """One CPU thread for small passes. A rule, not a measurement: the number of threads decides the last bits."""
    import torch

    if model.device.type == "cpu" and model.parameters * model.spec.height * model.spec.width * batch < _SMALL:
        torch.set_num_threads(1)


def _check_targets(targets: list[Path], given: Path | None, force: bool) -> None:
    """Before the slow part: may all of these be written?"""
    for path in targets:
        if given is not None and path.resolve() == given.resolve():
            raise UsageError(f"{path}: is the picture that was given; write to another file")
        if path.is_dir():
            raise UsageError(f"{path}: is a folder; name a file")
        if path.exists() and not force:
            raise UsageError(f"{path}: exists already; choose another name, or replace it by --force")
    for folder in {path.parent for path in targets}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{folder}: cannot be made: {error.strerror}") from error
        if not os.access(folder, os.W_OK):
            raise UsageError(f"{folder}: cannot be written; choose another folder")


def _known(path: Path, rows: int | None, spec: ImageSpec) -> tuple[Tensor, Tensor]:
    """A picture as the model's levels, uint8 [1, C, H, W], and where it counts, bool of the same shape."""
    import torch

    from pixelloom.data.decode import Reading, decode
    from pixelloom.data.pixels import quantise

    rows = spec.height // 2 if rows is None else rows
    if not 0 <= rows <= spec.height:
        raise UsageError(f"--keep-rows: 0 to {spec.height} rows, not {rows}")
    if spec.channels not in (1, 3):
        raise UsageError(f"--given: a picture has 1 or 3 channels, the model's images {spec.channels}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    reading = Reading((spec.height, spec.width), grey=spec.channels == 1)
    pixels = decode(content, str(path), reading).frames[0].transpose(2, 0, 1)[None]
    levels = torch.from_numpy(quantise(pixels, 256, spec.levels)).expand(1, *spec.shape)
    mask = torch.zeros(1, *spec.shape, dtype=torch.bool)
    mask[:, :, :rows] = True
    return levels, mask


def _draw(draw: Callable[..., Tensor], number: int, first: int, batch: int, spec: ImageSpec) -> Tensor:
    """All images, batch by batch, with progress; a batch that does not fit the memory is halved."""
    import torch

    from pixelloom.engine.memory import out_of_memory

    parts: list[Tensor] = []
    done = 0
    with Meter(f"drawing {number} images", number * spec.height) as meter:
        while done < number or not parts:
            count = min(batch, number - done)
            begun = meter.done
            try:
                parts.append(draw(count, first=first + done, batch=count, on_row=lambda row, x: meter.advance(len(x))))
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                if count == 1:
                    raise UsageError("out of memory with a single image; --device cpu may have more") from error
                batch = count // 2
                _log.warning("out of memory with %d images at a time; going on with --batch %d", count, batch)
                meter.done = begun
                continue
            done += count
    return torch.cat(parts)


def evaluate(
    model: str,
    /,
    *,
    split: Literal["train", "val", "test"] = "test",
    limit: int | None = None,
    device: Device = "auto",
    json: Flag = False,
    pictures: DataOptions = NO_DATA,
) -> None:
    """Measure the exact likelihood of a data set: nats and bits, with N and a 95 % interval.

    Without options, the data that the model was trained on; others are read in the same form (levels, size, ...).

    Args:
        model: A run folder, a model folder, or the name of a run under runs/.
        split: Models are chosen on val; test is what to report.
        limit: Score so many images, evenly spaced over the split.
        device: auto is CUDA where there is one.
        json: One JSON object with all figures.
        pictures: The data.
    """
    from pixelloom import api, runs
    from pixelloom.engine.memory import out_of_memory

    if limit is not None and limit < 1:
        raise UsageError(f"--limit: must be 1 or more, not {limit}")
    found = _loaded(model, device)
    settings = pictures.settings()
    source = settings.pop("source", None)
    config = api.data_for(found, None if source is None else str(source), settings)
    _settle_threads(found, 64)
    try:
        figures, dataset = runs.evaluate(found, config, split, limit=limit)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise UsageError("out of memory while scoring; --device cpu may have more") from error
    facts = {
        "model": str(runs.find(model)),
        "data": config.source,
        "split": split,
        "of": len(dataset.split(split)),
        "levels": dataset.spec.levels,
        "binarize": config.binarize,
        "note": dataset.note,
        "date": date.today().isoformat(),
    }
    if json:
        say_json(facts | figures.as_dict())
    else:
        _say_figures(facts, figures)


def _say_figures(facts: dict[str, object], figures: Likelihood) -> None:
    form = "" if facts["binarize"] == "none" else f", binarize {facts['binarize']}"
    n = f"{figures.n:,} images" if figures.n == facts["of"] else f"{figures.n:,} of {facts['of']:,} images"
    say(f"{facts['data']}, {facts['split']} split: {n} of {figures.dims} values, {facts['levels']} levels{form}")
    for name, value, interval, digits in (
        ("nats/image", figures.nats_per_image, figures.nats_per_image_95, 2),
        ("nats/dim", figures.nats_per_dim, None, 4),
        ("bits/dim", figures.bits_per_dim, figures.bits_per_dim_95, 4),
    ):
        shown = f"  (95 % interval {interval[0]:.{digits}f} to {interval[1]:.{digits}f})" if interval else ""
        say(f"  {name:10} {value:9.{digits}f}{shown}")
    if facts["note"]:
        say(f"  {facts['note']}")
