"""The command line as a program of :mod:`forks`, with all that its commands import imported beforehand."""

from __future__ import annotations

from collections.abc import Sequence

import torch

import pixelloom.api
import pixelloom.cli.sample
import pixelloom.cli.train


def main(argv: Sequence[str]) -> int:
    torch.set_num_threads(1)
    return pixelloom.cli.main(list(argv))
