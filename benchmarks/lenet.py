"""Trains the classifier whose features are `lenet-mnist`, and writes its weights and card into the package.

    python benchmarks/lenet.py [--data-root DIR] [--epochs 5] [--seed 0] [--out FOLDER]

MNIST's 60,000 training images less the validation split; Adam with one cycle of its rate, each image moved by up to two
pixels a side. The epoch that is kept is the last, the test images are looked at once, after training. Prints JSON and
the SHA-256 that `src/pixelloom/metrics/extractors.py` holds the weights to. The same bits on one machine with one
thread.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F

from machine import facts
from pixelloom.data.catalog import DataConfig, load
from pixelloom.data.pixels import Scaling, to_model
from pixelloom.data.splits import Split
from pixelloom.metrics import extractors
from pixelloom.metrics.extractors import LENET, LeNet

RATE, BATCH, SHIFT = 4e-3, 128, 2
WEIGHTS = Path(extractors.__file__).parent / "weights"


def train(split: Split, epochs: int, seed: int) -> LeNet:
    """A LeNet after some epochs over the images of a split."""
    torch.manual_seed(seed)
    images, labels = held(split)
    network, order = LeNet().to(memory_format=torch.channels_last), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=order).split(BATCH)[: steps // epochs]:
            loss = F.cross_entropy(network(shifted(images[rows], order)), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval().to(memory_format=torch.contiguous_format)


def shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image [B, 1, H, W] moved by up to SHIFT pixels a side; what comes in is dark."""
    side = x.shape[-1]
    padded = F.pad(x, [SHIFT] * 4)
    at = torch.randint(2 * SHIFT + 1, (2, len(x), 1), generator=generator) + torch.arange(side)
    return padded[torch.arange(len(x))[:, None, None], 0, at[0][:, :, None], at[1][:, None, :]][:, None]


def held(split: Split) -> tuple[Tensor, Tensor]:
    """Values [N, 1, 28, 28] in [0, 1] and labels [N]."""
    images, labels = split.all()
    return to_model(torch.from_numpy(images), split.levels, Scaling.unit()), torch.as_tensor(labels)


@torch.no_grad()
def accuracy(network: LeNet, split: Split) -> float:
    """Share of images that are read as what they are."""
    images, labels = held(split)
    right = [(network(x).argmax(1) == y).sum() for x, y in zip(images.split(500), labels.split(500), strict=True)]
    return int(torch.stack(right).sum()) / len(labels)


def card(report: dict[str, object]) -> str:
    """What the weights are, for people."""
    counts, size = report["counts"], report["parameters"]
    training = f"{report['epochs']} epochs, batch {BATCH}, AdamW {RATE} in one cycle, shifts of up to {SHIFT} pixels"
    return f"""# lenet-mnist

A small convolutional classifier of handwritten digits ({size:,} parameters). Pixelloom measures generated digits by
the 64 features before its last layer, whose mean is about 0 and variance about 1 over the training images.

| | |
|---|---|
| input | gray 28x28, light on dark, values in [0, 1]; others are made gray and resized (bilinear, antialiased) |
| data | MNIST (LeCun, Cortes and Burges), {counts} |
| training | {training}, seed {report["seed"]} |
| validation accuracy | {report["validation"]:.2%} |
| test accuracy | {report["test"]:.2%}, measured once, after training |
| command | `python benchmarks/lenet.py --epochs {report["epochs"]} --seed {report["seed"]}` |
| date, machine | {report["date"]}, torch {report["torch"]}, {report["threads"]} thread(s), {report["seconds"]} s |
| SHA-256 of the file | `{report["sha256"]}` |
"""


def main() -> None:
    """Train, test, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--limit", type=int, help="train on the first N images only")
    options = parser.parse_args()
    data = load(DataConfig(source="mnist", root=options.data_root, limit=options.limit))
    start = time.perf_counter()
    network = train(data.train, options.epochs, options.seed)
    content = safetensors.torch.save({k: v.contiguous() for k, v in network.state_dict().items()})
    report: dict[str, object] = {
        "counts": f"{len(data.train):,} training, {len(data.val):,} validation, {len(data.test):,} test images",
        "epochs": options.epochs,
        "seed": options.seed,
        "parameters": sum(p.numel() for p in network.parameters()),
        "seconds": round(time.perf_counter() - start, 1),
        "validation": accuracy(network, data.val),
        "test": accuracy(network, data.test),
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    } | facts()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{LENET}.safetensors").write_bytes(content)
    (options.out / f"{LENET}.md").write_text(card(report), encoding="utf-8")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
