"""For all tests: one thread, since they run side by side; the same numbers at every run; checks that show values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, settings

from pixelloom.engine.validation_plan import Costs
from pixelloom.runs.pace import Pace

pytest.register_assert_rewrite("checks")
torch.set_num_threads(1)
# Tests with settings of their own inherit these. How long an example takes says how busy the machine is, and no more.
settings.register_profile(
    "many", max_examples=100, derandomize=True, database=None, deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
settings.register_profile("few", settings.get_profile("many"), max_examples=30)
settings.load_profile("few")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--without-bf16", action="store_true", help="as on a processor without bf16 (see the Makefile)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--without-bf16"):
        has = {name: value and "bf16" not in name for name, value in torch.cpu.get_capabilities().items()}
        torch.cpu.get_capabilities = lambda: has


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_choice_by_the_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs measure themselves as very fast, so that a busy machine changes no number of validations."""
    if request.module.__name__ != "test_pace":
        monkeypatch.setattr("pixelloom.runs.pace._measured", lambda *_: Pace(Costs(1e-6)))
