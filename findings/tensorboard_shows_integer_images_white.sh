#!/usr/bin/env bash
# torch 2.13.0, tensorboard 2.21.0: SummaryWriter.add_image shows int64 levels 0..255 as pure white (and 0 as black).
#
# One would guess that integers are levels and floats are in [0, 1]; the documentation of add_image says nothing of
# dtypes, that of the function below it has [0, 1] for float32 and [0, 255] for uint8. Only uint8 is taken as levels. All
# other dtypes, integers too, are multiplied by 255 and clipped: a level of 1 or more becomes 255. Samples of a pixel
# network with exact likelihood ARE int64, as multinomial and argmax return them, so an image of 256 levels is logged as
# a white square with the black pixels left, which looks like a binarized or a collapsed model. Floats in [-1, 1] lose
# their lower half to 0. The written PNG holds that; no warning.
#
# Seen (the same in two runs):
#     torch 2.13.0, tensorboard 2.21.0: a ramp of all 256 levels, as logged
#     uint8 0..255 distinct levels 256, pixels that are 255:   1
#     int64 0..255 distinct levels   2, pixels that are 255: 255
#     int32 0..255 distinct levels   2, pixels that are 255: 255
#     float 0..1   distinct levels 256, pixels that are 255:   1
#     float -1..1  distinct levels 129, pixels that are 255:   1
#     as described
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5 tensorboard==2.21.0 pillow==13.0.0
cd "$work"
"$work/venv/bin/python" - "$work" 2>"$work/log" <<'PY' || { cat "$work/log" >&2; exit 1; }
import io
import sys
import tempfile
from importlib.metadata import version

import numpy as np
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

levels = torch.arange(256).reshape(1, 16, 16)
sampled = torch.multinomial(torch.ones(4, 256), 1)
images = {
    "uint8 0..255": levels.byte(),
    "int64 0..255": levels,
    "int32 0..255": levels.int(),
    "float 0..1": levels / 255,
    "float -1..1": levels / 127.5 - 1,
}
folder = tempfile.mkdtemp(dir=sys.argv[1])
with SummaryWriter(folder) as writer:
    for tag, image in images.items():
        writer.add_image(tag, image)
events = EventAccumulator(folder, size_guidance={"images": 0}).Reload()
print(f"torch {torch.__version__.split('+')[0]}, tensorboard {version('tensorboard')}: a ramp of all 256 levels, as logged")
found = {}
for tag in images:
    shown = np.asarray(Image.open(io.BytesIO(events.Images(tag)[0].encoded_image_string)))[..., 0]
    found[tag] = len(np.unique(shown)), int((shown == 255).sum())
    print(f"{tag:12} distinct levels {found[tag][0]:3}, pixels that are 255: {found[tag][1]:3}")
expected = (
    found["uint8 0..255"] == found["float 0..1"] == (256, 1) and found["int64 0..255"] == found["int32 0..255"] == (2, 255)
    and found["float -1..1"][0] < 130 and sampled.dtype == torch.int64
)
print("as described" if expected else "CHANGED")
sys.exit(0 if expected else 1)
PY
