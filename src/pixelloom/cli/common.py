"""What every command that uses a trained model needs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from pixelloom.cli.options import Device
from pixelloom.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from pixelloom.core.types import ImageSpec
    from pixelloom.models.family import GenerativeModel


_log = logging.getLogger("pixelloom")


def loaded(name: str, device: Device) -> GenerativeModel:
    """The model of that name on that device."""
    from pixelloom import api
    from pixelloom.engine.config import TrainConfig
    from pixelloom.engine.fabric import choose_device

    chosen = choose_device(TrainConfig(device=device))
    return api.load(name).to(chosen)


def log_threads(model: GenerativeModel, threads: int | None) -> None:
    """Log how many CPU threads are taken, or among how many the choice is."""
    import torch

    from pixelloom.core import threads as cores

    most = min(cores.usable(), torch.get_num_threads())
    if threads is not None:
        _log.info("threads: %d (as set)", threads)
    elif model.device.type == "cpu" and most > 1:
        _log.info("threads: 1 to %d, chosen by the time that steps take", most)


def picture(option: str, path: Path, spec: ImageSpec, *, fitted: bool = False) -> Tensor:
    """A picture in a model's channels and levels, uint8 [1, C, H, W]; of its own size unless ``fitted`` to the model's.

    Raises:
        UsageError: if no picture has such channels.
        DataError: if it cannot be read.
    """
    import torch

    from pixelloom.data.io.decode import Reading, decode
    from pixelloom.data.pixels import quantize

    if spec.channels not in (1, 3):
        raise UsageError(f"{option}: a picture has 1 or 3 channels, the model's images {spec.channels}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    reading = Reading((spec.height, spec.width) if fitted else None, gray=spec.channels == 1)
    pixels = decode(content, str(path), reading).frames[0].transpose(2, 0, 1)[None]
    return torch.from_numpy(quantize(pixels, 256, spec.levels)).expand(1, spec.channels, -1, -1)


def position_of(text: str | None, spec: ImageSpec) -> tuple[int, int]:
    """The value of ``--position`` as (row, column); without it the center.

    Raises:
        UsageError: if it is not ROW,COLUMN within the image.
    """
    if text is None:
        return spec.height // 2, spec.width // 2
    words = [word.strip() for word in text.split(",")]
    if len(words) == 2 and all(word.isdecimal() for word in words):
        y, x = map(int, words)
        if y < spec.height and x < spec.width:
            return y, x
    rows, columns = f"0 to {spec.height - 1}", f"0 to {spec.width - 1}"
    raise UsageError(f"--position: ROW,COLUMN with rows {rows} and columns {columns}, not {text!r}")
