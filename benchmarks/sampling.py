"""The fast sampler against the plain loop and against one parallel pass, in one run.

    python benchmarks/sampling.py --json [--network mnist-gray] [--batch 25] [--size 28] [--repeats 5] [--figure FILE]

Options may be given several times: every combination is measured, one JSON object a line. A network is that of a
recipe, with the channels and levels of its data.

    plain_s           seconds of the plain loop, one pass a pixel (and ordered channel); some of its passes are measured
                      (plain_passes_measured of plain_passes) and the rest is extrapolated, since all cost the same
    fast_s            seconds of the fast sampler, its plan ready (made once a model, plan_s)
    pass_s            seconds of one parallel pass of our network, whose kernels are cropped to what the masks leave
    speedup           plain_s / fast_s
    passes            fast_s / pass_s
    steps             of the fast sampler
    peak_mb           what the process grew by while it sampled; stated_mb is what the sampler says beforehand, and
                      mb_per_image the same for one image
    tutorial_pass_s   seconds of one pass with whole kernels in default memory layout, as the tutorials compute it
    tutorial_passes   fast_s / tutorial_pass_s
    tutorial_speedup  pixels * tutorial_pass_s / fast_s: the tutorials' loop is one pass a pixel
    clock             "wall", or "cpu" with --cpu-time: the seconds are then those that the process was given, which on
                      a machine that others use, and with one thread, is the fairer comparison

With ``--against PATH`` this build is compared with that of another checkout instead, see ``sampling_against.py``.

The tutorial's figures are null for all networks but PixelCNN.

Each combination lives in a process of its own. Its variants take turns, and the median of each counts, so that a busy
machine slows all alike. Weights are random: they change no time.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import nn

from machine import facts
from pixelloom.core.rng import image_noise
from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import Scaling, to_model
from pixelloom.layers.masked_conv import MaskedConv2d
from pixelloom.models.pixel import PixelDescription, PixelModel
from pixelloom.runs.recipes import PIXEL_RUNS, recipe
from pixelloom.sampling.fast.sampler import FastSampler, make_plan
from sampling_against import compare

CHANNELS_AND_LEVELS = {"mnist": (1, 256), "digits": (1, 17), "colored-mnist": (3, 4), "cifar10": (3, 256)}
SIZES = {"pixelcnn-pp-cifar10": 32}  # where it is not 28
LARGE = ("pixelcnn-pp-cifar10",)  # takes minutes: only if asked for
SECONDS = 20.0  # a round is not begun when those before took longer
PLAIN_PASSES = 2  # of the plain loop, measured in each round


def tutorial(network: nn.Module) -> nn.Module:
    """The same layers with whole kernels, nothing masked or cropped, in default memory layout."""
    whole = copy.deepcopy(network)
    for name, layer in list(whole.named_modules()):
        if isinstance(layer, MaskedConv2d):
            outputs, inputs, _, kernel = layer.weight.shape
            conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=layer.bias is not None)
            parent, _, child = name.rpartition(".")
            setattr(whole.get_submodule(parent), child, conv)
    return whole.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload, no-any-return]


def spec_of(name: str, size: int) -> ImageSpec:
    """Images of a recipe's channels and levels."""
    data = recipe(name).data
    binary = data.binarize != "none" or data.source == "binarized-mnist"
    channels, levels = (1, 2) if binary else CHANNELS_AND_LEVELS[data.source]
    return ImageSpec(channels, size, size, data.levels or levels)


def model_of(name: str, size: int) -> PixelModel:
    """The recipe's model with random weights, and no picture to go by.

    Layers that start at zero get random weights too, or all pixels would be alike.
    """
    torch.manual_seed(0)
    config = recipe(name)
    description = PixelDescription(
        network=config.network,
        model=config.model,
        head=config.head,
        image=spec_of(name, size),
        scaling=Scaling.unit(),
    )
    model = PixelModel.build(description)
    with torch.no_grad():
        for parameter in model.network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return model


def seconds_of(function: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """One call."""
    start = clock()
    function()
    return clock() - start


def resident_mb(peak: bool) -> float:
    """Memory of this process, now or at its peak."""
    if peak:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@torch.no_grad()
def measure(name: str, batch: int, size: int, rounds: int, cpu_time: bool = False) -> dict[str, object]:
    """All figures of one combination."""
    model = model_of(name, size)
    spec, scaling = model.spec, model.description.scaling
    clock = time.process_time if cpu_time else time.perf_counter
    plan_s = seconds_of(lambda: make_plan(model.network, model.head, spec), clock)
    plan = make_plan(model.network, model.head, spec)
    sampler = FastSampler(
        plan, model.head, spec, lambda x: to_model(x, spec.levels, scaling), torch.float32, torch.device("cpu")
    )
    before = resident_mb(peak=False)
    model.sample(batch, batch=batch)
    peak = resident_mb(peak=True) - before

    images = model.sample(batch, batch=batch, seed=1)
    whole = tutorial(model.network) if model.description.network == "pixelcnn" else None
    x = to_model(images, spec.levels, scaling)
    noise = image_noise(spec, 0, 0, batch)

    def plain() -> None:
        for step in range(PLAIN_PASSES):
            params = model.predict(images)[:, :, -1:, step : step + 1]
            model.head.draw(params, noise[:, :, -1:, step : step + 1])

    variants: dict[str, Callable[[], object]] = {
        "fast": lambda: model.sample(batch, batch=batch),
        "pass": lambda: model.predict(images),
        "plain": plain,
    } | ({"tutorial": lambda: whole(x)} if whole else {})
    taken: dict[str, list[float]] = {variant: [seconds_of(run, clock)] for variant, run in variants.items()}
    begun = time.perf_counter()
    for _ in range(rounds):
        if time.perf_counter() - begun > SECONDS and len(taken["fast"]) > 1:
            break
        for variant, run in variants.items():
            taken[variant].append(seconds_of(run, clock))
    median = {variant: statistics.median(times[1:]) for variant, times in taken.items()}  # the first one warms up
    pixels = size * size
    passes = pixels * model.head.groups
    plain_s = median["plain"] * passes / PLAIN_PASSES
    return {
        "network": name,
        "batch": batch,
        "size": size,
        "plain_s": round(plain_s, 6),
        "plain_passes": passes,
        "plain_passes_measured": PLAIN_PASSES,
        "fast_s": round(median["fast"], 6),
        "pass_s": round(median["pass"], 6),
        "speedup": round(plain_s / median["fast"], 1),
        "passes": round(median["fast"] / median["pass"], 3),
        "steps": sampler.steps,
        "plan_s": round(plan_s, 6),
        "peak_mb": round(peak, 1),
        "stated_mb": round(batch * sampler.bytes_per_image / 1e6, 1),
        "mb_per_image": round(sampler.bytes_per_image / 1e6, 3),
        "parameters": model.parameters,
        "tutorial_pass_s": whole and round(median["tutorial"], 6),
        "tutorial_passes": whole and round(median["fast"] / median["tutorial"], 3),
        "tutorial_speedup": whole and round(pixels * median["tutorial"] / median["fast"], 1),
        "rounds": len(taken["fast"]) - 1,
        "clock": "cpu" if cpu_time else "wall",
        "precision": "fp32",
    } | facts()


def in_a_process(name: str, batch: int, size: int, rounds: int, cpu_time: bool) -> dict[str, object]:
    """So that peak memory is that of one combination."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, name, batch, size, rounds, cpu_time), daemon=True)
    process.start()
    theirs.close()
    try:
        row: dict[str, object] = ours.recv()
    except EOFError:
        raise SystemExit(f"{name}, batch {batch}, size {size}: the measuring process died") from None
    process.join()
    return row


def _serve(pipe: Connection, *what: object) -> None:
    pipe.send(measure(*what))  # type: ignore[arg-type]


def figure(rows: list[dict[str, object]], path: Path) -> None:
    """Seconds over pixels, one line a batch size, both axes logarithmic: a slope of one is cost linear in pixels."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    batches = sorted({int(str(row["batch"])) for row in rows})
    colors = matplotlib.colormaps["viridis"](torch.linspace(0, 0.85, len(batches)).tolist())
    for batch, color in zip(batches, colors, strict=True):
        line = sorted((int(str(r["size"])) ** 2, float(str(r["fast_s"]))) for r in rows if r["batch"] == batch)
        ax.loglog(*zip(*line, strict=True), "o-", color=color, label=f"{batch}")
        ax.annotate(f"{line[-1][1]:.2g} s", line[-1], xytext=(6, -3), textcoords="offset points", fontsize=8)
    sizes = sorted({int(str(row["size"])) for row in rows})
    ax.set_xticks([s * s for s in sizes], [str(s) for s in sizes])
    ax.minorticks_off()
    ax.set_xlim(sizes[0] ** 2 * 0.8, sizes[-1] ** 2 * 2)
    ax.set_xlabel("pixels a side (the axis is their square)")
    ax.set_ylabel("seconds to sample the batch")
    ax.set_title(f"{rows[0]['network']}, {rows[0]['threads']} CPU threads, fp32", fontsize=10)
    ax.legend(title="images", frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, dpi=150)


def main() -> None:
    """Print one line a combination."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=list(PIXEL_RUNS), action="append", help="a recipe's; default: all")
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--size", type=int, action="append", help="pixels a side")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true", help="count CPU time, for a machine that others use")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--figure", type=Path, help="draw seconds over image size to this PNG")
    parser.add_argument("--against", type=Path, help="another checkout, to compare the two builds in CPU time")
    args = parser.parse_args()
    rows = []
    names = args.network or [name for name in PIXEL_RUNS if name not in LARGE]
    for name, size, batch in itertools.product(names, args.size or [0], args.batch or [25]):
        if args.against:
            row = compare(args.against, name, batch, size or SIZES.get(name, 28), args.repeats)
            line = f"{name:19} {batch:4} images: {row['fast_s']} s, {row['ratio']}x faster, {row['passes']} passes"
            print(json.dumps(row) if args.json else line, flush=True)
            continue
        rows.append(in_a_process(name, batch, size or SIZES.get(name, 28), args.repeats, args.cpu_time))
        row = rows[-1]
        theirs = row["tutorial_speedup"] and f"{row['tutorial_speedup']}x the tutorial's, "
        line = (
            f"{name:19} {batch:4} images of {row['size']}x{row['size']}: {row['fast_s']} s in {row['steps']} steps, "
            f"{row['passes']} passes, {row['speedup']}x the plain loop, {theirs or ''}{row['peak_mb']} MB"
        )
        print(json.dumps(row) if args.json else line, flush=True)
    if args.figure and rows:
        figure(rows, args.figure)


if __name__ == "__main__":
    main()
