"""Maps of anomaly over images: red where a pixel costs more bits than expected, blue where it costs fewer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from pixelloom.core.types import Display, Levels
from pixelloom.data.pixels import to_bytes
from pixelloom.viz.canvas import enlarge, hstack

_MORE, _LESS = (214, 39, 40), (31, 119, 180)  # RGB
_STRONGEST = 0.85  # share of the color where the scale ends
_SIDE = 224  # pixels: small images are enlarged to about this size


def overlay(image: Levels, levels: Display, excess: npt.NDArray[np.float32], scale: float) -> Image.Image:
    """An image and the image under its map, beside each other.

    Args:
        image: levels, uint8 [C, H, W]; other than 3 channels are shown as their mean.
        levels: number of levels, or a palette.
        excess: bits above the expected ones, float32 [H, W].
        scale: bits at which colors saturate; one for a whole set, so that maps can be compared.
    """
    shown = to_bytes(image, levels).astype(np.float64)
    if len(shown) != 3:
        shown = np.repeat(shown.mean(0, keepdims=True), 3, axis=0)
    share = np.clip(excess.astype(np.float64) / scale, -1, 1) if scale > 0 else np.sign(excess)
    color = np.where(share[None] > 0, np.array(_MORE)[:, None, None], np.array(_LESS)[:, None, None])
    weight = _STRONGEST * np.abs(share)[None]
    drawn = np.round(np.stack([shown, shown * (1 - weight) + color * weight])).astype(np.uint8)  # [2, 3, H, W]
    factor = max(1, _SIDE // max(excess.shape))
    large = enlarge(drawn, (excess.shape[0] * factor, excess.shape[1] * factor))
    return hstack([Image.fromarray(np.ascontiguousarray(tile.transpose(1, 2, 0))) for tile in large], gap=4)
