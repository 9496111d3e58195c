"""Parts that commands share: loading a model, reading an image, parsing a position."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pixelloom.cli.options import Device
from pixelloom.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from pixelloom.core.types import ImageSpec
    from pixelloom.models.family import GenerativeModel


_log = logging.getLogger("pixelloom")


def check_model(name: str) -> None:
    """Raise ModelError if no model has this name, before torch is imported."""
    from pixelloom.hub.reference import is_reference
    from pixelloom.runs.locate import find

    if not is_reference(name):
        find(name)


def loaded(name: str, device: Device) -> GenerativeModel:
    """Load a model onto a device."""
    from pixelloom import api
    from pixelloom.engine.config import TrainConfig
    from pixelloom.engine.fabric import choose_device

    chosen = choose_device(TrainConfig(device=device))
    return api.load(name).to(chosen)


@contextmanager
def in_processes(model: GenerativeModel, devices: int, threads: int | None = None) -> Iterator[GenerativeModel]:
    """A context with the model in several processes, for the option --devices; 1 gives the model itself."""
    from pixelloom.models.parallel import parallel

    with parallel(model, devices, threads=threads) as found:
        yield found


def log_threads(model: GenerativeModel, threads: int | None, devices: int = 1) -> None:
    """Log the number of CPU threads, or the range that it is chosen from, and the number of processes."""
    import torch

    from pixelloom.core import threads as cores

    if devices > 1:
        _log.info("devices: %d processes (%s)", devices, model.device.type)
        most = cores.usable(devices)
    else:
        most = min(cores.usable(), torch.get_num_threads())
    if threads is not None:
        _log.info("threads: %d (as set)", threads)
    elif model.device.type == "cpu" and most > 1:
        _log.info("threads: 1 to %d, chosen by measured time", most)


def image_of(option: str, path: Path, spec: ImageSpec, *, fitted: bool = False) -> Tensor:
    """Read an image file in a model's channels and levels, uint8 [1, C, H, W].

    Args:
        option: name of the option, for errors.
        path: image file.
        spec: channels and levels.
        fitted: whether to fit the image to the size of ``spec``.

    Raises:
        UsageError: if the model's images are neither gray nor RGB.
        DataError: if the file cannot be read.
    """
    import numpy as np
    import torch

    from pixelloom.data.io.decode import Reading, decode
    from pixelloom.data.pixels import from_bytes

    if spec.channels not in (1, 3):
        raise UsageError(f"{option}: an image file has 1 or 3 channels, the model's images have {spec.channels}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    reading = Reading((spec.height, spec.width) if fitted else None, gray=spec.shown_channels == 1)
    pixels = decode(content, str(path), reading).frames[0].transpose(2, 0, 1)[None]
    pixels = np.broadcast_to(pixels, (1, spec.shown_channels, *pixels.shape[2:]))
    return torch.from_numpy(from_bytes(pixels, spec.display))


def position_of(
    text: str | None, spec: ImageSpec, option: str = "--position", words: tuple[str, ...] = ()
) -> tuple[int, int]:
    """Parse ROW,COLUMN; None is the center.

    Raises:
        UsageError: for anything else, or a position outside the image; ``words`` are what the option takes besides.
    """
    if text is None:
        return spec.height // 2, spec.width // 2
    numbers = [number.strip() for number in text.split(",")]
    if len(numbers) == 2 and all(number.isdecimal() for number in numbers):
        y, x = map(int, numbers)
        if y < spec.height and x < spec.width:
            return y, x
    rows, columns = f"0 to {spec.height - 1}", f"0 to {spec.width - 1}"
    forms = ", ".join((*words, "ROW,COLUMN" if not words else "or ROW,COLUMN"))
    raise UsageError(f"{option}: {forms} with rows {rows} and columns {columns}, not {text!r}")
