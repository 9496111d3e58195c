"""The command line in this process: what a command said, and how it is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from pixelloom.cli import main


class Said(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Said]
"""``run("info", "sagan")``"""


def caller(capsys: pytest.CaptureFixture[str]) -> Command:
    """Carries out a command and returns what it said."""

    def command(*argv: object) -> Said:
        capsys.readouterr()
        code = main([str(word) for word in argv])
        return Said(code, *capsys.readouterr())

    return command
