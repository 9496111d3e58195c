"""Two builds of the fast sampler side by side: a process per build, which take turns.

    python benchmarks/sampling.py --against PATH --json [--network gated-pixelcnn] [--batch 16] [--repeats 5]

PATH is another checkout of this repository, for instance a git worktree of an earlier commit. Both builds have the same
weights and draw the same images by the same noise. All times are CPU seconds on one thread, medians over the repeats.

    fast_s, against_s   one batch by this build, and by the other
    ratio               median over the repeats of against_s / fast_s, each pair measured next to each other
    pass_s              one parallel pass of this build; passes and against_passes are multiples of it
    first_s             the first batch, which includes the plan; against_first_s that of the other build
    peak_mb             what the process grew by while it drew the first batch; against_peak_mb that of the other build
    mb_per_image        as the sampler states it; against_mb_per_image that of the other build
    same_images         whether the images of both builds are equal
    commit              of this checkout; against_commit of the other
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class Build:
    """A process that samples with one build when it is asked to."""

    def __init__(self, checkout: Path, name: str, batch: int, size: int) -> None:
        self.commit = subprocess.run(
            ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
        path = os.pathsep.join((str(checkout / "src"), str(ROOT / "benchmarks")))
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, name, str(batch), str(size)]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.first: dict[str, Any] = self._answer()
        expected = checkout / "src" / "pixelloom"
        if Path(self.first["package"]).resolve() != expected.resolve():
            raise SystemExit(f"measured {self.first['package']}, not {expected}")

    def seconds(self, what: str) -> float:
        """CPU seconds of one batch ("fast") or of one parallel pass ("pass")."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return float(self._answer()["seconds"])

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the measuring process died")
        found: dict[str, Any] = json.loads(line)
        return found


def compare(other: Path, name: str, batch: int, size: int, repeats: int) -> dict[str, object]:
    """All figures of one combination."""
    builds = {"fast": Build(ROOT, name, batch, size), "against": Build(other, name, batch, size)}
    times: dict[str, list[float]] = {"fast": [], "against": [], "pass": []}
    for _ in range(repeats):
        for label, build in builds.items():
            times[label].append(build.seconds("fast"))
        times["pass"].append(builds["fast"].seconds("pass"))
    for build in builds.values():
        build.close()
    median = {label: statistics.median(seconds) for label, seconds in times.items()}
    pairs = zip(times["against"], times["fast"], strict=True)
    ours, theirs = (build.first for build in builds.values())
    return {
        "network": name,
        "batch": batch,
        "size": size,
        "fast_s": round(median["fast"], 6),
        "against_s": round(median["against"], 6),
        "ratio": round(statistics.median(against / fast for against, fast in pairs), 3),
        "pass_s": round(median["pass"], 6),
        "passes": round(median["fast"] / median["pass"], 3),
        "against_passes": round(median["against"] / median["pass"], 3),
        "steps": ours["steps"],
        "against_steps": theirs["steps"],
        "first_s": ours["first_s"],
        "against_first_s": theirs["first_s"],
        "peak_mb": ours["peak_mb"],
        "against_peak_mb": theirs["peak_mb"],
        "mb_per_image": ours["mb_per_image"],
        "against_mb_per_image": theirs["mb_per_image"],
        "same_images": ours["images"] == theirs["images"],
        "repeats": repeats,
        "clock": "cpu",
        "precision": "fp32",
        "commit": builds["fast"].commit,
        "against_commit": builds["against"].commit,
    } | dict(ours["facts"])


def serve(name: str, batch: int, size: int) -> None:
    """Describe the first batch on standard output, then answer each line of standard input with seconds."""
    import time

    import torch

    import pixelloom
    from machine import facts
    from sampling import model_of, resident_mb, seconds_of

    torch.set_num_threads(1)
    clock = time.process_time
    model = model_of(name, size)
    before = resident_mb(peak=False)
    first = seconds_of(lambda: model.sample(batch, batch=batch, threads=1), clock)
    peak = resident_mb(peak=True) - before
    images = model.sample(batch, batch=batch, seed=1, threads=1)
    sampler = model.fast_sampler()
    answer: dict[str, object] = {
        "package": str(Path(pixelloom.__file__).parent),
        "first_s": round(first, 6),
        "peak_mb": round(peak, 1),
        "images": hashlib.sha256(images.numpy().tobytes()).hexdigest(),
        "steps": sampler.steps,
        "mb_per_image": round(sampler.bytes_per_image / 1e6, 3),
        "facts": facts(),
    }
    with torch.no_grad():
        model.predict(images)
        print(json.dumps(answer), flush=True)
        for line in sys.stdin:
            run = {
                "fast": lambda: model.sample(batch, batch=batch, threads=1),
                "pass": lambda: model.predict(images),
            }[line.strip()]
            print(json.dumps({"seconds": seconds_of(run, clock)}), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
