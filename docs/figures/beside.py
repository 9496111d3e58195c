"""Put sample grids beside each other: ``python docs/figures/beside.py OUT.png "LABEL=GRID.png"... [--columns N]``.

``pixelloom sample RUN -n 25 --columns 5 --scale 2 --out GRID.png`` draws a grid. ``--real DATA`` adds a grid of
training images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import pixelloom as pl
from pixelloom.data.catalog import load
from pixelloom.viz.canvas import column_labels, hstack, pad, vstack
from pixelloom.viz.grid import grid


def real(source: str, size: int) -> Image.Image:
    """A grid of 25 training images at even spacing."""
    train = load(pl.DataConfig(source=source, size=size)).train
    images = train.take(np.linspace(0, len(train) - 1, 25).astype(int))[0]
    return grid(images, 256, columns=5, scale=2).convert("RGB")


def main() -> None:
    """Write the image."""
    parser = argparse.ArgumentParser(description="Put sample grids beside each other.")
    parser.add_argument("out", type=Path)
    parser.add_argument("grids", nargs="+", metavar="LABEL=PNG")
    parser.add_argument("--columns", type=int, default=3)
    parser.add_argument("--real", metavar="DATA")
    parser.add_argument("--size", type=int, default=32)
    options = parser.parse_args()
    blocks = [("training images", real(options.real, options.size))] if options.real else []
    for named in options.grids:
        label, path = named.split("=", 1)
        blocks.append((label, Image.open(path).convert("RGB")))
    side = max(block.width for _, block in blocks)
    tiles = [vstack([column_labels([label], [side / 2], side), block]) for label, block in blocks]
    rows = [hstack(tiles[i : i + options.columns], 12) for i in range(0, len(tiles), options.columns)]
    pad(vstack(rows, 8), 6, 0, 6, 6).save(options.out, optimize=True)
    print(options.out, options.out.stat().st_size)


if __name__ == "__main__":
    main()
