"""What the page does with a model, as functions of plain values that return HTML or yield it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from pixelloom.core.errors import DataError, PixelloomError, UsageError
from pixelloom.models.inputs import class_index
from pixelloom.models.registry import require
from pixelloom.runs.anomaly import Calibration, Scorer, calibrate
from pixelloom.runs.kept_calibration import kept_by
from pixelloom.runs.score import normals, score_images
from pixelloom.studio import canvas
from pixelloom.studio.images import fitted, gallery, integer, levels_of, png_of, pngs_of
from pixelloom.studio.library import Entry, draws
from pixelloom.studio.watching import frames
from pixelloom.viz.anomaly import overlay
from pixelloom.viz.grid import to_image

MOST_IMAGES = 64
LARGEST_SEED = (1 << 31) - 1
COMPLETIONS = 8
ANY_CLASS = "any class"
NORMALS = 400
"""Images that scores are calibrated on; the command line takes more."""
FALSE_ALARMS = 0.01


def label_of(entry: Entry, name: str | None) -> int | None:
    """The number of a class; None for any class.

    Raises:
        UsageError: for a class that the model lacks.
    """
    if not name or name == ANY_CLASS or not entry.model.description.classes:
        return None
    return class_index(name, entry.model.description)


def real(name: str, value: object, low: float, high: float) -> float:
    """A number of a form.

    Raises:
        UsageError: for anything else, or a number out of its range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UsageError(f"{name}: a number from {low:g} to {high:g}")
    return float(value)


def sample_options(entry: Entry, temperature: object, truncation: object, class_name: str | None) -> dict[str, Any]:
    """The options of ``sample`` that a model has; the others are left out."""
    can, found = entry.model.can, dict[str, Any]()
    if "temperature" in can:
        found["temperature"] = real("temperature", temperature, 0.05, 5)
    if "truncation" in can and truncation:
        found["truncation"] = real("truncation", truncation, 0.05, 10)
    if (label := label_of(entry, class_name)) is not None:
        found["labels"] = label
    return found


def draw(
    entry: Entry, n: object, seed: object, temperature: object, truncation: object, class_name: str | None
) -> Iterator[tuple[str, str]]:
    """Sample images: yields the images so far and a line of text.

    The last images are those of ``model.sample`` with the same arguments. Closing the iterator cancels the sampler.
    """
    count, start = integer("images", n, 1, MOST_IMAGES), integer("seed", seed, 0, LARGEST_SEED)
    if not draws(entry.model):
        raise UsageError("this model needs a conditioning image; use pixelloom sample --condition")
    options = sample_options(entry, temperature, truncation, class_name)
    levels = entry.model.spec.display
    for frame in frames(lambda on_step: entry.model.sample(count, seed=start, on_step=on_step, **options)):
        images = gallery(pngs_of(frame.images, levels))
        yield images, f"{count} images, seed {start}" if frame.done else f"step {frame.step} of {frame.steps}"


def example(entry: Entry, seed: object, class_name: str | None = None) -> str:
    """The canvas with an image of the model, whose lower half is hidden."""
    options = sample_options(entry, 1.0, None, class_name)
    image = entry.model.sample(1, seed=integer("seed", seed, 0, LARGEST_SEED), **options)[0].numpy()
    return canvas.dumped(image, lower_half(entry), entry.model.spec.display)


def on_canvas(entry: Entry, name: str, content: bytes) -> str:
    """The canvas with an image file, whose lower half is hidden."""
    image = levels_of(entry.model, [(name, content)])[1][0]
    return canvas.dumped(image, lower_half(entry), entry.model.spec.display)


def lower_half(entry: Entry) -> canvas.Hole:
    """The hole that covers the lower half of an image."""
    height, width = entry.model.spec.height, entry.model.spec.width
    return np.repeat(np.arange(height)[:, None] >= height // 2, width, axis=1)


def complete(entry: Entry, state: object, seed: object, class_name: str | None) -> tuple[str, str]:
    """Complete the image of a canvas: HTML of the completions, likeliest first, and a line of text.

    Args:
        entry: the model.
        state: JSON of the canvas.
        seed: seed of the completions.
        class_name: class of the image.
    """
    model: Any = require(entry.model, "completion", "complete")
    image, hole = canvas.parsed(state, model.spec)
    if not hole.any():
        raise UsageError("canvas: nothing is hidden; hide some pixels first")
    options = {} if (label := label_of(entry, class_name)) is None else {"labels": label}
    start = integer("seed", seed, 0, LARGEST_SEED)
    found = model.complete(image[None], torch.from_numpy(hole), COMPLETIONS, seed=start, **options)
    log_prob = found.log_prob[0].tolist()
    order = sorted(range(COMPLETIONS), key=lambda i: -log_prob[i])
    share = torch.softmax(found.log_prob[0], 0).tolist()
    captions = [f"log p = {log_prob[i]:.2f}\n{100 * share[i]:.1f} % of these" for i in order]
    shown = gallery(pngs_of(found.images[0, order].numpy(), model.spec.display), captions)
    words = {"order": "exact, in a pixel order", "mask": "given all known pixels", "particles": "by particles"}
    values = int(hole.sum()) * model.spec.channels
    return shown, f"{values} of {model.spec.dims} values hidden; method {found.method} ({words[found.method]}); nats"


def calibration_of(entry: Entry, scorer: Scorer) -> Calibration:
    """The calibration kept with a model, or one on the validation split of its training data.

    Raises:
        DataError: if these data are not on this computer.
    """

    def make() -> Calibration:
        if (kept := kept_by(entry.folder, scorer)) is not None and kept.calibration.expected is not None:
            return kept.calibration
        with normals(entry.model, "val") as source:
            return calibrate(scorer, source, FALSE_ALARMS, NORMALS)

    return entry.calibration(make)


def score(entry: Entry, files: list[tuple[str, bytes]]) -> tuple[str, str]:
    """Score image files: HTML of images and maps with bits and p-values, and a line of text.

    All maps have one scale, so that they can be compared. Without the training data of the model there are no p-values,
    and the maps show bits instead of bits above the expected ones.
    """
    scorer = Scorer(entry.model, maps=hasattr(entry.model, "nats") and _one_order(entry))
    try:
        found = calibration_of(entry, scorer)
    except PixelloomError as error:
        return _bits_only(entry, files, f"no p-values: {error}")
    drawn: dict[str, bytes] = {}
    spec = entry.model.spec

    def on_maps(names: list[str], images: Any, excess: Any) -> None:
        for name, image, each in zip(names, images, excess, strict=True):
            drawn[name] = png_of(overlay(image, spec.display, each, found.scale))

    with fitted(entry.model, files) as source:
        result = score_images(
            scorer, found, source, false_alarms=FALSE_ALARMS, on_maps=on_maps if scorer.maps else None
        )
        images = {
            name: png_of(to_image(source.take([row]).images[0], spec.display))
            for row, name in enumerate(source.names)
            if result.rows[row].score is not None and name not in drawn
        }
    shown, captions = [], []
    for row in result.rows:
        if row.bits is None or row.p_value is None:
            raise DataError(f"{row.image}: cannot be read as an image")
        shown.append(drawn.get(row.image) or images[row.image])
        flag = "\nunusual" if row.flag else ""
        bits = f"{row.bits * spec.dims:.1f} bits, {row.bits:.4f} bits/dim"
        captions.append(f"{row.image}\n{bits}\np-value {row.p_value:.3f}{flag}")
    scale = f"; maps: red {found.scale:.3g} bits above, blue as many below the expected ones" if scorer.maps else ""
    count = len(found.of("auto"))
    return gallery(shown, captions, side=224), f"p-values among {count} images of {found.title}{scale}"


def _one_order(entry: Entry) -> bool:
    return "given" in entry.model.can


def _bits_only(entry: Entry, files: list[tuple[str, bytes]], why: str) -> tuple[str, str]:
    """Scores without calibration: bits of images and pixels."""
    spec = entry.model.spec
    names, images = levels_of(entry.model, files)
    statistics, maps = Scorer(entry.model, maps=_one_order(entry)).measure(images)
    largest = spec.channels * math.log2(spec.levels)  # bits of a pixel without any model
    shown = (
        pngs_of(images, spec.display)
        if maps is None
        else [png_of(overlay(image, spec.levels, each, largest)) for image, each in zip(images, maps, strict=True)]
    )
    bits = statistics.bits.tolist()
    captions = [
        f"{name}\n{each * spec.dims:.1f} bits, {each:.4f} bits/dim" for name, each in zip(names, bits, strict=True)
    ]
    scale = f"; maps: red {largest:g} bits of a pixel" if maps is not None else ""
    return gallery(shown, captions, side=224), f"{why}{scale}"
