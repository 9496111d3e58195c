"""Synthetic defects: images with a scratch, a spot, a wrong texture or a patch of another image, in MVTec AD's layout.

    scratch    a straight line of 8 to 16 pixels, 1 pixel wide
    spot       a disk of radius 1.5 to 3 pixels
    texture    a square of 8x8 pixels with stripes of a period of 2.5 to 5 pixels and noise
    patch      a square of 8x8 pixels of another image, the most textured of 8 random ones (CutPaste: Li et al. 2021)

Scratches and spots have one level, at least 96 of 255 away from the mean of what they cover. A defect lies on the
object: its center is a pixel above 32. Its mask has the pixels that changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

KINDS = ("scratch", "spot", "texture", "patch")
Bytes = npt.NDArray[np.uint8]
Draw = np.random.Generator
_PATCH, _CONTRAST, _OBJECT = 8, 96, 32


def with_defect(kind: str, image: Bytes, others: Bytes, draw: Draw) -> tuple[Bytes, npt.NDArray[np.bool_]]:
    """An image with a defect and its mask, uint8 and bool [H, W]; ``others`` are uint8 [N, H, W]."""
    places = np.argwhere(image > _OBJECT)
    row, column = places[draw.integers(len(places))] if len(places) else (image.shape[0] // 2, image.shape[1] // 2)
    if kind in ("texture", "patch"):
        sides = (row, image.shape[0]), (column, image.shape[1])
        top, left = (int(np.clip(at - _PATCH // 2, 0, side - _PATCH)) for at, side in sides)
        found = image.copy()
        square = _stripes(draw) if kind == "texture" else _textured(others, draw)
        found[top : top + _PATCH, left : left + _PATCH] = square
    else:
        covered = _line(image.shape, row, column, draw) if kind == "scratch" else _disk(image.shape, row, column, draw)
        mean = image[covered].mean()
        levels = [level for level in range(256) if abs(level - mean) >= _CONTRAST]
        found = np.where(covered, np.uint8(levels[draw.integers(len(levels))]), image)
    return found, found != image


def _line(shape: Any, row: int, column: int, draw: Draw) -> npt.NDArray[np.bool_]:
    """A line through a pixel, bool [H, W]."""
    angle, length = draw.uniform(0, np.pi), draw.integers(8, 17)
    steps = np.linspace(-length / 2, length / 2, 4 * length)
    rows, columns = np.rint(row + np.sin(angle) * steps), np.rint(column + np.cos(angle) * steps)
    inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    found = np.zeros(shape, np.bool_)
    found[rows[inside].astype(int), columns[inside].astype(int)] = True
    return found


def _disk(shape: Any, row: int, column: int, draw: Draw) -> npt.NDArray[np.bool_]:
    """A disk around a pixel, bool [H, W]."""
    rows, columns = np.indices(shape)
    found: npt.NDArray[np.bool_] = (rows - row) ** 2 + (columns - column) ** 2 <= draw.uniform(1.5, 3) ** 2
    return found


def _stripes(draw: Draw) -> Bytes:
    """Stripes of any direction, uint8 [8, 8]."""
    angle, period = draw.uniform(0, np.pi), draw.uniform(2.5, 5)
    rows, columns = np.indices((_PATCH, _PATCH))
    waves = np.sin(2 * np.pi * (np.cos(angle) * rows + np.sin(angle) * columns) / period + draw.uniform(0, 2 * np.pi))
    return np.clip(np.rint(128 + 80 * waves + draw.normal(0, 15, waves.shape)), 0, 255).astype(np.uint8)


def _textured(others: Bytes, draw: Draw) -> Bytes:
    """The square of largest spread of 8 random ones of images [N, H, W], uint8 [8, 8]."""
    squares = []
    for _ in range(8):
        top, left = (draw.integers(side - _PATCH + 1) for side in others.shape[1:])
        squares.append(others[draw.integers(len(others)), top : top + _PATCH, left : left + _PATCH])
    return max(squares, key=lambda square: float(square.std()))


def write(folder: Path, images: Bytes, seed: int = 0) -> None:
    """Write the first half of gray images [N, H, W] as good ones, and the others with a defect, each kind in turn."""
    draw, half = np.random.default_rng(seed), len(images) // 2
    for i, image in enumerate(images):
        if i < half:
            _save(folder / "test" / "good" / f"{i:05d}.png", image)
            continue
        kind = KINDS[i % len(KINDS)]
        found, mask = with_defect(kind, image, images[:half], draw)
        _save(folder / "test" / kind / f"{i:05d}.png", found)
        _save(folder / "ground_truth" / kind / f"{i:05d}_mask.png", np.where(mask, np.uint8(255), np.uint8(0)))


def _save(path: Path, pixels: Bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
