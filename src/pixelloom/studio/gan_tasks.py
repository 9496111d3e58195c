"""What the page does with GANs, and with two models of any family."""

from __future__ import annotations

import math
from typing import Any

from pixelloom.core.errors import UsageError
from pixelloom.models.registry import family_of, require
from pixelloom.runs.anomaly import negative_log_likelihood
from pixelloom.sampling.latent_noise import labels_of
from pixelloom.studio.images import gallery, integer, levels_of, png_of, pngs_of, table
from pixelloom.studio.library import Entry, draws
from pixelloom.studio.tasks import LARGEST_SEED, label_of, sample_options
from pixelloom.viz import attention_maps
from pixelloom.viz.attention_maps import Strip, place

MOST_STOPS, MOST_STEPS = 8, 16
MOST_MAPS = 8


def interpolate(entry: Entry, stops: object, steps: object, seed: object, class_name: str | None) -> tuple[str, str]:
    """Interpolate between images of a GAN: HTML with a row from each image to the next, and a line of text."""
    model: Any = require(entry.model, "interpolate", "interpolate")
    count, between = integer("images", stops, 2, MOST_STOPS), integer("steps", steps, 1, MOST_STEPS)
    start = integer("seed", seed, 0, LARGEST_SEED)
    images = model.interpolate(count, between, seed=start, labels=label_of(entry, class_name)).numpy()
    pngs = pngs_of(images, model.spec.levels)
    rows = [png for leg in range(count - 1) for png in pngs[leg * between : (leg + 1) * between + 1]]
    return gallery(rows, columns=between + 1, side=80), f"{len(images)} images on great circles of the latent space"


def attend(
    entry: Entry, n: object, seed: object, row: object, column: object, class_name: str | None
) -> tuple[str, str]:
    """Attention maps of a generator for one query position: HTML, and a line of text."""
    model: Any = require(entry.model, "attention", "attend")
    spec, classes = model.spec, model.description.classes
    count, start = integer("images", n, 1, MOST_MAPS), integer("seed", seed, 0, LARGEST_SEED)
    query = integer("row", row, 0, spec.height - 1), integer("column", column, 0, spec.width - 1)
    one = label_of(entry, class_name)
    labels = labels_of(classes, start, 0, count) if classes and one is None else one
    images, maps = model.attend(model.latents(count, seed=start), labels)
    if not maps:
        raise UsageError(f"{model.description.network} has no attention layers")
    levels, size = images.numpy(), (spec.height, spec.width)
    strips = [Strip(["generated", f"row {query[0]}, column {query[1]}"], levels, [query] * count)]
    for name, weights in maps:
        grid = weights.shape[1], weights.shape[2]
        y, x = place(query, size, grid)
        caption = [f"generator {name}", f"{grid[0]}x{grid[1]}"]
        strips.append(Strip(caption, levels, [query] * count, weights[:, y, x].cpu().numpy(), grid))
    sheet = attention_maps.sheet(strips, spec.levels)
    return gallery([png_of(sheet)]), f"{len(maps)} attention layers; the weights of a map sum to 1"


def compare(one: Entry, other: Entry, n: object, seed: object, files: list[tuple[str, bytes]]) -> tuple[str, str, str]:
    """Two models side by side: HTML of a table, and samples of each with the same seed.

    Args:
        one: the first model.
        other: the second model.
        n: number of samples of each.
        seed: of the samples.
        files: images whose bits/dim are compared, by models of the same images; none for none.
    """
    count, start = integer("images", n, 1, 36), integer("seed", seed, 0, LARGEST_SEED)
    both = (one, other)
    rows = [["", one.name, other.name]]
    columns_of = [_about(entry) for entry in both]
    rows += [
        [name, *(each.get(name, "") for each in columns_of)] for name in dict.fromkeys((*columns_of[0], *columns_of[1]))
    ]
    if files:
        rows += _bits(one, other, files)
    drawn = []
    for entry in both:
        if draws(entry.model):
            images = entry.model.sample(count, seed=start, **sample_options(entry, 1.0, None, None)).numpy()
            drawn.append(gallery(pngs_of(images, entry.model.spec.display), side=80))
        else:
            drawn.append("<p>needs a conditioning image</p>")
    return table(rows[0], rows[1:]), drawn[0], drawn[1]


def _about(entry: Entry) -> dict[str, str]:
    model, record = entry.model, entry.model.description.training
    spec, best = model.spec, record.validation
    return {
        "family": family_of(model).title,
        "network": model.description.network,
        "parameters": f"{model.parameters:,}",
        "images": f"{spec.height} x {spec.width} x {spec.channels}, {spec.levels} levels",
        "trained on": record.data.source if record.data is not None else "",
        "images seen": f"{record.images:,}" if record.images else "",
        "validation": ", ".join(f"{name} {value:.4f}" for name, value in best.metrics.items()),
    }


def _bits(one: Entry, other: Entry, files: list[tuple[str, bytes]]) -> list[list[str]]:
    """Rows with the bits/dim of image files by two models."""
    columns: list[list[str]] = []
    names: list[str] = []
    for entry in (one, other):
        if "likelihood" not in entry.model.can:
            columns.append(["no likelihood"] * len(files))
            continue
        names, images = levels_of(entry.model, files)
        bits = negative_log_likelihood(entry.model, images) / (entry.model.spec.dims * math.log(2))
        columns.append([f"{value:.4f} bits/dim" for value in bits.tolist()])
    names = names or [name for name, _ in files]
    return [[name, first, second] for name, first, second in zip(names, *columns, strict=True)]
