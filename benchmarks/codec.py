"""The codec against its model and against image formats: bits/dim of whole files, and images a second on one thread.

    python benchmarks/codec.py --model MODEL [--export FILE] [-n 1000] [--timed 128] [--out FILE]

Images are -n of the model's test split, evenly spaced. All bits/dim count every byte of the files, headers included;
the export, which both sides need, is stated beside (``export_bytes``).

    float      bits/dim of the model in float32, from one parallel pass
    ideal      bits/dim by the integer tables of the export; ``loss_percent`` compares it with float
    file       .pxl files with one block, and with blocks of 64
    formats    PNG, WebP, JPEG XL (effort 7 and 9), each as one file an image and as one mosaic; xz -9e of packed levels
    speed      images/s of the float32 pass, of encoding, and of decoding four blocks of --timed images at once, as
               `decompress` does, in turn; each the best of three

Every file is decoded and compared. Binary images are 1-bit PNG, and 0 and 255 in the other formats.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import pixelloom as pl
from machine import facts
from pixelloom.codec.export import entropy
from pixelloom.codec.model import CodecModel
from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import to_bytes
from pixelloom.runs.evaluate import load_data
from pixelloom.runs.export import export

BLOCKS = 4  # decoded at once
OUT = Path(__file__).parent / "results" / "codec.json"
Pixels = npt.NDArray[np.uint8]


def png(pixels: Pixels, binary: bool) -> bytes:
    """One image [H, W] or [H, W, 3]; of one bit if binary."""
    if not binary:
        return bytes(imagecodecs.png_encode(pixels, level=9))
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(pixels).convert("1", dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def webp(pixels: Pixels, binary: bool) -> bytes:
    """One image, lossless, method 6; gray as equal channels."""
    rgb = np.repeat(pixels[..., None], 3, -1) if pixels.ndim == 2 else pixels
    found = bytes(imagecodecs.webp_encode(rgb, level=100, lossless=True, method=6))
    assert np.array_equal(imagecodecs.webp_decode(found)[..., :3], rgb)
    return found


def jpeg_xl(effort: int) -> Callable[[Pixels, bool], bytes]:
    """One image, lossless."""

    def encode(pixels: Pixels, binary: bool) -> bytes:
        found = bytes(imagecodecs.jpegxl_encode(pixels, lossless=True, effort=effort))
        assert np.array_equal(imagecodecs.jpegxl_decode(found), pixels)
        return found

    return encode


FORMATS = {"png": png, "webp": webp, "jpeg-xl-e7": jpeg_xl(7), "jpeg-xl-e9": jpeg_xl(9)}


def as_pixels(levels: Tensor, spec: ImageSpec) -> Pixels:
    """Levels [N, C, H, W] -> bytes [N, H, W] or [N, H, W, 3]."""
    found = to_bytes(levels.numpy(), spec.levels)
    return found[:, 0] if spec.channels == 1 else np.ascontiguousarray(found.transpose(0, 2, 3, 1))


def mosaic(pixels: Pixels) -> Pixels:
    """All images in one, row by row, nearly square: [N, H, W, ...] -> [rows * H, columns * W, ...]."""
    columns = math.isqrt(len(pixels))
    pixels = pixels[: len(pixels) // columns * columns]
    n, h, w = pixels.shape[:3]
    grid = pixels.reshape(n // columns, columns, h, w, *pixels.shape[3:]).swapaxes(1, 2)
    return np.ascontiguousarray(grid.reshape(n // columns * h, columns * w, *pixels.shape[3:]))


def formats(levels: Tensor, spec: ImageSpec) -> dict[str, dict[str, float]]:
    """Bits/dim of image formats: one file an image, and one mosaic."""
    pixels, found = as_pixels(levels, spec), {}
    whole, binary = mosaic(pixels), spec.levels == 2
    few = pixels[:: max(1, len(pixels) // 250)]
    for name, encode in FORMATS.items():
        single = sum(len(encode(image, binary)) for image in few) * 8 / (len(few) * spec.dims)
        found[name] = {"image": single, "n": len(few), "mosaic": len(encode(whole, binary)) * 8 / (whole.size)}
    bits = math.ceil(math.log2(spec.levels))
    packed = np.packbits(np.unpackbits(levels.numpy().reshape(-1, 1), axis=1)[:, 8 - bits :]).tobytes()
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    found["xz"] = {"packed": len(lzma.compress(packed, format=lzma.FORMAT_XZ, filters=filters)) * 8 / levels.numel()}
    return found


def best(call: Callable[[], Any], repeats: int) -> float:
    """The shortest time of a call, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def speed(model: pl.PixelModel, codec: CodecModel, levels: Tensor, repeats: int = 3) -> dict[str, float]:
    """Images/s of pass, encoding and decoding, measured in turn, and their ratios to the pass."""
    blocks = levels.chunk(BLOCKS)
    payloads = [codec.encode(block) for block in blocks]
    seconds = {"pass": math.inf, "encode": math.inf, "decode": math.inf}
    calls: dict[str, Callable[[], Any]] = {
        "pass": lambda: model.log_prob(levels, threads=1),
        "encode": lambda: codec.encode(levels),
        "decode": lambda: codec.decode_blocks(payloads, len(blocks[0])),
    }
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name] = min(seconds[name], best(call, 1))
    rates = {name: len(levels) / value for name, value in seconds.items()}
    ratios = {f"{name}_to_pass": rates[name] / rates["pass"] for name in ("encode", "decode")}
    return {"block": len(blocks[0]), "blocks": BLOCKS, **rates, **ratios}


def measured(model: pl.PixelModel, codec: CodecModel, n: int, timed: int) -> dict[str, Any]:
    """All results of a model and its export."""
    spec = model.spec
    split = load_data(model).test
    rows = np.unique(np.linspace(0, len(split) - 1, min(n, len(split))).round().astype(np.int64))
    levels = torch.from_numpy(split.take(rows)[0])
    values = levels.numel()
    before = -float(model.log_prob(levels, threads=1).sum()) / (values * math.log(2))
    ideal = float(entropy(codec, levels).sum()) / values
    files = {}
    for name, block in (("one_block", min(4096, len(levels))), ("blocks_of_64", 64)):
        content = pl.compress(levels, codec, block=block)  # verified: every block is decoded and compared
        files[name] = {"bytes": len(content), "bits_per_dim": len(content) * 8 / values}
        files[name]["over_float_percent"] = 100 * (files[name]["bits_per_dim"] / before - 1)
    return {
        "n": len(levels), "images": str(spec), "float": before, "ideal": ideal,
        "loss_percent": 100 * (ideal / before - 1),
        "file": files, "formats": formats(levels, spec), "speed": speed(model, codec, levels[: BLOCKS * timed]),
    }  # fmt: skip


def main() -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--export", type=Path)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--timed", type=int, default=64)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = pl.load(given.model)
    codec = CodecModel.load(given.export) if given.export else export(model, validation=0).codec
    name = Path(given.model).name
    found = measured(model, codec, given.n, given.timed)
    path = Path("/dev/null") if given.export is None else given.export
    found |= {"export_bytes": path.stat().st_size, "identity": codec.identity.hex(), "card": codec.card, **facts()}
    print(json.dumps(found, indent=2))
    whole = json.loads(given.out.read_text()) if given.out.exists() else {}
    given.out.write_text(json.dumps(whole | {name: found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
