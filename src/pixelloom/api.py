"""The functions of ``import pixelloom``: load, train, evaluate, measure, score.

:func:`train` plans a run (:mod:`pixelloom.runs.plan`: recipe, file, overrides, folder), checks its folder, and trains
(:mod:`pixelloom.runs.train`), as ``pixelloom train`` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pixelloom.core.errors import UsageError
from pixelloom.data.memory import NAME as IN_MEMORY
from pixelloom.hub.client import Access
from pixelloom.hub.reference import Reference, is_reference
from pixelloom.hub.snapshots import model_folder
from pixelloom.metrics.likelihood import Likelihood
from pixelloom.metrics.results import Result
from pixelloom.metrics.scores import Kind
from pixelloom.models.family import GenerativeModel
from pixelloom.models.registry import load_model
from pixelloom.runs.anomaly import NORMALS, Calibration, Scorer
from pixelloom.runs.anomaly import calibrate as calibrated
from pixelloom.runs.config import OWN, Overrides
from pixelloom.runs.evaluate import ALL, LIKELIHOOD, MeasureOptions, N, applicable_metrics, load_data, scored
from pixelloom.runs.evaluate import measure as measure_samples
from pixelloom.runs.live_plot import live_plots
from pixelloom.runs.locate import find
from pixelloom.runs.own import own_overrides, restored
from pixelloom.runs.plan import as_text, joined, planned
from pixelloom.runs.score import ImageScores, normals, opened, score_images
from pixelloom.runs.train import carry_out

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from pixelloom.core.types import Levels
    from pixelloom.models.own_network import NetworkLike
    from pixelloom.models.pixel import PixelModel


def load(
    model: str | Path,
    *,
    network: NetworkLike | None = None,
    revision: str | None = None,
    cache_dir: Path | str | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> GenerativeModel:
    """Load a model, onto the CPU.

    Args:
        model: run folder, model folder, name of a run under ``runs/``, name of a pretrained model, or
            ``hf:USER/NAME@REVISION`` for a model on the Hugging Face hub.
        network: for a model of :meth:`PixelModel.of`, its network, or its class if that takes no arguments. The weights
            are loaded into it; a file never holds code.
        revision: of a model on the hub: branch, tag or commit hash; it takes the place of that in the name.
        cache_dir: of a model on the hub: cache folder; default: that of ``huggingface_hub``.
        local_files_only: of a model on the hub: use the cache alone.
        token: of a model on the hub: access token; default: $HF_TOKEN, or that of ``hf auth login``.

    Raises:
        ModelError: if there is none, its file is damaged or of another format, or its network has to be given; if it
            cannot be downloaded from the hub.
    """
    if not is_reference(model):
        if revision or cache_dir or local_files_only or token:
            raise UsageError(f"load: revision, cache_dir, local_files_only and token are of models hf:..., not {model}")
        return load_model(find(model), network)
    reference = Reference.parse(str(model)).at(revision)
    return load_model(model_folder(reference, Access(cache_dir, local_files_only, token)), network)


def train(
    recipe: str | PixelModel | None = None,
    *,
    config: Path | str | None = None,
    data: Any = None,
    start: Path | str | None = None,
    out: Path | str | None = None,
    minutes: float | None = None,
    images: int | None = None,
    epochs: float | None = None,
    seed: int | None = None,
    precision: Literal["auto", "fp32", "bf16"] | None = None,
    device: Literal["auto", "cpu", "cuda", "mps"] | None = None,
    logger: Literal["auto", "tensorboard", "trackio", "wandb", "none"] | None = None,
    resume: bool = False,
    force: bool = False,
    allow_changed_data: bool = False,
    overrides: Overrides | None = None,
    plot: bool = False,
) -> GenerativeModel:
    """Train a model, and return the best one by validation.

    Args:
        recipe: name of a recipe or a network; without it and ``config``, one is picked for the data, the device and the
            budget, see :mod:`pixelloom.runs.pick`. Or a model of :meth:`PixelModel.of`: its network is trained in place
            from its weights, and the same model is returned.
        config: YAML file with settings that override the recipe, such as the ``config.yaml`` of a run.
        data: name of a data set, path of a folder, zip, array or list of images, or images in memory: arrays, tensors,
            a pair (images, labels), or {"train": ..., "val": ..., "test": ...}, see
            :func:`pixelloom.data.memory.dataset_of`.
        start: model whose weights the run starts from, for fine-tuning: run folder, model folder or name. Tensors of
            the same name and shape are loaded, the others are logged.
        out: run folder; default: ``runs/<recipe>``, or ``runs/<recipe>-<data>`` for other data, with a number if it is
            taken.
        minutes: budget in minutes. A budget replaces those of the recipe.
        images: budget in images.
        epochs: budget in epochs.
        seed: seed of the weights, the data order, noise and samples.
        precision: "auto" is bf16 if the hardware supports it.
        device: "auto" is CUDA if available, else the CPU; "mps" is Apple's GPU.
        logger: where curves are logged besides the run folder; "auto" is TensorBoard if it is installed.
        resume: resume the run in ``out``.
        force: replace the run in ``out``.
        allow_changed_data: resume on data whose content is not that of the run.
        overrides: further fields, as ``{"model.channels": 32, "optim.lr": 1e-3}``.
        plot: in a notebook, show curves and samples, updated in place while the run trains.

    Raises:
        UsageError: for unknown names or invalid values, or if ``out`` holds a run already.
        DataError: if the data cannot be read, or are not those that a resumed run was begun with.
        ModelError: if the training diverges.
    """
    named = data is None or isinstance(data, str | Path)
    given: dict[str, object] = {
        "data.source": None if data is None else as_text(str(data) if named else IN_MEMORY),
        "start": None if start is None else as_text(str(start)),
        "train.minutes": minutes,
        "train.images": images,
        "train.epochs": epochs,
        "train.seed": seed,
        "train.precision": precision,
        "train.device": device,
        "train.logger": logger,
    }
    own, name = (None, recipe) if recipe is None or isinstance(recipe, str) else (recipe, OWN)
    if own is not None:
        given |= own_overrides(own)
    options = joined(overrides or {}, {field: value for field, value in given.items() if value is not None})
    arrays = None if named else data
    plan, folder = planned(name, config=config, out=out, overrides=options, resume=resume, force=force, arrays=arrays)
    best = carry_out(
        plan, folder, resume=resume, force=force, changed_data=allow_changed_data, arrays=arrays, own=own,
        hooks=live_plots(folder, wanted=plot),
    )  # fmt: skip
    return load_model(best) if own is None else restored(own, best)


def evaluate(
    model: GenerativeModel,
    data: Any = None,
    split: str = "test",
    *,
    limit: int | None = None,
) -> Likelihood:
    """Exact likelihood of a split: nats/image, nats/dim, bits/dim, N and a 95 % interval.

    Args:
        model: a model with a likelihood.
        data: name or path of data, or images in memory as in :func:`train`, which are transformed as in training; a
            :class:`DataConfig` is used unchanged. Default: the training data.
        split: "train", "val", "test" or "all".
        limit: number of images, evenly spaced over the split; default: all.

    Raises:
        DataError: if the data cannot be read, or shape or levels do not fit the model.
        UsageError: for an unknown data set or split, or a model without likelihood.
    """
    applicable_metrics(model, (LIKELIHOOD,), split)  # raises for a model without likelihood
    return scored(model, load_data(model, data), split, limit)


def measure(
    model: GenerativeModel,
    data: Any = None,
    split: str = "test",
    *,
    metrics: Sequence[str] | None = None,
    features: str = "auto",
    n: int = N,
    seed: int = 0,
    limit: int | None = None,
) -> list[Result]:
    """Metrics of samples, each with its real-vs-real baseline.

    Args:
        model: a model of any family.
        data: as in :func:`evaluate`.
        split: "val" or "test"; "train" or "all" without the metric nearest.
        metrics: of kid, fd, precision, recall, density, coverage, nearest, accuracy; default: all that apply and have
            enough images.
        features: feature extractor: "lenet-mnist", "natural", "random", "pixels", "inception=FILE" with the weights of
            published FIDs (docs/metrics.md), or "auto".
        n: number of samples.
        seed: seed of the samples, and of the selection of real images.
        limit: number of held-out images, at random; default: all.

    Raises:
        UsageError: for an unknown metric, extractor, data set or split, or a metric that does not apply.
        DataError: if there are too few images for a metric, or they do not fit the model or cannot be read.
        ModelError: if the file of "inception=FILE" cannot be used.
    """
    names = applicable_metrics(model, metrics or (ALL,), split)
    if metrics and LIKELIHOOD in names:
        raise UsageError("metrics: 'likelihood' is not a sample metric; use pixelloom.evaluate")
    asked = tuple(name for name in names if name != LIKELIHOOD)
    options = MeasureOptions(asked, features, n, seed, split, limit, forgiving=not metrics)
    return measure_samples(model, load_data(model, data), options).results


def score(
    model: GenerativeModel,
    data: Any = None,
    split: str | None = None,
    *,
    calibrate: Any = "val",
    kind: Kind = "auto",
    false_alarms: float = 0.01,
    background: GenerativeModel | None = None,
    limit: int | None = None,
) -> ImageScores:
    """Score images for anomaly: scores, p-values and flags, calibrated on held-out normal images.

    Args:
        model: a model with a likelihood.
        data: name or path of data, levels uint8 [N, C, H, W], or images in memory as in :func:`train`. Default: the
            training data.
        split: "train", "val", "test" or "all"; default: "test" for the training data and named data sets, else "all".
        calibrate: held-out normal images: "val" or "test" of the training data, or data as above; or the calibration of
            an earlier result.
        kind: "likelihood", "typicality", "complexity", "ratio" or "auto", see :mod:`pixelloom.metrics.scores`.
        false_alarms: share of normal images that the threshold may flag.
        background: model of the same images for "ratio".
        limit: number of images, evenly spaced; default: all.

    Raises:
        DataError: if the data cannot be read or do not fit the model, or there are too few calibration images.
        UsageError: for a model without likelihood, an unknown kind or split, or calibration on training images.
    """
    scorer = Scorer(model, background)
    if isinstance(calibrate, Calibration):
        found = calibrate
    else:
        with normals(model, calibrate) as source:
            found = calibrated(scorer, source, false_alarms, NORMALS)
    with opened(model, data, split) as source:
        return score_images(scorer, found, source, kind, false_alarms, limit=limit)


def explain(
    model: GenerativeModel,
    image: Tensor | Levels,
    position: tuple[int, int] | None = None,
    *,
    label: int | str | None = None,
) -> Image:
    """Show how a pixel model predicts one pixel, as a PIL image with five panels.

    The panels are the image, the mask of the first layer, the receptive field with its blind spot, the predicted
    distribution with the true level, and the cost of every pixel in bits.

    Args:
        model: a pixel model of one order, see :func:`load`.
        image: levels, uint8 [C, H, W] or [1, C, H, W].
        position: (row, column) of the predicted pixel; by default the center.
        label: class of the image, by name or number, for a class-conditional model.

    Raises:
        UsageError: for a GAN, which predicts no pixels, an image of another shape, or a position outside the image.
    """
    from pixelloom.runs.explain import explanation
    from pixelloom.viz.explain import draw

    return draw(explanation(model, image, position, label))
