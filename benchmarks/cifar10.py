"""Every network of the table on color images of 3x32x32: built from its recipe, trained, scored and sampled on a CPU.

    python benchmarks/cifar10.py --steps 200 --json [--network NAME ...] [--batch 4] [--limit 100] [--data-root DIR]

This shows that each network takes color at 8 bit, not how good it becomes: a few hundred images are seen, by
networks much smaller than the papers'. SMALL says what differs from the recipe for binarized MNIST. The weights of NADE
and MADE grow with the square of the pixels, so they get few hidden units and a mixture of few components.

    bits/dim     on --limit images, evenly spaced over the test split, with the 95 % interval; a network that knows
                 nothing needs about 8
    samples      drawn by the fast sampler, saved as FOLDER/NAME/samples/final.png; levels is how many different values
                 their pixels have
    *_cpu_s      CPU seconds of the process
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, TypeAlias

from machine import facts
from pixelloom.core.errors import PixelloomError
from pixelloom.models.pixel import load_pixel
from pixelloom.networks import PIXEL_NETWORKS
from pixelloom.runs.compose import compose
from pixelloom.runs.config import RunConfig
from pixelloom.runs.evaluate import likelihood_of
from pixelloom.runs.recipes import RECIPES, recipe
from pixelloom.runs.train import train
from pixelloom.viz.grid import grid, save_png

Row: TypeAlias = dict[str, Any]
LOGISTICS: Row = {"head.kind": "logistics", "head.mixtures": 5}
CATEGORICAL: Row = {"head.kind": "categorical"}
SMALL: dict[str, Row] = {
    "pixelcnn": CATEGORICAL | {"model.blocks": 2},
    "gated-pixelcnn": CATEGORICAL | {"model.layers": 4},
    "row-lstm": CATEGORICAL | {"model.layers": 2},
    "diagonal-bilstm": CATEGORICAL | {"model.layers": 1},
    "nade": LOGISTICS | {"model.hidden": 50},
    "made": LOGISTICS | {"model.direct": False, "head.mixtures": 1},
    "pixelcnn-pp": LOGISTICS | {"model.channels": 16},
    "pixelsnail": LOGISTICS | {"model.blocks": 1},
    "pixel-transformer": CATEGORICAL | {"model.layers": 1},
}


def config_of(network: str, options: argparse.Namespace) -> RunConfig:
    """The recipe for CIFAR-10, small, for so many steps; it begins to learn at once."""
    name = network if network in RECIPES else "binarized-mnist"
    images = options.steps * options.batch
    return compose(
        recipe(name),
        overrides=SMALL[network]
        | {
            "data.source": options.data,
            "data.size": options.size,
            "data.root": options.data_root and str(options.data_root),
            "optim.warmup": min(images // 4, 100),
            "train.batch": options.batch,
            "train.images": images,
            "train.epochs": None,
            "train.validate_every": images,
            "train.checkpoint_every": images,
            "train.sample_every": images,
            "train.device": "cpu",
            "train.threads": options.threads,
            "validation_images": 16,
            "samples": 0,
        },
    )


def measure(network: str, options: argparse.Namespace) -> Row:
    """Train, score, sample."""
    config, folder = config_of(network, options), options.out / network
    clock = [time.process_time()]
    model = load_pixel(train(config, folder))
    clock.append(time.process_time())
    found, data = likelihood_of(model, config.data, "test", limit=options.limit)
    clock.append(time.process_time())
    images = model.sample(4)
    clock.append(time.process_time())
    save_png(grid(images.numpy(), model.spec.levels), folder / "samples" / "final.png")
    low, high = found.bits_per_dim_95 or (None, None)
    return {
        "network": network,
        "recipe": config.recipe,
        "data": data.name,
        "image": list(model.spec.shape),
        "head": model.description.head.kind,
        "changed": SMALL[network],
        "parameters": model.parameters,
        "steps": options.steps,
        "batch": options.batch,
        "bits/dim": round(found.bits_per_dim, 4),
        "95%": [low and round(low, 4), high and round(high, 4)],
        "n": found.n,
        "sampled": len(images),
        "levels": len(images.unique()),
        "train_cpu_s": round(clock[1] - clock[0], 2),
        "test_cpu_s": round(clock[2] - clock[1], 2),
        "sample_cpu_s": round(clock[3] - clock[2], 2),
    } | facts()


def main(arguments: list[str] | None = None) -> int:
    """Print one line a network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", choices=list(PIXEL_NETWORKS), action="append", help="default: all of the table")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--limit", type=int, default=100, help="test images to score")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", default="cifar10", help="another data set in color, for trials")
    parser.add_argument("--size", type=int, help="another side, for trials")
    parser.add_argument("--data-root", type=Path, help="holds NAME/FILES of the data; default: $PIXELLOOM_DATA")
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10"), help="folder of the runs")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    for network in options.network or PIXEL_NETWORKS:
        try:
            row = measure(network, options)
        except PixelloomError as error:
            print(f"{network}: {error}", file=sys.stderr)
            return 2
        line = (
            f"{network:18} {row['head']:12} {row['parameters']:>10,} parameters: {row['bits/dim']} bits/dim on "
            f"{row['n']} test images after {row['steps']} steps of {row['batch']}, {row['train_cpu_s']} CPU seconds"
        )
        print(json.dumps(row) if options.json else line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
