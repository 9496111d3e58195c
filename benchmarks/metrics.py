"""What figures of samples say where the truth is known: real pictures, copies of training pictures, and damaged ones.

    python benchmarks/figures.py --data mnist [--size S] [--binarize RULE] [--features F] [-n 800] [--json]

The "samples" are validation pictures, as they are or damaged, and training pictures, measured against the test split.
A row a kind of samples, a column a figure; the last row is the baseline, real pictures against real ones. Beneath stands
the share of the test pictures that lenet-mnist reads right, where they are digits.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from datetime import date

import numpy as np
import torch
from torch import Tensor

from pixelloom.core.errors import UsageError
from pixelloom.data.catalog import DataConfig, Dataset, load
from pixelloom.metrics.class_accuracy import digits_of, read
from pixelloom.metrics.results import METRICS, Reference, Result, measure, training_neighbors

FIGURES = ("kid", "fd", "precision", "recall", "density", "coverage", "gap", "copied")


def shuffled(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Each picture's values at random places: its own noise."""
    return torch.from_numpy(rng.permuted(x.flatten(1).numpy(), axis=1)).reshape(x.shape)


def moved(x: Tensor, _: np.random.Generator) -> Tensor:
    """A fourteenth of the width to the right."""
    return x.roll(max(1, x.shape[-1] // 14), -1)


def narrow(x: Tensor, _: np.random.Generator) -> Tensor:
    """A tenth of the pictures, each ten times: a model that knows little."""
    return x[: max(1, len(x) // 10)].repeat(10, 1, 1, 1)[: len(x)]


KINDS: dict[str, Callable[[Tensor, np.random.Generator], Tensor]] = {
    "real pictures": lambda x, _: x,
    "moved aside": moved,
    "a tenth of them, ten times": narrow,
    "pixels shuffled": shuffled,
}


def kinds(data: Dataset, n: int, seed: int = 0) -> dict[str, Tensor]:
    """Name -> n pictures as a model of that kind would draw them."""
    rng = np.random.default_rng(seed)
    real, training = (torch.from_numpy(some(data, split, n, rng)) for split in ("val", "train"))
    return {name: make(real, rng) for name, make in KINDS.items()} | {"copies of training pictures": training}


def some(data: Dataset, name: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """n random pictures of a split, or all."""
    split = data.split(name)
    return split.take(np.sort(rng.permutation(len(split))[:n]))[0]


def rows(data: Dataset, n: int, features: str) -> dict[str, list[Result]]:
    """Name -> the figures of that kind."""
    reference = Reference(data.test.all()[0], data.train.all()[0])
    found = {}
    for name, samples in kinds(data, n).items():
        neighbors = training_neighbors(samples, reference, data.spec.levels)
        figures = measure(
            samples,
            reference,
            data.spec.levels,
            metrics=METRICS,
            extractor=features,
            source=data.name,
            neighbors=neighbors,
        )
        found[name] = [figure for figure in figures if figure.name.split("-")[0] in FIGURES]
    return found


def read_right(data: Dataset) -> float | None:
    """Share of the test pictures whose digit lenet-mnist reads."""
    images, labels = data.test.all()
    try:
        digits = torch.tensor(digits_of(data.classes))
    except UsageError:
        return None
    return None if labels is None else float((read(images, data.spec.levels) == digits[labels]).double().mean())


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--data-root")
    parser.add_argument("--size")
    parser.add_argument("--binarize", default="none")
    parser.add_argument("--features", default="auto")
    parser.add_argument("-n", type=int, default=800)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    config = DataConfig(source=options.data, root=options.data_root, size=options.size, binarize=options.binarize)
    data = load(config)
    found, right = rows(data, options.n, options.features), read_right(data)
    facts = {"data": options.data, "size": options.size, "binarize": options.binarize, "date": str(date.today())}
    facts |= {"read_right": right, "test": len(data.test)}
    if options.json:
        print(json.dumps(facts | {name: [figure.as_dict() for figure in figures] for name, figures in found.items()}))
        return
    names = [figure.name for figure in next(iter(found.values()))]
    print("| samples | " + " | ".join(names) + " |\n|---|" + "---:|" * len(names))
    for name, figures in found.items():
        print(f"| {name} | " + " | ".join(f"{figure.value:.3f}" for figure in figures) + " |")
    baselines = next(iter(found.values()))
    print(
        "| baseline | "
        + " | ".join("" if figure.baseline is None else f"{figure.baseline:.3f}" for figure in baselines)
        + " |"
    )
    if right is not None:
        print(f"\nlenet-mnist reads {100 * right:.1f} % of {len(data.test):,} test pictures right")


if __name__ == "__main__":
    main()
