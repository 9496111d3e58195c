"""``pixelloom interpolate``: interpolation between the images of a GAN."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from pixelloom.cli import outputs
from pixelloom.cli.common import check_model, loaded
from pixelloom.cli.conditioning import class_of
from pixelloom.cli.console import say
from pixelloom.cli.options import ClassName, Count, Device, Flag, Index, OptionalCount, OptionalReal, whole_number
from pixelloom.core.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

_SIDE = 256  # side of an animation in pixels, about
_FRAME = 80  # milliseconds per frame


def interpolate(
    model: str,
    /,
    *,
    stops: Annotated[int, Parameter(validator=Number(gte=2), converter=whole_number)] = 5,
    steps: Count = 8,
    seed: Index = 0,
    first: Index = 0,
    truncation: OptionalReal = None,
    class_: ClassName = None,
    out: Path | None = None,
    gif: Path | None = None,
    loop: Flag = False,
    scale: OptionalCount = None,
    device: Device = "auto",
    force: Flag = False,
) -> None:
    """Interpolate between images of a GAN, on great circles of the latent space: one row from each image to the next.

    Args:
        model: Run folder, model folder, or name of a run under runs/ or of a pretrained model.
        stops: Number of images to interpolate between; they are those of `pixelloom sample` with the same seed.
        steps: Steps from each image to the next.
        seed: Seed of the latent vectors.
        first: Index of the first image.
        truncation: Bound on the absolute values of the latent vectors; smaller gives less varied images.
        class_: Class of all images, by name or number, for a class-conditional model.
        out: PNG to write; default: path.png, or path-2.png and so on if it exists.
        gif: GIF animation to write.
        loop: Play the animation forward and backward in a loop, instead of once.
        scale: Pixels of the files per image pixel.
        device: auto: cuda if available.
        force: Overwrite existing files.
    """
    check_model(model)
    import numpy as np

    from pixelloom.models.registry import require
    from pixelloom.sampling.latent_noise import check_truncation
    from pixelloom.viz.grid import grid, grid_layout, save_png

    check_truncation(truncation, "--truncation")
    if loop and gif is None:
        raise UsageError("--loop: needs --gif")
    if gif is not None and gif.suffix.lower() not in ("", ".gif"):
        raise UsageError(f"--gif {gif}: writes a GIF; name a file that ends in .gif")
    out = outputs.free(Path("path.png"), force=force) if out is None else out
    if out == gif:
        raise UsageError(f"--out, --gif: both are {out}; name two files")
    outputs.check_format(out)
    files = [out] if gif is None else [out, gif]
    for path in files:
        outputs.check_file(path, force)
    found = require(loaded(model, device), "interpolate", "pixelloom interpolate")
    label = class_of(class_, found)
    spec, legs = found.spec, stops - 1
    grid_layout(legs * (steps + 1), spec.shape, steps + 1, scale)  # raises if the image would be too large
    for path in files:
        outputs.probe(path.parent)
    frames = found.interpolate(stops, steps, seed=seed, first=first, truncation=truncation, labels=label).numpy()
    rows = np.concatenate([frames[leg * steps : (leg + 1) * steps + 1] for leg in range(legs)])
    with outputs.writing(out):
        save_png(grid(rows, spec.levels, steps + 1, scale), out)
    if gif is not None:
        large = scale or max(1, _SIDE // max(spec.height, spec.width))
        there = [grid(frame[None], spec.levels, 1, large, 0) for frame in frames]
        _animate([*there, *there[-2:0:-1]] if loop else there, gif, loop)
    for path in files:
        say(str(path))


def _animate(images: Sequence[Image], path: Path, loop: bool) -> None:
    from pixelloom.core.atomic import write_bytes

    buffer = io.BytesIO()
    for_ever = {"loop": 0} if loop else {}
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=_FRAME, **for_ever)
    with outputs.writing(path):
        write_bytes(path, buffer.getvalue())
