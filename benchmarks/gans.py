"""How near generated images come to held-out ones: our recipe against the tutorial's, the same pictures seen, by seeds.

    python benchmarks/gans.py --json [--network dcgan|sagan] [--images 120000] [--seeds 3] [--out FOLDER]
    python benchmarks/gans.py --table [--out FOLDER]

For each seed both recipes of a network see as many training images. What they leave is measured on the whole test split
of their data, by as many generated images: the kernel distance of features, 0 in expectation for a generator as good as
the data, and its neighbors. The tutorial keeps the last model and knows no other; ours keeps the one that was best on
validation images. Both are measured of both recipes, so that what the choice does can be told from what the training
does.

A run goes on where it was stopped. Results are added to FOLDER/results.jsonl, one JSON object a line; what stands there
is not done again.

    kept      "last", the model at the end, or "best", the one that was best on validation images
    figures   name -> value, baseline (what real images in the place of the generated ones get), n, reference
    cpu_min   CPU minutes of training, validation and pictures on the way included
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, TypeAlias

from machine import facts
from pixelloom.data.catalog import Dataset, load
from pixelloom.metrics.results import Reference, measure
from pixelloom.models.registry import load_model
from pixelloom.runs.evaluate import data_for
from pixelloom.runs.folder import BEST, CONFIG, LAST
from pixelloom.runs.plan import planned
from pixelloom.runs.train import carry_out

Row: TypeAlias = dict[str, Any]
PIXEL_NETWORKS = ("dcgan", "sagan")
METRICS = ("kid", "fd", "precision", "recall", "nearest")


def train(recipe: str, seed: int, options: argparse.Namespace) -> tuple[Path, float]:
    """The run folder of a recipe, finished, and CPU minutes of this process for it."""
    out, begun = options.out / f"{recipe}-{options.images}-{seed}", time.process_time()
    wishes = {"train.images": options.images, "train.seed": seed, "train.threads": 1}
    if options.data_root:
        wishes["data.root"] = str(options.data_root)
    resume = (out / CONFIG).is_file()
    plan, folder = planned(recipe, out=out, overrides=wishes, resume=resume)
    carry_out(plan, folder, resume=resume)
    return out, (time.process_time() - begun) / 60


def rows(network: str, seed: int, options: argparse.Namespace) -> list[Row]:
    """Figures of both recipes, of both models that each leaves."""
    found = []
    for recipe in (f"{network}-tutorial", network):
        out, minutes = train(recipe, seed, options)
        config = data_for(load_model(out / BEST))
        data = load(config)
        ends = {"best": out / BEST, "last": out / LAST}
        for kept, folder in ends.items():
            # where the best is the last, only one of them is on disk
            found.append(
                {
                    "recipe": recipe,
                    "kept": kept,
                    "seed": seed,
                    "images": options.images,
                    "data": data.name,
                    "figures": figures(folder if folder.is_dir() else out / BEST, data),
                    "cpu_min": round(minutes, 2),
                    **facts(),
                }
            )
    return found


def figures(folder: Path, data: Dataset) -> Row:
    """Of as many samples as there are test images, beside what real images get."""
    model, test, seen = load_model(folder), data.test.all()[0], data.train.all()[0]
    samples = model.sample(len(test), seed=1)
    measured = measure(samples, Reference(test, seen), model.spec.levels, metrics=METRICS, source=data.name)
    return {
        figure.name: {"value": figure.value, "baseline": figure.baseline, "n": figure.n, "reference": figure.reference}
        for figure in measured
    }


def table(found: list[Row]) -> str:
    """Markdown: the mean over seeds of each recipe, length and model, and its range."""
    names = [name for name in found[0]["figures"] if name.startswith(("kid", "fd", "precision", "recall", "copied-l"))]
    lines = [f"| recipe | images | kept | seeds | {' | '.join(names)} |", "|---|---|---|---|" + "---|" * len(names)]
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in found:
        groups.setdefault((row["recipe"], row["images"], row["kept"]), []).append(row)
    for (recipe, images, kept), mine in groups.items():
        cells = [_cell([float(row["figures"][name]["value"]) for row in mine]) for name in names]
        lines.append(f"| `{recipe}` | {images:,} | {kept} | {len(mine)} | {' | '.join(cells)} |")
    baselines = [_cell([float(row["figures"][name]["baseline"]) for row in found]) for name in names]
    return "\n".join([*lines, f"| real images | | | | {' | '.join(baselines)} |"])


def _cell(values: list[float]) -> str:
    """As in ``1.234 (1.200 to 1.300)``."""
    mean, low, high = statistics.fmean(values), min(values), max(values)
    return f"{mean:.3f} ({low:.3f} to {high:.3f})" if high > low else f"{mean:.3f}"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", choices=PIXEL_NETWORKS, action="append", help="default: both")
    parser.add_argument("--images", type=int, default=120_000, help="training images seen: 300 epochs of 400")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--data-root", type=Path, help="holds NAME/FILES of the data; default: $PIXELLOOM_DATA")
    parser.add_argument("--out", type=Path, default=Path("runs/gans"), help="folder of results and runs")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--table", action="store_true", help="print the results of FOLDER as Markdown, train nothing")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Print one line a model that was measured."""
    options = parse(arguments)
    path = options.out / "results.jsonl"
    there = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    if options.table:
        print(table(there))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    done = {(row["recipe"], row["seed"], row["images"]) for row in there}
    for network in options.network or PIXEL_NETWORKS:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            if (network, seed, options.images) in done:
                print(f"{network}, seed {seed}: in {path} already", file=sys.stderr)
                continue
            for row in rows(network, seed, options):
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                kid = next(iter(row["figures"].items()))
                line = f"{row['recipe']:15} {row['kept']} seed {seed}: {kid[0]} {kid[1]['value']:.4f}"
                print(json.dumps(row) if options.json else line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
