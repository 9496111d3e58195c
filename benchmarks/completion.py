"""Completion of hidden pixels by each method: nats of the truth, and the digits that completions are read as.

    python benchmarks/completion.py --masked MODEL [--plain MODEL] [--orders MODEL] [-n 1000] [--out FILE]

Images: -n of the static binarized MNIST test split, evenly spaced. Holes: bottom, top and left half, center 14x14, 75 %
random pixels, strokes. For each hole and method:

    nats_per_hidden_pixel    -log p(hidden | known) of the truth over the number of hidden pixels, over all images
    same_digit               share of completions, one per image, that lenet-mnist reads as the digit of the image

The method `given` is sampling in raster order with known pixels kept (sample --given): a hidden pixel is conditioned on
earlier pixels only. `particles` costs K samples an image and is measured on --particle-images of the images. Images of
the binarized set have no labels; each has that of the gray MNIST image under which its bits are most likely.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pixelloom as pl
from machine import facts
from pixelloom.core import rng
from pixelloom.data.catalog import load
from pixelloom.data.config import DataConfig
from pixelloom.data.masks import region, strokes
from pixelloom.metrics.class_accuracy import read
from pixelloom.models.completion import complete
from pixelloom.models.pixel import PixelModel

HOLES = ("bottom", "top", "left", "center", "75%", "strokes")
SIDE, RADIUS, VERTICES = 28, 2.5, 6
OUT = Path(__file__).parent / "results" / "completion.json"


def hidden_pixels(hole: str, n: int) -> Tensor:
    """Masks of n images, bool [n, 28, 28]; random ones differ from image to image."""
    if hole == "strokes":
        points = torch.from_numpy(rng.uniform_per_image((VERTICES, 2), 0, 0, n, rng.Stream.HIDDEN))
        return strokes(points, torch.full((n,), RADIUS, dtype=torch.float64), SIDE, SIDE)
    return torch.stack([region(hole, SIDE, SIDE, seed=i) for i in range(n)])


def digits_of(bits: Tensor, root: str | None) -> Tensor:
    """The digit of each binarized image, int64 [n]: that of the MNIST test image under which its bits are likeliest."""
    test = load(DataConfig(source="mnist", root=root)).test
    gray, labels = test.take(np.arange(len(test)))
    p = (torch.from_numpy(gray).double().flatten(1) / 255).clamp(1e-3, 1 - 1e-3)
    x = bits.double().flatten(1)
    fits = (x @ p.log().T + (1 - x) @ (1 - p).log().T).topk(2, dim=1)
    assert labels is not None
    first, second = torch.from_numpy(labels)[fits.indices].unbind(1)
    clear = fits.values[:, 0] - fits.values[:, 1] > 1  # nat
    assert bool((clear | (first == second)).all()), "an image is explained by images of two digits"
    return first


def given_only(model: PixelModel, images: Tensor, hidden: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """`sample --given`: nats of the truth [n], and one completion of each image."""
    nats = (model.nats(images).double() * hidden[:, None]).flatten(1).sum(1)
    return nats, model.sample(len(images), seed=seed, given=images, mask=~hidden[:, None])


def by_method(model: PixelModel, images: Tensor, hidden: Tensor, method: Any, particles: int) -> tuple[Tensor, Tensor]:
    """Nats of the truth [n], and one completion of each image.

    A completion of no hidden pixel is the truth, so its log-probability given the known ones is that of the truth minus
    that of the known pixels: for `order` from the same call, for `mask` from the conditioning image.
    """
    if method == "mask":
        assert model.condition is not None
        truth = -model.log_prob(images, condition=model.condition.partly(images, hidden[:, None]))
        return truth, complete(model, images, hidden, 1, method="mask").images[:, 0]
    found = complete(model, images, hidden, 1, method=method, particles=particles)
    known = model.log_prob(found.images[:, 0]) - found.log_prob[:, 0]  # log p(known), or its estimate
    return known - model.log_prob(images), found.images[:, 0]


def measured(name: str, hole: str, nats: Tensor, drawn: Tensor, hidden: Tensor, digits: Tensor) -> dict[str, object]:
    """One row of the result."""
    n = len(nats)
    values = hidden.flatten(1).sum(1).double()
    per_pixel = float(nats.sum() / values.sum())
    error = 1.96 * float((nats - per_pixel * values).std()) / math.sqrt(n) / float(values.mean())  # of a ratio
    hits = float((read(drawn, 2) == digits).double().mean())
    return {
        "method": name,
        "hole": hole,
        "n": n,
        "nats_per_hidden_pixel": round(per_pixel, 5),
        "nats_95": [round(per_pixel - error, 5), round(per_pixel + error, 5)],
        "same_digit": round(hits, 4),
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masked", help="a model trained with --condition mask")
    parser.add_argument("--plain", default="binarized-mnist", help="an unconditional model of one order")
    parser.add_argument("--orders", help="a model trained with --orders 8")
    parser.add_argument("-n", type=int, default=1000, help="test images")
    parser.add_argument("--particle-images", type=int, default=50, help="of these for the method particles; 0 for none")
    parser.add_argument("--particles", type=int, default=256)
    parser.add_argument("--data-root", help="folder of the data sets")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    test = load(DataConfig(source="binarized-mnist", root=options.data_root)).test
    images = torch.from_numpy(test.take(np.arange(options.n) * len(test) // options.n)[0])
    digits = digits_of(images, options.data_root)
    models: dict[str, Any] = {
        name: pl.load(path) for name in ("masked", "plain", "orders") if (path := getattr(options, name))
    }
    real = float((read(images, 2) == digits).double().mean())
    rows: list[dict[str, object]] = []
    for hole in HOLES:
        hidden = hidden_pixels(hole, len(images))
        ways: list[tuple[str, str, int]] = [("given", "plain", len(images)), ("mask", "masked", len(images))]
        if hole == "bottom":
            ways.append(("order", "plain", len(images)))
        if hole in ("bottom", "top", "left"):
            ways.append(("order", "orders", len(images)))
        ways.append(("particles", "plain", options.particle_images))
        for method, name, n in ways:
            if name not in models or not n:
                continue
            rows_of = torch.arange(n) * len(images) // n
            x, where, begun = images[rows_of], hidden[rows_of], time.process_time()
            if method == "given":
                nats, drawn = given_only(models[name], x, where, seed=0)
            else:
                nats, drawn = by_method(models[name], x, where, method, options.particles)
            assert torch.equal(drawn[:, 0][~where], x[:, 0][~where])  # known pixels are identical
            row = measured(f"{method}, {name}", hole, nats, drawn, where, digits[rows_of])
            row["cpu_seconds"] = round(time.process_time() - begun, 1)
            rows.append(row)
            print(json.dumps(row), flush=True)
    result = {"truth_same_digit": real, "particles": options.particles, "rows": rows, **facts()}
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
