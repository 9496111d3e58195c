"""The benchmark programs on the CPU with tiny settings: their options, plans and figures, and slices of a run."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from PIL import Image

import test_gpu
from pixelloom import api
from pixelloom.core.errors import ModelError
from pixelloom.core.types import ImageSpec
from pixelloom.engine.safetensors_io import load_tensors
from pixelloom.layers.masked_conv import MaskedConv2d
from pixelloom.networks import PIXEL_NETWORKS
from pixelloom.runs.recipes import PIXEL_RUNS, RECIPES, recipe
from scripts import BENCHMARKS, script

ROOT = BENCHMARKS.parent
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def subprocess_of(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


# benchmarks/threads.py


def test_the_benchmark_of_threads_measures_each_setting_in_turn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads, numbers = script("threads"), list[int]()
    monkeypatch.setattr(threads, "SHORTEST", 0.0)
    monkeypatch.setattr(threads, "usable", lambda: 2)
    chosen = threads.sharding.shard_count
    arguments = ["--json", "--load", "idle", "--repeats", "1", "--network", "best", "--size", "8", "--batch", "2"]
    monkeypatch.setattr(sys, "argv", ["threads.py", *arguments, "--train", "made"])
    threads.main()
    assert threads.sharding.shard_count is chosen
    found = json.loads(capsys.readouterr().out)
    assert found["usable cores"] == 2
    assert [row["what"] for row in found["rows"]] == ["sample best, 2 images", "train made"]
    for row in found["rows"]:
        better = min(row["one_s"], row["all_s"])
        assert row["choice"] == pytest.approx(row["chosen_s"] / better, rel=0.01)
        assert (row["load"], row["rounds"]) == ("idle", 1)

    runs = {name: lambda n=n: numbers.append(n) for name, n in (("one", 1), ("all", 2), ("chosen", 3))}
    taken = threads.timed(runs, 2)
    assert numbers == [1, 2, 3] * 2
    assert {name: len(times) for name, times in taken.items()} == {"one": 2, "all": 2, "chosen": 2}


# benchmarks/sampling.py


def test_the_sampling_benchmark_prints_consistent_figures_and_a_figure(tmp_path: Path) -> None:
    done = subprocess_of(
        "benchmarks/sampling.py", "--json", "--network", "rgb", "--size", "8", "--batch", "1", "--batch", "2",
        "--repeats", "1", "--figure", str(tmp_path / "cost.png"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = lines(done.stdout)
    assert [(row["network"], row["batch"], row["size"]) for row in rows] == [("rgb", 1, 8), ("rgb", 2, 8)]
    for row in rows:
        assert row["steps"] == 3 * (8 + 7 * 4)  # three ordered channels; x + 4 y for 7x7 kernels
        assert row["plain_passes"] == 3 * 64
        ratios = {  # printed with one decimal, or with three
            "speedup": (row["plain_s"] / row["fast_s"], 0.1),
            "passes": (row["fast_s"] / row["pass_s"], 0.001),
            "tutorial_speedup": (64 * row["tutorial_pass_s"] / row["fast_s"], 0.1),
        }
        for name, (ratio, digit) in ratios.items():
            assert row[name] == pytest.approx(ratio, rel=0.02, abs=digit)
        assert row["stated_mb"] > 0
    with Image.open(tmp_path / "cost.png") as image:
        assert image.convert("RGB").getcolors(100_000)


def test_the_tutorials_network_has_whole_kernels_and_nothing_masked() -> None:
    sampling = script("sampling")
    network = MaskedConv2d(2, 3, 5, mask="A")
    whole = sampling.tutorial(torch.nn.Sequential(network))
    x = torch.zeros(1, 2, 9, 9)
    x[0, 0, 4, 4] = 1
    with torch.no_grad():
        reached = (whole(x) - whole(torch.zeros_like(x))).abs().sum((0, 1)) > 0
    assert reached.sum() == 25  # all of the 5x5 window, the future included
    assert reached[2:7, 2:7].all()


@pytest.mark.parametrize("name", list(PIXEL_RUNS))
def test_the_sampling_benchmark_knows_the_images_of_every_recipe(name: str) -> None:
    sampling, source = script("sampling"), recipe(name).data.source
    levels = {
        "mnist-gray": 256,
        "mnist-superres": 16,
        "digits": 17,
        "colored-mnist": 4,
        "rgb": 256,
        "completion": 256,
        "local": 256,
        "pixelcnn-pp-cifar10": 256,
    }.get(name, 2)
    color = source in ("colored-mnist", "cifar10")
    assert sampling.spec_of(name, 6) == ImageSpec(3 if color else 1, 6, 6, levels)


@pytest.mark.parametrize("name", ["nade", "gated-pixelcnn", "row-lstm"])
def test_a_network_without_masked_kernels_is_compared_with_its_own_loop(name: str) -> None:
    sampling = script("sampling")
    images = sampling.model_of(name, 6).sample(8)
    assert len(images.unique(dim=0)) == 8
    assert not torch.equal(sampling.model_of(name, 6).predict(images).std(0), torch.zeros(1, 6, 6)), "weights are zero"
    row = sampling.measure(name, 2, 6, 1, cpu_time=True)
    assert row["speedup"] == pytest.approx(row["plain_s"] / row["fast_s"], rel=0.1)
    assert (row["plain_passes"], row["clock"], row["tutorial_speedup"]) == (36, "cpu", None)
    assert row["mb_per_image"] > 0


# benchmarks/cifar10.py


def test_every_network_is_made_small_for_color() -> None:
    cifar10 = script("cifar10")
    assert list(cifar10.SMALL) == list(PIXEL_NETWORKS)


@pytest.mark.parametrize("name", ["made", "row-lstm"])
def test_networks_learn_color(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On drawn shapes of a few pixels; mixtures and 256 levels."""
    small = ["--data=shapes", "--size=6", "--limit=30", f"--out={tmp_path}", "--json", f"--network={name}"]
    bits = []
    for steps in (1, 40):
        assert script("cifar10").main([*small, f"--steps={steps}"]) == 0
        (row,) = lines(capsys.readouterr().out)
        assert (row["image"], row["n"], row["sampled"]) == ([3, 6, 6], 30, 4)
        assert row["levels"] > 30
        low, high = row["95%"]
        assert low < row["bits/dim"] < high
        bits.append(row["bits/dim"])
    assert bits[1] < bits[0]
    assert (tmp_path / name / "samples" / "final.png").exists()


# benchmarks/quality.py


@pytest.fixture(scope="module")
def quality() -> ModuleType:
    return script("quality")


def test_every_network_is_trained_by_a_recipe_of_its_own(quality: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(RECIPES, "best", raising=False)
    found = quality.recipes()
    assert list(found) == list(PIXEL_NETWORKS)
    assert found["pixelcnn"] == "binarized-mnist"
    for network, name in found.items():
        assert (RECIPES[name].network, RECIPES[name].data.source) == (network, "binarized-mnist")
        assert name == network or network == "pixelcnn"
    monkeypatch.setitem(RECIPES, "best", RECIPES["made"])
    assert quality.recipes() == found | {"best": "best"}
    assert set(quality.PUBLISHED) <= set(PIXEL_NETWORKS)


def test_a_network_is_trained_chosen_and_scored(
    quality: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data=digits", "--images=300", f"--out={tmp_path / 'q'}", "--network=made"]
    assert quality.main([*options, "--json"]) == 0
    (row,) = lines(capsys.readouterr().out)
    assert (row["images"], row["batch"], row["threads"]) == (320, 64, 1)  # whole batches
    run = tmp_path / "run"
    trained = api.train("made", data="digits", images=300, out=run, overrides={"train.threads": 1, "samples": 0})
    validations = [line for line in lines((run / "metrics.jsonl").read_text()) if line["split"] == "val"]
    assert row["chosen_at_image"] == min(validations, key=lambda line: line["bits/dim"])["images"]
    for name, split, n in (("test", "test", 269), ("validation", "val", 151)):
        expected = api.evaluate(trained, split=split)
        assert row[name]["nats"] == pytest.approx(expected.nats_per_image, abs=6e-4)
        assert row[name]["95%"] == pytest.approx(expected.nats_per_image_95, abs=6e-4)
        assert row[name]["n"] == n
    assert row["published"] is None, "figures of binarized MNIST are not those of other data"

    assert quality.main(options) == 0
    again = capsys.readouterr()
    assert not again.out
    assert "already" in again.err
    assert quality.main([*options, "--images=64"]) == 0, "another budget is another result"
    assert "269 test images after 64 images" in capsys.readouterr().out
    assert quality.main(["--table", f"--out={tmp_path / 'q'}"]) == 0
    head, _, first, second = capsys.readouterr().out.splitlines()
    assert head.startswith("| network | parameters")
    assert f"| {row['images']} |" in first, "the best comes first"
    assert "| 64 |" in second


def test_minutes_of_cpu_time_become_images(
    quality: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A clock that moves a second each time it is looked at: twice for a validation, once at the end of a round."""
    ticks = itertools.count()
    monkeypatch.setattr(quality, "time", SimpleNamespace(process_time=lambda: float(next(ticks))))
    options = quality.parse(["--data=digits", "--minutes=0.1", f"--out={tmp_path}"])
    assert quality.measure("made", options).items() >= {
        "step_cpu_s": 1.0, "images": 6 * 64, "minutes": 0.1, "train_cpu_min": round(6 * 2 / 60, 3)
    }.items()  # fmt: skip


def test_published_figures_stand_beside_ours(quality: ModuleType) -> None:
    """Those of static bits and those of dynamic ones in columns of their own."""
    one = {"parameters": 1000, "images": 50, "train_cpu_min": 10.04, "validation": {"nats": 1.0}}
    rows = [
        one
        | {"recipe": name, "test": {"nats": nats, "95%": [nats - 1, nats + 1]}, "published": quality.PUBLISHED[name]}
        for name, nats in (("pixelsnail", 80.0), ("nade", 79.0))
    ]
    assert quality.table(rows).splitlines()[2:] == [
        "| `nade` | 1,000 | 50 | 10.0 | **79.00** (78.00 to 80.00) | 1.00 | 88.33 |  |",
        "| `pixelsnail` | 1,000 | 50 | 10.0 | **80.00** (79.00 to 81.00) | 1.00 |  | 78.61 |",
    ]


# benchmarks/gpu/measure.py


@pytest.fixture(scope="module")
def measure() -> ModuleType:
    return script("gpu/measure")


def test_every_recipe_is_measured_and_tested() -> None:
    assert set(test_gpu.SPECS) == set(PIXEL_RUNS)


@pytest.mark.parametrize(
    ("name", "shape", "levels"),
    [
        ("mnist-gray", (1, 28, 28), 256),
        ("mnist-binary", (1, 28, 28), 2),
        ("mnist-binary-7x7", (1, 28, 28), 2),
        ("colored-mnist", (3, 28, 28), 4),
        ("rgb", (3, 32, 32), 256),
        ("digits", (1, 8, 8), 17),
        ("binarized-mnist", (1, 28, 28), 2),
    ],
)
def test_the_noise_has_the_shape_of_the_recipes_data(
    measure: ModuleType, name: str, shape: tuple[int, int, int], levels: int
) -> None:
    data = measure.noise_like(recipe(name), 300)
    assert (data.spec.shape, data.spec.levels) == (shape, levels)
    images, _ = data.train.all()
    assert images.shape == (300, *shape)
    assert set(np.unique(images)) == set(range(levels))


def test_the_plan_shares_the_time_and_names_every_measurement(
    measure: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure.main(["--plan"]) == 0
    plan = {row["part"]: row for row in lines(capsys.readouterr().out)}
    assert list(plan) == ["tests", "forward", "training", "sampling"]
    assert sum(row["seconds"] for row in plan.values()) == pytest.approx(8.5 * 60, abs=1)
    for part in ("forward", "training", "sampling"):
        assert {row["recipe"] for row in plan[part]["measurements"]} == set(PIXEL_RUNS)
    digits = [row for row in plan["training"]["measurements"] if row["recipe"] == "digits"]
    assert {(row["batch"], row["precision"]) for row in digits} == {
        (batch, precision) for batch in (recipe("digits").train.batch, 512) for precision in ("fp32", "bf16")
    }


def test_a_plan_of_some_parts_gives_them_the_whole_time(
    measure: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure.main(["--plan", "--part", "sampling", "--recipe", "rgb", "--minutes", "2"]) == 0
    assert lines(capsys.readouterr().out) == [
        {
            "part": "sampling",
            "seconds": 120.0,
            "measurements": [
                {"recipe": "rgb", "batch": 64, "precision": "fp32", "method": method} for method in ("fast", "plain")
            ],
        }
    ]


@pytest.mark.parametrize("arguments", [["--part", "tets"], ["--recipe", "digit"], ["--device", "tpu"]])
def test_wrong_options_are_refused(measure: ModuleType, arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        measure.main(arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_the_device_nothing_is_measured(measure: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert measure.main([]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_figures_of_the_smallest_recipe(measure: ModuleType) -> None:
    parts = [f"--part={part}" for part in ("forward", "training", "sampling")]
    tiny = ["--recipe=digits", "--precision=fp32", "--images=2", "--batch=4"]
    plan = measure.tasks(measure.parse(["--device=cpu", *parts, *tiny]))
    assert {part: [task.labels["batch"] for task in todo] for part, todo in plan.items()} == {
        "forward": [1, 2],
        "training": [4],
        "sampling": [2, 2],
    }
    one, two = (task.measure(0.1) for task in plan["forward"])
    assert one["images_per_s"] == pytest.approx(1e3 / one["ms"], rel=0.01)
    assert two["images_per_s"] == pytest.approx(2e3 / two["ms"], rel=0.01)
    training = plan["training"][0].measure(0.3)
    assert training["images_per_s"] > 0
    assert training["rounds"] >= 3
    assert training["parameters"] == measure.model_of("digits", "cpu").parameters
    fast, sampling = (task.measure(0.3) for task in plan["sampling"])
    assert not fast["extrapolated"]
    assert fast["steps"] == fast["steps_measured"] == 8 + 7 * 3  # x + 3 y: the first kernel is 5x5
    assert sampling["steps"] == 64
    assert sampling["steps_measured"] % 8 == 0
    assert sampling["extrapolated"] == (sampling["steps_measured"] < 64)


def test_sampling_that_does_not_fit_is_extrapolated_from_its_last_rows(
    measure: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    model = measure.model_of("digits", "cpu")

    def passes(levels: torch.Tensor) -> torch.Tensor:
        drawn.append(len(levels))
        time.sleep(0.002)
        return torch.zeros(len(levels), 17, 8, 8)

    monkeypatch.setattr(model, "predict", passes)
    monkeypatch.setattr(measure, "model_of", lambda name, device: model)
    monkeypatch.setattr(measure, "pass_seconds", lambda *_: 0.002)
    row = measure.sampling("digits", 3, "plain", "cpu", 0.1)  # room for 50 passes at most: 5 rows of 8
    assert row["extrapolated"]
    assert len(drawn) == 8 + row["steps_measured"]  # one row to try, then what was measured
    assert 8 <= row["steps_measured"] <= 40
    assert row["seconds"] > 64 * 0.002
    assert row["images_per_s"] == pytest.approx(3 / row["seconds"], abs=0.001, rel=0.01)


class Clock:
    """A clock that only measurements move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.given: list[float] = []

    def perf_counter(self) -> float:
        return self.now

    def taking(self, needed: float) -> Callable[[float], dict[str, float]]:
        """A measurement that takes so many seconds, whatever it is given."""

        def measure(seconds: float) -> dict[str, float]:
            self.given.append(seconds)
            self.now += needed
            return {"images_per_s": 1.0}

        return measure


def test_what_does_not_fit_is_said_and_what_fails_too(
    measure: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(seconds: float) -> dict[str, float]:
        raise torch.OutOfMemoryError("too large")

    clock = Clock()
    monkeypatch.setattr(measure, "time", clock)
    slow = clock.taking(20)
    plan = {
        "forward": [measure.Task({"i": i}, task) for i, task in enumerate((fails, slow, slow))],
        "sampling": [measure.Task({}, slow)],
    }
    assert not measure.measure_all(plan, 60, measure.facts("cpu"))
    rows = lines(capsys.readouterr().out)
    assert [row["part"] for row in rows] == ["forward", "forward", "forward", "sampling"]
    assert rows[0]["error"] == "too large"
    assert rows[1]["took_s"] == 20
    assert "left_out" in rows[2]
    assert rows[3]["images_per_s"] == 1.0, "a part keeps its own share"
    assert clock.given == [5, 40], "the second of three may take half of what is left of 10 s"
    for row in rows:
        assert row.keys() >= {"device", "gpu", "torch", "cuda", "date"}


def test_time_that_a_part_does_not_need_goes_to_the_next(measure: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(measure, "time", clock)
    quick = measure.Task({}, clock.taking(1))
    assert measure.measure_all({"forward": [quick], "training": [quick, quick], "sampling": [quick]}, 80, {})
    # Shares 5 : 50 : 25; the second of two gets what the first has left, and the last part all there is.
    assert clock.given == pytest.approx([80 * 5 / 80, 79 * 50 / 75 / 2, 79 * 50 / 75 - 1, 80 - 3])


# Tests marked gpu


def test_gpu_tests_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    (tmp_path / "test_both.py").write_text(
        "import pytest\n@pytest.mark.gpu\ndef test_a(): assert False\ndef test_b(): pass\n"
    )
    base = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), str(tmp_path)]
    assert "1 passed, 1 deselected" in subprocess_of(*base).stdout
    asked = subprocess_of(*base, "-m", "gpu")
    assert asked.returncode == 1
    assert "1 failed, 1 deselected" in asked.stdout


@pytest.fixture
def one_gpu_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each test marked gpu the case of one recipe; bf16 is not on every CPU."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-k digits")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.usefixtures("one_gpu_test")
def test_gpu_tests_can_run_and_are_counted(measure: ModuleType) -> None:
    assert measure.gpu_tests("cpu", 800) == {"passed": 4, "failed": 0}
    assert measure.gpu_tests("cpu", 0.1) == {"error": "not done after 0 s"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.usefixtures("one_gpu_test")
def test_gpu_tests_fail_clearly_without_the_device(measure: ModuleType) -> None:
    row = measure.gpu_tests("cuda", 100)
    assert (row["passed"], row["failed"]) == (0, 4)
    assert "need a CUDA device" in row["error"]


# benchmarks/gpu/train.py

Take: TypeAlias = Callable[..., tuple[int, dict[str, Any], str]]
"""Takes a slice: (run folder, more options) -> exit code, printed object, printed errors."""

TINY = ["model.channels=8", "model.blocks=1", "train.batch=32", "train.precision=fp32", "train.validate_every=1600"]
WHOLE = 3200


@pytest.fixture(scope="module")
def slices() -> ModuleType:
    return script("gpu/train")


@pytest.fixture
def take(slices: ModuleType, capsys: pytest.CaptureFixture[str]) -> Take:
    def run(out: Path, *more: str) -> tuple[int, dict[str, Any], str]:
        base = ["--recipe=digits", f"--total-images={WHOLE}", "--device=cpu", f"--out={out}"]
        code = slices.main([*base, *(f"--set={item}" for item in (*TINY, "samples=0")), *more])
        printed = capsys.readouterr()
        return code, json.loads(printed.out) if printed.out else {}, printed.err

    return run


def ring_after(out: Path, trained: int) -> type:
    """A timer that goes off when so many lines of metrics are there, whatever the clock says."""

    class Timer:
        def __init__(self, seconds: float, ring: Callable[[], None]) -> None:
            self.ring, self.canceled = ring, threading.Event()
            self.daemon = True

        def start(self) -> None:
            threading.Thread(target=self.watch, daemon=True).start()

        def watch(self) -> None:
            metrics = out / "metrics.jsonl"
            while not self.canceled.wait(0.001):
                if metrics.exists() and metrics.read_text().count("\n") >= trained:
                    self.ring()
                    return

        def cancel(self) -> None:
            self.canceled.set()

    return Timer


def test_slices_end_with_the_bits_of_one_run(
    take: Take,
    slices: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, whole, _ = take(tmp_path / "whole")
    assert (code, whole["done"], whole["images"]) == (0, True, WHOLE)
    assert whole["test"]["split"] == "test"
    assert whole["test"]["n"] >= 250

    first = tmp_path / "first"
    with monkeypatch.context() as patch:
        patch.setattr(slices.threading, "Timer", ring_after(first, 3))
        code, cut, _ = take(first)
    assert (code, cut["done"]) == (0, False)
    assert 0 < cut["images"] < WHOLE
    assert "test" not in cut

    # The machine forgets all but the parcel.
    second = tmp_path / "second"
    code, rest, _ = take(second, f"--restore={first / 'parcel'}")
    assert (code, rest["done"], rest["images"]) == (0, True, WHOLE)
    assert rest["test"] == whole["test"]
    a, b = (load_tensors(max((tmp_path / run / "checkpoints").glob("step-*")))[0] for run in ("whole", "second"))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    before, after = (lines((run / "metrics.jsonl").read_text()) for run in (first, second))
    assert before == after[: len(before)], "the second slice goes on from the first, clock included"
    steps = [line["step"] for line in after if line["split"] == "train"]
    assert steps == sorted(set(steps))
    assert steps[-1] == WHOLE // 32

    # Asked again, a finished run takes no further step.
    assert take(second)[1]["step"] == rest["step"]


def test_a_run_goes_on_with_the_settings_it_was_begun_with_only(take: Take, tmp_path: Path) -> None:
    assert take(tmp_path / "run", "--total-images=320")[0] == 0
    code, _, error = take(tmp_path / "run", "--total-images=640")
    assert code == 2
    assert "train.images was 320, now 640" in error
    assert take(tmp_path / "run", "--total-images=320", f"--data-root={tmp_path}")[0] == 0, "data may lie elsewhere"


def test_the_plan_of_a_slice_does_nothing(take: Take, tmp_path: Path, slices: ModuleType) -> None:
    code, plan, _ = take(tmp_path / "run", "--plan")
    assert (code, plan["stop_after_s"], plan["state"]) == (0, 500.0, {})
    assert take(tmp_path / "run", "--plan", "--slice-minutes=1")[1]["stop_after_s"] == 54.0
    assert not (tmp_path / "run").exists()


def test_the_settings_for_a_gpu_fit_their_recipes(slices: ModuleType) -> None:
    for name, settings in slices.SETTINGS.items():
        config = slices.config_of(slices.parse([f"--recipe={name}", "--total-images=1000"]))
        assert config.train.batch == settings["train.batch"] > recipe(name).train.batch
        assert (config.train.images, config.train.epochs, config.train.minutes) == (1000, None, None)
        assert config.train.device == "cuda"


def test_a_misspelt_setting_is_named(take: Take, tmp_path: Path) -> None:
    code, _, error = take(tmp_path / "run", "--set=train.bach=4")
    assert code == 2
    assert "Did you mean 'batch'?" in error


# benchmarks/gpu/parcel.py


@pytest.fixture
def run_folder(take: Take, tmp_path: Path) -> Path:
    assert take(tmp_path / "run", "--total-images=320")[0] == 0
    return tmp_path / "run"


def test_a_parcel_is_cut_into_pieces_and_put_together(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parcel = script("gpu/parcel")
    size = (run_folder / "parcel" / "run.tgz.0").stat().st_size
    monkeypatch.setattr(parcel, "PIECE", size // 4)
    label = parcel.pack(run_folder, tmp_path / "cut")
    assert label["pieces"] in (4, 5, 6)
    names = {path.name for path in (tmp_path / "cut").iterdir()}
    assert names == {"parcel.json", *(f"run.tgz.{i}" for i in range(label["pieces"]))}

    assert parcel.unpack(tmp_path / "cut", tmp_path / "again")
    for name in ("config.yaml", "metrics.jsonl", "curves.png", "model/model.safetensors", "checkpoints"):
        before, after = run_folder / name, tmp_path / "again" / name
        if name == "checkpoints":
            before, after = parcel.newest(run_folder), parcel.newest(tmp_path / "again")
        assert after.read_bytes() == before.read_bytes()
    assert not parcel.unpack(tmp_path / "cut", run_folder), "a folder that is as far is left alone"

    monkeypatch.setattr(parcel, "PIECE", size // 20)
    with pytest.raises(ModelError, match="at most"):
        parcel.pack(run_folder, tmp_path / "cut")
    assert parcel.state_of(tmp_path / "again")["images"] == 320


def test_a_damaged_or_hostile_parcel_is_refused(run_folder: Path, tmp_path: Path) -> None:
    parcel = script("gpu/parcel")
    folder = run_folder / "parcel"
    piece = folder / "run.tgz.0"
    content = bytearray(piece.read_bytes())
    content[100] ^= 1
    piece.write_bytes(content)
    with pytest.raises(ModelError, match="SHA-256"):
        parcel.unpack(folder, tmp_path / "other")
    piece.unlink()
    with pytest.raises(ModelError, match="no whole parcel"):
        parcel.unpack(folder, tmp_path / "other")

    (tmp_path / "outside").write_text("x")
    with tarfile.open(piece, "w:gz") as tar:
        tar.add(tmp_path / "outside", "../slipped")
    label = json.loads((folder / "parcel.json").read_text()) | {
        "sha256": hashlib.sha256(piece.read_bytes()).hexdigest()
    }
    (folder / "parcel.json").write_text(json.dumps(label))
    with pytest.raises(ModelError, match="outside"):
        parcel.unpack(folder, tmp_path / "deep" / "other")
    assert not (tmp_path / "deep" / "slipped").exists()


# benchmarks/gpu/setup.sh


def test_setup_puts_the_sources_on_the_path() -> None:
    done = subprocess.run(
        ["bash", "-c", ". benchmarks/gpu/setup.sh && printf %s $PYTHONPATH"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHON": sys.executable, "PYTHONPATH": "before"},
        capture_output=True,
        text=True,
        check=True,
    )
    path = done.stdout.split(":")
    assert path[0] == str(ROOT / "src")
    assert path[-1] == "before"
