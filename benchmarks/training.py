"""Images per second of a training step, compared with a plain implementation of the tutorial's step.

    python benchmarks/training.py --json [--network mnist-gray] [--batch 128] [--repeats 5] [--cpu-time]

The baselines are in training_tutorials.py. Ours is the recipe's objective in the engine. A step updates each optimizer
once: that of a pixel network, or those of D and G. Each variant has its own process, and all train on the same random
levels. Their steps alternate, one process at a time, and the median counts, so that other load slows all variants
equally. CPU time, with one thread, depends less on load. bf16 is measured if the processor supports it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import numpy as np
import torch

from machine import facts
from pixelloom.core.types import Batch
from pixelloom.data.splits import Dataset, Split
from pixelloom.engine.config import TrainConfig
from pixelloom.engine.fabric import choose_precision, make_fabric
from pixelloom.engine.loop import fit
from pixelloom.metrics.distances import LEAST
from pixelloom.runs.families import set_up
from pixelloom.runs.recipes import recipe
from training_tutorials import IMAGES, tutorial_step

BATCHES = {"mnist-gray": 128, "mnist-binary": 128, "dcgan": 64, "sagan": 64}
"""The tutorials' batch sizes."""


def precisions() -> tuple[str, ...]:
    """Return the precisions of this processor: the engine refuses emulated bf16."""
    return ("fp32", "bf16") if choose_precision(TrainConfig(), "cpu") == "bf16-mixed" else ("fp32",)


def data(name: str, levels: torch.Tensor) -> Dataset:
    """Return a data set with the levels as every split, repeated until they are enough for a KID, which is not used."""
    enough = np.resize(levels.numpy(), (max(len(levels), LEAST), *levels.shape[1:]))
    split = Split(enough, levels=IMAGES[name].levels)
    return Dataset("random", IMAGES[name], split, split, split)


def train(name: str, precision: str, levels: torch.Tensor, batches: Iterator[Batch]) -> None:
    """Train the recipe for one step per batch, without hooks."""
    config = recipe(name)
    endless = {"epochs": None, "minutes": None, "images": 10**12}
    machine = {"batch": len(levels), "precision": precision, "device": "cpu"}
    settings = TrainConfig.model_validate(config.train.model_dump() | endless | machine)
    objective = set_up(config, data(name, levels)).objective()
    fit(objective, lambda _: batches, settings, make_fabric(settings), epoch=len(levels))


def serve(variant: str, name: str, batch: int, cpu_time: bool, pipe: Connection) -> None:
    """Run one step per request and answer with its seconds, until the pipe is closed."""
    torch.manual_seed(0)
    spec = IMAGES[name]
    levels = torch.randint(0, spec.levels, (batch, spec.channels, spec.height, spec.width), dtype=torch.uint8)
    clock = time.process_time if cpu_time else time.perf_counter

    def asked() -> Iterator[Batch]:
        while True:
            pipe.recv()
            start = clock()
            yield Batch(levels, None)  # resumed when the step is done
            pipe.send(clock() - start)

    with contextlib.suppress(EOFError):
        if variant == "baseline":
            step = tutorial_step(name, levels)
            for _ in asked():
                step()
        else:
            train(name, variant, levels, asked())


def measure(name: str, batch: int, repeats: int, cpu_time: bool = False) -> list[dict[str, object]]:
    """Measure alternating steps of all variants, after one warm-up step of each."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for variant in ("baseline", *precisions()):
        pipes[variant], other = context.Pipe()
        context.Process(target=serve, args=(variant, name, batch, cpu_time, other), daemon=True).start()
        other.close()
    seconds: dict[str, list[float]] = {variant: [] for variant in pipes}
    try:
        for _ in range(repeats + 1):
            for variant, pipe in pipes.items():
                pipe.send(True)
                seconds[variant].append(pipe.recv())
    finally:  # also after an error, else the others would wait forever: the engine's handler ignores SIGTERM in them
        for pipe in pipes.values():
            pipe.close()
    median = {key: statistics.median(values[1:]) for key, values in seconds.items()}
    return [
        {
            "network": name,
            "precision": precision,
            "batch": batch,
            "ours_images_per_s": round(batch / median[precision], 4),
            "baseline_images_per_s": round(batch / median["baseline"], 4),
            "ratio": round(median["baseline"] / median[precision], 3),
            "clock": "cpu" if cpu_time else "wall",
            "repeats": repeats,
            **facts(),
        }
        for precision in precisions()
    ]


def main() -> None:
    """Print one line per network and precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=list(IMAGES), action="append")
    parser.add_argument("--batch", type=int, help="images per step; default: as in the tutorial")
    parser.add_argument("--repeats", type=int, default=5, help="measured steps")
    parser.add_argument("--cpu-time", action="store_true", help="count CPU seconds; set OMP_NUM_THREADS=1")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    args = parser.parse_args()
    for name in args.network or IMAGES:
        for row in measure(name, args.batch or BATCHES[name], args.repeats, args.cpu_time):
            ours, base = row["ours_images_per_s"], row["baseline_images_per_s"]
            line = f"{name:13} {row['precision']}: {ours} images/s, baseline {base}, {row['ratio']}x"
            print(json.dumps(row) if args.json else line, flush=True)


if __name__ == "__main__":
    main()
