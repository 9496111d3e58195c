"""Palettes: color images as indices of a few colors, for pixel art, icons and flat drawings.

A model of indices is a categorical distribution over colors at each pixel. It cannot sample a color that the palette
lacks, and needs one value a pixel instead of three.

A palette is written "#rrggbb,#rrggbb,...", a color for each level, from dark to bright.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
from PIL import Image

from pixelloom.core.types import Levels
from pixelloom.data.tables import WHITE

_SEEN = 1 << 22  # pixels that a palette is fitted to, at most
_REFINEMENTS = 8  # passes of k-means
_CHUNK = 1 << 14  # colors that are compared with the palette at once
_LUMA = np.array([299, 587, 114])  # ITU-R 601, in thousandths

Colors = npt.NDArray[np.uint8]
"""RGB, uint8 [n, 3]."""


def fit_palette(images: Levels, colors: int) -> str:
    """Fit a palette to RGB images, uint8 [N, 3, H, W].

    If they have no more than ``colors`` colors, these are the palette. Otherwise it is a median cut (Heckbert 1982,
    "Color image quantization for frame buffer display") of at most 4 million pixels, refined by k-means.
    """
    each = images.shape[2] * images.shape[3]
    some = images[np.linspace(0, len(images) - 1, min(len(images), max(1, _SEEN // each))).astype(np.int64)]
    pixels = some.transpose(0, 2, 3, 1).reshape(-1, 3)  # [n, 3, H, W] -> [n * H * W, 3]
    found = np.unique(_packed(pixels))
    if len(found) > colors:
        # Sorted, so that the palette does not depend on the order of images.
        sheet = Image.fromarray(_unpacked(np.sort(_packed(pixels)))[None])  # [1, n, 3]
        cut = sheet.quantize(colors, Image.Quantize.MEDIANCUT, kmeans=_REFINEMENTS, dither=Image.Dither.NONE)
        used = np.unique(np.asarray(cut))
        found = np.unique(_packed(np.array(cut.getpalette(), np.uint8).reshape(-1, 3)[used]))
    rgb = _unpacked(found)
    if len(rgb) == 1:  # a palette has two colors or more
        rgb = np.concatenate([rgb, WHITE - rgb])
    order = np.argsort(rgb @ _LUMA, kind="stable")
    return ",".join("#" + bytes(color).hex() for color in rgb[order])


@functools.lru_cache(maxsize=64)
def colors_of(palette: str) -> Colors:
    """The colors of a palette, uint8 [n, 3]."""
    return np.array([list(bytes.fromhex(color.removeprefix("#"))) for color in palette.split(",")], np.uint8)


def indexed(images: Levels, palette: str) -> Levels:
    """The index of the nearest color at each pixel, by squared distance in RGB; the first one of equally near colors.

    Args:
        images: RGB, uint8 [N, 3, H, W].
        palette: the colors.

    Returns:
        Indices, uint8 [N, 1, H, W].
    """
    colors = colors_of(palette).astype(np.int32)
    packed = _packed(images.transpose(0, 2, 3, 1))  # [N, H, W]
    different, place = np.unique(packed, return_inverse=True)
    nearest = np.empty(len(different), np.uint8)
    for start in range(0, len(different), _CHUNK):
        some = _unpacked(different[start : start + _CHUNK]).astype(np.int32)
        nearest[start : start + _CHUNK] = ((some[:, None] - colors) ** 2).sum(-1).argmin(-1)
    return nearest[place].reshape(packed.shape)[:, None]


def _packed(rgb: Levels) -> npt.NDArray[np.int32]:
    """[..., 3] -> one number per color."""
    wide = rgb.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def _unpacked(numbers: npt.NDArray[np.int32]) -> Colors:
    return numbers.astype(">u4").view(np.uint8).reshape(*numbers.shape, 4)[..., 1:]
