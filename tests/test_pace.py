"""Validation and drawing within their share of a run's time, and an estimate before a long run: rules of numbers.

No test here waits: costs are given, and clocks are advanced by what is drawn.
"""

from __future__ import annotations

import logging
import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from engine_toys import N, config, one_phase, stream
from pixelloom.core.types import ImageSpec
from pixelloom.data.config import DataConfig
from pixelloom.data.memory import dataset_of
from pixelloom.engine.fabric import make_fabric
from pixelloom.engine.hooks import BudgetUsedError
from pixelloom.engine.micro_batches import bytes_per_image, micro_batches
from pixelloom.engine.signals import Interrupted
from pixelloom.engine.state import State
from pixelloom.engine.validation_plan import PLANS, SHARE, Costs, budget_images, validation_plan
from pixelloom.metrics.likelihood import batch_size, counted
from pixelloom.objectives.base import Monitor, Objective, OptimConfig, Phase
from pixelloom.runs import drawing, pace
from pixelloom.runs import train as training
from pixelloom.runs.compose import compose, read_yaml
from pixelloom.runs.config import PixelRun
from pixelloom.runs.drawing import EnoughError, Limit, TrainingSamples, draw_final, drawn_within
from pixelloom.runs.families import set_up
from pixelloom.runs.pace import Pace, estimate
from pixelloom.runs.recipes import recipe


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


# How often, and on how many images


@pytest.mark.parametrize(
    ("given", "costs", "held_out", "expected"),
    [
        ({"images": 100_000}, Costs(0.01, 0, 0.002), 5000, (None, 1000)),  # 20 * 2 s <= 5 % of 1000 s
        ({"images": 100_000}, Costs(0.01, 0, 0.003), 5000, (None, 500)),  # 60 s is too much, 30 s is not
        ({"images": 100_000}, Costs(0.01, 0, 0.003), 150, (None, 1000)),  # but there are 150 images only
        ({"images": 100_000}, Costs(0.01, 2.0, 0.003), 5000, (10_000, 500)),  # 10 * (2 + 1.5) s
        ({"images": 100_000}, Costs(0.01, 0, 0.02), 5000, (10_000, 200)),  # 10 * 4 s
        ({"images": 100_000}, Costs(0.01, 0, 0.2), 5000, (50_000, 100)),  # 2 * 20 s
        ({"images": 100_000}, Costs(0.01, 0, 1.0), 5000, (100_000, 50)),  # once, at the end
        ({"images": 100_000}, Costs(0.01, 0, 99.0), 5000, (100_000, 20)),  # nothing is cheap enough
        ({"images": 80}, Costs(0.001, 0, 0.0005), 5000, (None, 1000)),  # 10 s in all are allowed
        ({"images": None, "minutes": 1}, Costs(0.001, 0, 0.0005), 5000, (6_000, 500)),  # but not of a minute
        ({"images": None, "minutes": 10}, Costs(0.01, 0, 0.003), 5000, (None, 500)),
        ({"images": None, "epochs": 10, "minutes": 1}, Costs(1.2, 0, 0.5), 71, (50, 20)),
    ],
)
def test_validations_take_a_twentieth_of_the_time(
    given: dict[str, Any], costs: Costs, held_out: int, expected: tuple[int | None, int]
) -> None:
    conf = config(batch=32, **given)
    interval, n = validation_plan(costs, conf, 10_000, held_out)
    assert (interval, n) == expected
    images = budget_images(conf, 10_000, costs.step)
    times = 20 if interval is None else images / interval
    cheapest = PLANS[-1][0] * costs.validation(PLANS[-1][1])
    total = times * costs.validation(min(n, held_out))
    assert total <= max(SHARE * images * costs.step, 0 if conf.minutes else 10, cheapest)


def test_images_of_a_budget() -> None:
    assert budget_images(config(images=500), 100, 0.1) == 500
    assert budget_images(config(images=None), 100, 0.1) == 100  # one epoch
    assert budget_images(config(images=None, epochs=3, minutes=1), 100, 0.1) == 300
    assert budget_images(config(images=None, epochs=30, minutes=1), 100, 0.1) == 600


def test_a_reserve_ends_a_budget_in_minutes_earlier() -> None:
    conf = config(images=None, minutes=1)
    assert conf.progress(0, 45, N, 15) == 1
    assert conf.progress(0, 45, N) == 0.75
    assert conf.progress(0, 15, N, 59) == 0.5  # half of the budget at most


# Memory


def test_bytes_for_the_backward_pass_are_counted() -> None:
    layer = nn.Linear(16, 4, bias=False)

    def loss(batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        x = batch.images.flatten(1).float()  # 16 values of 4 bytes, kept for the gradient of the weights
        return layer(x).square().mean(), {}  # 4 values of 4 bytes, kept by square

    objective = Objective((Phase("net", layer, OptimConfig(lr=0.1), loss),), {"net": layer}, "net", Monitor("x", dict))
    conf = config(batch=8)
    fabric = make_fabric(conf)
    assert bytes_per_image(objective, next(stream(conf, fabric)(0)), fabric) == 16 * 4 + 4 * 4
    assert layer.weight.grad is None


def test_the_fewest_micro_batches_that_fit() -> None:
    assert micro_batches(10, 64, 1, most=640) == 1
    assert micro_batches(10, 64, 1, most=639) == 2
    assert micro_batches(10, 64, 4, most=640) == 4  # as configured
    assert micro_batches(10, 30, 1, most=70) == 5  # 6 images; 30 is not a multiple of 4
    assert micro_batches(10, 30, 1, most=5) == 30
    assert micro_batches(10, 7, 1, most=69) == 7


def test_large_images_are_scored_in_small_batches() -> None:
    assert batch_size(ImageSpec(1, 28, 28, 256)) == 64
    assert batch_size(ImageSpec(3, 32, 32, 256)) == 64
    assert batch_size(ImageSpec(3, 64, 64, 256)) == 16
    assert batch_size(ImageSpec(3, 128, 128, 256)) == 4
    assert batch_size(ImageSpec(3, 1024, 1024, 2)) == 1
    conf, seen = config(batch=8), list[int]()
    batches = [batch for batch, _ in zip(stream(conf, make_fabric(conf))(0), range(4), strict=False)]
    assert [len(batch.images) for batch in counted(batches, seen.append)] == [8] * 4
    assert seen == [8, 16, 24]


# The estimate


def lines(costs: Costs, sample: float | None = None, epoch: int = 1000, **given: Any) -> list[str]:
    found = estimate(Pace(costs, sample), config(**{"images": None} | given), epoch, ["--size 32", "patience"])
    assert [level for level, _ in found] == [logging.INFO, logging.WARNING][: len(found)]
    return [line for _, line in found]


def test_a_long_run_is_estimated_and_a_short_one_is_not() -> None:
    assert lines(Costs(0.01), 0.5, minutes=1) == []  # six epochs
    assert lines(Costs(0.01), images=1000) == []
    text = "estimate: 100 images/s, so 10 minutes is about 60,000 images, 60 epochs"
    assert lines(Costs(0.01), 0.5, minutes=10) == [text]
    assert lines(Costs(0.01), 20.0, minutes=10) == [f"{text}; one sample takes about 20 seconds"]
    (line,) = lines(Costs(0.01), epochs=600)
    assert line == "estimate: 100 images/s, so 1.7 hours are needed for about 600,000 images, 600 epochs"


def test_a_hopeless_run_is_named_with_what_helps() -> None:
    assert lines(Costs(0.8), 200.0, minutes=1) == [
        "estimate: 1.2 images/s, so 1 minute is about 75 images, 0.075 epochs; one sample takes about 3.3 minutes",
        "less than one epoch is little to learn from and a sample takes 3.3 minutes; what helps: --size 32, patience",
    ]
    _, days = lines(Costs(0.5), None, images=1_000_000)
    assert days.startswith("training takes 5.8 days")


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("pixelcnn", {"size": 40}, ["--size 32", "--levels 8", "dcgan", "--device cuda", "larger budget"]),
        ("pixelcnn", {"levels": 4}, ["dcgan", "--device cuda", "larger budget"]),
        ("dcgan", {}, ["--device cuda", "larger budget"]),
    ],
)
def test_only_what_is_not_yet_done_helps(
    name: str, given: dict[str, Any], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    images = np.random.default_rng(0).integers(0, 256, (60, 32, 32), np.uint8)
    plan = recipe(name)
    setup = set_up(plan, dataset_of(images, config=DataConfig(source="arrays", **given)))
    helps = pace._helps(setup)
    assert len(helps) == len(expected)
    assert all(word in text for word, text in zip(expected, helps, strict=True))


# Drawing


def drawer(clock: Clock, cost: float, steps: int = 100) -> Any:
    """Takes ``cost`` seconds an image, in equal steps."""

    def draw(n: int, limit: Limit) -> str:
        for step in range(1, steps + 1):
            clock.now += n * cost / steps
            limit(step, steps, torch.empty(0))
        return f"{n} images"

    return draw


@pytest.mark.parametrize(
    ("cost", "seconds", "expected"),
    [(1.0, math.inf, 25), (1.0, 26.0, 25), (1.0, 12.0, 9), (4.0, 12.0, 2), (100.0, 12.0, 0), (1.0, 0.0, 0)],
)
def test_as_many_samples_as_fit(cost: float, seconds: float, expected: int) -> None:
    clock = Clock()
    drawn, n, needed = drawn_within(drawer(clock, cost), 25, seconds, clock)
    assert (drawn, n) == ((f"{expected} images", expected) if expected else (None, 0))
    if expected:
        assert needed <= seconds
    if not math.isinf(seconds):
        assert clock.now <= max(seconds, 2 * 25 * cost / 100)  # at least two steps are drawn


def test_the_first_step_is_not_extrapolated() -> None:
    clock = Clock()
    limit = Limit(1.0, 15.0, clock)
    clock.now = 9.0  # planning
    limit(1, 6, torch.empty(0))
    clock.now = 10.0
    limit(2, 6, torch.empty(0))  # 9 + 5 s
    clock.now = 13.0
    with pytest.raises(EnoughError) as caught:
        limit(3, 6, torch.empty(0))  # 9 + 5 * 2 s
    assert caught.value.seconds == 19.0


class FakeSetup:
    """Draws at ``cost`` seconds an image."""

    def __init__(self, clock: Clock, cost: float, **given: Any) -> None:
        self.draw = drawer(clock, cost)
        self.config = PixelRun.of_network("pixelcnn").model_copy(update={"train": config(**given), "samples": 25})
        self.asked: list[int] = []

    def model_of(self, network: nn.Module) -> nn.Module:
        return network

    def sample_grid(self, model: Any, n: int, on_step: Any) -> Image.Image:
        self.asked.append(n)
        self.draw(n, on_step)
        return Image.new("L", (n, 1))

    def final_images(self, model: Any, n: int, on_step: Any) -> dict[str, Image.Image]:
        return {"final": self.sample_grid(model, n, on_step)}


def test_samples_during_training_take_a_twentieth(tmp_path: Path) -> None:
    clock = Clock()
    setup = FakeSetup(clock, cost=10.0)
    samples = TrainingSamples(setup, tmp_path, clock=clock)  # type: ignore[arg-type]
    for images, seconds in ((100, 100.0), (200, 1000.0), (300, 10_000.0), (400, 10_100.0)):
        samples(nn.Identity(), State(images=images, seconds=seconds))
        assert samples.spent <= 0.05 * seconds + 2 * 9  # a given-up grid takes a few steps
    assert [Image.open(path).width for path in sorted(tmp_path.glob("*.png"))] == [9, 9]  # none at 100 and 1,000 s
    asked = FakeSetup(clock, cost=10.0, sample_every=4)
    (tmp_path / "all").mkdir()
    TrainingSamples(asked, tmp_path / "all", clock=clock)(nn.Identity(), State(images=4, seconds=1.0))  # type: ignore[arg-type]
    assert asked.asked == [9]


def test_final_samples_fit_into_a_budget_of_minutes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    (tmp_path / "samples").mkdir()
    draw_final(FakeSetup(clock, cost=10.0, images=80), nn.Identity(), tmp_path, clock)  # type: ignore[arg-type]
    assert Image.open(tmp_path / "samples/final.png").width == 25  # a budget of images has no clock
    with caplog.at_level(logging.WARNING, "pixelloom"):
        draw_final(FakeSetup(clock, cost=5.0, minutes=10), nn.Identity(), tmp_path, clock)  # type: ignore[arg-type]
        assert 1 < Image.open(tmp_path / "samples/final.png").width < 25
        assert "25 do not fit into the budget" in caplog.text
        caplog.clear()
        draw_final(FakeSetup(clock, cost=500.0, minutes=1), nn.Identity(), tmp_path / "none", clock)  # type: ignore[arg-type]
    assert "none is drawn: they take about 12,500 s; `pixelloom sample" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_final_samples(tmp_path: Path, number: signal.Signals) -> None:
    setup = FakeSetup(Clock(), cost=0.0)
    setup.draw = lambda n, limit: signal.raise_signal(number)
    with pytest.raises(Interrupted, match=f"stopped by {number.name} while sampling; the model is in") as caught:
        draw_final(setup, nn.Identity(), tmp_path)  # type: ignore[arg-type]
    assert caught.value.exit_code == 128 + number


# A run


SMALL = {
    "model.channels": 4, "model.hidden": 2, "model.blocks": 1, "samples": 0, "train.images": 320, "train.epochs": None,
    "train.ema": None, "train.precision": "fp32",
}  # fmt: skip


def test_what_was_measured_is_recorded_and_kept_by_a_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pace, "_measured", lambda *_: Pace(Costs(1.0, 0.0, 0.16)))  # 5 % of 320 s are 16 s
    plan = compose(recipe("digits"), overrides=SMALL)
    with caplog.at_level(logging.INFO, "pixelloom"):
        training.train(plan, tmp_path)
    assert "validation: on 50 images, every 160 training images" in caplog.text
    assert "estimate: 1 images/s, so 5.3 minutes are needed for about 320 images" in caplog.text
    kept = compose(PixelRun(), file=read_yaml(tmp_path / "config.yaml"))
    assert (kept.validation_images, kept.train.validate_every) == (50, 160)
    monkeypatch.setattr(pace, "_measured", lambda *_: Pace(Costs(1.0, 0.0, 50.0)))  # another machine
    longer = kept.train.model_copy(update={"images": 640})
    training.train(kept.model_copy(update={"train": longer}), tmp_path, resume=True)
    assert compose(PixelRun(), file=read_yaml(tmp_path / "config.yaml")).validation_images == 50
    lines = [line for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if '"val"' in line]
    assert len(lines) == 4
    repeated = tmp_path / "repeated"
    training.train(kept, repeated)
    assert compose(PixelRun(), file=read_yaml(repeated / "config.yaml")) == kept


@pytest.mark.parametrize("asked", [{"validation_images": 30}, {"train.validate_every": 100}])
def test_what_is_asked_for_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]) -> None:
    monkeypatch.setattr(pace, "_measured", lambda *_: Pace(Costs(1.0, 0.0, 50.0)))
    training.train(compose(recipe("digits"), overrides=SMALL | asked), tmp_path)
    kept = compose(PixelRun(), file=read_yaml(tmp_path / "config.yaml"))
    expected = (asked.get("validation_images", 1000), asked.get("train.validate_every"))
    assert (kept.validation_images, kept.train.validate_every) == expected


def test_a_validation_beyond_the_budget_is_given_up_once_there_is_a_model() -> None:
    shown: list[str] = []

    class FakeRun:
        config = config(images=None, minutes=1)
        state = State()
        elapsed = 65.0

    setup = FakeSetup(Clock(), 0.0)
    watch = training._Watch(setup)  # type: ignore[arg-type]
    watch.progress.during = lambda run, what: shown.append(what)  # type: ignore[method-assign]
    watch.on_start(FakeRun)  # type: ignore[arg-type]
    on_images = setup.on_images  # type: ignore[attr-defined]
    on_images(64)
    FakeRun.elapsed = 67.0  # a tenth is allowed
    on_images(128)  # there is no model yet
    FakeRun.state.best = 1.0
    with pytest.raises(BudgetUsedError):
        on_images(192)
    assert shown == [f"validation: {n} of 1,000 images" for n in (64, 128, 192)]


def test_the_measurement_changes_nothing(tmp_path: Path) -> None:
    objective, conf = one_phase(), config(batch=8)
    fabric = make_fabric(conf)
    before = {name: value.clone() for name, value in objective.parts["net"].state_dict().items()}
    torch.manual_seed(3)
    expected = torch.get_rng_state()
    bytes_per_image(objective, next(stream(conf, fabric)(0)), fabric)
    assert torch.equal(torch.get_rng_state(), expected)
    assert all(torch.equal(before[name], value) for name, value in objective.parts["net"].state_dict().items())
    assert drawing.PROBE <= 2
