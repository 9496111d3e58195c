"""``pixelloom evaluate``: likelihood and sample metrics of a model of any family."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pixelloom.cli import outputs
from pixelloom.cli.common import check_model, in_processes, loaded, log_threads
from pixelloom.cli.console import Meter, say, say_json, say_table
from pixelloom.cli.options import Count, Device, Flag, Index, OptionalCount, OptionalNumber
from pixelloom.cli.training_options import NO_DATA, DataOptions, data_settings
from pixelloom.core.errors import UsageError

if TYPE_CHECKING:
    from pixelloom.data.catalog import Dataset
    from pixelloom.data.config import DataConfig
    from pixelloom.metrics.extractors import Extractor
    from pixelloom.metrics.likelihood import Likelihood
    from pixelloom.metrics.results import Result
    from pixelloom.models.family import GenerativeModel
    from pixelloom.runs.evaluate import Measured, MeasureOptions

_log = logging.getLogger("pixelloom")


def evaluate(
    model: str | None = None,
    /,
    *,
    metrics: str | None = None,
    samples: Path | None = None,
    split: Literal["train", "val", "test", "all"] | None = None,
    limit: OptionalCount = None,
    number: OptionalNumber = None,
    seed: Index = 0,
    features: str = "auto",
    neighbors: Path | None = None,
    force: Flag = False,
    threads: OptionalCount = None,
    device: Device = "auto",
    devices: Count = 1,
    json: Flag = False,
    data: DataOptions = NO_DATA,
) -> None:
    """Measure the exact likelihood of a model, or metrics of its samples.

    By default the likelihood is measured, or all sample metrics for a model without one. The default data are those of
    training; other data are transformed in the same way (levels, size, ...).

    Args:
        model: Run folder, model folder, or name of a run under runs/ or of a pretrained model.
        samples: Without a model: folder, zip or array of samples of any origin, measured against --data.
        metrics: all, or a list of likelihood,kid,fd,precision,recall,density,coverage,nearest,accuracy.
        split: Split to measure on; val selected the model, test is the one to report. Default: test, or all for images
            of your own that the model was not trained on.
        limit: Number of images of the split: evenly spaced for the likelihood, random for sample metrics.
        number: Number of samples; default: 2000, or all of --samples.
        seed: Seed of the samples, and of the selection of real images.
        features: Feature extractor of sample metrics: lenet-mnist, natural, random, pixels, or inception=FILE with the
            weights of published FIDs; auto: lenet-mnist for MNIST digits, else natural.
        neighbors: PNG of the samples nearest to training images, with these, to write; measures nearest.
        force: Overwrite an existing PNG.
        threads: CPU threads; default: chosen by measured time.
        device: auto: cuda if available.
        devices: Number of processes that sample and score, which share the cores or have one GPU each.
        json: Print one JSON object.
        data: Data and its transforms.
    """
    if (model is None) == (samples is None):
        raise UsageError("name a model, or samples with --samples FOLDER and --data FOLDER, and not both")
    if model is not None:
        check_model(model)
    from pixelloom.core.threads import fixed
    from pixelloom.engine.memory import out_of_memory
    from pixelloom.metrics.extractors import named

    words = None if metrics is None else [word.strip() for word in metrics.split(",")]
    if neighbors is not None:
        outputs.check_image(neighbors, force)
        outputs.probe(neighbors.parent)
    wishes = _Wishes(words, named(features), features != "auto", number, seed, split, limit, neighbors)
    try:
        with fixed(threads):
            if model is None:
                header, likelihood, measured, options = _sets(str(samples), data, wishes)
            else:
                with in_processes(loaded(model, device), devices, threads) as found:
                    log_threads(found, threads, devices)
                    header, likelihood, measured, options = _measured(model, found, data, wishes)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise UsageError("out of memory while measuring; --device cpu may have more") from error
    if neighbors is not None and measured is not None:
        _draw_neighbors(neighbors, measured)
        header["neighbors"] = str(neighbors)
    if json:
        metrics_of = {} if measured is None else _as_dict(measured, options)
        say_json(header | ({} if likelihood is None else likelihood.as_dict()) | metrics_of)
        return
    if likelihood is not None:
        _say_likelihood(header, likelihood)
    if measured is not None:
        _say_metrics(header, measured, options)


@dataclass(frozen=True)
class _Wishes:
    """Options of the command that are not about data."""

    words: list[str] | None
    features: str | Extractor
    chosen_features: bool
    number: int | None
    seed: int
    split: str | None
    limit: int | None
    neighbors: Path | None

    def options(self, metrics: tuple[str, ...], split: str, number: int) -> MeasureOptions:
        """For the measuring function."""
        from pixelloom.runs.evaluate import ALL, MeasureOptions

        forgiving = self.words is None or ALL in self.words
        return MeasureOptions(metrics, self.features, number, self.seed, split, self.limit, forgiving)


_Found = tuple[dict[str, object], "Likelihood | None", "Measured | None", "MeasureOptions"]
"""A header about model and data, the likelihood, the sample metrics and their options."""


def _sets(source: str, data_options: DataOptions, wishes: _Wishes) -> _Found:
    """Two sets of images, without a model."""
    from pixelloom.data.catalog import DATASETS, load
    from pixelloom.data.io.download import progress_bar
    from pixelloom.hub.reference import is_reference
    from pixelloom.runs.evaluate import checked
    from pixelloom.runs.image_sets import load_samples, measure_sets, set_metrics
    from pixelloom.runs.matching import EVERY

    settings = data_settings(data_options)
    if "source" not in settings:
        raise UsageError("--samples: needs --data, the images to measure against")
    if wishes.neighbors is not None:
        raise UsageError("--neighbors: needs a model, whose training images are searched")
    names = set_metrics(wishes.words)
    config = checked(settings)
    with progress_bar() as shown:
        data = load(config, shown)
    split = wishes.split or ("test" if config.source in DATASETS or is_reference(config.source) else EVERY)
    drawn = load_samples(source, config, data)
    options = wishes.options(names, split, wishes.number or sum(drawn.counts().values()))
    measured = measure_sets(drawn, data, options)
    return _header({"samples_of": source}, config, data, split), None, measured, options


def _measured(name: str, model: GenerativeModel, data_options: DataOptions, wishes: _Wishes) -> _Found:
    """A model."""
    from pixelloom.data.catalog import load_for
    from pixelloom.data.io.download import progress_bar
    from pixelloom.runs.evaluate import LIKELIHOOD, N, applicable_metrics, data_for, measure, scored
    from pixelloom.runs.identity import seen_in_training
    from pixelloom.runs.locate import find
    from pixelloom.runs.matching import EVERY, default_split

    settings = data_settings(data_options)
    source = settings.pop("source", None)
    config = data_for(model, None if source is None else str(source), settings)
    split = wishes.split or default_split(model, config)
    words = applicable_metrics(model, wishes.words, split)
    if wishes.neighbors is not None and "nearest" not in words:
        words = applicable_metrics(model, [*words, "nearest"], split)
    drawn = tuple(word for word in words if word != LIKELIHOOD)
    if not drawn and (wishes.number is not None or wishes.chosen_features):
        raise UsageError("-n, --features: need sample metrics; add --metrics all, or kid, nearest, ...")
    options = wishes.options(drawn, split, wishes.number or N)
    if split == EVERY:
        _log.info("%s: images are converted as in training: %s", config.source, _conversions(config))
    with progress_bar() as shown:
        data = load_for(model.spec, config, shown)
    remark = seen_in_training(model.description.training, config, data, split)
    if remark:
        _log.warning("%s: %s", config.source, remark)
        data = replace(data, note="; ".join(filter(None, (data.note, remark))))
    likelihood = scored(model, data, split, options.limit) if LIKELIHOOD in words else None
    measured = None
    if drawn:
        with Meter(f"sampling {options.n} images", options.n) as meter:
            measured = measure(
                model,
                data,
                options,
                lambda done: meter.show(done, "measuring" if done == options.n else f"{int(done)} done"),
            )
    header = _header({"model": str(find(name))}, config, data, split)
    if model.condition is None or model.condition.masks:  # with nothing known it is an ordinary model
        header["condition"] = "none"
    else:
        header["condition"] = model.condition.rule
    return header, likelihood, measured, options


def _header(first: dict[str, object], config: DataConfig, data: Dataset, split: str) -> dict[str, object]:
    from pixelloom.runs.matching import split_of

    return {
        **first,
        "data": config.source,
        "split": split,
        "of": len(split_of(data, split)),
        "levels": data.spec.levels,
        "binarize": config.binarize,
        "condition": "none",
        "note": data.note,
        "date": date.today().isoformat(),
    }


def _conversions(config: DataConfig) -> str:
    """The transforms of a data configuration in words."""
    how = config.fit if config.resample == "antialias" else f"{config.fit}, {config.resample}"
    words = [] if config.size is None else [f"size {config.size} ({how})"]
    words += ["gray"] if config.gray else []
    words += [f"{config.levels} levels"] if config.levels else []
    words += [f"binarize {config.binarize}"] if config.binarize != "none" else []
    return ", ".join(words) or "none"


def _split_name(split: object) -> str:
    return "all splits" if split == "all" else f"{split} split"


def _draw_neighbors(path: Path, measured: Measured) -> None:
    from pixelloom.viz import nearest
    from pixelloom.viz.grid import save_png

    assert measured.neighbors is not None
    with outputs.writing(path):
        save_png(nearest.draw(measured.samples, measured.reference, measured.neighbors, measured.levels), path)


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
    split = _split_name(header["split"])
    say(f"{header['data']}, {split}: {n} of {found.dims} values, {header['levels']} levels{form}")
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
        f"{len(measured.samples):,} samples ({_origin(header, wishes)}) and {held_out:,} of {header['of']:,} images of "
        f"{header['data']}, {_split_name(header['split'])}, {header['levels']} levels{form}"
    )
    columns = ("metric", "samples", "baseline", "N", "N baseline", "")
    say_table(columns, [_row(result) for result in measured.results])
    if header["condition"] != "none":
        say(f"conditional on {header['condition']} of images of the split, which are not among the real images")
    if header["note"]:
        say(str(header["note"]))
    if "neighbors" in header:
        say(str(header["neighbors"]))


def _origin(header: dict[str, object], options: MeasureOptions) -> str:
    return str(header["samples_of"]) if "samples_of" in header else f"seed {options.seed}"


def _row(result: Result) -> tuple[str, ...]:
    """Cells of a result; ``real`` is its real-vs-real baseline."""
    spread = "" if result.standard_error is None else f" +- {result.standard_error:.2g}"
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
