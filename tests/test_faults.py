"""Bad input and bad luck: streams that close, ports that are taken, values that are none, folders that fill up.

Numbers are those of the list of faults: 12 to 14 and 26 files, 15 settings, 17 disks, 18 memory, 19 numbers that are
not finite, 20 and 21 processes, 27 to 29 arguments, 32 outputs.
"""

from __future__ import annotations

import io
import os
import sys

import pytest

from pixelloom.cli import main


@pytest.mark.parametrize("command", [["sample", "--help"], ["--help"], ["list", "recipes", "--json"]], ids=" ".join)
def test_a_pipe_that_closes_ends_quietly_in_every_command(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 32, in this process: help is written by rich, which would end the process with code 1."""
    read, write = os.pipe()
    os.close(read)
    errors = io.StringIO()
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        monkeypatch.setattr(sys, "stderr", errors)
        assert main(command) == 0
    assert errors.getvalue() == ""


def test_streams_that_are_closed_or_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 17 and 32: as by `>&-`, `2>&-` and `> /dev/full`."""
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["list", "recipes"]) == 0
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["list", "nonsense"]) == 2
    errors = io.StringIO()
    with open("/dev/full", "w") as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(sys, "stderr", errors)
        assert main(["list", "recipes"]) == 2
    assert errors.getvalue() == "pixelloom: writing failed: No space left on device; free space, or write elsewhere\n"
