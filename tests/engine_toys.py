"""Toy objectives for the engine's tests, and a small program that trains them, to be killed, signalled and doubled.

The digits of the toy set are 32 binary 4x4 images whose label is their index, so that it is known who saw what.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from pixelloom.core.errors import PixelloomError
from pixelloom.core.types import Batch, ImageSpec
from pixelloom.data.splits import Split
from pixelloom.data.stream import Stream, batches
from pixelloom.engine.config import TrainConfig
from pixelloom.engine.fabric import make_fabric
from pixelloom.engine.hooks import EverySamples, MetricsWriter, Validate
from pixelloom.engine.loop import fit
from pixelloom.engine.state import Hook, Run, State
from pixelloom.objectives.base import Monitor, Objective, OptimConfig, Phase

N = 32
SPEC = ImageSpec(1, 4, 4, 2)
ADAM = OptimConfig(lr=1e-2, warmup=40, decay="cosine", clip=1.0)


def split() -> Split:
    images = np.random.default_rng(0).integers(0, 2, (N, *SPEC.shape), dtype=np.uint8)
    return Split(images, np.arange(N), levels=SPEC.levels)


def stream(config: TrainConfig, fabric: Fabric) -> Callable[[int], Iterator[Batch]]:
    whole = Stream(split(), SPEC, config.batch, config.seed, fabric.global_rank, fabric.world_size)
    return lambda step: batches(whole, step, workers=config.workers)


def one_phase(dropout: float = 0.2, optim: OptimConfig = ADAM) -> Objective:
    """A denoiser of sorts: one module, one loss."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Dropout(dropout), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
    data = torch.from_numpy(split().all()[0]).float()

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        x = batch.images.float()
        value = F.binary_cross_entropy_with_logits(net(x), x.flip(-1))
        return value, {"bits": value.detach() / np.log(2)}

    def measure(module: nn.Module) -> dict[str, float]:
        return {"bits": F.binary_cross_entropy_with_logits(module(data), data.flip(-1)).item() / np.log(2)}

    return Objective((Phase("net", net, optim, loss),), {"net": net}, "net", Monitor("bits", measure))


def two_phases(optim: OptimConfig = ADAM, interval: int = 1) -> Objective:
    """Two modules against each other, with noise, batch statistics and spectral norm's buffers."""
    torch.manual_seed(2)
    g = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16))
    d = nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(16, 8)), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 1)
    )

    def d_loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        real = batch.images.flatten(1).float()
        loss = F.softplus(d(g(torch.randn(len(real), 3)))).mean() + F.softplus(-d(real)).mean()
        return loss, {"d_loss": loss.detach()}

    def g_loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = F.softplus(-d(g(torch.randn(len(batch.images), 3)))).mean()
        return loss, {"g_loss": loss.detach()}

    def measure(module: nn.Module) -> dict[str, float]:
        drawn = module(torch.linspace(-1, 1, 24).reshape(8, 3))
        return {"gap": abs(drawn.mean().item() - 0.5), "other": 1.0}

    phases = (Phase("D", d, optim, d_loss), Phase("G", g, optim, g_loss, interval))
    return Objective(phases, {"G": g, "D": d}, "G", Monitor("gap", measure))


MUON = ADAM.model_copy(update={"kind": "muon", "betas": (0.95, 0.99), "weight_decay": 0.01})
OBJECTIVES = {"one": one_phase, "two": two_phases, "muon": partial(two_phases, MUON)}


def config(**given: object) -> TrainConfig:
    return TrainConfig.model_validate({"batch": 4, "device": "cpu", "precision": "fp32", "images": 80} | given)


def train(
    objective: Objective, conf: TrainConfig, out: Path | None = None, *hooks: Hook, resume: bool = False
) -> State:
    fabric = make_fabric(conf)
    return fit(objective, stream(conf, fabric), conf, fabric, epoch=N, hooks=hooks, out=out, resume=resume)


@pytest.fixture(autouse=True)
def one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class At(Hook):
    """Calls ``act`` after a step."""

    def __init__(self, step: int, act: Callable[[], object]) -> None:
        self.step, self.act = step, act

    def on_step(self, run: Run, stats: object) -> None:
        if run.state.step == self.step:
            self.act()


def weights(objective: Objective) -> dict[str, Tensor]:
    return {f"{n}/{k}": v.clone() for n, part in objective.parts.items() for k, v in part.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def newest(out: Path) -> Path:
    return max((out / "checkpoints").glob("step-*.safetensors"))


class Steps(Hook):
    def __init__(self, steps: list[int]) -> None:
        self.steps = steps

    def on_step(self, run: Run, stats: object) -> None:
        self.steps.append(run.state.step)


# What follows is the program: ``main(COMMAND, OUT, CONFIG, EXTRA)``, forked, or started anew by Fabric


def seen(conf: TrainConfig, out: Path, misfortune: str) -> None:
    """Train in several processes; each notes the labels it saw. A misfortune strikes rank 1 in the fourth step."""
    if distributed.is_torchelastic_launched():  # started at once, but on a busy machine not there at once
        (out / f"there{os.environ['RANK']}").touch()
        while len(list(out.glob("there*"))) < int(os.environ["WORLD_SIZE"]):
            time.sleep(0.01)
    fabric = make_fabric(conf)
    labels: list[list[int]] = []
    objective = one_phase(dropout=0.0)

    def watched(start: int) -> Iterator[Batch]:
        for batch in stream(conf, fabric)(start):
            labels.append(batch.labels.tolist())
            if fabric.global_rank == 1 and len(labels) == 4:
                {"none": int, "dies": lambda: os._exit(9), "hangs": lambda: time.sleep(600)}[misfortune]()
            yield batch

    hooks = [MetricsWriter(out / "metrics.jsonl", interval=1), Validate()]
    fit(objective, watched, conf, fabric, epoch=N, hooks=hooks, out=out)
    (out / f"rank{fabric.global_rank}.json").write_text(json.dumps(labels))


def plain(conf: TrainConfig, out: Path, waits: str = "never") -> None:
    """Train, or resume. The third step may wait for a "signal", or "beyond" it.

    The file ``going`` says that a step is done, or that one waits, and ``noticed`` that the signal has come: nobody
    has to guess how long that takes on a busy machine.
    """

    class Waiting(Hook):
        steps = 0

        def on_step(self, run: Run, stats: object) -> None:
            self.steps += 1
            if waits == "never":
                (out / "going").touch()
            if waits == "never" or self.steps != 3:
                return
            (out / "going").touch()
            signals = signal.getsignal(signal.SIGINT).__self__
            while not signals.received:
                time.sleep(0.01)
            (out / "noticed").touch()
            if waits == "beyond":
                time.sleep(3600)

    train(one_phase(), conf, out, Waiting(), resume=True)


def given_up(conf: TrainConfig, out: Path, _: str) -> None:
    """SIGINT and SIGTERM, each in a validation and in drawing, which would take an hour; the rest is left to finish.

    Writes the exit codes. The file ``going`` says that the hour has begun.
    """

    def hour() -> None:
        (out / "going").touch()
        time.sleep(3600)

    def run(place: str, resume: bool = True) -> None:
        objective, left = one_phase(), [2]  # the second one takes an hour

        def slow(here: str) -> None:
            left[0] -= here == place
            if here == place and not left[0]:
                hour()

        measure = objective.monitor.measure
        object.__setattr__(objective.monitor, "measure", lambda module: (slow("validation"), measure(module))[1])
        drawing = EverySamples(lambda module, state: slow("drawing"))
        writer = MetricsWriter(out / "metrics.jsonl", interval=1)
        train(objective, conf, out, writer, Validate(), drawing, resume=resume)

    codes = {}
    for place in ("validation", "drawing"):
        for number in (signal.SIGINT, signal.SIGTERM):
            (out / "going").unlink(missing_ok=True)
            pid = fork(lambda place=place: run(place))
            while not (out / "going").exists():
                time.sleep(0.01)
            os.kill(pid, number)
            codes[f"{place} {number.name}"] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    codes["rest"] = exit_code_of(lambda: run("nowhere"))
    sys.stdout.write(json.dumps(codes))


def exit_code_of(act: Callable[[], object]) -> int:
    """As a command line would: a user's error becomes its exit code."""
    try:
        act()
    except PixelloomError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def fork(act: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(exit_code_of(act))
    return pid


def killed(conf: TrainConfig, out: Path, times: str) -> None:
    """Kill a run that saves all the time at random moments; writes how often a save was cut, and each step reached.

    Every other run dies within a save by its own hand, since a kill from outside might come late on a busy machine.
    """
    quick, moments = os.fsync, random.Random(0)

    def fsync(calls: Iterator[int], last: int, file: int) -> None:
        time.sleep(0.02)  # a slow disk
        if next(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        quick(file)

    cut, steps = 0, []
    for i in range(int(times)):
        (out / "going").unlink(missing_ok=True)
        saves = moments.randrange(3) if i % 2 else -1  # that this run may finish; -1: all
        os.fsync = partial(fsync, count(), 2 * saves)  # each save flushes its file, not in place yet, and the folder
        pid = fork(lambda: plain(conf, out))
        if saves < 0:
            while not (out / "going").exists():
                time.sleep(0.002)
            time.sleep(moments.uniform(0, 0.1))
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), "the run ended before it was killed"
        files = list((out / "checkpoints").iterdir())
        cut += any(f.suffix == ".part" for f in files)
        steps.append(max((int(f.stem.removeprefix("step-")) for f in files if f.name.startswith("step-")), default=0))
    sys.stdout.write(json.dumps({"cut": cut, "steps": steps}))


def signalled(conf: TrainConfig, out: Path, _: str) -> None:
    """SIGTERM, SIGINT, SIGHUP, SIGUSR1, two and five SIGINT; writes the exit codes. The last run is left to finish."""
    codes = {}
    kinds = {"term": [15], "int": [2], "hup": [1], "usr1": [10], "twice": [2, 2], "five": [2] * 5}
    for name, numbers in kinds.items():
        for note in ("going", "noticed"):
            (out / note).unlink(missing_ok=True)
        waits = "beyond" if len(numbers) > 1 else "signal"
        pid = fork(lambda waits=waits: plain(conf, out, waits))
        for number, note in zip(numbers, ("going", *("noticed",) * 4), strict=False):
            while not (out / note).exists():
                time.sleep(0.01)
            os.kill(pid, number)
        codes[name] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    codes["rest"] = exit_code_of(lambda: plain(conf, out))
    sys.stdout.write(json.dumps(codes))


def main(argv: Sequence[str]) -> int:
    torch.set_num_threads(1)
    name, out, given, extra = argv
    command = {"seen": seen, "killed": killed, "signalled": signalled, "given_up": given_up}[name]
    return exit_code_of(lambda: command(config(**json.loads(given)), Path(out), extra))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
