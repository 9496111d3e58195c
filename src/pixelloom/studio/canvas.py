"""The state of the pixel canvas as JSON: levels of an image and its hole, pixel by pixel.

{"shape": [C, H, W], "levels": L, "pixels": base64 of C * H * W bytes, "hole": H * W characters 0 or 1}, and with a
palette "palette": "#rrggbb,..."
"""

from __future__ import annotations

import base64
import binascii
import json

import numpy as np
import numpy.typing as npt

from pixelloom.core.errors import UsageError
from pixelloom.core.types import Display, ImageSpec, Levels, palette_size

Hole = npt.NDArray[np.bool_]
"""True for hidden pixels, bool [H, W]."""
_LONGEST = 1 << 22  # characters


def dumped(image: Levels, hole: Hole, levels: Display) -> str:
    """The JSON of an image, levels uint8 [C, H, W], and a hole, bool [H, W]."""
    colors = {"palette": levels} if isinstance(levels, str) else {}
    state = colors | {
        "shape": list(image.shape),
        "levels": palette_size(levels),
        "pixels": base64.b64encode(np.ascontiguousarray(image).tobytes()).decode("ascii"),
        "hole": "".join("1" if hidden else "0" for hidden in hole.ravel()),
    }
    return json.dumps(state)


def empty(spec: ImageSpec) -> str:
    """The JSON of a black image whose pixels are all hidden."""
    return dumped(np.zeros(spec.shape, np.uint8), np.ones(spec.shape[1:], np.bool_), spec.display)


def parsed(text: object, spec: ImageSpec) -> tuple[Levels, Hole]:
    """Image, levels uint8 [C, H, W], and hole, bool [H, W], of the JSON of a canvas.

    Raises:
        UsageError: for anything that is not the state of a canvas of such images.
    """
    wrong = UsageError(f"canvas: holds no image of {spec.height} x {spec.width} pixels; load one, or draw one")
    if not isinstance(text, str) or len(text) > _LONGEST:
        raise wrong
    try:
        state = json.loads(text)
        pixels = base64.b64decode(state["pixels"], validate=True)
        hole = state["hole"]
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error) as error:
        raise wrong from error
    if len(pixels) != spec.dims or not isinstance(hole, str) or len(hole) != spec.height * spec.width:
        raise wrong
    image = np.frombuffer(pixels, np.uint8).reshape(spec.shape)  # [C * H * W] -> [C, H, W]
    if int(image.max()) >= spec.levels or set(hole) - {"0", "1"}:
        raise wrong
    return image, np.array([c == "1" for c in hole], np.bool_).reshape(spec.height, spec.width)
