"""CPU seconds until short commands end, next to ``import torch`` in the same run.

    python benchmarks/startup.py --json > benchmarks/results/startup.json

Prints the median of user and system time over rounds that visit all commands in turn, and its ratio to that of
``import torch``. CPU time, unlike wall time, hardly depends on other programs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from statistics import median

from machine import facts

COMMANDS = (
    "train digts",
    "train digits --minuts 1",
    "list",
    "config digits",
    "info binarized-mnist",
    "sample binarized-mnist -n 1 --out x.png --force",
)
TORCH = "import torch"


def cpu_seconds(arguments: list[str], folder: str) -> float:
    """User and system seconds of a Python process and its children."""
    before = os.times()
    subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, check=False)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in (TORCH, *COMMANDS)}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for name, values in seconds.items():
                arguments = ["-c", TORCH] if name == TORCH else ["-m", "pixelloom", *name.split()]
                values.append(cpu_seconds(arguments, folder))
    found = {name: median(values) for name, values in seconds.items()}
    rows = {name: {"seconds": round(s, 3), "ratio": round(s / found[TORCH], 3)} for name, s in found.items()}
    if options.json:
        print(json.dumps({"commands": rows, "rounds": options.rounds} | facts(), indent=1))
        return
    for name, row in rows.items():
        print(f"{name:50} {row['seconds']:6.2f} s  {row['ratio']:5.2f}")


if __name__ == "__main__":
    main()
