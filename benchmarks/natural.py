"""Trains the network whose features are `natural`, and writes its weights and card into the package.

    python benchmarks/natural.py [--data-root DIR] [--emoji FOLDER] [--epochs 7] [--seed 0] [--out FOLDER]

Images: CIFAR-10 in color, part of Fashion-MNIST as gray RGB, emoji without classes; a third of each batch is distorted.
The network classifies undistorted images, and tells the kinds of distortion apart. The epoch with the best validation
accuracy is kept; the test images are looked at once, after training. Prints JSON and the SHA-256 that
`src/pixelloom/metrics/natural.py` holds the weights to.
"""

from __future__ import annotations

import argparse
import copy
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
from pixelloom.data.splits import Split
from pixelloom.metrics import natural
from pixelloom.metrics.natural import KINDS, NATURAL, SIDE, NaturalNetwork

RATE, BATCH, SHIFT = 4e-3, 128, 4
FASHION, EMOJI_COPIES = 15_000, 4  # images of Fashion-MNIST; times that each emoji is seen in an epoch
NORMALIZED = 10_000  # undistorted images that the features are normalized by
DISTORTED = 7 * (len(KINDS) - 1)  # of a batch
WEIGHTS = Path(natural.__file__).parent / "weights"


def held(split: Split, limit: int | None = None, first: int = 0) -> tuple[Tensor, Tensor]:
    """Levels uint8 [N, 3, 32, 32] and labels [N], which start at ``first``; -1 without labels."""
    images, labels = split.all()
    x = torch.from_numpy(images).expand(-1, 3, -1, -1)[:limit]
    y = torch.full((len(x),), -1) if labels is None else torch.as_tensor(labels)[:limit].long() + first
    return x, y


def augmented(x: Tensor, gray: Tensor, g: torch.Generator) -> Tensor:
    """Values [B, 3, 32, 32], mirrored and moved; color sometimes becomes gray, gray ones are sometimes inverted."""
    n = len(x)
    x = torch.where(torch.rand(n, 1, 1, 1, generator=g) < 0.5, x.flip(-1), x)
    padded = F.pad(x, [SHIFT] * 4, mode="replicate")
    at = torch.randint(2 * SHIFT + 1, (2, n, 1), generator=g) + torch.arange(SIDE)
    x = padded[torch.arange(n)[:, None, None], :, at[0][:, :, None], at[1][:, None, :]].permute(0, 3, 1, 2)
    u = torch.rand(n, 1, 1, 1, generator=g)
    x = torch.where(gray[:, None, None, None] & (u < 0.5), 1 - x, x)
    return torch.where(~gray[:, None, None, None] & (u < 0.15), x.mean(1, keepdim=True), x)


def distorted(x: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """The first DISTORTED images of [B, 3, 32, 32] distorted in all ways in turn, and the kind of each image [B]."""
    parts = x[:DISTORTED].chunk(len(KINDS) - 1)
    made = [make(part, g) for make, part in zip((noisy, noise, blurred, shuffled, flat, coarse), parts, strict=True)]
    kinds = torch.cat([torch.full((len(part),), i + 1) for i, part in enumerate(parts)])
    return torch.cat([*made, x[DISTORTED:]]), F.pad(kinds, (0, len(x) - DISTORTED))


def noisy(x: Tensor, g: torch.Generator) -> Tensor:
    """Normal noise of a random deviation is added."""
    deviation = 0.04 + 0.4 * torch.rand(len(x), 1, 1, 1, generator=g)
    return (x + deviation * torch.randn(x.shape, generator=g)).clamp(0, 1)


def noise(x: Tensor, g: torch.Generator) -> Tensor:
    """Uniform noise around the mean color, or in the whole range."""
    u, reach = torch.rand(x.shape, generator=g), torch.rand(len(x), 1, 1, 1, generator=g)
    whole = torch.rand(len(x), 1, 1, 1, generator=g) < 0.5
    return torch.where(whole, u, (x.mean((2, 3), keepdim=True) + reach * (u - 0.5)).clamp(0, 1))


def blurred(x: Tensor, g: torch.Generator) -> Tensor:
    """A Gaussian filter of a random width."""
    width = float(0.8 + 2 * torch.rand(1, generator=g))
    taps = torch.exp(-0.5 * (torch.arange(-6, 7) / width).square())
    taps = (taps / taps.sum()).expand(3, 1, 1, -1)
    x = F.conv2d(F.pad(x, [6] * 4, mode="replicate"), taps, groups=3)
    return F.conv2d(x, taps.transpose(2, 3), groups=3)


def shuffled(x: Tensor, g: torch.Generator) -> Tensor:
    """Square blocks of a random side, in random order."""
    side = SIDE >> int(torch.randint(1, 6, (1,), generator=g))
    blocks = F.unfold(x, side, stride=side)  # [B, 3 side^2, blocks]
    order = torch.rand(len(x), 1, blocks.shape[2], generator=g).argsort(-1).expand_as(blocks)
    return F.fold(blocks.gather(2, order), (SIDE, SIDE), side, stride=side)


def flat(x: Tensor, g: torch.Generator) -> Tensor:
    """Contrast is nearly or wholly removed."""
    left = (0.4 * torch.rand(len(x), 1, 1, 1, generator=g) - 0.1).clamp(min=0)
    return torch.lerp(x.mean((2, 3), keepdim=True), x, left)


def coarse(x: Tensor, g: torch.Generator) -> Tensor:
    """Blocks of one color."""
    side = SIDE >> int(torch.randint(2, 5, (1,), generator=g))
    return F.interpolate(F.avg_pool2d(x, side), (SIDE, SIDE))


def train(
    x: Tensor, y: Tensor, validation: tuple[Tensor, Tensor], epochs: int, seed: int
) -> tuple[NaturalNetwork, int]:
    """The network of the epoch with the best validation accuracy, and that epoch."""
    torch.manual_seed(seed)
    network, g = NaturalNetwork().to(memory_format=torch.channels_last), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    steps = len(x) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * steps)
    best, found, kept = -1.0, network, 0
    for epoch in range(epochs):
        network.train()
        for rows in torch.randperm(len(x), generator=g).split(BATCH)[:steps]:
            labels = y[rows]
            images, kinds = distorted(augmented(x[rows] / 255, labels >= 10, g), g)
            images = images.contiguous(memory_format=torch.channels_last)
            classes, distortions = network(images)
            labels = torch.where(kinds == 0, labels, -1)
            loss = F.cross_entropy(classes, labels, label_smoothing=0.05, ignore_index=-1)
            loss = loss + 0.5 * F.cross_entropy(distortions, kinds)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        right = accuracy(network, *validation)
        print(json.dumps({"epoch": epoch + 1, "loss": round(loss.item(), 3), "validation": right}), flush=True)
        if right > best:
            best, found, kept = right, copy.deepcopy(network), epoch + 1
    found = found.eval().to(memory_format=torch.contiguous_format)
    normalize(found, x[torch.randperm(len(x), generator=g)[:NORMALIZED]])
    return found, kept


@torch.no_grad()
@torch.no_grad()
def normalize(network: NaturalNetwork, x: Tensor) -> None:
    """Give the features mean 0 and variance 1 over images, uint8 [N, 3, 32, 32]; the heads read them before that."""
    z = torch.cat([network.embed(part / 255) for part in x.split(500)]).double()
    mean, variance = network.norm.running_mean, network.norm.running_var
    assert mean is not None
    assert variance is not None
    mean.copy_(z.mean(0))
    variance.copy_(z.var(0))


@torch.no_grad()
def accuracy(network: NaturalNetwork, x: Tensor, y: Tensor) -> float:
    """Share of images that are classified right."""
    network.eval()
    right = [(network(a / 255)[0].argmax(1) == b).sum() for a, b in zip(x.split(500), y.split(500), strict=True)]
    return int(torch.stack(right).sum()) / len(y)


def images_of(options: argparse.Namespace) -> dict[str, tuple[Tensor, Tensor]]:
    """Name -> levels and labels: the mixture to train on, and the validation and test images of both labeled sets."""
    color = load(DataConfig(source="cifar10", root=options.data_root))
    gray = load(DataConfig(source="fashion-mnist", root=options.data_root, size=SIDE))
    parts = [held(color.train, options.limit), held(gray.train, min(FASHION, options.limit or FASHION), 10)]
    if options.emoji:
        drawings = load(DataConfig(source=str(options.emoji), size=SIDE))
        parts += [held(drawings.train)] * EMOJI_COPIES
    images, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    found = {"train": (images, labels)}
    for name in ("val", "test"):
        found |= {f"cifar10 {name}": held(color.split(name)), f"fashion {name}": held(gray.split(name), None, 10)}
    return found


def content_of(network: NaturalNetwork) -> bytes:
    """The state in the format safetensors, matrices as float16."""
    tensors = {k: v.half() if v.ndim > 1 else v for k, v in network.state_dict().items()}
    return safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()})


def card(report: dict[str, object]) -> str:
    """What the weights are, for people."""
    training = f"{report['epochs']} epochs, batch {BATCH}, AdamW {RATE} in one cycle, seed {report['seed']}"
    return f"""# natural

A small convolutional classifier of photographs and drawings, and of distortions ({report["parameters"]:,} parameters).
Pixelloom measures images that are not MNIST's digits by the 64 features before its heads, whose mean is about 0 and
variance about 1 over undistorted training images.

| | |
|---|---|
| input | RGB 32x32, values in [0, 1]; gray becomes RGB, other sizes are resized (bilinear, antialiased) |
| data | {report["counts"]} |
| classes | 10 of CIFAR-10, 10 of Fashion-MNIST |
| distortions | {DISTORTED} of {BATCH} images: {", ".join(KINDS[1:])} |
| augmentation | mirrored, shifted by up to {SHIFT} pixels; color to gray (15 %), gray inverted (50 %) |
| training | {training} |
| normalization | {NORMALIZED:,} random images of the training mixture |
| epoch kept | {report["epoch"]}, by the accuracy on CIFAR-10's validation images |
| CIFAR-10 | validation accuracy {report["cifar10 val"]:.2%}, test accuracy {report["cifar10 test"]:.2%} |
| Fashion-MNIST | validation accuracy {report["fashion val"]:.2%}, test accuracy {report["fashion test"]:.2%} |
| file | matrices in float16, {report["bytes"]:,} bytes; computed in float32 |
| command | `python benchmarks/natural.py --emoji noto-emoji --epochs {report["epochs"]} --seed {report["seed"]}` |
| date, machine | {report["date"]}, torch {report["torch"]}, {report["threads"]} thread(s), {report["seconds"]} s |
| SHA-256 of the file | `{report["sha256"]}` |

Accuracies are of one choice among all 20 classes. Images: {report["held"]}. Those on
test images were measured once, after training. CIFAR-10: Krizhevsky 2009. Fashion-MNIST: Xiao, Rasul, Vollgraf 2017
(MIT license). Emoji: Noto Emoji (Google, Apache License 2.0), the training split only, without classes.
"""


def main() -> None:
    """Train, test, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--emoji", type=Path, help="a folder of emoji")
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--limit", type=int, help="train on the first N images of each set only")
    options = parser.parse_args()
    data, start = images_of(options), time.perf_counter()
    x, y = data.pop("train")
    network, epoch = train(x, y, data["cifar10 val"], options.epochs, options.seed)
    content, seconds = content_of(network), round(time.perf_counter() - start, 1)
    network.load_state_dict(safetensors.torch.load(content))  # what is measured is what is stored
    emoji = f", {(y == -1).sum() // EMOJI_COPIES} emoji {EMOJI_COPIES} times an epoch" if options.emoji else ""
    report: dict[str, object] = {
        "counts": f"{(y.clamp(-1, 10) < 10).sum() - (y == -1).sum():,} images of CIFAR-10, {(y >= 10).sum():,} of "
        f"Fashion-MNIST{emoji}",
        "epochs": options.epochs,
        "epoch": epoch,
        "seed": options.seed,
        "parameters": sum(p.numel() for p in network.parameters()),
        "seconds": seconds,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "held": ", ".join(f"{len(y):,} {name}" for name, (_, y) in data.items()),
    } | facts()
    report |= {name: accuracy(network, *held_out) for name, held_out in data.items()}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{NATURAL}.safetensors").write_bytes(content)
    (options.out / f"{NATURAL}.md").write_text(card(report), encoding="utf-8")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
