"""Quality of generated images: our GAN recipes and those of the tutorials, with the same number of training images.

    python benchmarks/gans.py --json [--network dcgan|sagan] [--images 120000] [--seeds 3] [--out FOLDER]
    python benchmarks/gans.py --table [--out FOLDER]

For each seed both recipes of a network are trained with the same number of images and evaluated on the whole test split
with as many samples. The tutorials keep the last model, ours the best one on validation images; both models of both
recipes are evaluated, which separates the effect of the selection from that of training.

Interrupted runs are resumed. Results are appended to FOLDER/results.jsonl, one JSON object per line; runs with a result
are skipped.

    kept      "last", the model at the end, or "best", the best one on validation images
    metrics   name -> value, baseline (real-vs-real), n, reference
    cpu_min   CPU minutes of training, with validation and samples
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
NETWORKS = ("dcgan", "sagan")
METRICS = ("kid", "fd", "precision", "recall", "nearest")


def train(recipe: str, seed: int, options: argparse.Namespace) -> tuple[Path, float]:
    """Train a recipe. Returns the run folder and the CPU minutes of this process."""
    out, begun = options.out / f"{recipe}-{options.images}-{seed}", time.process_time()
    overrides = {"train.images": options.images, "train.seed": seed, "train.threads": 1}
    if options.data_root:
        overrides["data.root"] = str(options.data_root)
    resume = (out / CONFIG).is_file()
    plan, folder = planned(recipe, out=out, overrides=overrides, resume=resume)
    carry_out(plan, folder, resume=resume)
    return out, (time.process_time() - begun) / 60


def rows(network: str, seed: int, options: argparse.Namespace) -> list[Row]:
    """Return results of both recipes, each with its best and its last model."""
    found = []
    for recipe in (f"{network}-tutorial", network):
        out, minutes = train(recipe, seed, options)
        config = data_for(load_model(out / BEST))
        data = load(config)
        ends = {"best": out / BEST, "last": out / LAST}
        for kept, folder in ends.items():
            # if the best is the last, only the best is on disk
            found.append(
                {
                    "recipe": recipe,
                    "kept": kept,
                    "seed": seed,
                    "images": options.images,
                    "data": data.name,
                    "metrics": evaluate(folder if folder.is_dir() else out / BEST, data),
                    "cpu_min": round(minutes, 2),
                    **facts(),
                }
            )
    return found


def evaluate(folder: Path, data: Dataset) -> Row:
    """Return metrics of as many samples as there are test images, with baselines of real images."""
    model, test, seen = load_model(folder), data.test.all()[0], data.train.all()[0]
    samples = model.sample(len(test), seed=1)
    results = measure(samples, Reference(test, seen), model.spec.levels, metrics=METRICS, source=data.name)
    return {
        result.name: {"value": result.value, "baseline": result.baseline, "n": result.n, "reference": result.reference}
        for result in results
    }


def table(found: list[Row]) -> str:
    """Return a Markdown table: mean and range over seeds for each recipe, number of images and model."""
    names = [name for name in found[0]["metrics"] if name.startswith(("kid", "fd", "precision", "recall", "copied-l"))]
    lines = [f"| recipe | images | kept | seeds | {' | '.join(names)} |", "|---|---|---|---|" + "---|" * len(names)]
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in found:
        groups.setdefault((row["recipe"], row["images"], row["kept"]), []).append(row)
    for (recipe, images, kept), mine in groups.items():
        cells = [_cell([float(row["metrics"][name]["value"]) for row in mine]) for name in names]
        lines.append(f"| `{recipe}` | {images:,} | {kept} | {len(mine)} | {' | '.join(cells)} |")
    baselines = [_cell([float(row["metrics"][name]["baseline"]) for row in found]) for name in names]
    return "\n".join([*lines, f"| real images | | | | {' | '.join(baselines)} |"])


def _cell(values: list[float]) -> str:
    """Format values as ``1.234 (1.200 to 1.300)``."""
    mean, low, high = statistics.fmean(values), min(values), max(values)
    return f"{mean:.3f} ({low:.3f} to {high:.3f})" if high > low else f"{mean:.3f}"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, action="append", help="default: both")
    parser.add_argument("--images", type=int, default=120_000, help="number of training images: 300 epochs of 400")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--data-root", type=Path, help="folder with NAME/FILES of the data; default: $PIXELLOOM_DATA")
    parser.add_argument("--out", type=Path, default=Path("runs/gans"), help="folder of results and runs")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--table", action="store_true", help="print the results of FOLDER as Markdown; no training")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Train and evaluate, and print one line per model."""
    options = parse(arguments)
    path = options.out / "results.jsonl"
    there = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    if options.table:
        print(table(there))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    done = {(row["recipe"], row["seed"], row["images"]) for row in there}
    for network in options.network or NETWORKS:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            if (network, seed, options.images) in done:
                print(f"{network}, seed {seed}: already in {path}", file=sys.stderr)
                continue
            for row in rows(network, seed, options):
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                kid = next(iter(row["metrics"].items()))
                line = f"{row['recipe']:15} {row['kept']} seed {seed}: {kid[0]} {kid[1]['value']:.4f}"
                print(json.dumps(row) if options.json else line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
