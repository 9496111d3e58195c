"""``pixelloom evaluate``: the exact likelihood of pictures, and figures of samples, of a model of any family."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from pixelloom.cli import outputs
from pixelloom.cli.common import loaded, log_threads
from pixelloom.cli.console import Meter, say, say_json, say_table
from pixelloom.cli.options import Device, Flag
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
    limit: int | None = None,
    number: Annotated[int | None, Parameter(name=("--number", "-n"))] = None,
    seed: int = 0,
    features: str = "auto",
    neighbors: Path | None = None,
    force: Flag = False,
    threads: int | None = None,
    device: Device = "auto",
    json: Flag = False,
    pictures: DataOptions = NO_DATA,
) -> None:
    """Measure the exact likelihood of pictures, or what the model draws against them.

    Without --metrics a pixel model gets its likelihood, a latent model, which has none, every figure of samples.
    Without data options, the data are those of the training; others are read in the same form (levels, size, ...).

    Args:
        model: A run folder, a model folder, or the name of a run under runs/.
        metrics: Some of likelihood,kid,fd,precision,recall,density,coverage,nearest,accuracy; all is those that apply.
        split: Models are chosen on val; test is what to report.
        limit: Use so many pictures of the split: evenly spaced for the likelihood, at random for samples.
        number: Samples to draw, 2000.
        seed: Of the samples, and of each choice among real pictures.
        features: In what kid, fd, ... and nearest compare: lenet-mnist, random, pixels; inception=FILE, the weights of
            published FIDs; auto is lenet-mnist for digits of MNIST, else random.
        neighbors: A PNG of the samples that are nearest to training pictures, with these; measures nearest.
        force: Replace the PNG if it is there.
        threads: CPU threads to use; by default chosen by measuring, at most the cores that may be used.
        device: auto is CUDA where there is one.
        json: One JSON object with all figures.
        pictures: The data.
    """
    from pixelloom.core.threads import fixed
    from pixelloom.engine.memory import out_of_memory
    from pixelloom.metrics.extractors import named
    from pixelloom.runs.evaluate import ALL, LIKELIHOOD, MeasureOptions, N, applicable_metrics

    for option, value, least in (
        ("--limit", limit, 1),
        ("-n", number, 1),
        ("--seed", seed, 0),
        ("--threads", threads, 1),
    ):
        if value is not None and value < least:
            raise UsageError(f"{option}: must be {least} or more, not {value}")
    words = None if metrics is None else [word.strip() for word in metrics.split(",")]
    if neighbors is not None:
        outputs.check_file(neighbors, force)
        outputs.probe(neighbors.parent)
        words = [*(words or []), "nearest"]
    found = loaded(model, device)
    names = applicable_metrics(found, words, split)
    drawn = tuple(name for name in names if name != LIKELIHOOD)
    if not drawn and (number is not None or features != "auto"):
        raise UsageError(
            "-n, --features: are for figures of samples; ask for some by --metrics all, or kid, nearest, ..."
        )
    forgiving = words is None or ALL in words
    wishes = MeasureOptions(drawn, named(features), number or N, seed, split, limit, forgiving)
    try:
        log_threads(found, threads)
        with fixed(threads):
            facts, likelihood, measured = _measured(model, found, pictures, wishes, LIKELIHOOD in names)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise UsageError("out of memory while measuring; --device cpu may have more") from error
    if neighbors is not None and measured is not None:
        _draw_neighbors(neighbors, measured, found.spec.levels)
        facts["neighbors"] = str(neighbors)
    if json:
        told = {} if measured is None else _told(measured, wishes)
        say_json(facts | ({} if likelihood is None else likelihood.as_dict()) | told)
        return
    if likelihood is not None:
        _say_likelihood(facts, likelihood)
    if measured is not None:
        _say_figures(facts, measured, wishes)


def _measured(
    name: str, model: GenerativeModel, pictures: DataOptions, wishes: MeasureOptions, likely: bool
) -> tuple[dict[str, object], Likelihood | None, Measured | None]:
    """Facts about the data, and what was measured of either kind."""
    from pixelloom.data.catalog import load_for
    from pixelloom.data.io.download import progress_bar
    from pixelloom.runs.evaluate import data_for, likelihood_of, measure
    from pixelloom.runs.folder import find

    settings = data_settings(pictures)
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
        with Meter(f"drawing {wishes.n} images", wishes.n) as meter:
            measured = measure(
                model,
                data,
                wishes,
                lambda done: meter.show(done, "measuring" if done == wishes.n else f"{int(done)} done"),
            )
    facts = {
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
    return facts, likelihood, measured


def _draw_neighbors(path: Path, measured: Measured, levels: int) -> None:
    from pixelloom.viz import nearest
    from pixelloom.viz.grid import save_png

    assert measured.neighbors is not None
    with outputs.writing(path):
        save_png(nearest.draw(measured.samples, measured.reference, measured.neighbors, levels), path)


def _told(measured: Measured, wishes: MeasureOptions) -> dict[str, object]:
    """Figures of samples as JSON has them."""
    return {
        "samples": len(measured.samples),
        "seed": wishes.seed,
        "results": [result.as_dict() for result in measured.results],
    }


def _say_likelihood(facts: dict[str, object], figures: Likelihood) -> None:
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


def _say_figures(facts: dict[str, object], measured: Measured, wishes: MeasureOptions) -> None:
    form = "" if facts["binarize"] == "none" else f", binarize {facts['binarize']}"
    held_out = len(measured.reference.held_out)
    say(
        f"{len(measured.samples):,} samples (seed {wishes.seed}) beside {held_out:,} of {facts['of']:,} pictures of "
        f"{facts['data']}, {facts['split']} split, {facts['levels']} levels{form}"
    )
    header = ("metric", "samples", "real", "N", "N real", "")
    say_table(header, [_row(figure) for figure in measured.results])
    if facts["condition"] != "none":
        say(f"drawn by pictures of the split, {facts['condition']}, which are left out of those beside them")
    if facts["note"]:
        say(str(facts["note"]))
    if "neighbors" in facts:
        say(str(facts["neighbors"]))


def _row(figure: Result) -> tuple[str, ...]:
    """``real`` is what real pictures get in the place of samples: the baseline."""
    spread = "" if figure.std is None else f" +- {figure.std:.2g}"
    return (
        figure.name,
        f"{figure.value:.4f}{spread}{_interval(figure.interval)}",
        "" if figure.baseline is None else f"{figure.baseline:.4f}{_interval(figure.baseline_interval)}",
        _sizes(figure.n, figure.reference),
        "" if figure.baseline_n is None else _sizes(*figure.baseline_n),
        figure.note,
    )


def _interval(interval: tuple[float, float] | None) -> str:
    return f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else ""


def _sizes(n: int, others: int) -> str:
    return f"{n:,} / {others:,}" if others else f"{n:,}"
