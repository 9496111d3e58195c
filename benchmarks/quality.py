"""Test likelihood of every network after the same CPU time of training, on static binarized MNIST.

    python benchmarks/quality.py --minutes 10 --json [--network NAME ...] [--out FOLDER] [--data-root DIR] [--threads 1]
    python benchmarks/quality.py --table [--out FOLDER]

Each network of the table is trained by its recipe (NAME is the network's or the recipe's), the recipe ``best`` too if
there is one. Wall-clock time says little on a machine that others use, so equal time is CPU time: the CPU time of a
training step is measured first, the minutes become a number of images, and the run is counted in images. So the
schedule is exact and ``--images N`` repeats the run bit for bit, with nothing measured.

The model is chosen on validation images and scored on the whole test split. Results are added to FOLDER/results.jsonl,
one JSON object a line; what stands there already is not done again, so an interrupted command goes on where it stopped.

    images            images that training saw; step_cpu_s is the CPU time of a step from which they were worked out
    train_cpu_min     CPU minutes that training took; validation and the test pass stand apart, other_cpu_min
    test, validation  nats per image with N and the 95 % interval of the mean; the validation is the one that chose
    published         the paper's figure, or another's, with its source; static and dynamic bits do not compare
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from torch import nn

import pixelloom
from machine import facts
from pixelloom.core.errors import PixelloomError
from pixelloom.data.catalog import Dataset, load
from pixelloom.data.stream import Stream, batches
from pixelloom.engine.fabric import choose_precision, make_fabric
from pixelloom.engine.hooks import Validate
from pixelloom.engine.loop import fit
from pixelloom.engine.state import Hook, Run, State
from pixelloom.metrics.likelihood import Likelihood
from pixelloom.models.pixel import load_pixel
from pixelloom.networks import PIXEL_NETWORKS
from pixelloom.objectives.base import Monitor
from pixelloom.runs.compose import compose
from pixelloom.runs.config import RunConfig
from pixelloom.runs.evaluate import scored
from pixelloom.runs.families import set_up
from pixelloom.runs.recipes import RECIPES, recipe

Row: TypeAlias = dict[str, Any]
DATA = "binarized-mnist"
WARM, STEPS = 5, 25  # rounds before, and while, the time of a step is measured
_PIXELRNN = "van den Oord, Kalchbrenner and Kavukcuoglu 2016, table 4"
_GENERATIVE = "EugenHotaj/pytorch-generative, README"
PUBLISHED: dict[str, Row] = {
    "nade": {"nats": 88.33, "bits": "static", "source": _PIXELRNN},
    "made": {"nats": 86.64, "bits": "static", "source": f"{_PIXELRNN}; 2 hidden layers, 32 masks"},
    "pixelcnn": {"nats": 81.30, "bits": "static", "source": _PIXELRNN},
    "row-lstm": {"nats": 80.54, "bits": "static", "source": _PIXELRNN},
    "diagonal-bilstm": {"nats": 79.20, "bits": "static", "source": f"{_PIXELRNN}; 7 layers"},
    "gated-pixelcnn": {"nats": 81.50, "bits": "dynamic", "source": _GENERATIVE},
    "pixelsnail": {"nats": 78.61, "bits": "dynamic", "source": _GENERATIVE},
    "pixel-transformer": {"nats": 79.17, "bits": "dynamic", "source": f"{_GENERATIVE}; ImageGPT"},
}


def recipes() -> dict[str, str]:
    """Recipe of each network of the table: that of its name, else the first for the data; and ``best`` by itself."""
    found = {
        network: next(
            name
            for name, run in sorted(RECIPES.items(), key=lambda item: item[0] != network)
            if run.network == network and run.data.source == DATA and name != "best"
        )
        for network in PIXEL_NETWORKS
    }
    return found | {"best": "best"} if "best" in RECIPES else found


class Timed(Validate):
    """Knows its figures and the CPU seconds that it took, the saving of the best model included."""

    spent = 0.0
    last: Likelihood
    best: Likelihood

    def on_step(self, run: Run, stats: Mapping[str, float]) -> None:
        """Validate if it is time."""
        begun = time.process_time()
        super().on_step(run, stats)
        self.spent += time.process_time() - begun


class Ticks(Hook):
    """CPU seconds of the process at the start and after each round."""

    def on_start(self, run: Run) -> None:
        """Begin."""
        self.at = [time.process_time()]

    def on_step(self, run: Run, stats: Mapping[str, float]) -> None:
        """Note the time."""
        self.at.append(time.process_time())


def train(config: RunConfig, data: Dataset, folder: Path | None) -> tuple[Ticks, Timed, State]:
    """As ``pixelloom train`` does, with a clock for the steps and one for validation; none without a folder."""
    fabric = make_fabric(config.train)
    setup = set_up(config, data)

    def measure(network: nn.Module) -> Mapping[str, float]:
        timed.last = scored(setup.model_of(network), data, "val", config.validated)
        return {"bits/dim": timed.last.bits_per_dim}

    def keep(network: nn.Module, figures: Mapping[str, float], state: State) -> None:
        assert folder is not None
        timed.best = timed.last
        setup.model_of(network).save(folder)

    objective = replace(setup.objective(), monitor=Monitor("bits/dim", measure))
    stream = Stream(data.train, data.spec, config.train.batch, seed=config.train.seed, dynamic=data.dynamic)
    ticks, timed = Ticks(), Timed(keep)
    state = fit(
        objective,
        lambda step: batches(stream, step),
        config.train,
        fabric,
        epoch=len(data.train),
        hooks=[ticks] if folder is None else [timed, ticks],  # a round ends when its validation has
    )
    return ticks, timed, state


def with_budget(config: RunConfig, images: int, threads: int) -> RunConfig:
    """The recipe for so many images."""
    budget = {"images": images, "epochs": None, "minutes": None, "threads": threads, "device": "cpu"}
    return config.model_copy(update={"train": config.train.model_copy(update=budget)})


def step_seconds(config: RunConfig, data: Dataset, threads: int) -> float:
    """CPU seconds of a training step, by some first steps of the run itself."""
    ticks, _, _ = train(with_budget(config, (WARM + STEPS) * config.train.batch, threads), data, None)
    return (ticks.at[-1] - ticks.at[WARM]) / (len(ticks.at) - 1 - WARM)


def nats(found: Likelihood) -> Row:
    """What a row says of a split."""
    interval = found.nats_per_image_95
    return {"nats": round(found.nats_per_image, 3), "n": found.n, "95%": interval and [round(x, 3) for x in interval]}


def measure(network: str, options: argparse.Namespace) -> Row:
    """Train one network and score it."""
    name = recipes()[network]
    config = compose(
        recipe(name), overrides={"data.source": options.data, "data.root": options.data_root and str(options.data_root)}
    )
    data, folder = load(config.data), options.out / network
    step, images = None, options.images
    if images is None:
        step = step_seconds(config, data, options.threads)
        images = max(1, round(60 * options.minutes / step)) * config.train.batch
    ticks, timed, state = train(with_budget(config, images, options.threads), data, folder)
    model = load_pixel(folder)
    trained = time.process_time()
    test = scored(model, data, "test")
    return {
        "network": network,
        "recipe": name,
        "data": data.name,
        "source": options.data,
        "note": data.note,
        "parameters": model.parameters,
        "images": state.images,
        "epochs": round(state.images / len(data.train), 3),
        "batch": config.train.batch,
        "minutes": options.minutes if options.images is None else None,
        "step_cpu_s": step and round(step, 5),
        "train_cpu_min": round((ticks.at[-1] - ticks.at[0] - timed.spent) / 60, 3),
        "other_cpu_min": round((timed.spent + time.process_time() - trained) / 60, 3),
        "test": nats(test),
        "validation": nats(timed.best),
        "chosen_at_image": state.best_step * config.train.batch,
        "published": PUBLISHED.get(network) if options.data == DATA else None,
        "precision": choose_precision(config.train, "cpu"),
        "seed": config.train.seed,
        "pixelloom": pixelloom.__version__,
    } | facts()


def key(row: Row) -> tuple[object, ...]:
    """What makes a result the same as another one: network, data, budget, threads."""
    budget = row["images"] if row["minutes"] is None else f"{row['minutes']} minutes"
    return row["network"], row["recipe"], row["source"], budget, row["threads"]


def asked(network: str, options: argparse.Namespace) -> tuple[object, ...]:
    """The same of what is to be measured; runs see whole batches."""
    name = recipes()[network]
    batch = recipe(name).train.batch
    budget = f"{options.minutes} minutes" if options.images is None else -(-options.images // batch) * batch
    return network, name, options.data, budget, options.threads


def results(out: Path) -> list[Row]:
    """What is there already."""
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def table(rows: list[Row]) -> str:
    """Markdown, best first. Static and dynamic bits stand in columns of their own."""
    lines = [
        "| network | parameters | images seen | CPU minutes | test nats (95 %) | validation nats "
        "| published, static | published, dynamic |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: float(row["test"]["nats"])):
        test, known = row["test"], row["published"] or {}
        low, high = test["95%"]
        static, dynamic = (
            f"{known['nats']:.2f}" if known.get("bits") == bits else "" for bits in ("static", "dynamic")
        )
        lines.append(
            f"| `{row['recipe']}` | {row['parameters']:,} | {row['images']:,} | {row['train_cpu_min']:.1f} "
            f"| **{test['nats']:.2f}** ({low:.2f} to {high:.2f}) | {row['validation']['nats']:.2f} "
            f"| {static} | {dynamic} |"
        )
    return "\n".join(lines)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", choices=list(recipes()), action="append", help="default: all of the table")
    parser.add_argument("--minutes", type=float, default=10.0, help="CPU time of training, from which images follow")
    parser.add_argument(
        "--images", type=int, help="images that training sees, rounded up to whole batches; no measuring"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", default=DATA, help="another data set, for trials")
    parser.add_argument("--data-root", type=Path, help="holds NAME/FILES of the data; default: $PIXELLOOM_DATA")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"), help="folder of results and models")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--table", action="store_true", help="print the results of FOLDER as Markdown, train nothing")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Print one line a network."""
    options = parse(arguments)
    if options.table:
        print(table(results(options.out)))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    for network in options.network or recipes():
        if asked(network, options) in map(key, results(options.out)):
            print(f"{network}: in {options.out / 'results.jsonl'} already", file=sys.stderr)
            continue
        try:
            row = measure(network, options)
        except PixelloomError as error:
            print(f"{network}: {error}", file=sys.stderr)
            return 2
        with (options.out / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        line = (
            f"{row['recipe']:18} {row['test']['nats']} nats {row['test']['95%']} on {row['test']['n']} test images "
            f"after {row['images']} images, {row['train_cpu_min']} CPU minutes; validation {row['validation']['nats']}"
        )
        print(json.dumps(row) if options.json else line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
