"""Collects a comparison: loads models of any family, samples and measures them, and reads the curves of their runs."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from pixelloom.core.errors import ModelError, PixelloomError, UsageError
from pixelloom.core.threads import usable
from pixelloom.data.catalog import load_for
from pixelloom.engine.memory import out_of_memory
from pixelloom.metrics.results import METRICS, Result
from pixelloom.metrics.table import BITS, selecting
from pixelloom.models.description import WEIGHTS
from pixelloom.models.family import GenerativeModel
from pixelloom.models.registry import load_model
from pixelloom.report.model import SAMPLES, Comparison, ModelEntry, Protocol
from pixelloom.runs.evaluate import (
    ACCURACY,
    ALL,
    LIKELIHOOD,
    MeasureOptions,
    N,
    applicable_metrics,
    data_for,
    measure,
    some_images,
)
from pixelloom.runs.folder import BEST, LAST, METRICS_FILE
from pixelloom.runs.locate import find
from pixelloom.viz import curves
from pixelloom.viz.grid import grid_layout

_log = logging.getLogger("pixelloom")
_FORM = {key: key for key in ("binarize", "fit", "background", "bits", "frames")} | {"seed": "data seed"}
"""Options of data, beside size and levels, that change the images."""
_ASKED = ("size", "levels", "binarize", "gray", "limit")
_NOTHING = (None, False, "none", "")


@dataclass(frozen=True)
class CompareOptions:
    """How models are sampled and measured.

    Attributes:
        n: samples of each model.
        seed: of the samples.
        device: "cpu" or "cuda".
        metrics: sample metrics to measure, see :func:`pixelloom.measure`; none by default.
        measured: number of samples for these metrics.
        split: split of the real images for these metrics.
    """

    n: int = 16
    seed: int = 0
    device: str = "cpu"
    metrics: tuple[str, ...] = ()
    measured: int = N
    split: str = "test"


def gather(names: Sequence[str], options: CompareOptions = CompareOptions()) -> Comparison:
    """Load and sample each model, and read the curves of its run.

    Args:
        names: models, as :func:`pixelloom.runs.locate.find` takes them; duplicates are shown once.
        options: how they are sampled and measured.

    Raises:
        UsageError: for a name that is not a sample metric.
        ModelError: if none of them can be shown.
    """
    unknown = [name for name in options.metrics if name not in (*METRICS, ACCURACY, ALL)]
    if unknown:
        known = ", ".join((*METRICS, ACCURACY, ALL))
        raise UsageError(f"metrics: {unknown[0]!r} is not a sample metric; there are {known}")
    found, broken, seen = list[ModelEntry](), list[tuple[str, str]](), set[Path]()
    short = dict(zip(names, _short(names), strict=True))
    for name in names:
        try:
            folder = find(name).resolve()
            if folder in seen:
                continue
            entry = _entry(short[name], folder, options)
            twice = any(other.parent == folder.parent for other in seen)  # the best and the last model of one run
            found.append(replace(entry, history=curves.History({}, {})) if twice else entry)
            seen.add(folder)
        except (PixelloomError, OSError) as error:
            broken.append((name, str(error).removeprefix(f"{name}: ")))
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            broken.append((name, "out of memory; draw fewer with -n"))
    if not found:
        raise ModelError("none of these can be shown:" + "".join(f"\n  {name}: {why}" for name, why in broken))
    return Comparison(
        tuple(found), tuple(broken), options.n, options.seed, hardware(options.device), date.today().isoformat()
    )


def hardware(device: str) -> str:
    """The processor or GPU, in words."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return str(torch.cpu.get_capabilities().get("cpu_name", "CPU"))


def _short(names: Sequence[str]) -> list[str]:
    """The last part of each name, if these are unique and not the same in every run."""
    last = [Path(name).name for name in names]
    unique = len(set(last)) == len(set(names)) and not {"", "..", BEST, LAST} & set(last)
    return last if unique else list(names)


def _entry(name: str, folder: Path, options: CompareOptions) -> ModelEntry:
    model = load_model(folder).to(options.device)
    with safe_open(str(folder / WEIGHTS), "pt") as file:
        sha256 = file.metadata()["sha256"]  # of the contents; loading has verified it
    about = model.description
    record = about.training
    data = {} if record.data is None else record.data.model_dump(mode="json")
    path = folder.parent / METRICS_FILE
    history = curves.read_history(path) if path.is_file() else curves.History({}, {})
    validation, split = record.validation.metrics, record.validation.split
    metrics = dict.fromkeys([*history.selecting, *selecting(validation)])
    images = record.images
    grid_layout(options.n, model.spec.shape)  # refuses too many before they are drawn
    samples, given, seconds = _drawn(model, options.n, options.seed)
    measured, unmeasured = _measured(name, model, options)
    threads = min(usable(), torch.get_num_threads()) if model.device.type == "cpu" else 0
    protocols = {metric: _protocol(model, metric, data, split, name) for metric in metrics}
    if measured:
        protocols[SAMPLES] = _protocol(model, SAMPLES, data, options.split, name)
    return ModelEntry(
        name=name,
        family=about.family,
        network=about.network,
        recipe=record.recipe,
        data=str(data.get("source") or ""),
        form=", ".join(
            key if data[key] is True else f"{key} {data[key]}" for key in _ASKED if data.get(key) not in _NOTHING
        ),
        spec=model.spec,
        classes=about.classes,
        parameters=model.parameters,
        images=images,
        epochs=record.epochs,
        minutes=record.minutes,
        step=_step(history, list(metrics), images),
        validation=validation,
        n=record.validation.n,
        split=split,
        protocols=protocols,
        history=history,
        sha256=sha256,
        measured=measured,
        unmeasured=unmeasured,
        samples=samples.numpy(),
        given=None if given is None else given.numpy(),
        seconds=seconds,
        threads=threads,
    )


def _drawn(model: GenerativeModel, n: int, seed: int) -> tuple[Tensor, Tensor | None, float]:
    """Images [n, C, H, W], their conditioning images, and seconds per image, after one image to warm up."""
    conditioning, shown = _conditioning(model, n)
    model.sample(1, seed=seed, **{name: value[:1] for name, value in conditioning.items()})
    begun = time.perf_counter()
    images = model.sample(n, seed=seed, **conditioning)
    return images, shown, (time.perf_counter() - begun) / n


def _conditioning(model: GenerativeModel, n: int) -> tuple[dict[str, Any], Tensor | None]:
    """Conditioning of n images: the classes in order, and validation images of the training data.

    Raises:
        DataError: if the model is conditioned on images, and its data cannot be read.
    """
    classes = model.description.classes
    conditioning: dict[str, Any] = {"labels": torch.arange(n) % classes} if classes else {}
    if model.condition is None:
        return conditioning, None
    truth = some_images(model.spec, data_for(model), "val", n)
    if not len(truth):
        raise UsageError("the model is conditioned on images, and its data has no validation images")
    seen = model.condition.of(truth)[torch.arange(n) % len(truth)]
    return conditioning | {"condition": seen}, model.condition.to_images(seen)


def _measured(name: str, model: GenerativeModel, options: CompareOptions) -> tuple[tuple[Result, ...], str]:
    """Sample metrics, or why there are none though they were asked for."""
    if not options.metrics:
        return (), ""
    _log.info("%s: measuring %d samples", name, options.measured)
    try:
        names = tuple(name for name in applicable_metrics(model, options.metrics, options.split) if name != LIKELIHOOD)
        asked = MeasureOptions(
            names, n=options.measured, seed=options.seed, split=options.split, forgiving=ALL in options.metrics
        )
        found = measure(model, load_for(model.spec, data_for(model)), asked).results
    except PixelloomError as error:
        return (), str(error)
    return tuple(found), ""


def _protocol(model: GenerativeModel, metric: str, data: dict[str, Any], split: str, name: str) -> Protocol:
    """Likelihoods are comparable with equal conditioning only, sample metrics with and without classes."""
    source = data.get("source")
    conditioning = ["classes"] if model.description.classes and metric == BITS else []
    if model.condition is not None:
        conditioning.append(model.condition.rule)
    return (
        ("data", str(source) if source else f"unknown data ({name})"),
        ("size", "x".join(map(str, model.spec.shape))),
        ("levels", str(model.spec.levels)),
        *((what, "none" if data.get(key) is None else str(data[key])) for key, what in _FORM.items()),
        ("conditioning", " and ".join(conditioning) or "none"),
        ("reference", f"{split} images"),
    )


def _step(history: curves.History, metrics: list[str], images: float | None) -> int | None:
    """Step of the validation after ``images`` training images, at which the model was saved."""
    for series in (history.validation[name] for name in metrics if name in history.validation):
        for step in series.steps[series.images == images]:
            if not math.isnan(step):
                return int(step)
    return None
