"""``pixelloom evaluate``, and what every command that uses a trained model needs."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pixelloom.cli.console import say, say_json
from pixelloom.cli.options import NO_DATA, DataOptions, Device, Flag
from pixelloom.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from pixelloom.families import Model
    from pixelloom.metrics.likelihood import Likelihood
    from pixelloom.models import PixelModel
    from pixelloom.types import ImageSpec

# Multiply-adds below which a second thread gains little and loses much on a busy machine: of a pass ...
_SMALL_PASS = 500_000_000
# ... and of a step of the fast sampler, in which threads meet some hundred times. On two idle cores the second gained a
# third at 4e7 and two thirds at 1e8 and above; where another process ran on them too, each meeting waited for a thread
# that did not, and two threads were five to thirty times slower than one.
_SMALL_STEP = 100_000_000


def loaded(name: str, device: Device) -> Model:
    """The model of that name on that device."""
    from pixelloom import api
    from pixelloom.engine.config import TrainConfig
    from pixelloom.engine.fabric import choose_device

    chosen = choose_device(TrainConfig(device=device))
    return api.load(name).to(chosen)


def settle_threads(model: PixelModel, batch: int, steps: int | None = None) -> None:
    """One CPU thread for small work. A rule, not a measurement: the number of threads decides the last bits.

    Args:
        model: as it will be used.
        batch: images at a time.
        steps: those of the fast sampler for a batch; None for whole passes.
    """
    import torch

    work = model.parameters * model.spec.height * model.spec.width * batch
    small = _SMALL_PASS if steps is None else _SMALL_STEP * steps
    if model.device.type == "cpu" and work < small:
        torch.set_num_threads(1)


def picture(option: str, path: Path, spec: ImageSpec, *, fitted: bool = False) -> Tensor:
    """A picture in a model's channels and levels, uint8 [1, C, H, W]; of its own size unless ``fitted`` to the model's.

    Raises:
        UsageError: if no picture has such channels.
        DataError: if it cannot be read.
    """
    import torch

    from pixelloom.data.decode import Reading, decode
    from pixelloom.data.pixels import quantise

    if spec.channels not in (1, 3):
        raise UsageError(f"{option}: a picture has 1 or 3 channels, the model's images {spec.channels}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    reading = Reading((spec.height, spec.width) if fitted else None, grey=spec.channels == 1)
    pixels = decode(content, str(path), reading).frames[0].transpose(2, 0, 1)[None]
    return torch.from_numpy(quantise(pixels, 256, spec.levels)).expand(1, spec.channels, -1, -1)


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
    from pixelloom.families import need
    from pixelloom.models import PixelModel

    if limit is not None and limit < 1:
        raise UsageError(f"--limit: must be 1 or more, not {limit}")
    found = need(loaded(model, device), PixelModel, "a likelihood")
    settings = pictures.settings()
    source = settings.pop("source", None)
    config = api.data_for(found, None if source is None else str(source), settings)
    settle_threads(found, 64)
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
        "condition": found.description.condition,
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
    if facts["condition"] != "none":
        say(f"  of each image given the picture that the model goes by, {facts['condition']}: conditional figures")
    if facts["note"]:
        say(f"  {facts['note']}")
