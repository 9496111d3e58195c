"""Images per second of one training step, against a straightforward rendering of the tutorial's step, in one run.

    python benchmarks/training.py --json [--network mnist-gray] [--batch 128] [--rounds 5]

The baseline is what the tutorials do: whole kernels, the mask multiplied into ``weight.data`` at each forward pass,
float32, default memory layout. Ours is the recipe's network, loss and optimiser with the engine's settings. Each
variant lives in a process of its own, and all see the same random levels. Their steps are interleaved, one process at a
time, and the median step of each counts, so that a busy machine slows all alike.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from multiprocessing.connection import Connection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelloom.data.pixels import Scaling
from pixelloom.engine.memory import keep_freed_memory
from pixelloom.engine.optim import build_optimiser
from pixelloom.likelihoods import make_head
from pixelloom.models import PixelDescription, PixelModel
from pixelloom.objectives import Monitor, likelihood
from pixelloom.recipes import recipe
from pixelloom.types import Batch, ImageSpec


class TutorialConv(nn.Conv2d):
    """A whole kernel whose masked taps are zeroed in place at every pass."""

    def __init__(self, mask: str, inputs: int, outputs: int, kernel: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
        seen = torch.ones_like(self.weight)
        seen[:, :, kernel // 2, kernel // 2 + (mask == "B") :] = 0
        seen[:, :, kernel // 2 + 1 :] = 0
        self.register_buffer("seen", seen)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, H, W]"""
        self.weight.data *= self.seen
        return super().forward(x)


class TutorialResidual(nn.Module):
    """The Keras example's bottleneck."""

    def __init__(self, features: int) -> None:
        super().__init__()
        half = features // 2
        self.branch = nn.Sequential(
            *(nn.Conv2d(features, half, 1), nn.ReLU()),
            *(TutorialConv("B", half, half, 3), nn.ReLU()),
            *(nn.Conv2d(half, features, 1), nn.ReLU()),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, H, W] -> same"""
        return x + self.branch(x)


def tutorial_gray() -> nn.Module:
    """Eight masked 7x7 layers with batch normalisation."""
    layers: list[nn.Module] = [TutorialConv("A", 1, 64, 7, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    for _ in range(7):
        layers += [TutorialConv("B", 64, 64, 7, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(64, 256, 1))


def tutorial_binary() -> nn.Module:
    """Five residual bottlenecks and two masked 3x3 layers."""
    layers: list[nn.Module] = [TutorialConv("A", 1, 128, 7), nn.ReLU(), *(TutorialResidual(128) for _ in range(5))]
    for _ in range(2):
        layers += [TutorialConv("B", 128, 128, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(128, 1, 1))


BASELINES = {"mnist-gray": (tutorial_gray, 256), "mnist-binary": (tutorial_binary, 2)}
PRECISIONS = ("fp32", "bf16")


def tutorial_step(name: str, levels: Tensor) -> Callable[[], None]:
    """One optimiser step as the tutorials write it."""
    build, n_levels = BASELINES[name]
    network = build()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    x = levels.float() / (n_levels - 1)

    def step() -> None:
        out = network(x)
        loss = (
            F.binary_cross_entropy_with_logits(out, x) if n_levels == 2 else F.cross_entropy(out, levels[:, 0].long())
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def our_step(name: str, levels: Tensor, precision: str) -> Callable[[], None]:
    """One optimiser step of the recipe, with the engine's optimiser, memory and check of the gradient."""
    config = recipe(name)
    spec = ImageSpec(1, 28, 28, BASELINES[name][1])
    scaling = Scaling.unit()
    model = PixelModel.build(
        PixelDescription(network=config.network, model=config.model, head=config.head, image=spec, scaling=scaling)
    )
    model.network.train()
    monitor = Monitor("bits/dim", lambda _: {})
    phase = likelihood(model.network, make_head(config.head, spec), spec.levels, scaling, config.optim, monitor).phases[
        0
    ]
    optimiser = build_optimiser(model.network.parameters(), config.optim)
    keep_freed_memory()
    batch = Batch(levels, None)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss, _ = phase.loss(batch)
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.network.parameters() if p.grad is not None])
        if not norm.isfinite():
            raise ArithmeticError(f"{name}: the gradient is not finite")
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def serve(variant: str, name: str, batch: int, pipe: Connection) -> None:
    """A process that takes one step at each request and answers with its seconds."""
    torch.manual_seed(0)
    levels = torch.randint(0, BASELINES[name][1], (batch, 1, 28, 28), dtype=torch.uint8)
    step = tutorial_step(name, levels) if variant == "baseline" else our_step(name, levels, variant)
    while pipe.recv():
        start = time.perf_counter()
        step()
        pipe.send(time.perf_counter() - start)


def measure(name: str, batch: int, rounds: int) -> list[dict[str, object]]:
    """Interleaved steps of all variants; the first round warms up and does not count."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for variant in ("baseline", *PRECISIONS):
        pipes[variant], other = context.Pipe()
        context.Process(target=serve, args=(variant, name, batch, other), daemon=True).start()
    seconds: dict[str, list[float]] = {variant: [] for variant in pipes}
    for _ in range(rounds + 1):
        for variant, pipe in pipes.items():
            pipe.send(True)
            seconds[variant].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    median = {key: statistics.median(values[1:]) for key, values in seconds.items()}
    return [
        {
            "network": name,
            "precision": precision,
            "batch": batch,
            "ours_images_per_s": round(batch / median[precision], 2),
            "baseline_images_per_s": round(batch / median["baseline"], 2),
            "ratio": round(median["baseline"] / median[precision], 3),
            "rounds": rounds,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "machine": platform.machine(),
            "processor": str(torch.cpu.get_capabilities().get("cpu_name", platform.processor())),
            "date": date.today().isoformat(),
        }
        for precision in PRECISIONS
    ]


def main() -> None:
    """Print one line a network and precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=sorted(BASELINES), action="append")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    for name in args.network or BASELINES:
        for row in measure(name, args.batch, args.rounds):
            ours, base = row["ours_images_per_s"], row["baseline_images_per_s"]
            line = f"{name:13} {row['precision']}: {ours} images/s, baseline {base}, {row['ratio']}x"
            print(json.dumps(row) if args.json else line, flush=True)


if __name__ == "__main__":
    main()
