"""For all tests: one thread, since they run side by side; the same numbers at every run; checks that show values."""

from __future__ import annotations

import pytest
import torch

pytest.register_assert_rewrite("checks")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)
