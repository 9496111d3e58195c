"""The one place where parts are wired together: data, network, head, objective and engine become a run and a model.

A run folder holds ``config.yaml`` (complete: ``train --config`` repeats the run), ``metrics.jsonl``, ``curves.png``,
``samples/``, ``checkpoints/`` and ``model/``, the best model by validation.
"""

from __future__ import annotations

import logging
import math
import shlex
import sys
import time
from collections.abc import Mapping
from datetime import date
from functools import partial
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor, nn

import pixelloom
from pixelloom import plots, pretrained
from pixelloom.card import model_card
from pixelloom.config import RunConfig, dump_yaml
from pixelloom.data.catalog import DataConfig, Dataset, load
from pixelloom.data.conditions import Condition
from pixelloom.data.download import progress_bar
from pixelloom.data.pixels import Scaling
from pixelloom.data.stream import Stream, batches, ordered
from pixelloom.description import WEIGHTS
from pixelloom.engine.fabric import choose_device, make_fabric
from pixelloom.engine.fabric import describe as place
from pixelloom.engine.hooks import EverySamples, MetricsWriter, Progress, TensorBoard, Validate
from pixelloom.engine.loop import fit
from pixelloom.engine.memory import keep_freed_memory
from pixelloom.engine.state import Hook, Run, State
from pixelloom.engine.tensors import write_bytes
from pixelloom.errors import DataError, ModelError, UsageError, did_you_mean
from pixelloom.likelihoods import make_head
from pixelloom.metrics.likelihood import Likelihood, likelihood, score, score_told
from pixelloom.models import PixelDescription, PixelModel, load_pixel
from pixelloom.objectives import Monitor
from pixelloom.objectives import likelihood as likelihood_objective
from pixelloom.types import ImageSpec

RUNS = Path("runs")
CONFIG, METRICS = "config.yaml", "metrics.jsonl"
_SAMPLING_SHARE = 0.05  # of a run's time that pictures along the way may take
_log = logging.getLogger("pixelloom")


def train(config: RunConfig, out: Path, *, resume: bool = False) -> Path:
    """Carry out a run in folder ``out``; returns the folder of the best model by validation.

    With ``resume`` the run goes on from its newest sound checkpoint and ends with the same bits as one that was never
    stopped (budgets in minutes excepted: they follow the clock).

    Raises:
        UsageError: for a configuration that does not fit the data or the machine, or a folder that cannot be written.
        DataError: if the data cannot be read.
        ModelError: if training diverges, or no sound checkpoint fits.
    """
    fabric = make_fabric(config.train)
    with fabric.rank_zero_first(), progress_bar() as shown:  # what has to be downloaded or decoded is done once
        data = load(config.data, shown)
    description = describe(config, data)
    torch.manual_seed(config.train.seed)
    model = PixelModel.build(description)
    objective = likelihood_objective(
        model.network,
        model.head,
        model.spec.levels,
        description.scaling,
        config.optim,
        Monitor("bits/dim", partial(_measure, description, data, config.validation_images)),
        classes=description.classes,
        label_dropout=config.label_dropout,
        condition=model.condition,
    )
    if fabric.is_global_zero:
        _open_folder(out, config)
    stream = Stream(
        data.train,
        data.spec,
        config.train.batch,
        seed=config.train.seed,
        rank=fabric.global_rank,
        world=fabric.world_size,
        dynamic=data.dynamic,
    )
    if fabric.is_global_zero:
        _log.info("%s: %s; %s parameters; training on %s", data.name, data.spec, f"{model.parameters:,}", place(fabric))
    state = fit(
        objective,
        lambda step: batches(stream, step, workers=config.train.workers),
        config.train,
        fabric,
        epoch=len(data.train),
        hooks=_hooks(config, description, data, out),
        out=out,
        resume=resume,
    )
    if fabric.is_global_zero:
        _finish(config, data, out, state)
    fabric.barrier()
    return out / "model"


def describe(config: RunConfig, data: Dataset) -> PixelDescription:
    """What the model of a run will be: the configuration fitted to the data."""
    head = make_head(config.head, data.spec)
    if config.classes and data.train.labels is None:
        raise UsageError(f"classes: {data.name} has no labels; leave classes out, or name data that has some")
    try:
        config.condition == "none" or Condition(config.condition, data.spec)
    except ValueError as error:
        raise UsageError(f"condition: {error}") from error
    return PixelDescription(
        network=config.network,
        model=config.model,
        head=config.head.model_copy(update={"kind": head.kind}),
        image=data.spec,
        scaling=_scaling(config, data),
        classes=len(data.classes) if config.classes else 0,
        embedding=config.embedding if config.inputs == "embedding" else 0,
        condition=config.condition,
        trained={
            "recipe": config.recipe,
            "data": config.data.model_dump(mode="json"),
            "counts": data.counts(),
            "classes": list(data.classes),
            "note": data.note,
            "seed": config.train.seed,
            "pixelloom": pixelloom.__version__,
            "command": _command(),
        },
    )


def _command() -> str:
    """How this run was started: a command of ours, or a script."""
    program = Path(sys.argv[0]).name
    return shlex.join(["pixelloom" if program == "__main__.py" else program, *sys.argv[1:]])


def _scaling(config: RunConfig, data: Dataset) -> Scaling:
    if config.inputs == "unit":
        return Scaling.unit()
    if config.inputs == "symmetric":
        return Scaling.symmetric()
    if config.inputs == "embedding":
        return Scaling.numbers(data.spec.levels)
    # Drawn through the stream, so that dynamic binarisation counts as the network will see it.
    seen = Stream(data.train, data.spec, min(len(data.train), 10_000), dynamic=data.dynamic).batch_at(0)
    return Scaling.standard(seen.images.numpy(), data.spec.levels)


def _measure(description: PixelDescription, data: Dataset, limit: int, network: nn.Module) -> Mapping[str, float]:
    """Validation figures of a network; in float32 whatever the training's precision."""
    found = _score(PixelModel(network, description), data, "val", limit)
    return {"bits/dim": found.bits_per_dim, "nats/image": found.nats_per_image}


def _score(model: PixelModel, data: Dataset, split: str, limit: int | None) -> Likelihood:
    images = ordered(data.split(split), data.spec, 64, dynamic=data.dynamic, limit=limit)
    told = score_told if model.description.classes else score
    return likelihood(told(model.log_prob, images), data.spec.dims)


def _open_folder(out: Path, config: RunConfig) -> None:
    try:
        (out / "samples").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be made: {error.strerror}") from error
    write_bytes(out / CONFIG, dump_yaml(config).encode())


def _hooks(config: RunConfig, description: PixelDescription, data: Dataset, out: Path) -> list[Hook]:
    def keep(network: nn.Module, figures: Mapping[str, float], state: State) -> None:
        trained = description.trained | {
            "images": state.images,
            "epochs": round(state.images / len(data.train), 2),
            "minutes": round(state.seconds / 60, 2),
            "date": date.today().isoformat(),
            "validation": dict(figures) | {"n": min(config.validation_images, len(data.val))},
        }
        model = PixelModel(network, description.model_copy(update={"trained": trained}))
        sha256 = model.save(out / "model")
        write_bytes(out / "model" / "README.md", model_card(model, sha256).encode())

    hooks: list[Hook] = [
        Progress(),
        MetricsWriter(out / METRICS),
        Validate(keep),
        EverySamples(_Sketches(description, data, config.train.seed, out / "samples")),
        _Curves(out),
    ]
    if TensorBoard.installed():
        hooks.append(TensorBoard(out / "tensorboard"))
    return hooks


class _Sketches:
    """Draws a few pictures along the way, as long as that takes a twentieth of the time at most."""

    def __init__(self, description: PixelDescription, data: Dataset, seed: int, folder: Path, n: int = 9) -> None:
        self.description, self.data, self.seed, self.folder, self.n = description, data, seed, folder, n
        self.model: PixelModel | None = None
        self.spent, self.cost = 0.0, 0.0  # seconds: in all, and of the last drawing

    def __call__(self, network: nn.Module, state: State) -> None:
        if self.spent + self.cost > _SAMPLING_SHARE * state.seconds:
            return
        begun = time.monotonic()
        if self.model is None or self.model.network is not network:
            self.model = PixelModel(network, self.description)
        plots.save_png(_drawn(self.model, self.data, self.n, self.seed), self.folder / f"{state.images:09d}.png")
        self.cost = time.monotonic() - begun
        self.spent += self.cost


def _drawn(model: PixelModel, data: Dataset, n: int, seed: int) -> Image:
    """A grid of n samples. Where they go by pictures, these are of the validation images: about as many as draws of
    each, in a row each with the truth.
    """
    if model.condition is None:
        return plots.grid(model.sample(n, seed=seed).numpy(), model.spec.levels)
    truth = _some(data, "val", math.ceil(math.sqrt(n)))
    seen, rows = model.condition.of(truth), len(truth)
    row = torch.arange(max(1, n // rows) * rows) % rows
    images = model.sample(len(row), seed=seed, condition=seen[row])
    left, right = model.condition.shown(seen).numpy(), truth.numpy()
    return plots.table(images.numpy(), model.spec.levels, rows, left=left, right=right)


def _some(data: Dataset, split: str, n: int) -> Tensor:
    """So many images, evenly spaced over a split, or all of them."""
    return torch.cat([b.images for b in ordered(data.split(split), data.spec, 64, dynamic=data.dynamic, limit=n)])


class _Curves(Hook):
    """Redraws the curves after each validation."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def on_validation(self, run: Run, figures: Mapping[str, float]) -> None:
        plots.curves(self.out / METRICS, self.out / "curves.png")


def _finish(config: RunConfig, data: Dataset, out: Path, state: State) -> None:
    """Last pictures, drawn by the model that was kept."""
    if state.best is None:
        raise ModelError(f"{out}: no validation gave a finite figure, so no model was kept; lower the rate")
    _log.info("best validation figure: %.4f bits/dim at step %d; model in %s", state.best, state.best_step, out)
    if config.samples:
        model = load_pixel(out / "model").to(choose_device(config.train))
        _log.info("drawing %d samples", config.samples)
        plots.save_png(_drawn(model, data, config.samples, config.train.seed), out / "samples" / "final.png")


def find(name: str | Path) -> Path:
    """The model folder that MODEL means: a run folder, a model folder, the name of a run under ``runs/``, or that of a
    model that comes with the package, in this order.

    Raises:
        ModelError: if there is none, with the nearest name.
    """
    for folder in (Path(name), Path(name) / "model", RUNS / name / "model"):
        if (folder / WEIGHTS).is_file():
            return folder
    if str(name) in pretrained.PRETRAINED:
        return pretrained.folder(str(name))
    if Path(name).exists():
        raise ModelError(
            f"{name}: holds no model; expected {WEIGHTS} in it or in its folder 'model' (has its training validated?)"
        )
    known = sorted(path.parent.parent.name for path in RUNS.glob(f"*/model/{WEIGHTS}"))
    have = f" Runs here: {', '.join(known)}." if known else " Train one with: pixelloom train digits --minutes 1"
    come = f" With the package: {', '.join(pretrained.PRETRAINED)}" if pretrained.PRETRAINED else ""
    near = did_you_mean(str(name), [*known, *pretrained.PRETRAINED])
    raise ModelError(f"no model is called {str(name)!r}.{near}{have}{come}")


def pictures(spec: ImageSpec, data: DataConfig, split: str, n: int) -> Tensor:
    """So many images of a split, evenly spaced, levels uint8 [n, C, H, W]; all of them if there are fewer.

    Raises:
        DataError: if the pictures are not of that shape and levels.
        UsageError: for an unknown split.
    """
    return _some(_load(spec, data), split, n)


def _load(spec: ImageSpec, data: DataConfig) -> Dataset:
    """Data for a model of images of a shape."""
    with progress_bar() as shown:
        dataset = load(data, shown)
    if dataset.spec != spec:
        raise DataError(
            f"{data.source}: pictures are {dataset.spec}, the model was trained on {spec}; "
            "convert them with --size, --grey, --levels or --binarize"
        )
    return dataset


def evaluate(
    model: PixelModel, data: DataConfig, split: str = "test", *, limit: int | None = None
) -> tuple[Likelihood, Dataset]:
    """Exact likelihood of a split under a model, and the data that it was measured on.

    Raises:
        DataError: if the pictures are not of the model's shape and levels.
        UsageError: for an unknown split.
    """
    keep_freed_memory()
    dataset = _load(model.spec, data)
    return _score(model, dataset, split, limit), dataset
