"""Sensitivity of sample metrics: their values for real images, copies of training images, and damaged images.

    python benchmarks/metrics.py --data mnist [--size S] [--binarize RULE] [--features F] [-n 800] [--json]

The "samples" are validation images, unchanged or damaged, and training images, measured against the test split. The
table has one row for each kind of samples and one column for each metric; the last row is the real-vs-real baseline.
For digits, the accuracy of lenet-mnist on the test images follows.
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
from pixelloom.metrics.table import metric_of

SHOWN = ("kid", "fd", "precision", "recall", "density", "coverage", "gap", "copied")


def shuffled(x: Tensor, rng: np.random.Generator) -> Tensor:
    """The values of each image in random order."""
    return torch.from_numpy(rng.permuted(x.flatten(1).numpy(), axis=1)).reshape(x.shape)


def moved(x: Tensor, _: np.random.Generator) -> Tensor:
    """Shifted to the right by 1/14 of the width, around the edge."""
    return x.roll(max(1, x.shape[-1] // 14), -1)


def narrow(x: Tensor, _: np.random.Generator) -> Tensor:
    """A tenth of the images, ten times each: samples of little diversity."""
    return x[: max(1, len(x) // 10)].repeat(10, 1, 1, 1)[: len(x)]


KINDS: dict[str, Callable[[Tensor, np.random.Generator], Tensor]] = {
    "real images": lambda x, _: x,
    "shifted": moved,
    "a tenth of the images, ten times each": narrow,
    "pixels shuffled": shuffled,
}


def kinds(data: Dataset, n: int, seed: int = 0) -> dict[str, Tensor]:
    """Name -> n images of each kind of samples."""
    rng = np.random.default_rng(seed)
    real, training = (torch.from_numpy(some(data, split, n, rng)) for split in ("val", "train"))
    return {name: make(real, rng) for name, make in KINDS.items()} | {"training images": training}


def some(data: Dataset, name: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """n random images of a split, or all."""
    split = data.split(name)
    return split.take(np.sort(rng.permutation(len(split))[:n]))[0]


def rows(data: Dataset, n: int, features: str) -> dict[str, list[Result]]:
    """Name -> the results for each kind of samples."""
    reference = Reference(data.test.all()[0], data.train.all()[0])
    found = {}
    for name, samples in kinds(data, n).items():
        neighbors = training_neighbors(samples, reference, data.spec.levels)
        results = measure(
            samples,
            reference,
            data.spec.levels,
            metrics=METRICS,
            extractor=features,
            source=data.name,
            neighbors=neighbors,
        )
        found[name] = [result for result in results if (metric := metric_of(result.name)) and metric.name in SHOWN]
    return found


def classifier_accuracy(data: Dataset) -> float | None:
    """Accuracy of lenet-mnist on the test images; None without digits."""
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
    found, right = rows(data, options.n, options.features), classifier_accuracy(data)
    setup = {"data": options.data, "size": options.size, "binarize": options.binarize, "date": str(date.today())}
    setup |= {"classifier_accuracy": right, "test": len(data.test)}
    if options.json:
        print(json.dumps(setup | {name: [result.as_dict() for result in row] for name, row in found.items()}))
        return
    names = [result.name for result in next(iter(found.values()))]
    print("| samples | " + " | ".join(names) + " |\n|---|" + "---:|" * len(names))
    for name, row in found.items():
        print(f"| {name} | " + " | ".join(f"{result.value:.3f}" for result in row) + " |")
    baselines = next(iter(found.values()))
    print(
        "| baseline | "
        + " | ".join("" if result.baseline is None else f"{result.baseline:.3f}" for result in baselines)
        + " |"
    )
    if right is not None:
        print(f"\naccuracy of lenet-mnist on {len(data.test):,} test images: {100 * right:.1f} %")


if __name__ == "__main__":
    main()
