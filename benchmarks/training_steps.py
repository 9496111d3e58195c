"""CPU seconds of a training step of the recipes, next to those of another checkout in the same run.

    python benchmarks/training_steps.py --against ../before --json > benchmarks/results/training-steps.json

Each recipe and precision is trained by two processes with one thread each, one importing this checkout and one that of
``--against``. Their steps alternate, so that other load slows both equally; the ratio is that of the medians. Both
train on the same random levels from the same seed; the losses of the first steps, printed beside, differ by rounding.
With --shares the milliseconds by kind of operation are printed, from runs that time each operation of torch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

RECIPES = ("best", "gated-pixelcnn", "pixelcnn-pp", "sagan")
SHOWN = (1, 10)  # steps whose losses are printed
PRODUCTS = ("convolution", "mkldnn_convolution", "mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot")
ACTIVATIONS = ("sigmoid", "tanh", "elu", "silu", "exp2", "softmax", "threshold", "relu", "glu", "batch_norm")
OPTIMIZER = "optimizer"


def kind_of(operation: str) -> str:
    """Products, activations, sums and products of elements, copies, or all others."""
    name = operation.removeprefix("aten.").partition(".")[0].strip("_")
    if name.removesuffix("_backward") in PRODUCTS:
        return "products"
    activations = (
        "sigmoid",
        "tanh",
        "elu",
        "silu",
        "exp2",
        "softmax",
        "threshold",
        "relu",
        "glu",
        "leaky",
        "batch_norm",
    )
    if any(word in name for word in activations):
        return "activations"
    if name in ("copy", "to_copy", "clone", "cat", "constant_pad_nd", "stack", "fill", "gather", "index"):
        return "copies"
    return "other elementwise"


def serve(recipe_name: str, precision: str, shares: bool) -> None:
    """Train one step per line of the standard input, and answer with its CPU seconds and its loss."""
    import numpy as np
    import torch

    from pixelloom.core.types import Batch, ImageSpec
    from pixelloom.data.splits import Dataset, Split
    from pixelloom.engine.config import TrainConfig
    from pixelloom.engine.fabric import make_fabric
    from pixelloom.engine.loop import fit
    from pixelloom.engine.state import Hook, Run
    from pixelloom.metrics.distances import LEAST
    from pixelloom.runs.families import set_up
    from pixelloom.runs.recipes import GAN_RECIPES, recipe

    config = recipe(recipe_name)
    spec = ImageSpec(1, 64, 64, 256) if recipe_name in GAN_RECIPES else ImageSpec(1, 28, 28, 2)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    levels = torch.randint(0, spec.levels, (config.train.batch, *spec.shape), dtype=torch.uint8)
    enough = np.resize(levels.numpy(), (max(len(levels), LEAST), *levels.shape[1:]))
    split = Split(enough, levels=spec.levels)
    endless = {"epochs": None, "minutes": None, "images": 10**12}
    machine = {"precision": precision, "device": "cpu", "threads": 1, "seed": 0}
    settings = TrainConfig.model_validate(config.train.model_dump() | endless | machine)
    objective = set_up(config, Dataset("random", spec, split, split, split)).objective()
    losses: list[float] = []
    timer = operation_timer() if shares else None

    class Kept(Hook):
        def on_step(self, run: Run, stats: Mapping[str, float]) -> None:
            losses.append(next(value for name, value in stats.items() if name.endswith("/loss")))

    def asked() -> Iterator[Batch]:
        for _ in sys.stdin:
            if timer:
                timer.seconds.clear()
            start = time.process_time()
            yield Batch(levels, None)  # resumed when the step is done
            answer: dict[str, Any] = {"seconds": time.process_time() - start, "loss": losses[-1]}
            print(json.dumps(answer | ({"operations": timer.seconds} if timer else {})), flush=True)
        os._exit(0)

    with timer or contextlib.nullcontext():
        fit(objective, lambda _: asked(), settings, make_fabric(settings), epoch=len(levels), hooks=[Kept()])


def operation_timer() -> Any:
    """A dispatch mode that adds up the CPU seconds of each operation in ``seconds``, those of optimizers apart."""
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
    from torch.utils._python_dispatch import TorchDispatchMode

    class Timer(TorchDispatchMode):
        optimizing = False

        def __init__(self) -> None:
            super().__init__()
            self.seconds: dict[str, float] = {}

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            start = time.thread_time()
            out = func(*args, **(kwargs or {}))
            taken = time.thread_time() - start
            name = OPTIMIZER if self.optimizing else str(func)
            self.seconds[name] = self.seconds.get(name, 0.0) + taken
            return out

    timer = Timer()

    def around(value: bool) -> Any:
        return lambda *_: setattr(timer, "optimizing", value)

    register_optimizer_step_pre_hook(around(True))
    register_optimizer_step_post_hook(around(False))
    return timer


class Server:
    """A process that trains by one checkout, a step per request."""

    def __init__(self, checkout: Path, recipe_name: str, precision: str, shares: bool = False) -> None:
        environment = os.environ | {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--serve", recipe_name, precision, *(["--shares"] if shares else [])]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def step(self) -> dict[str, Any]:
        """Train one step."""
        assert self.process.stdin
        assert self.process.stdout
        print("step", file=self.process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def measure(recipe_name: str, precision: str, here: Path, against: Path, steps: int, shares: bool) -> dict[str, Any]:
    """Alternate steps of both checkouts; the first two warm up."""
    servers = {"after": Server(here, recipe_name, precision), "before": Server(against, recipe_name, precision)}
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in servers}
    for _ in range(steps + 2):
        for name, server in servers.items():
            answers[name].append(server.step())
    for server in servers.values():
        server.close()
    seconds = {name: median(answer["seconds"] for answer in found[2:]) for name, found in answers.items()}
    row: dict[str, Any] = {
        "recipe": recipe_name,
        "precision": precision,
        "before_ms": round(1e3 * seconds["before"], 1),
        "after_ms": round(1e3 * seconds["after"], 1),
        "ratio": round(seconds["before"] / seconds["after"], 3),
        "losses": {
            str(number): [found[number - 1]["loss"] for found in (answers["before"], answers["after"])]
            for number in SHOWN
            if number <= len(answers["after"])
        },
    }
    for name, checkout in (("before", against), ("after", here)) if shares else ():
        row[f"{name}_shares"] = shares_of(checkout, recipe_name, precision)
    return row


def shares_of(checkout: Path, recipe_name: str, precision: str) -> dict[str, float]:
    """Milliseconds of a step by kind of operation, from the median of three steps."""
    server = Server(checkout, recipe_name, precision, shares=True)
    answers = [server.step() for _ in range(5)][2:]
    server.close()
    found: dict[str, float] = {}
    for answer in answers:
        for name, seconds in answer["operations"].items():
            kind = OPTIMIZER if name == OPTIMIZER else kind_of(name)
            found[kind] = found.get(kind, 0.0) + 1e3 * seconds / len(answers)
    return {kind: round(value, 1) for kind, value in sorted(found.items(), key=lambda item: -item[1])}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout of the project")
    parser.add_argument("--recipe", choices=RECIPES, action="append")
    parser.add_argument("--precision", choices=("fp32", "bf16"), action="append")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--shares", action="store_true", help="time by kind of operation too")
    options = parser.parse_args()
    if options.serve:
        return serve(*options.serve, options.shares)
    if not options.against:
        parser.error("--against is needed")
    from machine import facts

    here = Path(__file__).resolve().parents[1]
    rows = []
    for recipe_name in options.recipe or RECIPES:
        for precision in options.precision or ("fp32", "bf16"):
            rows.append(measure(recipe_name, precision, here, options.against.resolve(), options.steps, options.shares))
            print(rows[-1], file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps({"rows": rows, "steps": options.steps, "clock": "cpu"} | facts() | {"threads": 1}, indent=1))
    return None


if __name__ == "__main__":
    main()
