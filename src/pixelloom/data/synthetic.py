"""Synthetic data sets as functions of a seed: shapes, colored digits, sevens and eights.

Random numbers are raw 64-bit draws, which are stable between versions of NumPy: a seed always gives the same data set.
``stream``, an integer, separates the splits of one seed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from pixelloom.core import rng
from pixelloom.core.errors import DataError
from pixelloom.core.types import Labels, Levels

Floats = npt.NDArray[np.float64]

SHAPES = ("circle", "square", "triangle")
COLOR_LEVELS = 4
DIGIT, PATCH, SCENE = 28, 64, 512
"""Sides in pixels of a digit, of its background patch, and of the scene that patches are cropped from."""
_MEAN_COLOR = (197, 143, 187)  # mean red, green and blue of a scene
_CHUNK = 1024


def shapes(n: int, height: int, width: int, seed: int, stream: int) -> tuple[Levels, Labels]:
    """Draw n images, uint8 [n, 3, H, W] of 256 levels, of one shape on a uniform background; labels index SHAPES.

    Position, size, angle and both colors are random. A shape never crosses the border and is not antialiased; the two
    hues differ by at least a quarter of the color circle.
    """
    u = _uniform(n, 12, seed, rng.Stream.SHAPES, stream)
    labels = (u[0] * len(SHAPES)).astype(np.int64)
    radius = (0.18 + 0.2 * u[1]) * min(height, width)  # circumscribed circle
    x, y = radius + u[2] * (width - 2 * radius), radius + u[3] * (height - 2 * radius)
    foreground = _rgb(u[4], 0.65 + 0.3 * u[5], 0.75 + 0.25 * u[6])
    dark = u[7] < 0.5
    background = _rgb(
        u[4] + 0.25 + 0.5 * u[8], 0.2 + 0.3 * u[9], np.where(dark, 0.15 + 0.2 * u[10], 0.85 + 0.15 * u[10])
    )
    images = np.empty((n, 3, height, width), np.uint8)
    for i in range(0, n, _CHUNK):
        part = slice(i, i + _CHUNK)
        inside = _inside(labels[part], x[part], y[part], radius[part], 2 * np.pi * u[11, part], height, width)
        # inside [n, 1, H, W], colors [n, 3, 1, 1] -> [n, 3, H, W]
        images[part] = np.where(inside[:, None], foreground[part, :, None, None], background[part, :, None, None])
    return images, labels


def _inside(labels: Labels, x: Floats, y: Floats, r: Floats, angle: Floats, h: int, w: int) -> npt.NDArray[np.bool_]:
    """Whether the center of each pixel is inside the shape, bool [n, H, W]."""
    dx = np.arange(w)[None, None, :] + 0.5 - x[:, None, None]
    dy = np.arange(h)[None, :, None] + 0.5 - y[:, None, None]

    def reach(edges: int) -> Floats:
        """Largest projection on an edge normal, [n, H, W]; it is <= r cos(pi/edges) inside a regular polygon."""
        turns = angle[:, None, None] + 2 * np.pi * np.arange(edges)[:, None, None, None] / edges
        return np.asarray((dx * np.cos(turns) + dy * np.sin(turns)).max(0))

    kind, r = labels[:, None, None], r[:, None, None]
    square, triangle = reach(4) <= r * np.cos(np.pi / 4), reach(3) <= r * np.cos(np.pi / 3)
    return np.asarray(np.select([kind == 0, kind == 1], [dx**2 + dy**2 <= r**2, square], triangle))


def color_digits(images: Levels, seed: int, stream: int) -> Levels:
    """Color gray digits, uint8 [N, 1, 28, 28] of 256 levels -> uint8 [N, 3, 28, 28] of 4 levels.

    As ``get_colored_mnist`` of the Berkeley course on deep unsupervised learning (rll/deepul):

    1. enlarge the digit to 64x64 by linear interpolation,
    2. crop a random 64x64 patch from one scene (the course uses a photograph, this function :func:`scene`),
    3. invert the colors, v -> 255 - v, where the digit is above half,
    4. reduce to 28x28 by area means, and keep two bits of each value.
    """
    background = scene(SCENE, SCENE, seed).astype(np.float64)  # [3, 512, 512]
    enlarge, reduce = _enlargement(), _reduction()
    u = _uniform(len(images), 2, seed, rng.Stream.COLORED_DIGITS, stream)
    top, left = (u * (SCENE - PATCH + 1)).astype(np.int64)
    out = np.empty((len(images), 3, DIGIT, DIGIT), np.uint8)
    for i, image in enumerate(images):
        # Sums of integers below 2^53 are exact in float64, so the data set is the same on every machine.
        ink = enlarge @ image[0] @ enlarge.T > 127.5 * 7 * 7  # [64, 64]
        patch = background[:, top[i] : top[i] + PATCH, left[i] : left[i] + PATCH]
        mixed = reduce @ np.where(ink, 255 - patch, patch) @ reduce.T  # [3, 28, 28], 16 x 16 times the mean
        out[i] = mixed // (16 * 16 * 256 // COLOR_LEVELS)
    return out


def _enlargement() -> Floats:
    """Weights [64, 28], in sevenths, of linear interpolation with aligned corners: i is at 27 i / 63 = 3 i / 7."""
    weights = np.zeros((PATCH, DIGIT))
    for i in range(PATCH):
        before, sevenths = divmod(3 * i, 7)
        weights[i, before] += 7 - sevenths
        if sevenths:
            weights[i, before + 1] += sevenths
    return weights


def _reduction() -> Floats:
    """Weights [28, 64], in sevenths, of area means: an output pixel covers 64 / 28 = 16 / 7 input pixels."""
    weights = np.zeros((DIGIT, PATCH))
    for unit in range(7 * PATCH):
        weights[unit // 16, unit // 7] += 1
    return weights


def scene(height: int, width: int, seed: int) -> Levels:
    """A smooth, pale scene in place of a photograph, uint8 [3, H, W] of 256 levels.

    Channel c is mean color + 0.3 light + 0.2 tint_c + noise. Light and tints, in -128..127, are random on a grid with a
    spacing of about 70 pixels and interpolated by Pillow's bicubic filter (integer arithmetic, the same on every
    machine); the noise is uniform in -12..12.
    """
    rows, columns = 2 + height // 70, 2 + width // 70
    grid = (_uniform(rows * columns, 4, seed, rng.Stream.SCENE) * 256).astype(np.uint8)  # [4, rows * columns]
    light, *tints = resample(grid.reshape(4, 1, rows, columns), height, width)[:, 0].astype(np.int64) - 128  # [4, H, W]
    grain = (_uniform(height * width, 3, seed, rng.Stream.GRAIN) * 25).astype(np.int64) - 12  # [3, H * W]
    values = (
        np.array(_MEAN_COLOR)[:, None, None] + (3 * light + 2 * np.stack(tints)) // 10 + grain.reshape(3, height, width)
    )
    return np.asarray(values.clip(0, 255), np.uint8)


def choose(labels: Labels, classes: tuple[int, ...], count: int, seed: int, stream: int) -> npt.NDArray[np.int64]:
    """Sorted positions of ``count`` random members of each class, int64 [len(classes) * count].

    Raises:
        DataError: if a class has fewer members.
    """
    order = rng.permutation(len(labels), seed, rng.Stream.MEMBERS, stream)
    chosen = [order[labels[order] == label][:count] for label in classes]
    for label, members in zip(classes, chosen, strict=True):
        if len(members) < count:
            raise DataError(f"{count} images of the digit {label} are needed, but there are only {len(members)}")
    return np.sort(np.concatenate(chosen))


def resample(images: Levels, height: int, width: int) -> Levels:
    """Resize gray images, uint8 [N, 1, h, w], by Pillow's bicubic filter (antialiased when shrinking)."""
    out = np.empty((len(images), 1, height, width), np.uint8)
    for i, image in enumerate(images):
        out[i, 0] = np.asarray(Image.fromarray(image[0]).resize((width, height), Image.Resampling.BICUBIC))
    return out


def _uniform(n: int, rows: int, *words: int) -> Floats:
    """Uniform numbers in [0, 1), float64 [rows, n]; column i does not depend on n."""
    return rng.uniform(n * rows, *words).reshape(n, rows).T  # [n * rows] -> [n, rows] -> [rows, n]


def _rgb(hue: Floats, saturation: Floats, value: Floats) -> npt.NDArray[np.uint8]:
    """Convert HSV (hue in turns) to RGB, uint8 [n, 3]: v (1 - s max(0, min(k, 4 - k, 1))), k = (n_c + 6 h) mod 6."""
    k = (np.array([5.0, 3.0, 1.0]) + 6 * hue[:, None]) % 6  # [n, 3], n_c of red, green and blue
    rgb = value[:, None] * (1 - saturation[:, None] * np.clip(np.minimum(k, 4 - k), 0, 1))
    return np.asarray(np.rint(255 * rgb), np.uint8)
