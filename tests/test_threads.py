"""Numbers of threads: usable cores, the faster number, and images that do not depend on it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from engine_toys import stream, two_phases
from fast_toys import random_images
from pixelloom import api
from pixelloom.core import threads
from pixelloom.core.errors import UsageError
from pixelloom.core.threads import ThreadChoice, ThreadTuner, fixed, omp_num_threads, quota, thread_lease, usable
from pixelloom.engine import threads as engine_threads
from pixelloom.engine.config import TrainConfig
from pixelloom.engine.fabric import make_fabric
from pixelloom.engine.threads import choose_threads, timed
from pixelloom.sampling import sharding
from test_shared_models import CASES, Case, of_nothing

CORES = 4


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine with four cores, all of them this process's."""
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(CORES)))
    monkeypatch.setattr(threads, "quota", lambda: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(CORES)
    yield
    torch.set_num_threads(before)


# Usable cores


def files(root: Path, contents: dict[str, str]) -> Path:
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("contents", "membership", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 1.5),
        ({"cpu.max": "max 100000\n"}, "0::/\n", None),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, "0::/a/b\n", 2.0),  # of a group above
        ({"a/b/cpu.max": "50000 100000", "a/cpu.max": "200000 100000"}, "0::/a/b\n", 0.5),
        ({"cpu.max": "300000 100000"}, "0::/docker/of/the/host\n", 3.0),  # in a container its own files are the root's
        ({"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/\n", 2.5),
        ({"cpu,cpuacct/x/cpu.cfs_quota_us": "1000", "cpu,cpuacct/x/cpu.cfs_period_us": "500"}, "4:cpu,cpuacct:/x", 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/\n", None),
        ({"memory/cpu.max": "100000 100000"}, "3:memory:/\n", None),  # another controller's folder
        ({"cpu.max": "not a number"}, "0::/\n", None),
        ({"cpu.max": "100000 0"}, "0::/\n", None),
        ({}, "", None),
    ],
)
def test_the_quota_of_control_groups(
    tmp_path: Path, contents: dict[str, str], membership: str, expected: float | None
) -> None:
    root = files(tmp_path / "cgroup", contents)
    member = files(tmp_path, {"self": membership}) / "self"
    assert quota(root, member) == expected
    assert quota(tmp_path / "nowhere", tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", None), ("3", 3), (" 2 ", 2), ("4,2", 4), ("0", None), ("-1", None), ("many", None), ("²", None)],
)
def test_omp_num_threads(text: str, expected: int | None) -> None:
    assert omp_num_threads(text) == expected


def test_the_smallest_limit_counts(monkeypatch: pytest.MonkeyPatch, four: None) -> None:
    assert usable() == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert usable() == 3
    for given, expected in ((2.9, 2), (0.5, 1), (8.0, 3)):
        monkeypatch.setattr(threads, "quota", lambda given=given: given)
        assert usable() == expected


@pytest.mark.parametrize(
    ("omp", "allowed", "processes", "expected"),
    [("", None, 2, 2), ("4", None, 2, 2), ("1", None, 2, 1), ("3", None, 1, 3), ("", 3.5, 2, 1), ("", None, 9, 1)],
)
def test_processes_share_the_cores_and_omp_num_threads_is_for_each(
    monkeypatch: pytest.MonkeyPatch, four: None, omp: str, allowed: float | None, processes: int, expected: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", omp)
    monkeypatch.setattr(threads, "quota", lambda: allowed)
    assert usable(processes) == expected


# Torch's number of threads is changed and restored


def test_threads_are_leased_to_one_call_at_a_time_and_restored(four: None) -> None:
    with thread_lease() as most:
        assert most == CORES
        torch.set_num_threads(1)
        with thread_lease() as inner:  # a callback that draws
            assert inner == 1
            torch.set_num_threads(3)
        with thread_lease(2) as asked:
            assert asked == 2
    assert torch.get_num_threads() == CORES
    torch.set_num_threads(2)  # as a user may set it
    with thread_lease() as most:
        assert most == 2

    def fails() -> None:
        with thread_lease():
            torch.set_num_threads(1)
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert torch.get_num_threads() == 2


def test_calls_that_overlap_leave_torchs_number_as_it_was(four: None) -> None:
    inside, leave, counts = threading.Event(), threading.Event(), list[int]()

    def other() -> None:
        with thread_lease() as most:
            counts.append(most)
            torch.set_num_threads(1)
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with thread_lease() as most:
        torch.set_num_threads(1)
        thread.start()
        inside.wait(10)
    leave.set()
    thread.join()
    assert (most, counts) == (CORES, [1])
    assert torch.get_num_threads() == CORES
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [CORES]


# The faster number


class Machine:
    """A clock that a step moves on: by its work with one thread, by ``factor`` times that with several."""

    def __init__(self, factor: Callable[[int], float]) -> None:
        self.now, self.steps, self.factor = 0.0, 0, factor

    def __call__(self) -> float:
        return self.now

    def step(self, work: float) -> None:
        self.now += work * (1.0 if torch.get_num_threads() == 1 else self.factor(self.steps))
        self.steps += 1

    def run(self, tuner: ThreadTuner, works: list[float]) -> float:
        begun = self.now
        for work in works:
            tuner.run(work, lambda work=work: self.step(work))  # type: ignore[misc]
        return self.now - begun


WORKS = [1.0 + 0.5 * (i % 7) for i in range(136)]  # a schedule's steps differ in size
STALLS = [1.0, 9.0, 0.6, 14.0, 2.0, 8.0, 0.6, 11.0]  # of several threads beside other programs


@pytest.mark.parametrize(
    ("factor", "best", "bound"),
    [
        (lambda _: 0.55, 0.55, 1.05),
        (lambda _: 1.0, 1.0, 1.0),
        (lambda _: 1.5, 1.0, 1.1),
        (lambda _: 6.0, 1.0, 1.1),
        (lambda step: STALLS[step % len(STALLS)], 1.0, 1.15),
    ],
)
def test_the_choice_is_nearly_as_fast_as_the_better_one(
    four: None, factor: Callable[[int], float], best: float, bound: float
) -> None:
    machine = Machine(factor)
    tuner = ThreadTuner(CORES, clock=machine)
    first, later = machine.run(tuner, WORKS), machine.run(tuner, WORKS)
    assert first <= 1.05 * bound * best * sum(WORKS)  # both numbers are new to it
    assert later <= bound * best * sum(WORKS)


def test_a_machine_that_becomes_busy_or_idle_is_noticed(four: None) -> None:
    busy = [False]
    machine = Machine(lambda _: 6.0 if busy[0] else 0.55)
    tuner = ThreadTuner(CORES, clock=machine)
    machine.run(tuner, WORKS)
    assert tuner.best == CORES
    busy[0] = True
    assert machine.run(tuner, WORKS) <= 1.15 * sum(WORKS)
    assert tuner.best == 1
    busy[0] = False
    for _ in range(3):
        machine.run(tuner, WORKS)
    assert tuner.best == CORES


def test_both_numbers_are_measured_by_a_small_step_first(four: None) -> None:
    machine = Machine(lambda _: 0.5)
    tuner, works = ThreadTuner(CORES, clock=machine), list[float]()

    def step(work: float) -> None:
        works.append(work)
        machine.step(work)

    tuner.warm_up(1.0, lambda: step(1.0))
    assert (tuner.rates, works) == ({1: 1.0, CORES: 0.5}, [1.0] * 3)
    tuner.warm_up(1.0, lambda: step(1.0))  # once
    assert len(works) == 3
    assert machine.run(tuner, [16.0]) == 8.0


def test_a_fixed_number_of_threads_holds_for_all(four: None) -> None:
    model, _ = of_nothing()
    with fixed(3):
        assert torch.get_num_threads() == 3
        for choice in (ThreadChoice(), ThreadChoice()):
            with choice.tuner(None, torch.device("cpu")) as tuner:
                assert (tuner.best, tuner.fixed) == (3, True)
        with ThreadChoice().tuner(2, torch.device("cpu")) as tuner:
            assert tuner.best == 2
        model.log_prob(model.sample(2))
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == CORES
    with fixed(None):
        assert torch.get_num_threads() == CORES


def test_a_number_that_was_asked_for_is_kept(four: None) -> None:
    machine = Machine(lambda _: 6.0)
    assert machine.run(ThreadTuner(2, fixed=True, clock=machine), [1.0] * 5) == 30.0
    assert machine.run(ThreadTuner(1, clock=machine), [1.0] * 5) == 5.0


# Shards of a batch


def test_batches_are_sharded_where_operations_are_large() -> None:
    assert [sharding.shard_count(n, 249_166, 2) for n in (1, 25, 64, 256)] == [1, 1, 1, 2]
    assert sharding.shard_count(256, 249_166, 64) == 3
    assert sharding.shard_count(256, 3_599, 64) == 1
    assert [sharding.shard_count(n, 1e9, 64) for n in (2, 31, 32, 48)] == [1, 1, 2, 3]
    assert sharding.shard_count(256, 1e9, 1) == 1


@pytest.fixture(params=[2, 3])
def shards(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Every batch is split into this number of shards."""
    monkeypatch.setattr(sharding, "shard_count", lambda images, *_: min(images, request.param))
    return int(request.param)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_sharded_batches_are_the_same_images(case: Case, shards: int) -> None:
    model, calls = case()
    for call in calls:
        plain = model.sample(5, method="plain", **call)
        assert torch.equal(model.sample(5, **call), plain)
        assert torch.equal(model.sample(5, batch=3, **call), plain)


def test_one_conditioning_image_for_all_is_not_cut(shards: int) -> None:
    model, calls = next(iter(case() for case in CASES if case.__name__ == "of_images"))
    one = calls[0]["condition"][:1]
    images = model.sample(4, labels=1, condition=one)
    assert torch.equal(images, model.sample(4, labels=1, condition=one.expand(4, -1, -1, -1), method="plain"))


@pytest.mark.parametrize("known", [False, True])
def test_steps_of_sharded_batches_are_reported_in_order_and_end_with_all_images(shards: int, known: bool) -> None:
    model, _ = of_nothing()
    mask = torch.zeros(1, *model.spec.shape, dtype=torch.bool)
    mask[..., -1, :] = known
    given = random_images(model.spec, 1)
    seen: list[tuple[int, int, torch.Tensor]] = []
    images = model.sample(
        5, given=given, mask=mask, on_step=lambda step, steps, x: seen.append((step, steps, x.clone()))
    )
    steps = model.fast_sampler(mask=mask).steps
    assert [(step, of) for step, of, _ in seen] == [(step + 1, steps) for step in range(steps)]
    assert torch.equal(seen[-1][2], images)
    for _, _, x in seen:  # what is drawn stays, in every shard, and what is known is there from the start
        assert x.shape == images.shape
        assert torch.equal(x[x != 0], images[x != 0])
        assert torch.equal(x[..., -1, :], images[..., -1, :]) or not known


def test_nothing_is_reported_where_everything_is_known(shards: int) -> None:
    model, _ = of_nothing()
    given, seen = random_images(model.spec, 4), list[int]()
    mask = torch.ones(1, *model.spec.shape, dtype=torch.bool)
    assert torch.equal(model.sample(4, given=given, mask=mask, on_step=lambda step, *_: seen.append(step)), given)
    assert seen == []


def test_a_callback_that_raises_ends_all_shards(shards: int) -> None:
    model, _ = of_nothing()

    def interrupt(step: int, *_: Any) -> None:
        if step == 3:
            raise KeyboardInterrupt

    before = model.sample(5)
    with pytest.raises(KeyboardInterrupt):
        model.sample(5, on_step=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pixelloom-shard")]
    assert torch.equal(model.sample(5), before)


@pytest.mark.parametrize("fails", [0, 1])
def test_a_shard_that_fails_stops_the_others_and_is_what_is_raised(shards: int, fails: int) -> None:
    taken, begun = [0] * shards, torch.zeros(2 * shards, 1, 1, 1)
    all_there = threading.Barrier(shards, timeout=60)

    def draw(rows: slice, report: Callable[..., None]) -> torch.Tensor:
        index = rows.start // 2
        all_there.wait()
        if index == fails:
            raise MemoryError("no more")
        for step in range(100_000):
            report(step + 1, 100_000, torch.zeros(2, 1, 1, 1))
            taken[index] += 1
            time.sleep(0.001)
        return torch.zeros(2, 1, 1, 1)

    with pytest.raises(MemoryError, match="no more"):
        sharding.draw_sharded(draw, begun, shards, None)
    assert max(taken) < 100_000


def test_shares_keep_the_inference_mode_of_the_caller(shards: int) -> None:
    model, _ = of_nothing()
    expected = model.sample(8, batch=4)
    with torch.inference_mode():
        assert torch.equal(model.sample(8, batch=4), expected)


@pytest.mark.parametrize("number", [1, 3])
def test_conditioning_for_another_number_of_images_is_refused(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In shards too, where a row too few could go unnoticed."""
    monkeypatch.setattr(sharding, "shard_count", lambda *_: number)
    model, _ = next(iter(case() for case in CASES if case.__name__ == "of_classes"))
    noise = torch.rand(4, *model.spec.shape, dtype=torch.float64)
    sampler = model.fast_sampler()
    with pytest.raises(UsageError, match="labels: what is given is for 3 images, a batch has 4"):
        sampler.sample(noise, conditioning={"labels": torch.tensor([0, 1, 2])})
    with pytest.raises(UsageError, match="the network is conditioned on labels, and was given nothing"):
        sampler.sample(noise)
    with pytest.raises(UsageError, match=r"labels: 4 class numbers or one for all"):
        model.draw(noise, labels=[0, 1, 2])
    with pytest.raises(UsageError, match="guidance: 0 or more"):
        of_nothing()[0].draw(noise, guidance=1.0)
    with pytest.raises(UsageError, match=r"noise: \[n, 1, 6, 4\] is needed, not \[4, 1, 6, 3\]"):
        model.draw(noise[..., :3], labels=0)


def test_a_model_of_several_orders_is_not_drawn_from_in_one() -> None:
    model, _ = next(iter(case() for case in CASES if case.__name__ == "of_orders"))
    with pytest.raises(UsageError, match="draw: this model averages over 3 orders"):
        model.draw(torch.rand(2, *model.spec.shape, dtype=torch.float64), labels=0)


# Training


def test_measuring_leaves_a_run_as_it_was(four: None) -> None:
    """Buffers, modes, gradients and generators, so that a run with measured threads is the run with that number set."""
    objective = two_phases()
    parts = torch.nn.ModuleDict(dict(objective.parts))
    state = {name: value.clone() for name, value in parts.state_dict().items()}
    modes = [module.training for module in parts.modules()]
    torch.manual_seed(5)
    generator = torch.get_rng_state()
    config = TrainConfig(batch=8, precision="fp32", device="cpu")
    fabric = make_fabric(config)
    batch = next(stream(config, fabric)(0))
    threads_, why = choose_threads(objective, batch, config, fabric)
    assert threads_ in (1, CORES)
    assert f"a step with {CORES}" in why
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[name]) for name, value in parts.state_dict().items())
    assert [module.training for module in parts.modules()] == modes
    assert all(p.grad is None for p in parts.parameters())
    assert torch.get_num_threads() == CORES


@pytest.mark.parametrize(("several", "one", "expected"), [(0.5, 1.0, CORES), (0.95, 1.0, 1), (3.0, 1.0, 1)])
def test_several_threads_must_pay(
    four: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    several: float,
    one: float,
    expected: int,
) -> None:
    monkeypatch.setattr(engine_threads, "timed", lambda *_: (several, one))
    config = TrainConfig(batch=8, precision="fp32", device="cpu")
    fabric = make_fabric(config)
    batch = next(stream(config, fabric)(0))
    assert choose_threads(two_phases(), batch, config, fabric)[0] == expected
    set_ = config.model_copy(update={"threads": 3})
    assert choose_threads(two_phases(), batch, set_, fabric) == (3, "as set")
    assert not caplog.text
    set_ = config.model_copy(update={"threads": 64})  # of a larger machine
    assert choose_threads(two_phases(), batch, set_, fabric) == (64, "as set")
    assert f"the run uses 64 threads, and this process may use {CORES} cores" in caplog.text
    torch.set_num_threads(1)
    assert choose_threads(two_phases(), batch, config, fabric) == (1, "all that may be used")


def test_steps_are_timed_in_turn(four: None, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(lambda _: 0.25)
    monkeypatch.setattr(engine_threads.time, "perf_counter", machine)
    assert timed(lambda: machine.step(0.4), (CORES, 1)) == pytest.approx((0.1, 0.4))
    assert machine.steps == 1 + 2 * 4  # one that is not counted, then pairs of 0.5 s until two seconds are full
    assert torch.get_num_threads() == CORES


def test_a_run_keeps_its_number_and_torch_gets_its_own_back(
    four: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    numbers: list[int] = []
    monkeypatch.setattr(engine_threads, "timed", lambda *_: (0.5, 1.0))
    right = torch.nn.functional.conv2d
    monkeypatch.setattr(
        torch.nn.functional, "conv2d", lambda *a, **k: (numbers.append(torch.get_num_threads()), right(*a, **k))[1]
    )
    settings: dict[str, Any] = {"samples": 0, "model.channels": 4, "model.blocks": 1, "validation_images": 8}
    with caplog.at_level(logging.INFO, "pixelloom"):
        api.train("pixelcnn", data="digits", images=64, out=tmp_path / "run", overrides=settings)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["train"]["threads"] == CORES
    assert f"threads: {CORES} (0.5 s a step with {CORES}, 1 s with 1)" in caplog.text
    assert numbers
    assert set(numbers) == {CORES}
    assert torch.get_num_threads() == CORES

    monkeypatch.setattr(engine_threads, "timed", lambda *_: (2.0, 1.0))  # the machine is busy when the run goes on
    numbers.clear()
    api.train(None, out=tmp_path / "run", resume=True, images=128)
    assert set(numbers) == {CORES}
