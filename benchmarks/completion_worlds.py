"""Completion on small worlds whose conditional distributions are enumerated: total variation of the draws.

    python benchmarks/completion_worlds.py [--images 20000] [--draws 4000] [--out FILE]

The images are 3x3 and 4x4 bars and stripes (MacKay 2003, "Information Theory, Inference, and Learning Algorithms",
section 43) with a twentieth of the bits flipped. Three small models are trained on them: an ordinary one, one of eight
orders, and one that is conditioned on partly known images. For each mask and each method that allows it:

    variation    between the frequencies of the draws and the enumerated p(hidden | known) of the model itself
    noise        the mean variation of as many exact draws
    gap          of the method mask: between its p(hidden | known) and that of its model with nothing known, enumerated;
                 one network, conditioned in two ways, need not agree with itself
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pixelloom as pl
from machine import facts
from pixelloom.data.masks import region
from pixelloom.models.completion import complete
from pixelloom.models.order_ensemble import InSequence
from pixelloom.models.pixel import PixelModel
from pixelloom.networks.symmetries import sequence

HOLES = ("bottom", "top", "left", "right", "center", "50%", "100%", "one")
SMALL = {
    "data.levels": 2,
    "model.channels": 16,
    "model.layers": 4,
    "model.first_kernel": 5,
    "model.kernel": 3,
    "train.threads": 1,
    "samples": 0,
    "optim.warmup": 100,
}
OUT = Path(__file__).parent / "results" / "completion-worlds.json"


def bars_and_stripes(side: int, n: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """n images, uint8 [n, 1, side, side]: random rows or random columns are 1, and 1 of 20 bits is flipped."""
    g = np.random.default_rng(seed)
    lines = np.broadcast_to(g.integers(0, 2, (n, 1, 1, side)), (n, 1, side, side))
    images = np.where(g.random((n, 1, 1, 1)) < 0.5, lines, lines.swapaxes(2, 3))
    return (images ^ (g.random(images.shape) < 0.05)).astype(np.uint8)


def trained(side: int, n: int, folder: Path, **more: object) -> PixelModel:
    """A small model of these images."""
    sizes = {"train": n, "val": 500, "test": 500}
    data = {name: 255 * bars_and_stripes(side, size, seed)[:, 0] for seed, (name, size) in enumerate(sizes.items())}
    found = pl.train("gated-pixelcnn", data=data, out=folder, epochs=3, precision="fp32", overrides=SMALL | more)
    assert isinstance(found, PixelModel)
    return found


def hidden_pixels(hole: str, side: int) -> Tensor:
    """bool [side, side]"""
    if hole != "one":
        return region(hole, side, side)
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[0, 1] = True
    return mask


def all_images(side: int) -> Tensor:
    """All binary images, uint8 [2^(side^2), 1, side, side]."""
    return torch.tensor(list(itertools.product((0, 1), repeat=side * side)), dtype=torch.uint8).view(-1, 1, side, side)


def in_orders(model: PixelModel, images: Tensor, hidden: Tensor) -> Tensor:
    """log p of all images, averaged over the orders that end in the hidden pixels, up to a constant."""
    side = hidden.shape[0]
    known, found = int((~hidden).sum()), []
    for order in range(model.description.orders):
        if bool(hidden.flatten()[sequence(order, side, side)[known:]].all()):
            way = InSequence(model.network, order)
            found.append(model.of_network(way.network).log_prob(way.taken(images), batch=4096))
    return torch.stack(found).logsumexp(0)


def conditional(log_prob: Tensor, agrees: Tensor) -> Tensor:
    """p(hidden | known) of the images that agree with the known pixels."""
    return log_prob[agrees].softmax(0)


def row(model: PixelModel, method: Any, hole: str, draws: int) -> dict[str, object] | None:
    """One mask and method; None where the method does not allow the mask."""
    side = model.spec.height
    hidden, images = hidden_pixels(hole, side), all_images(side)
    given = torch.from_numpy(bars_and_stripes(side, 1, 3))[0]
    agrees = ((images == given) | hidden).flatten(1).all(1)
    n, result = (32 if method == "particles" else draws), {}
    m = 1600 if method == "particles" else draws
    try:
        found = complete(model, given.expand(m // n, *given.shape), hidden, n, method=method)
    except pl.UsageError:
        return None
    if method == "order" and model.description.orders > 1:
        log_prob = in_orders(model, images, hidden)
    elif method == "mask":
        assert model.condition is not None
        plain = conditional(model.log_prob(images, batch=4096), agrees)
        log_prob = model.log_prob(images, condition=model.condition.partly(images, hidden[None, None]), batch=4096)
        result["gap"] = round(float((conditional(log_prob, agrees) - plain).abs().sum() / 2), 4)
    else:
        log_prob = model.log_prob(images, batch=4096)
    truth = conditional(log_prob, agrees).numpy()
    weights = 2 ** torch.arange(side * side - 1, -1, -1)  # an image as a number: its index in all_images
    index = (found.images.flatten(0, 1).flatten(1).long() * weights).sum(1)
    place = {int(number): k for k, number in enumerate(agrees.nonzero()[:, 0])}
    counts = np.bincount([place[int(i)] for i in index], minlength=len(truth))
    exact = np.random.default_rng(0).multinomial(m, truth / truth.sum(), 20)
    return {
        "side": side,
        "method": method,
        "orders": model.description.orders,
        "hole": hole,
        "variation": round(float(np.abs(counts / m - truth).sum() / 2), 4),
        "noise": round(float(np.abs(exact / m - truth).sum(1).mean() / 2), 4),
        **result,
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000, help="training images")
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for side in (3, 4):
            runs = Path(folder) / str(side)
            plain = trained(side, options.images, runs / "plain")
            orders = trained(side, options.images, runs / "orders", orders=8)
            masked = trained(side, options.images, runs / "masked", condition="mask")
            for model, method in ((plain, "order"), (orders, "order"), (masked, "mask"), (plain, "particles")):
                for hole in HOLES:
                    found = row(model, method, hole, options.draws)
                    if found is not None:
                        rows.append(found)
                        print(json.dumps(found), flush=True)
    result = {"rows": rows, "images": options.images, "draws": options.draws, **facts()}
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
