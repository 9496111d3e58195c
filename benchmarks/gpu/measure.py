"""Everything worth measuring on one GPU in under nine minutes; each result is printed as a JSON line once it is there.

    python benchmarks/gpu/measure.py                     # all parts: tests, forward, training, sampling
    python benchmarks/gpu/measure.py --plan              # what would be measured, and for how long
    python benchmarks/gpu/measure.py --device cpu ...    # the same code without a GPU, to try it

The images are random levels of each recipe's shape, so no data is needed. A part that needs less than its share of the
time leaves the rest to the parts after it; what does not fit into a part's share is printed as left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from pixelloom.core.errors import PixelloomError
from pixelloom.core.types import ImageSpec
from pixelloom.data.catalog import Dataset, Split
from pixelloom.data.stream import Stream, batches
from pixelloom.engine.fabric import make_fabric
from pixelloom.engine.loop import fit
from pixelloom.engine.state import State
from pixelloom.models.pixel import PixelModel
from pixelloom.objectives.base import Monitor
from pixelloom.objectives.likelihood import likelihood
from pixelloom.runs.compose import compose
from pixelloom.runs.config import RunConfig
from pixelloom.runs.families import set_up
from pixelloom.runs.recipes import PIXEL_RUNS, recipe
from pixelloom.sampling.fast.sampler import make_plan

ROOT = Path(__file__).resolve().parents[2]
SHARES = {"tests": 0.2, "forward": 0.05, "training": 0.5, "sampling": 0.25}
SHAPES = {  # channels, height, width, levels as published
    "digits": (1, 8, 8, 17),
    "mnist": (1, 28, 28, 256),
    "binarized-mnist": (1, 28, 28, 2),
    "colored-mnist": (3, 28, 28, 4),
    "cifar10": (3, 32, 32, 256),
}

Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One measurement: what it is of, and a function of the seconds it may take."""

    labels: Row
    measure: Callable[[float], Row]


def spec_of(config: RunConfig) -> ImageSpec:
    """The images that a recipe trains on."""
    channels, height, width, levels = SHAPES[config.data.source]
    return ImageSpec(channels, height, width, 2 if config.data.binarize != "none" else config.data.levels or levels)


def noise_like(config: RunConfig, n: int) -> Dataset:
    """Random levels in the place of a recipe's data."""
    spec = spec_of(config)
    images = np.random.default_rng(0).integers(0, spec.levels, (n, *spec.shape), dtype=np.uint8)
    split = Split(images, levels=spec.levels)
    return Dataset("noise", spec, split, split, split, source_levels=spec.levels)


def model_of(name: str, device: str) -> PixelModel:
    """A recipe's model, untrained, with no picture to go by."""
    torch.manual_seed(0)
    config = compose(recipe(name), overrides={"condition": "none"})
    return set_up(config, noise_like(config, 64)).model.to(device)


def wait(device: str) -> None:
    """Let the GPU finish what it was given, so that the clock sees it."""
    if device == "cuda":
        torch.cuda.synchronize()


@torch.no_grad()
def pass_seconds(model: PixelModel, batch: int, device: str, seconds: float) -> float:
    """Median time of one forward pass in fp32, after two that warm up."""
    levels = torch.randint(0, model.spec.levels, (batch, *model.spec.shape), dtype=torch.uint8, device=device)
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - begun < seconds and len(times) < 100):
        wait(device)
        start = time.perf_counter()
        model.predict(levels)
        wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def forward(name: str, batch: int, device: str, seconds: float) -> Row:
    """One pass over a batch: the price that sampling is compared with."""
    taken = pass_seconds(model_of(name, device), batch, device, seconds)
    return {"ms": round(1e3 * taken, 3), "images_per_s": round(batch / taken, 1)}


def training(name: str, batch: int, precision: str, device: str, seconds: float) -> Row:
    """StepCounter of the engine itself, data stream, optimizer and weight average included."""
    budget = {"train.epochs": None, "train.minutes": None, "train.threads": None, "train.accumulate": 1}
    run = {"train.batch": batch, "train.precision": precision, "train.device": device, "condition": "none"}
    config = compose(recipe(name), overrides=budget | run)
    data = noise_like(config, max(batch, 2048))
    description = set_up(config, data).model.description
    model = PixelModel.build(description)
    model.network.train()
    monitor = Monitor("none", lambda _: {})
    objective = likelihood(model.network, model.head, data.spec.levels, description.scaling, config.optim, monitor)
    fabric = make_fabric(config.train)
    stream = Stream(data.train, data.spec, batch)

    def rounds(n: int) -> State:
        budget = config.train.model_copy(update={"images": n * batch})
        return fit(objective, partial(batches, stream), budget, fabric, epoch=len(data.train))

    rounds(3)  # warms up: kernels are chosen and memory is taken
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trial = rounds(3)
    n = min(max(3, int((seconds - (trial.seconds * 2)) / (trial.seconds / 3))), 2000)
    measured = rounds(n)
    return {
        "images_per_s": round(measured.images / measured.seconds, 1),
        # Convolutions of float32 may round their inputs to 10 bits on recent GPUs; a figure must say so.
        "tf32": device == "cuda" and precision == "fp32" and torch.backends.cudnn.allow_tf32,
        "rounds": n,
        "parameters": model.parameters,
        "peak_memory_mb": round(torch.cuda.max_memory_allocated() / 1e6, 1) if device == "cuda" else None,
    }


def sampling(name: str, n: int, method: str, device: str, seconds: float) -> Row:
    """n images by one method.

    Every pixel costs the plain loop the same, so where a whole image does not fit into the time its last rows are drawn
    (those above are given) and the rest is extrapolated. The fast method is measured whole, over four batches: on a GPU
    the first launches its kernels one by one, the second captures them, the others replay.
    """
    model = model_of(name, device)
    height, steps = model.spec.height, model.spec.height * model.spec.width * model.head.groups
    one_pass = pass_seconds(model, n, device, seconds / 10)
    repeats = 1
    if method == "fast":
        repeats, steps = 4, make_plan(model.network, model.head, model.spec).schedule.steps

    def draw(rows: int) -> float:
        known = torch.arange(height)[:, None] < height - rows
        wait(device)
        start = time.perf_counter()
        if rows == height:
            model.sample(repeats * n, batch=n, method=method)  # type: ignore[arg-type]  # a name from the command line
        else:
            blank = torch.zeros(1, *model.spec.shape, dtype=torch.uint8)
            model.sample(n, batch=n, method=method, given=blank, mask=known)  # type: ignore[arg-type]
        wait(device)
        return time.perf_counter() - start

    rows = min(max(1, int(0.8 * seconds / draw(1))), height) if method == "plain" else height
    taken = draw(rows) * height / rows / repeats
    return {
        "images_per_s": round(n / taken, 3),
        "seconds": round(taken, 3),
        "extrapolated": rows < height,
        "steps": steps,
        "steps_measured": steps * rows // height,
        "passes": round(taken / one_pass, 1),  # the time of how many forward passes of the same batch
    }


def gpu_tests(device: str, seconds: float) -> Row:
    """pytest's count of the tests marked gpu; with a limit of its own."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "tests/test_gpu.py"]
    environment = os.environ | {"PIXELLOOM_TEST_DEVICE": device}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {seconds:.0f} s"}
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    row = {"passed": counts.get("passed", 0), "failed": counts.get("failed", 0) + counts.get("error", 0)}
    return row if done.returncode == 0 else row | {"error": "\n".join((done.stdout + done.stderr).splitlines()[-40:])}


def tasks(options: argparse.Namespace) -> dict[str, list[Task]]:
    """All measurements, part by part."""
    device, names = options.device, options.recipe or list(PIXEL_RUNS)
    plan: dict[str, list[Task]] = {part: [] for part in options.part or SHARES}
    if "tests" in plan:
        plan["tests"] = [Task({}, partial(gpu_tests, device))]
    for name in names:
        for batch in sorted({1, options.images}):
            labels = {"recipe": name, "batch": batch, "precision": "fp32"}
            plan.get("forward", []).append(Task(labels, partial(forward, name, batch, device)))
        for batch in options.batch or sorted({recipe(name).train.batch, 512}):
            for precision in options.precision or ("fp32", "bf16"):
                labels = {"recipe": name, "batch": batch, "precision": precision}
                plan.get("training", []).append(Task(labels, partial(training, name, batch, precision, device)))
        for method in options.method or ("fast", "plain"):
            labels = {"recipe": name, "batch": options.images, "precision": "fp32", "method": method}
            plan.get("sampling", []).append(Task(labels, partial(sampling, name, options.images, method, device)))
    return plan


def facts(device: str) -> Row:
    """What every figure depends on."""
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "python": platform.python_version()}
    return {"device": device, "gpu": gpu, **versions}


def measure_all(plan: dict[str, list[Task]], seconds: float, common: Row) -> bool:
    """Carry out the plan within its time, printing as it goes; whether nothing failed."""
    end, good = time.perf_counter() + seconds, True
    shares = {part: SHARES[part] for part in plan}
    for part, todo in plan.items():
        now = time.perf_counter()
        stop = now + (end - now) * shares[part] / sum(shares.values())
        del shares[part]
        for i, task in enumerate(todo):
            start = time.perf_counter()
            if start >= stop:
                row: Row = {"left_out": "the time of this part is used up"}
            else:
                try:
                    row = task.measure((stop - start) / (len(todo) - i))
                except (PixelloomError, torch.OutOfMemoryError) as error:
                    row = {"error": str(error)}
            good &= "error" not in row
            took = {"took_s": round(time.perf_counter() - start, 2), "date": date.today().isoformat()}
            print(json.dumps({"part": part, **task.labels, **row, **took, **common}), flush=True)
    return good


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Options; lists are given by repeating an option."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=list(SHARES), action="append", help="default: all")
    parser.add_argument("--recipe", choices=list(PIXEL_RUNS), action="append", help="default: all")
    parser.add_argument("--precision", choices=["fp32", "bf16"], action="append", help="of training; default: both")
    parser.add_argument("--method", action="append", help="of sampling; default: fast and plain")
    parser.add_argument("--minutes", type=float, default=8.5, help="for everything")
    parser.add_argument("--batch", type=int, action="append", help="of training; default: the recipe's own and 512")
    parser.add_argument("--images", type=int, default=64, help="drawn at a time")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--plan", action="store_true", help="print the parts and their seconds, measure nothing")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measure what is asked for; 1 if a test or a measurement failed, 2 without the device."""
    options = parse(arguments)
    plan = tasks(options)
    if options.plan:
        whole = sum(SHARES[part] for part in plan)
        for part, todo in plan.items():
            planned = round(60 * options.minutes * SHARES[part] / whole, 1)
            print(json.dumps({"part": part, "seconds": planned, "measurements": [task.labels for task in todo]}))
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here; --device cpu tries the same code without one", file=sys.stderr)
        return 2
    return 0 if measure_all(plan, 60 * options.minutes, facts(options.device)) else 1


if __name__ == "__main__":
    sys.exit(main())
