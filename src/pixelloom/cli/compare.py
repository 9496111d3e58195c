"""``pixelloom compare``"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from pixelloom.cli import outputs
from pixelloom.cli.console import say
from pixelloom.cli.options import Count, Device, Flag, Index, OptionalCount
from pixelloom.core.errors import UsageError

_log = logging.getLogger("pixelloom")


def compare(
    *models: str,
    out: Path | None = None,
    png: Path | None = None,
    number: Annotated[Count, Parameter(name=("--number", "-n"))] = 16,
    seed: Index = 0,
    metrics: str | None = None,
    measured: OptionalCount = None,
    split: Literal["train", "val", "test"] | None = None,
    device: Device = "auto",
    force: Flag = False,
) -> None:
    """Compare models of any families side by side: samples, training curves and metrics, as HTML and PNG.

    Args:
        models: Run folders, model folders, or names of runs under runs/ or of pretrained models.
        out: Self-contained HTML file to write; default: compare.html, or compare-2.html and so on if it exists.
        png: PNG to write; default: as --out, with the suffix .png.
        number: Samples to show per model.
        seed: Seed of the samples.
        metrics: Sample metrics to measure: all, or a list of kid,fd,precision,recall,density,coverage,nearest,accuracy.
        measured: Number of samples to measure on; default: 2000.
        split: Split of the images to measure against; default: test.
        device: auto: cuda if available.
        force: Overwrite existing files.
    """
    from pixelloom.core.atomic import write_bytes
    from pixelloom.engine.config import TrainConfig
    from pixelloom.engine.fabric import choose_device
    from pixelloom.report.collect import CompareOptions, gather
    from pixelloom.report.html import page
    from pixelloom.report.png import draw
    from pixelloom.runs.evaluate import N
    from pixelloom.viz.grid import save_png

    out = outputs.free(Path("compare.html"), force=force, others=(".png",)) if out is None else out
    if out.suffix.lower() not in ("", ".html", ".htm", ".png"):
        raise UsageError(f"--out {out}: writes HTML; name a file that ends in .html")
    outputs.check_file(out, force)
    png = out.with_suffix(".png") if png is None else png
    if not models:
        raise UsageError("name the models to compare: run folders, or names of runs or models")
    if out == png:
        raise UsageError(f"--out, --png: both are {out}; name two files")
    outputs.check_image(png, force)
    asked = tuple(word.strip() for word in metrics.split(",")) if metrics else ()
    for option, given in (("--measured", measured), ("--split", split)):
        if given is not None and not asked:
            raise UsageError(f"{option}: needs --metrics")
    options = CompareOptions(
        number, seed, choose_device(TrainConfig(device=device)), asked, measured or N, split or "test"
    )
    found = gather(models, options)
    for name, reason in found.broken:
        _log.warning("%s: not shown: %s", name, reason)
    image = draw(found)
    for path in (out, png):
        outputs.probe(path.parent)
    with outputs.writing(out):
        write_bytes(out, page(found).encode())
    with outputs.writing(png):
        save_png(image, png)
    say(str(out))
    say(str(png))
