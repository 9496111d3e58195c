"""Order of real and damaged images under each feature extractor, by KID and by the Fréchet distance.

    python benchmarks/extractors.py [--data-root DIR] [--emoji FOLDER] [-n 1000] [--out FILE]

Held-out images A are compared with other images of their classes (the baseline), with images of other classes, and with
damaged copies of the baseline's images. CIFAR-10: A are 1,000 validation images of its animals, other classes are its
vehicles. Emoji: A are half of the validation and test images, other classes are photographs of CIFAR-10. An extractor
that can choose a GAN puts noise far beyond other classes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from machine import facts
from pixelloom.data.catalog import DataConfig, load
from pixelloom.metrics.distances import frechet, kid, least_frechet
from pixelloom.metrics.extractors import EXTRACTORS, features

SIDE, BLOCK, VEHICLES = 32, 8, (0, 1, 8, 9)
OUT = Path(__file__).parent / "results" / "extractors.json"


def blurred(x: Tensor, _: torch.Generator) -> Tensor:
    """The mean of 5x5 pixels."""
    return F.avg_pool2d(F.pad(x.float(), [2] * 4, mode="replicate"), 5, stride=1).round().byte()


def shuffled(x: Tensor, g: torch.Generator) -> Tensor:
    """Blocks of 8x8 pixels in random order."""
    blocks = F.unfold(x.float(), BLOCK, stride=BLOCK)  # [N, 3 64, 16]
    order = torch.rand(len(x), 1, blocks.shape[2], generator=g).argsort(-1).expand_as(blocks)
    return F.fold(blocks.gather(2, order), (SIDE, SIDE), BLOCK, stride=BLOCK).byte()


def flat(x: Tensor, _: torch.Generator) -> Tensor:
    """The mean color of each image."""
    return x.float().mean((2, 3), keepdim=True).round().byte().expand_as(x)


def noise(x: Tensor, g: torch.Generator) -> Tensor:
    """Uniform noise."""
    return torch.randint(256, x.shape, generator=g).byte()


def speckled(x: Tensor, g: torch.Generator) -> Tensor:
    """A tenth of the pixels black or white; no extractor was trained on it."""
    u = torch.rand(len(x), 1, SIDE, SIDE, generator=g)
    return torch.where(u < 0.05, 0, torch.where(u > 0.95, 255, x)).byte()


def doubled(x: Tensor, g: torch.Generator) -> Tensor:
    """The mean of each image and a mirrored other one; no extractor was trained on it."""
    other = x[torch.randperm(len(x), generator=g)].flip(-1)
    return ((x.float() + other.float()) / 2).byte()


DAMAGES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "two images averaged": doubled,
    "salt and pepper, 10 %": speckled,
    "blurred, 5x5": blurred,
    "blocks of 8x8 shuffled": shuffled,
    "flat mean color": flat,
    "uniform noise": noise,
}


def table(
    held_out: Tensor, real: Tensor, others: Tensor, names: Sequence[str] = tuple(EXTRACTORS)
) -> dict[str, dict[str, float | None]]:
    """Kind of images -> name of the metric -> value; images are uint8 [N, 3, 32, 32]."""
    g = torch.Generator().manual_seed(0)
    kinds = {"real": real, "other classes": others} | {name: make(real, g) for name, make in DAMAGES.items()}
    found: dict[str, dict[str, float | None]] = {name: {} for name in kinds}
    for name in names:
        space = EXTRACTORS[name](3)
        reference = features(held_out, 256, space)
        for kind, images in kinds.items():
            measured = features(images, 256, space)
            enough = min(len(reference), len(measured)) >= least_frechet(space.num_features)
            found[kind] |= {
                f"kid-{name}": kid(reference, measured)[0],
                f"fd-{name}": frechet(reference, measured) if enough else None,
            }
    return found


def markdown(title: str, rows: dict[str, dict[str, float | None]]) -> str:
    """A table with three significant digits."""
    columns = list(rows["real"])
    lines = [f"| {title} | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for kind, row in rows.items():
        lines.append(f"| {kind} | " + " | ".join("" if v is None else f"{v:.3g}" for v in row.values()) + " |")
    return "\n".join(lines)


def photographs(root: Path | None, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two disjoint sets of n animals of CIFAR-10's validation images, and vehicles."""
    images, labels = load(DataConfig(source="cifar10", root=root)).val.all()
    assert labels is not None
    x, vehicle = torch.from_numpy(images), torch.from_numpy(np.isin(labels, VEHICLES))
    animals = x[~vehicle][torch.randperm(int((~vehicle).sum()), generator=torch.Generator().manual_seed(0))]
    return animals[:n], animals[n : 2 * n], x[vehicle][:n]


def emoji(folder: Path, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Two disjoint halves of the validation and test images of a folder, and as many photographs."""
    data = load(DataConfig(source=str(folder), size=SIDE))
    x = torch.cat([torch.from_numpy(data.split(name).all()[0]) for name in ("val", "test")])
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    half = len(x) // 2
    return x[:half], x[half : 2 * half], others[:half]


def main() -> None:
    """Measure, print a table for each data set, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--emoji", type=Path, help="a folder of drawings")
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    animals = photographs(options.data_root, options.n)
    sets = {f"cifar10, N = {len(animals[0])}": animals}
    if options.emoji:
        drawings = emoji(options.emoji, animals[0])
        sets[f"emoji, N = {len(drawings[0])}"] = drawings
    found = {name: table(*images) for name, images in sets.items()}
    options.out.write_text(json.dumps({"facts": facts(), "tables": found}, indent=1) + "\n", encoding="utf-8")
    for name, rows in found.items():
        print(f"\n{markdown(name, rows)}")


if __name__ == "__main__":
    main()
