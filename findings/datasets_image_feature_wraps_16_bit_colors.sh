#!/usr/bin/env bash
# datasets 5.2.0: the Image feature stores a 16-bit color array modulo 256, and integer samples outside 0..255 too.
#
# One would guess that an array which a PNG of 8 bits cannot hold is refused, scaled or clipped; float color arrays are
# refused. Gray arrays keep their values (int64 becomes a 32-bit image). A color array of any integer type is cast to uint8
# without a check: 256 becomes 0, 300 becomes 44, -1 becomes 255, 65535 becomes 255. The images look like noise of the
# right shape, and a smooth ramp of 16 bits becomes 256 saw teeth. Scanners, microscopes and renderers write 16-bit color;
# and samples of a generator that overshoot by one level (256, -1) come back as the opposite extreme. A
# UserWarning speaks of downcasting, whatever the values are.
#
# Seen (the same in two runs):
#     datasets 5.2.0; levels [0, 255, 256, 300, 4096, 65535], and -1, 0, 1, 255, 256, 257 as int64
#     uint16 gray   -> I;16      [0, 255, 256, 300, 4096, 65535]
#     uint16 color  -> RGB       [0, 255, 0, 44, 0, 255]
#     int64 color   -> RGB       [255, 0, 1, 255, 0, 1]
#     float64 color -> TypeError
#     as described
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pillow==13.0.0 numpy==2.3.5
export HF_HUB_OFFLINE=1 HF_HOME="$work/home"
"$work/venv/bin/python" - <<'PY'
import sys

import datasets
import numpy as np


def through(array):
    features = datasets.Features({"image": datasets.Image()})
    try:
        image = datasets.Dataset.from_dict({"image": [array]}, features=features)[0]["image"]
    except TypeError as error:
        return type(error).__name__, None
    return image.mode, np.asarray(image).ravel().tolist()


levels = [0, 255, 256, 300, 4096, 65535]
color = np.array(levels).reshape(1, 2, 3)
found = {
    "uint16 gray": through(color.reshape(2, 3).astype(np.uint16)),
    "uint16 color": through(color.astype(np.uint16)),
    "int64 color": through(np.array([-1, 0, 1, 255, 256, 257]).reshape(1, 2, 3)),
    "float64 color": through(color / 65535),
}
print(f"datasets {datasets.__version__}; levels {levels}, and -1, 0, 1, 255, 256, 257 as int64")
for name, (mode, values) in found.items():
    print(f"{name:13} -> {mode:9} {values or ''}".rstrip())
expected = (
    found["uint16 gray"][1] == levels
    and found["uint16 color"] == ("RGB", [0, 255, 0, 44, 0, 255])
    and found["int64 color"] == ("RGB", [255, 0, 1, 255, 0, 1])
    and found["float64 color"] == ("TypeError", None)
)
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
