"""Charts need no backend of matplotlib: a MPLBACKEND that is not installed changes nothing."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from house import SRC

DRAW = """
import os, sys, pathlib
from pixelloom.viz import curves
lines = [f'{{"split": "train", "step": {i}, "images": {i}, "bits/dim": 1.5}}' for i in range(9)]
pathlib.Path(sys.argv[1], "m").write_text("\\n".join(lines))
curves.draw(pathlib.Path(sys.argv[1], "m"), pathlib.Path(sys.argv[1], "curves.png"))
print(os.environ["MPLBACKEND"])
"""


@pytest.mark.parametrize("name", ["nosuch", "module://nosuch.backend", "agg"])
def test_a_backend_that_is_not_installed_is_not_needed(name: str, tmp_path: Path) -> None:
    environment = os.environ | {"MPLBACKEND": name}
    program = [sys.executable, "-c", DRAW, str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{name}\n"  # the user's own charts may use it
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_every_import_of_matplotlib_is_ready_for_it() -> None:
    """Within functions, after ``backend.ready()``; and nobody imports pyplot, which would choose a backend."""
    found = 0
    for path in SRC.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "pyplot" not in text, path
        if path.name == "backend.py":
            continue
        lines = re.sub(r"if TYPE_CHECKING:\n(?:    .*\n|\n)+", "", text).splitlines()
        for before, line in itertools.pairwise(lines):
            if re.match(r"\s*(from|import) matplotlib", line):
                found += 1
                assert re.match(r"    (backend\.ready\(\)|from matplotlib|import matplotlib)", before), (path, line)
    assert found > 10
