"""Start-up imports no slow package that a command does not need: held by the modules of a process, not by seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pixelloom.runs.families import known_networks
from pixelloom.runs.names import NETWORK_NAMES, RECIPE_NAMES
from pixelloom.runs.recipes import RECIPES

SLOW = ("lightning_fabric", "torchmetrics", "matplotlib", "torch._dynamo", "sympy", "scipy", "tensorboard")
PROGRAM = """
import sys
from pixelloom.cli import main
code = main(sys.argv[2:])
print(code, *(name for name in sys.argv[1].split(",") if name in sys.modules), file=sys.stderr)
"""


def imported(names: tuple[str, ...], *command: str, folder: Path) -> str:
    """The exit code of a command and those of ``names`` that its process imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, ",".join(names), *command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "command",
    [
        *("train digts", "train digits --minuts 1", "trian", "train digits --seed x", "train digits --train.epochz 3"),
        *("train digits --data minst", "train --data no/such.png", "inspect minst", "config digts"),
        *("sample digts -n 1", "info digts", "evaluate digts", "score digts", "complete digts --hide center"),
        *("explain digts", "interpolate digts", "attention digts"),
    ],
)
def test_typos_import_no_torch(command: str, tmp_path: Path) -> None:
    assert imported(("torch", *SLOW), *command.split(), folder=tmp_path) in ("2", "3", "4")


@pytest.mark.parametrize(
    "command", ["sample binarized-mnist -n 1 --out x.png", "info binarized-mnist", "list", "config digits"]
)
def test_commands_import_nothing_slow_besides_torch(command: str, tmp_path: Path) -> None:
    assert imported(("torch", *SLOW), *command.split(), folder=tmp_path) == "0 torch"


def test_names_are_those_of_the_tables() -> None:
    assert list(RECIPE_NAMES) == list(RECIPES)
    assert list(NETWORK_NAMES) == known_networks()
