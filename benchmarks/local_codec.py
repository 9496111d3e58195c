"""Compression of images of any size by a local model: CIFAR-10 and photographs, against image formats.

    python benchmarks/local_codec.py MODEL [--export FILE] [--part PART] [-n 500] [--timed 128] [--out FILE]

MODEL is a run of the recipe ``local``. Parts are measured one by one, and each is written to the file at once. All
bits/dim count every byte of the files, headers included; the export, which both sides need, is stated beside
(``export_bytes``). Every file is decoded and compared.

    formats      PNG, WebP and JPEG XL (effort 7 and 9): each of the first -n test images of CIFAR-10, and each
                 photograph, as a file of its own
    cifar10      these images by the model, in one block, in blocks of 64, and 50 of them as a file each
    photographs  astronaut, coffee and chelsea of scikit-image by the model, whole
    speed        kB of raw pixels a second of processor time on one thread: wall time depends on what else the machine
                 does
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from torch import Tensor

import pixelloom as pl
from codec import FORMATS, as_pixels
from machine import facts
from pixelloom.codec.export import entropy
from pixelloom.codec.model import CodecModel
from pixelloom.core.types import ImageSpec
from pixelloom.data.catalog import DataConfig, load
from pixelloom.runs.export import export

OUT = Path(__file__).parent / "results" / "local-codec.json"
PHOTOGRAPHS = {"astronaut": skimage.data.astronaut, "coffee": skimage.data.coffee, "chelsea": skimage.data.chelsea}


def test_images(n: int) -> Tensor:
    """The first test images of CIFAR-10, levels uint8 [n, 3, 32, 32]."""
    return torch.from_numpy(load(DataConfig(source="cifar10")).test.take(np.arange(n))[0])


def photograph(name: str) -> Tensor:
    """Levels uint8 [1, 3, H, W]."""
    return torch.from_numpy(PHOTOGRAPHS[name]()).permute(2, 0, 1)[None].contiguous()  # [H, W, C] -> [1, C, H, W]


def formats(levels: Tensor) -> dict[str, float]:
    """Bits/dim of each format, one file an image."""
    pixels = as_pixels(levels, ImageSpec(*levels.shape[1:], 256))
    sizes = {name: sum(len(encode(image, False)) for image in pixels) for name, encode in FORMATS.items()}
    return {name: 8 * size / levels.numel() for name, size in sizes.items()}


def all_formats(n: int) -> dict[str, Any]:
    """Formats on all images."""
    return {"cifar10": {"n": n, **formats(test_images(n))}} | {name: formats(photograph(name)) for name in PHOTOGRAPHS}


def rate(call: Callable[[], Any], values: int, repeats: int) -> float:
    """Kilobytes of raw pixels a second of processor time."""
    best = math.inf
    for _ in range(repeats):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return values / 1000 / best


def speed(codec: CodecModel, levels: Tensor, repeats: int) -> dict[str, float]:
    """Encoding and decoding of one block, kB/s of processor time; the best of some."""
    payload = codec.encode(levels)
    return {
        "block": len(levels),
        "encode": rate(lambda: codec.encode(levels), levels.numel(), repeats),
        "decode": rate(lambda: codec.decode(payload, len(levels)), levels.numel(), repeats),
    }


def cifar10(model: pl.PixelModel, codec: CodecModel, n: int, timed: int) -> dict[str, Any]:
    """Test images: sizes and speed."""
    levels = test_images(n)
    values, few = levels.numel(), levels[:50]
    before = -float(model.log_prob(levels, threads=1).sum()) / (values * math.log(2))
    ideal = float(entropy(codec, levels).sum()) / values
    whole = pl.compress(levels, codec, block=4096)  # decoded and compared
    files = {
        "one_block": 8 * len(whole) / values,
        "blocks_of_64": 8 * len(pl.compress(levels, codec, verify=False)) / values,
        "a_file_an_image": 8 * sum(len(pl.compress(i[None], codec, verify=False)) for i in few) / few.numel(),
    }
    return {
        "n": n, "float": before, "ideal": ideal, "loss_percent": 100 * (ideal / before - 1), "file": files,
        "speed": speed(codec, levels[:timed], 3),
    }  # fmt: skip


def photographs(codec: CodecModel) -> dict[str, Any]:
    """Photographs: sizes and speed."""
    found = {}
    for name in PHOTOGRAPHS:
        levels = photograph(name)
        start = time.process_time()
        resized = codec.resized(*levels.shape[2:])
        planned = time.process_time() - start
        content = pl.compress(levels, resized)  # decoded and compared
        found[name] = {
            "height": levels.shape[2], "width": levels.shape[3], "file": 8 * len(content) / levels.numel(),
            "plan_seconds": planned, "speed": speed(resized, levels, 1),
        }  # fmt: skip
    return found


def main() -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--export", type=Path)
    parser.add_argument("--part", choices=["formats", "cifar10", "photographs"], action="append", help="default: all")
    parser.add_argument("-n", type=int, default=500)
    parser.add_argument("--timed", type=int, default=128)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for part in given.part or ["formats", "cifar10", "photographs"]:
        if part == "formats":
            found: dict[str, Any] = all_formats(given.n)
        else:
            model = pl.load(given.model)
            codec = CodecModel.load(given.export) if given.export else export(model, validation=0).codec
            found = cifar10(model, codec, given.n, given.timed) if part == "cifar10" else photographs(codec)
            found |= {
                "identity": codec.identity.hex(), "card": codec.card,
                "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
                "export_bytes": given.export.stat().st_size if given.export else None,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            }  # fmt: skip
        found |= facts()
        print(json.dumps({part: found}, indent=2), flush=True)
        whole = json.loads(given.out.read_text()) if given.out.exists() else {}
        given.out.write_text(json.dumps(whole | {part: found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
