"""Draw the images of the pages on concepts: ``python docs/figures/make.py [NAME...] [--gray RUN] [--fashion RUN]``.

``one-pixel`` needs a run of the recipe mnist-gray, ``compressed`` a model of fashion-mnist, ``bits`` the data set
binarized-mnist and ``metrics`` mnist; the others need no data.
"""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from PIL import Image

import pixelloom as pl
from pixelloom.data.catalog import load
from pixelloom.layers.masked_conv import causal_mask
from pixelloom.metrics.distances import frechet, kid
from pixelloom.metrics.extractors import LeNetMnist, features
from pixelloom.networks import build_network
from pixelloom.runs.recipes import recipe
from pixelloom.sampling.fast.analysis import Dataflow, schedule
from pixelloom.viz.receptive_field import FIELD_KINDS, field_kinds

HERE = Path(__file__).parent
BLUE, ORANGE, PALE, INK = "#3b6ea5", "#d9822b", "#e6e6e6", "#1c1c1c"
MAXIMUM = np.iinfo(np.uint8).max
BITS = pl.ImageSpec(channels=1, height=28, width=28, levels=2)


def figure(width: float, height: float, columns: int) -> tuple[Figure, list[Axes]]:
    """A figure with one row of panels; lengths in inches."""
    drawn = Figure(figsize=(width, height), dpi=150, layout="constrained")
    return drawn, [drawn.add_subplot(1, columns, i + 1) for i in range(columns)]


def cells(axes: Axes, values: np.ndarray, colors: list[str], title: str, linewidth: float = 2) -> None:
    """One cell a value, row 0 above."""
    palette = ListedColormap(colors)
    axes.pcolormesh(values, cmap=palette, vmin=-0.5, vmax=len(colors) - 0.5, edgecolors="white", linewidth=linewidth)
    axes.set(aspect="equal", title=title)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def masks() -> Figure:
    """Masks A and B of a 5x5 kernel, and who reads whom within a pixel of ordered channels."""
    drawn, panels = figure(9, 2.6, 4)
    for axes, kind in zip(panels[:2], ("A", "B"), strict=True):
        kernel = np.zeros((5, 5), int)
        kernel[:3] = causal_mask(5, kind, 1, 1)[0, 0].numpy()  # rows below the center are not stored
        cells(axes, kernel, [PALE, BLUE], f"mask {kind}, 5x5 kernel")
        axes.set(xticks=[], yticks=[])
        axes.add_patch(Rectangle((2, 2), 1, 1, fill=False, edgecolor=ORANGE, linewidth=3))
    for axes, kind in zip(panels[2:], ("A", "B"), strict=True):
        within = causal_mask(1, kind, 3, 3, groups=3)[:, :, 0, 0].numpy().astype(int)
        cells(axes, within, [PALE, BLUE], f"mask {kind}, within the pixel")
        axes.set(xticks=[0.5, 1.5, 2.5], xticklabels=["R", "G", "B"], xlabel="reads")
        axes.set(yticks=[0.5, 1.5, 2.5], yticklabels=["R", "G", "B"], ylabel="group")
    return drawn


def network(name: str, spec: pl.ImageSpec = BITS, **changes: object) -> torch.nn.Module:
    """An untrained network of the recipe of that name, with two outputs a pixel."""
    config = recipe(name).model.model_copy(update=changes)
    return build_network(recipe(name).network, config, spec, outputs=2, groups=1).eval()


def fields() -> Figure:
    """The receptive field of a plain stack of 3x3 kernels, with its blind spot, and of the two stacks without one."""
    position = (14, 14)
    small = {"first_kernel": 3, "kernel": 3}
    plain = network("mnist-gray", blocks=5, norm="none", **small)
    gated = network("gated-pixelcnn", layers=6, kernel=3)
    drawn, panels = figure(9, 4, 2)
    titles = ("pixelcnn, six 3x3 layers", "gated-pixelcnn, six layers of 3x3")
    for axes, net, title in zip(panels, (plain, gated), titles, strict=True):
        kinds = field_kinds(pl.receptive_field(net, BITS, position), position)
        cells(axes, kinds, list(FIELD_KINDS.values()), title, 0.6)
        axes.set(xlabel="column", ylabel="row", xticks=[0, 14, 28], yticks=[0, 14, 28])
    shown = [Patch(color=color, label=name) for name, color in list(FIELD_KINDS.items())[:5]]
    drawn.legend(handles=shown, loc="outside lower center", ncols=5, frameon=False)
    return drawn


def wavefronts() -> Figure:
    """The step at which each pixel is drawn."""
    drawn, panels = figure(10, 3.6, 3)
    for axes, name in zip(panels, ("mnist-gray", "gated-pixelcnn", "pixelsnail"), strict=True):
        found = schedule(Dataflow(network(name), BITS.shape))
        steps = found.ready[0][0] - 1  # the first step that may read a pixel follows the one that draws it
        image = axes.imshow(steps, cmap="viridis")
        middle = steps == steps[14, 14]
        axes.imshow(np.where(middle, 1.0, np.nan), cmap=ListedColormap([ORANGE]))
        axes.set(title=f"{name}: {found.steps} steps", xticks=[0, 14, 27], yticks=[0, 14, 27])
        drawn.colorbar(image, ax=axes, shrink=0.8, label="step")
    return drawn


def one_pixel(run: Path) -> Figure:
    """An image, the predicted distribution at three of its pixels, and the cost of every pixel."""
    model = pl.load(run)
    images = torch.from_numpy(load(pl.DataConfig(source="mnist")).test.take([1])[0])
    with torch.no_grad():
        logits = model.predict(images).double()[0]  # [256, 28, 28], position by position
    log_p = logits.log_softmax(0)
    cost = -log_p.gather(0, images[0].long())[0] / math.log(2)  # bits [28, 28]
    positions = [(2, 2), (14, 10), (12, 12)]  # margin, edge of a stroke, inside it
    drawn = Figure(figsize=(9, 5.8), dpi=150, layout="constrained")
    grid = drawn.add_gridspec(2, 3)
    left, right = drawn.add_subplot(grid[0, 0]), drawn.add_subplot(grid[0, 1])
    left.imshow(images[0, 0], cmap="gray")
    left.set(title="image")
    bits = right.imshow(cost, cmap="magma")
    right.set(title=f"cost of each pixel, {cost.mean():.2f} bits/dim")
    drawn.colorbar(bits, ax=right, shrink=0.8, label="bits")
    for axes in (left, right):
        axes.set(xticks=[0, 14, 27], yticks=[0, 14, 27])
    for i, (row, column) in enumerate(positions):
        for axes in (left, right):
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=ORANGE, linewidth=1.5))
        axes = drawn.add_subplot(grid[1, i])
        probability = log_p[:, row, column].exp()
        axes.bar(range(256), probability, width=2.0, color=BLUE)
        value = int(images[0, 0, row, column])
        axes.plot(value, 1.6, "v", color=ORANGE, clip_on=False)
        axes.set_title(f"row {row}, column {column}\nlevel {value}: {cost[row, column]:.3g} bits", fontsize=10, pad=14)
        axes.set(xlabel="level", ylabel="probability", yscale="log", ylim=(1e-5, 1), xlim=(-5, 260))
    return drawn


def bits() -> Figure:
    """Nats of each image under the model of the package, and the interval of their mean."""
    model = pl.load("binarized-mnist")
    test = load(pl.DataConfig(source="binarized-mnist")).test
    rows = np.sort(np.random.default_rng(0).choice(len(test), 1000, replace=False))  # the split is sorted by digit
    nats = -model.log_prob(test.take(rows)[0]).numpy()
    mean, half = nats.mean(), 1.96 * nats.std(ddof=1) / math.sqrt(len(nats))
    drawn, (axes,) = figure(7, 3, 1)
    axes.hist(nats, bins=40, color=BLUE)
    axes.axvspan(mean - half, mean + half, color=ORANGE, alpha=0.6)
    axes.axvline(mean, color=ORANGE)
    axes.set(xlabel="nats of an image", ylabel="images")
    axes.set_title(f"{len(nats):,} test images: mean {mean:.1f} nats (95 %: {mean - half:.1f} to {mean + half:.1f})")
    return drawn


def metrics() -> Figure:
    """KID and the Fréchet distance of real images against other real images, at several N."""
    images = load(pl.DataConfig(source="mnist")).test.take(np.arange(10_000))[0]
    of = features(images, 256, LeNetMnist(1)).double()
    sizes = [70, 100, 200, 400, 800, 1600, 3200, 5000]
    found: dict[str, list[tuple[float, float]]] = {"kid": [], "fd": []}
    for n in sizes:
        values: dict[str, list[float]] = {"kid": [], "fd": []}
        for repetition in range(10):
            chosen = np.random.default_rng([n, repetition]).permutation(len(of))[: 2 * n]
            one, other = of[chosen[:n]], of[chosen[n:]]  # disjoint
            values["kid"].append(kid(one, other, subsets=20, seed=repetition)[0])
            values["fd"].append(frechet(one, other))
        for name, runs in values.items():
            found[name].append((float(np.mean(runs)), float(np.std(runs))))
    drawn, panels = figure(9, 3.2, 2)
    for axes, (name, points) in zip(panels, found.items(), strict=True):
        mean, deviation = np.array(points).T
        axes.errorbar(sizes, mean, deviation, color=BLUE, marker="o", capsize=3)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set(title=f"{name}-lenet-mnist of real against real", xscale="log", xlabel="images on each side")
        axes.set(xticks=sizes[::2], xticklabels=map(str, sizes[::2]))
        axes.minorticks_off()
        print(name, [(n, round(m, 4), round(d, 4)) for n, m, d in zip(sizes, mean, deviation, strict=True)])
    return drawn


def compressed(run: Path) -> Figure:
    """Images of Fashion-MNIST, the bits of each pixel under a model, and the bytes of each image."""
    model = pl.load(str(run))
    split = load(pl.DataConfig(source="fashion-mnist")).test
    images = torch.from_numpy(split.take(np.linspace(0, len(split) - 1, 8).round().astype(np.int64))[0])
    nats = model.nats(images)[:, 0] / math.log(2)  # bits [N, H, W]
    drawn = Figure(figsize=(9, 2.9), dpi=150, layout="constrained")
    panels = drawn.subplots(2, len(images))
    for column, (image, bits_of) in enumerate(zip(images[:, 0].numpy(), nats.numpy(), strict=True)):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG", optimize=True)
        panels[0, column].imshow(image, cmap="gray_r", vmin=0, vmax=MAXIMUM)
        panels[0, column].set_title(f"PNG {len(file.getvalue())} bytes", fontsize=8)
        shown = panels[1, column].imshow(bits_of, cmap="magma", vmin=0, vmax=8)
        panels[1, column].set_title(f"model {bits_of.sum() / 8:.0f} bytes", fontsize=8)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
    drawn.colorbar(shown, ax=panels[1], shrink=0.8, label="bits")
    return drawn


def main() -> None:
    """Draw the images that are named, by default all."""
    made: dict[str, Callable[[], Figure]] = {
        "masks": masks,
        "receptive-fields": fields,
        "wavefronts": wavefronts,
        "bits": bits,
        "metrics": metrics,
    }
    parser = argparse.ArgumentParser(description="Draw the images of the pages on concepts.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join([*made, 'one-pixel', 'compressed'])}; by default all")
    parser.add_argument("--gray", type=Path, default=Path("runs/mnist-gray"), help="a run of the recipe mnist-gray")
    parser.add_argument("--fashion", type=Path, default=Path("runs/fashion"), help="a model of fashion-mnist")
    options = parser.parse_args()
    made["compressed"] = lambda: compressed(options.fashion)
    made["one-pixel"] = lambda: one_pixel(options.gray)
    for name in options.names or made:
        made[name]().savefig(HERE / f"concept-{name}.png")
        print(HERE / f"concept-{name}.png")


if __name__ == "__main__":
    main()
