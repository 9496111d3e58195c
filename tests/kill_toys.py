"""A program that kills a small run of a family again and again, looks at its folder each time, and lets it end.

Half of the kills come from outside at random times; the others from within, at a random flush, rename or removal.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import pixelloom.runs.gan
import pixelloom.runs.pixel  # all is imported before anything is killed
import pixelloom.viz.curves  # noqa: F401
from engine_toys import fork
from pixelloom.core import atomic
from pixelloom.core.errors import PixelloomError
from pixelloom.core.metrics_file import read_metrics
from pixelloom.engine.hooks import MetricsWriter
from pixelloom.engine.safetensors_io import load_tensors
from pixelloom.models.registry import load_model
from pixelloom.runs.compose import compose
from pixelloom.runs.config import GANRun, PixelRun, RunConfig
from pixelloom.runs.folder import CONFIG, METRICS_FILE
from pixelloom.runs.plan import planned
from pixelloom.runs.train import carry_out

BATCH = 8
COMMON = {
    **{"data.source": "digits", "data.limit": "100", "validation_images": "20", "samples": "4"},
    **{"train.batch": str(BATCH), "train.threads": "1", "train.precision": "fp32", "train.device": "cpu"},
    **{"train.validate_every": str(2 * BATCH), "train.sample_every": str(BATCH), "train.ema": "0.1"},
    "train.checkpoint_every": str(BATCH),
}
TINY = {
    "pixel": {"model.channels": "4", "model.hidden": "2", "model.blocks": "1", "model.kernel": "3"},
    "gan": {"data.size": "16", "model.latent": "3", "model.generator_width": "2", "model.discriminator_width": "2"},
}


def config_of(family: str, steps: int) -> RunConfig:
    base: RunConfig = PixelRun() if family == "pixel" else GANRun(network="dcgan")
    return compose(base, overrides=COMMON | TINY[family] | {"train.images": str(steps * BATCH)})


def train(config: RunConfig, out: Path) -> None:
    resume = (out / CONFIG).is_file()
    plan = planned(None, out=out, resume=True)[0] if resume else config
    carry_out(plan, out, resume=resume)


def dies(moment: int) -> None:
    """Kill this process at a flush, rename or removal."""
    ticks = itertools.count()

    def at(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*values: Any, **named: Any) -> Any:
            for when in range(2):  # before and after
                if next(ticks) == moment:
                    os.kill(os.getpid(), signal.SIGKILL)
                if when == 0:
                    result = function(*values, **named)
            return result

        return counted

    os.fsync = at(os.fsync)
    atomic._exchange = at(atomic._exchange)
    shutil.rmtree = at(shutil.rmtree)  # type: ignore[assignment]
    for name in ("replace", "unlink"):
        setattr(Path, name, at(getattr(Path, name)))
    MetricsWriter._write = at(MetricsWriter._write)  # type: ignore[method-assign]


def damage(out: Path) -> list[str]:
    """What cannot be read after a kill. The last line of the metrics may be cut."""
    wrong = []
    for folder in (out / "model", out / "last"):
        if folder.exists():
            try:
                model = load_model(folder)
                about = json.loads((folder / "config.json").read_text())
                assert about["training"]["images"] == model.description.training.images
                assert f"{model.description.training.images:,} images seen" in (folder / "README.md").read_text()
            except (PixelloomError, OSError, ValueError, AssertionError) as error:
                wrong.append(f"{folder.name}: {error!r}")
    for path in (out / "checkpoints").glob("*.safetensors"):
        try:
            load_tensors(path)
        except PixelloomError as error:
            wrong.append(str(error))
    if (out / METRICS_FILE).exists() and read_metrics(out / METRICS_FILE)[1] > 1:
        wrong.append("metrics")
    if (out / CONFIG).exists() and not (out / CONFIG).read_text().endswith("# end of the configuration\n"):
        wrong.append("configuration")
    return wrong


def leftovers(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob(".*"))


def main(argv: Sequence[str]) -> int:
    torch.set_num_threads(1)
    logging.getLogger("pixelloom").setLevel(logging.ERROR)
    family, folder, kills, seed = argv[0], Path(argv[1]), int(argv[2]), int(argv[3])
    out, moments, wrong, cut, killed = folder / "killed", random.Random(seed), [], 0, 0
    config = config_of(family, steps=3 * kills + 20)
    for i in range(kills):
        pid = os.fork()
        if pid == 0:
            if i % 2:
                dies(moments.randrange(150))
            train(config, out)
            os._exit(0)
        if i % 2 == 0:
            time.sleep(moments.uniform(0, 1.5))
            os.kill(pid, signal.SIGKILL)
        moments.random()  # the child's draw
        killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        cut += bool(leftovers(out)) if out.exists() else 0
        wrong += damage(out)
    ends = [os.waitstatus_to_exitcode(os.waitpid(fork(lambda: train(config, out)), 0)[1])]
    ends.append(os.waitstatus_to_exitcode(os.waitpid(fork(lambda: train(config, folder / "whole")), 0)[1]))
    result = {"killed": killed, "cut": cut, "wrong": wrong, "ends": ends, "leftovers": leftovers(out)}
    sys.stdout.write(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
