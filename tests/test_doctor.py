"""``pixelloom doctor`` reports what is installed, what limits it, and how fast it is."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from pixelloom.cli import main
from pixelloom.core.threads import usable
from pixelloom.runs import doctor

ROOT = Path(__file__).parents[1]


def test_extras_are_those_of_the_package() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    ours = {name: packages for name, packages in wanted.items() if name not in {"bench", "browser", "dev", "docs"}}
    named = {name: tuple(text.split(">")[0] for text in packages) for name, packages in ours.items()}
    assert named == doctor.EXTRAS


def test_the_report_is_one_json_object(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "EXTRAS", {"codec": ("constriction",), "none": ("no-such-package",)})
    assert main(["doctor", "--no-speed", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["extras"] == {"codec": True, "none": False}
    assert found["threads"]["usable"] == usable()
    assert found["speed"] == {}
    assert main(["doctor", "--no-speed"]) == 0
    assert "none (pip install 'pixelloom[none]')" in capsys.readouterr().out


def test_rates_are_calls_over_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def call() -> None:
        now[0] += 0.5

    monkeypatch.setattr(doctor.time, "perf_counter", lambda: now[0])
    assert doctor._rate(call, 2.0) == 2.0
    assert now[0] == 2.5  # the first call is not counted


def test_the_speed_test_counts_images(monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[float] = []

    def rate(call: Callable[[], object], seconds: float) -> float:
        call()
        times.append(seconds)
        return float(len(times))

    monkeypatch.setattr(doctor, "_rate", rate)
    assert doctor._speed(8.0) == {
        "network": f"{doctor.SPEED}, 285,313 parameters, batch 16",
        "training_images_per_second": 16.0,
        "sampling_images_per_second": 32.0,
        "plain_loop_images_per_second": 3.0,
    }
    assert times == [4.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("part", "changes", "text"),
    [
        ("threads", {"usable": 1, "cores": 8, "omp_num_threads": ""}, "1 of 8 cores may be used"),
        ("disk", {"free_bytes": 2e8}, "0.2 GB are free"),
        ("data", {"missing_folders": ["/gone"]}, "PIXELLOOM_DATA is /gone, which is no folder"),
    ],
)
def test_problems_are_named_with_what_to_do(part: str, changes: dict[str, object], text: str) -> None:
    healthy = {
        "threads": {"usable": 8, "cores": 8, "omp_num_threads": ""},
        "disk": {"free_bytes": 5e10, "folder": "runs"},
        "data": {"missing_folders": []},
    }
    assert doctor.problems(healthy) == []
    (problem,) = doctor.problems({**healthy, part: healthy[part] | changes})
    assert text in problem


def test_fewer_threads_on_request_are_no_problem() -> None:
    found = {
        "threads": {"usable": 1, "cores": 8, "omp_num_threads": "1"},
        "disk": {"free_bytes": 5e10, "folder": "runs"},
        "data": {"missing_folders": []},
    }
    assert doctor.problems(found) == []
