"""``pixelloom evaluate``: likelihood and sample metrics of a model of any family."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pixelloom.cli import outputs
from pixelloom.cli.common import loaded, log_threads
from pixelloom.cli.console import Meter, say, say_json, say_table
from pixelloom.cli.options import Device, Flag, Index, OptionalCount, OptionalNumber
from pixelloom.cli.training_options import NO_DATA, DataOptions, data_settings
from pixelloom.core.errors import UsageError

if TYPE_CHECKING:
    from pixelloom.data.catalog import Dataset
    from pixelloom.metrics.likelihood import Likelihood
    from pixelloom.metrics.results import Result
    from pixelloom.models.family import GenerativeModel
    from pixelloom.runs.evaluate import Measured, MeasureOptions


def evaluate(
    model: str,
    /,
    *,
    metrics: str | None = None,
    split: Literal["train", "val", "test"] = "test",
    limit: OptionalCount = None,
    number: OptionalNumber = None,
    seed: Index = 0,
    features: str = "auto",
    neighbors: Path | None = None,
    force: Flag = False,
    threads: OptionalCount = None,
    device: Device = "auto",
    json: Flag = False,
    data: DataOptions = NO_DATA,
) -> None:
    """Measure the exact likelihood of a model, or metrics of its samples.

    By default the likelihood is measured, or all sample metrics for a model without one. The default data are those of
    training; other data are transformed in the same way (levels, size, ...).

    Args:
        model: Run folder, model folder, or name of a run under runs/ or of a pretrained model.
        metrics: all, or a list of likelihood,kid,fd,precision,recall,density,coverage,nearest,accuracy.
        split: Split to measure on; val selected the model, test is the one to report.
        limit: Number of images of the split: evenly spaced for the likelihood, random for sample metrics.
        number: Number of samples; default: 2000.
        seed: Seed of the samples, and of the selection of real images.
        features: Feature extractor of sample metrics: lenet-mnist, random, pixels, or inception=FILE with the weights
            of published FIDs; auto: lenet-mnist for MNIST digits, else random.
        neighbors: PNG of the samples nearest to training images, with these, to write; measures nearest.
        force: Overwrite an existing PNG.
        threads: CPU threads; default: chosen by measured time.
        device: auto: cuda if available.
        json: Print one JSON object.
        data: Data and its transforms.
    """
    from pixelloom.core.threads import fixed
    from pixelloom.engine.memory import out_of_memory
    from pixelloom.metrics.extractors import named
    from pixelloom.runs.evaluate import ALL, LIKELIHOOD, MeasureOptions, N, applicable_metrics

    words = None if metrics is None else [word.strip() for word in metrics.split(",")]
    if neighbors is not None:
        outputs.check_file(neighbors, force)
        outputs.probe(neighbors.parent)
        words = [*(words or []), "nearest"]
    found = loaded(model, device)
    names = applicable_metrics(found, words, split)
    drawn = tuple(name for name in names if name != LIKELIHOOD)
    if not drawn and (number is not None or features != "auto"):
        raise UsageError("-n, --features: need sample metrics; add --metrics all, or kid, nearest, ...")
    forgiving = words is None or ALL in words
    wishes = MeasureOptions(drawn, named(features), number or N, seed, split, limit, forgiving)
    try:
        log_threads(found, threads)
        with fixed(threads):
            header, likelihood, measured = _measured(model, found, data, wishes, LIKELIHOOD in names)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise UsageError("out of memory while measuring; --device cpu may have more") from error
    if neighbors is not None and measured is not None:
        _draw_neighbors(neighbors, measured, found.spec.levels)
        header["neighbors"] = str(neighbors)
    if json:
        metrics_of = {} if measured is None else _as_dict(measured, wishes)
        say_json(header | ({} if likelihood is None else likelihood.as_dict()) | metrics_of)
        return
    if likelihood is not None:
        _say_likelihood(header, likelihood)
    if measured is not None:
        _say_metrics(header, measured, wishes)


def _measured(
    name: str, model: GenerativeModel, data_options: DataOptions, wishes: MeasureOptions, likely: bool
) -> tuple[dict[str, object], Likelihood | None, Measured | None]:
    """A header about model and data, the likelihood, and the sample metrics."""
    from pixelloom.data.catalog import load_for
    from pixelloom.data.io.download import progress_bar
    from pixelloom.runs.evaluate import data_for, likelihood_of, measure
    from pixelloom.runs.folder import find

    settings = data_settings(data_options)
    source = settings.pop("source", None)
    config = data_for(model, None if source is None else str(source), settings)
    likelihood, measured = None, None
    data: Dataset | None = None
    if likely:
        likelihood, data = likelihood_of(model, config, wishes.split, limit=wishes.limit)
    if data is None:
        with progress_bar() as shown:
            data = load_for(model.spec, config, shown)
    if wishes.metrics:
        with Meter(f"sampling {wishes.n} images", wishes.n) as meter:
            measured = measure(
                model,
                data,
                wishes,
                lambda done: meter.show(done, "measuring" if done == wishes.n else f"{int(done)} done"),
            )
    header = {
        "model": str(find(name)),
        "data": config.source,
        "split": wishes.split,
        "of": len(data.split(wishes.split)),
        "levels": data.spec.levels,
        "binarize": config.binarize,
        "condition": "none" if model.condition is None else model.condition.rule,
        "note": data.note,
        "date": date.today().isoformat(),
    }
    return header, likelihood, measured


def _draw_neighbors(path: Path, measured: Measured, levels: int) -> None:
    from pixelloom.viz import nearest
    from pixelloom.viz.grid import save_png

    assert measured.neighbors is not None
    with outputs.writing(path):
        save_png(nearest.draw(measured.samples, measured.reference, measured.neighbors, levels), path)


def _as_dict(measured: Measured, wishes: MeasureOptions) -> dict[str, object]:
    """Sample metrics for JSON."""
    return {
        "samples": len(measured.samples),
        "seed": wishes.seed,
        "results": [result.as_dict() for result in measured.results],
    }


def _say_likelihood(header: dict[str, object], found: Likelihood) -> None:
    form = "" if header["binarize"] == "none" else f", binarize {header['binarize']}"
    n = f"{found.n:,} images" if found.n == header["of"] else f"{found.n:,} of {header['of']:,} images"
    say(f"{header['data']}, {header['split']} split: {n} of {found.dims} values, {header['levels']} levels{form}")
    for name, value, interval, digits in (
        ("nats/image", found.nats_per_image, found.nats_per_image_95, 2),
        ("nats/dim", found.nats_per_dim, None, 4),
        ("bits/dim", found.bits_per_dim, found.bits_per_dim_95, 4),
    ):
        shown = f"  (95 % interval {interval[0]:.{digits}f} to {interval[1]:.{digits}f})" if interval else ""
        say(f"  {name:10} {value:9.{digits}f}{shown}")
    if header["condition"] != "none":
        say(f"  conditional on {header['condition']} of each image")
    if header["note"]:
        say(f"  {header['note']}")


def _say_metrics(header: dict[str, object], measured: Measured, wishes: MeasureOptions) -> None:
    form = "" if header["binarize"] == "none" else f", binarize {header['binarize']}"
    held_out = len(measured.reference.held_out)
    say(
        f"{len(measured.samples):,} samples (seed {wishes.seed}) and {held_out:,} of {header['of']:,} images of "
        f"{header['data']}, {header['split']} split, {header['levels']} levels{form}"
    )
    columns = ("metric", "samples", "real", "N", "N real", "")
    say_table(columns, [_row(result) for result in measured.results])
    if header["condition"] != "none":
        say(f"conditional on {header['condition']} of images of the split, which are not among the real images")
    if header["note"]:
        say(str(header["note"]))
    if "neighbors" in header:
        say(str(header["neighbors"]))


def _row(result: Result) -> tuple[str, ...]:
    """Cells of a result; ``real`` is its real-vs-real baseline."""
    spread = "" if result.std is None else f" +- {result.std:.2g}"
    return (
        result.name,
        f"{result.value:.4f}{spread}{_interval(result.interval)}",
        "" if result.baseline is None else f"{result.baseline:.4f}{_interval(result.baseline_interval)}",
        _sizes(result.n, result.reference),
        "" if result.baseline_n is None else _sizes(*result.baseline_n),
        result.note,
    )


def _interval(interval: tuple[float, float] | None) -> str:
    return f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else ""


def _sizes(n: int, others: int) -> str:
    return f"{n:,} / {others:,}" if others else f"{n:,}"
