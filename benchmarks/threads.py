"""Never slower than one thread: sampling and a training step with 1 thread, with all, and as the program chooses.

    python benchmarks/threads.py --json > threads.json

Each is timed on a machine as idle as it is, and beside busy processes, one for each core. The three settings take turns
in one process, so that a machine whose load drifts hits them alike. ``choice`` is the program's time over the better of
the two others; ``several`` its time over that of one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch

from machine import facts
from pixelloom.core.threads import usable
from pixelloom.core.types import Batch
from pixelloom.data.pixels import Scaling
from pixelloom.engine.fabric import make_fabric
from pixelloom.engine.optim import build_optimizer
from pixelloom.engine.threads import choose_threads
from pixelloom.objectives.base import Monitor
from pixelloom.objectives.likelihood import likelihood
from pixelloom.runs.recipes import recipe
from pixelloom.sampling import sharding
from sampling import model_of

SHORTEST = 1.0  # seconds of a measurement


def spin() -> None:
    """Use up one core."""
    while True:
        sum(range(10_000))


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Beside so many processes that compute all the time."""
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=spin, daemon=True) for _ in range(processes)]
    for other in others:
        other.start()
    time.sleep(2.0 if others else 0.0)
    try:
        yield
    finally:
        for other in others:
            other.terminate()
            other.join()


def timed(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, in turn; what is short is repeated for a second, since a busy core is given in slices."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times, begun = 0, time.perf_counter()
            while not times or time.perf_counter() - begun < SHORTEST:
                run()
                times += 1
            taken[name].append((time.perf_counter() - begun) / times)
    return taken


def summary(what: str, load: str, taken: dict[str, list[float]]) -> dict[str, object]:
    """Medians, and ratios round by round."""
    medians = {name: statistics.median(times) for name, times in taken.items()}
    return {
        "what": what,
        "load": load,
        "rounds": len(taken["one"]),
        **{f"{name}_s": round(seconds, 6) for name, seconds in medians.items()},
        "choice": round(medians["chosen"] / min(medians["one"], medians["all"]), 3),
        "several": round(medians["chosen"] / medians["one"], 3),
    }


def sampling(network: str, batch: int, size: int, cores: int) -> dict[str, Callable[[], object]]:
    """Drawing a batch as users do, by one model for each setting."""
    one, several, chosen = (partial(model_of(network, size).sample, batch, batch=batch) for _ in range(3))

    def within_operations() -> None:
        """torch's own threads, with the batch in one piece."""
        right, sharding.shard_count = sharding.shard_count, lambda *_: 1
        try:
            several(threads=cores)
        finally:
            sharding.shard_count = right

    return {"one": partial(one, threads=1), "all": within_operations, "chosen": chosen}


def training(network: str, size: int, cores: int) -> tuple[dict[str, Callable[[], object]], str]:
    """Forward, backward and a step of the optimizer; and why the program has chosen as it has."""
    config, model = recipe(network), model_of(network, size)
    settings = config.train.model_copy(update={"threads": None, "device": "cpu"})
    generator = torch.Generator().manual_seed(0)
    shape = (settings.batch, *model.spec.shape)
    batch = Batch(torch.randint(model.spec.levels, shape, dtype=torch.uint8, generator=generator), None)
    objective = likelihood(
        model.network, model.head, model.spec.levels, Scaling.unit(), config.optim, Monitor("bits/dim", lambda _: {})
    )
    model.network.train()
    fabric = make_fabric(settings)
    threads, why = choose_threads(objective, batch, settings, fabric)
    optimizer = build_optimizer(list(model.network.parameters()), config.optim)

    def step(number: int) -> None:
        torch.set_num_threads(number)
        with fabric.autocast():
            loss, _ = objective.phases[0].loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    numbers = {"one": 1, "all": cores, "chosen": threads}
    return {name: partial(step, number) for name, number in numbers.items()}, f"{threads}: {why}"


def measure(load: int, options: argparse.Namespace, cores: int) -> Iterator[dict[str, object]]:
    """All rows beside so many busy processes."""
    name = "idle" if not load else f"{load} busy processes"
    for batch in options.batch:
        runs = sampling(options.network, batch, options.size, cores)
        for run in runs.values():
            run()
        yield summary(f"sample {options.network}, {batch} images", name, timed(runs, options.repeats))
    for network in options.train:
        before = torch.get_num_threads()
        runs, why = training(network, options.size, cores)
        row = summary(f"train {network}", name, timed(runs, options.repeats))
        torch.set_num_threads(before)
        yield row | {"threads": why}


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--network", default="mnist-gray", help="recipe of a pixel model to sample")
    parser.add_argument("--batch", type=int, action="append", help="images at a time; 25 and 256")
    parser.add_argument("--train", action="append", help="recipes to train; mnist-binary and best")
    parser.add_argument("--size", type=int, default=28, help="side of the images")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--load", choices=["idle", "busy", "both"], default="both")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.batch, options.train = options.batch or [25, 256], options.train or ["mnist-binary", "best"]
    cores, rows = usable(), list[dict[str, object]]()
    for load in {"idle": (0,), "busy": (cores,), "both": (0, cores)}[options.load]:
        with busy(load):
            for row in measure(load, options, cores):
                rows.append(row)
                if not options.json:
                    print(row, flush=True)
    if options.json:
        print(json.dumps(facts() | {"usable cores": cores, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
