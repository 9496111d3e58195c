"""How a model of each family draws for ``pixelloom sample``: the one place where options depend on the family."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelloom.cli.console import memory
from pixelloom.cli.options import NO_DRAWING, DrawOptions
from pixelloom.cli.using import log_threads, picture
from pixelloom.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from pixelloom.families import Model
    from pixelloom.latent import LatentModel
    from pixelloom.models import PixelModel
    from pixelloom.types import ImageSpec

_log = logging.getLogger("pixelloom")

Draw = Callable[..., "Tensor"]
"""(n, first, batch, on_step, and what the rows tell) -> levels uint8 [n, C, H, W]"""


@dataclass(frozen=True)
class Drawer:
    """What a family does with the options.

    Attributes:
        lacks: options that mean nothing to it, and why.
        plan: what draws, and images at a time; says what drawing them takes.
    """

    lacks: Mapping[str, str]
    plan: Callable[[Any, DrawOptions], tuple[Draw, int]]


def check(model: Model, options: DrawOptions) -> None:
    """Raises UsageError for an option that the model's family has not."""
    for name, why in DRAWERS[model.description.family].lacks.items():
        if getattr(options, name) != getattr(NO_DRAWING, name):
            raise UsageError(f"--{name.replace('_', '-')}: {why}")


def plan(model: Model, options: DrawOptions) -> tuple[Draw, int]:
    """What draws the images, and how many at a time; says what drawing them takes.

    Raises:
        UsageError: if options do not fit the model.
        DataError: if a picture cannot be read.
    """
    draw = DRAWERS[model.description.family].plan(model, options)
    log_threads(model, options.threads)
    return draw


def _pixel(model: PixelModel, options: DrawOptions) -> tuple[Draw, int]:
    known, mask = _known(options.given, options.keep_rows, model.spec) if options.given else (None, None)
    draw = partial(
        model.sample,
        seed=options.seed,
        temperature=options.temperature,
        given=known,
        mask=mask,
        guidance=options.guidance,
        method=options.method,
        precision=options.precision,
        threads=options.threads,
    )
    return draw, _batch(model, options, mask)


def _batch(model: PixelModel, options: DrawOptions, mask: Tensor | None) -> int:
    from pixelloom.models import PLAIN_BATCH

    spec, asked = model.spec, None if options.batch == "auto" else options.batch
    if options.method == "plain":
        batch = asked or min(options.images, PLAIN_BATCH)
        passes = spec.height * spec.width * model.head.groups
        _log.info("%d passes of the network, %s at a time", passes, counted(batch))
        return batch
    sampler = model.fast_sampler(options.precision, mask, options.guidance, options.threads)
    batch = asked or sampler.batch(options.images)
    pixels = spec.height * spec.width if mask is None else int((~mask[0]).any(0).sum())
    each = memory(sampler.bytes_per_image)
    _log.info("%d steps for %d pixels, %s an image, %s at a time", sampler.steps, pixels, each, counted(batch))
    return batch


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


def _latent(model: LatentModel, options: DrawOptions) -> tuple[Draw, int]:
    from pixelloom.latent import BATCH

    batch = min(options.images, BATCH) if options.batch == "auto" else options.batch
    _log.info("one pass of the generator, %s at a time", counted(batch))
    draw = partial(model.sample, seed=options.seed, truncation=options.truncation, threads=options.threads)
    return draw, batch


def counted(n: int) -> str:
    """So many images, in words."""
    return f"{n} image" if n == 1 else f"{n} images"


_NO_PICTURE = "a latent model goes by no picture; gated-pixelcnn is a network that does"
_WHOLE = "a latent model draws an image whole and cannot keep a part of it; a pixel model can"
DRAWERS: Mapping[str, Drawer] = {
    "pixel": Drawer(
        {"truncation": "bounds noise vectors, which only latent models have; --temperature 0.9 draws likelier images"},
        _pixel,
    ),
    "latent": Drawer(
        {
            "temperature": "a latent model has no probabilities to sharpen; --truncation 1 draws less varied images",
            "guidance": "a latent model has no logits to guide; --class alone chooses the class",
            "condition": _NO_PICTURE,
            "condition_from": _NO_PICTURE,
            "given": _WHOLE,
            "method": "a latent model draws in one pass; there is no other method",
            "precision": "a latent model draws in the precision of its weights",
        },
        _latent,
    ),
}
"""Family -> how it draws."""
