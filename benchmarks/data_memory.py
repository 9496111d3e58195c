"""Peak memory of a large folder: decoded once into the cache, one pass over all images, then a training run on it.

Prints one JSON object. Peaks are ru_maxrss of a fresh process, minus that of a process that only imports torch and
Pixelloom; those of the pass count the pages of the mapped cache, which the system may drop at any time.

    python benchmarks/data_memory.py --images 200000 --side 32
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

WORK = """
import json, resource, sys, time, zlib
from pathlib import Path
import torch
from pixelloom.data.io.folders import Reading, read_images
figures = {}
def peak(name, start):
    figures[name + "_seconds"] = round(time.perf_counter() - start, 2)
    figures[name + "_peak_kb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
peak("import", time.perf_counter())
if len(sys.argv) > 1:
    start = time.perf_counter()
    images = read_images(Path(sys.argv[1]), Reading(), Path(sys.argv[2])).images
    peak("reading", start)
    start, checksum = time.perf_counter(), 0
    for at in range(0, len(images), 1024):
        checksum = zlib.crc32(torch.from_numpy(images[at : at + 1024].copy()).numpy(), checksum)
    peak("pass", start)
    figures |= {"images": len(images), "bytes": images.nbytes, "checksum": checksum}
print(json.dumps(figures))
"""

TRAIN = """
import json, resource, sys
from pixelloom.cli import main
code = main(sys.argv[1:])
print(json.dumps({"run_peak_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
sys.exit(code)
"""
SMALL = (
    *("--images", "640", "--train.batch", "32", "--levels", "16", "--validation-images", "64"),
    *("--model.channels", "24", "--model.blocks", "2", "--model.kernel", "3", "--model.first_kernel", "3"),
)


def generate(folder: Path, images: int, side: int) -> int:
    """PNG files of noise on a gradient in ten class folders, made from their number; returns the CRC-32 of them all."""
    import zlib

    import numpy as np  # here, to keep the process that starts the others small
    from PIL import Image

    ramp = np.linspace(0, 160, side)[:, None, None]
    checksum = 0
    for i in range(images):
        path = folder / f"{i * 10 // images}" / f"{i:07}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (ramp + np.random.default_rng(i).integers(0, 96, (side, side, 3))).astype(np.uint8)
        checksum = zlib.crc32(np.ascontiguousarray(pixels.transpose(2, 0, 1)), checksum)
        Image.fromarray(pixels).save(path, compress_level=1)
    return checksum


def measured(program: str, *arguments: str) -> dict[str, float]:
    """Figures of one fresh process. A child's ru_maxrss starts from its parent's memory: the parent must stay small."""
    run = subprocess.run([sys.executable, "-c", program, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Generate in a child, read cold and warm in two more, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument(
        "--folder", type=Path, help="where to generate the pictures (kept); default: a temporary folder"
    )
    parser.add_argument("--generate-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.generate_only:
        print(generate(options.folder, options.images, options.side))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch) / "pictures"
        size = ["--images", str(options.images), "--side", str(options.side), "--folder", str(folder)]
        made = subprocess.run([sys.executable, __file__, "--generate-only", *size], check=True, stdout=subprocess.PIPE)
        cache, out = str(Path(scratch) / "cache"), str(Path(scratch) / "run")
        torch_alone = measured(WORK)["import_peak_kb"]
        cold, warm = (measured(WORK, str(folder), cache) for _ in range(2))
        run = ("train", "pixelcnn", "--data", str(folder), "--data.cache", cache, "--out", out, "--samples", "0")
        trained = measured(TRAIN, *run, *SMALL)["run_peak_kb"]
    report = {
        "images": cold["images"],
        "side": options.side,
        "decoded_mb": round(cold["bytes"] / 1e6, 1),
        "torch_alone_mb": round(torch_alone / 1e3, 1),
        "decoding_peak_mb_beside_torch": round((cold["reading_peak_kb"] - torch_alone) / 1e3, 1),
        "pass_peak_mb_beside_torch": round((cold["pass_peak_kb"] - torch_alone) / 1e3, 1),
        "warm_opening_peak_mb_beside_torch": round((warm["reading_peak_kb"] - torch_alone) / 1e3, 1),
        "training_run_peak_mb_beside_torch": round((trained - torch_alone) / 1e3, 1),
        "decoding_seconds": cold["reading_seconds"],
        "warm_opening_seconds": warm["reading_seconds"],
        "pass_seconds": warm["pass_seconds"],
        "checksums_agree": int(made.stdout) == cold["checksum"] == warm["checksum"],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
