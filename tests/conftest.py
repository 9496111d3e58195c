"""For all tests: one thread, since they run side by side; the same numbers at every run; checks that show values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("checks")
torch.set_num_threads(1)
# Tests with settings of their own inherit these. How long an example takes says how busy the machine is, and no more.
settings.register_profile(
    "suite", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)
