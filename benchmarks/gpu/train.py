"""Trains a likelihood recipe in slices of a few minutes, each going on exactly where the one before stopped.

    python benchmarks/gpu/train.py --recipe binarized-mnist --slice-minutes 9 --total-images 20000000 --data-root DATA

Repeat the same command until it prints ``"done": true``. The budget is counted in images, so learning rate and weight
average follow the whole run, not the slice, and the slices end with the same bits as one uninterrupted run. Where the
machine forgets the run folder, take the small folder ``--parcel`` away after each slice and give it to the next one by
``--restore``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from parcel import pack, state_of, unpack

from pixelloom.core.errors import PixelloomError, UsageError
from pixelloom.engine.signals import Interrupted
from pixelloom.models.pixel import load_pixel
from pixelloom.runs.compose import compose, read_yaml
from pixelloom.runs.config import PixelRun, RunConfig
from pixelloom.runs.evaluate import likelihood_of
from pixelloom.runs.folder import CONFIG
from pixelloom.runs.recipes import PIXEL_RUNS, recipe
from pixelloom.runs.train import train

SETTINGS: dict[str, dict[str, Any]] = {
    # Small images leave a large GPU idle at the recipes' batches. The rate stays (Adam's step hardly depends on the
    # batch), the warm-up keeps its number of steps and so grows with the batch. Not tuned yet.
    "binarized-mnist": {"train.batch": 256, "optim.warmup": 32_000},
    "mnist-gray": {"train.batch": 512, "optim.lr": 2e-3, "optim.warmup": 50_000, "optim.decay": "cosine"},
    "rgb": {"train.batch": 256, "optim.warmup": 50_000, "optim.decay": "cosine"},
}
RESERVE = 40.0  # seconds of a slice for starting, saving and packing; of short slices a tenth


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Options of a slice."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", choices=list(PIXEL_RUNS), required=True)
    parser.add_argument("--total-images", type=int, required=True, help="budget of the whole run; the schedule follows")
    parser.add_argument("--slice-minutes", type=float, default=9.0, help="when this command is to be over")
    parser.add_argument("--out", type=Path, help="run folder; default: runs/RECIPE")
    parser.add_argument("--data-root", type=Path, help="holds NAME/FILES of the data; default: $PIXELLOOM_DATA")
    parser.add_argument("--parcel", type=Path, help="small folder to take away; default: OUT/parcel")
    parser.add_argument("--restore", type=Path, help="parcel of an earlier slice to go on from")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="such as model.dropout=0.1")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--plan", action="store_true", help="print what would be done, do nothing")
    options = parser.parse_args(arguments)
    options.out = options.out or Path("runs") / options.recipe
    options.parcel = options.parcel or options.out / "parcel"
    return options


def config_of(options: argparse.Namespace) -> RunConfig:
    """The recipe with its settings for a GPU, the budget and the overrides, later ones first."""
    given = dict(item.partition("=")[::2] for item in options.set)
    budget = {"train.images": options.total_images, "train.epochs": None, "train.minutes": None}
    place = {"train.device": options.device, "data.root": options.data_root and str(options.data_root)}
    overrides = SETTINGS.get(options.recipe, {}) | budget | place | given
    found = compose(recipe(options.recipe), overrides=overrides)
    return found.model_copy(update={"validation_images": found.validated})  # not chosen by the time of a slice


def check_same(config: RunConfig, out: Path) -> None:
    """Refuse to go on with other settings than the run was begun with; the place of the data may change.

    Raises UsageError naming the fields that differ.
    """
    if not (out / CONFIG).exists():
        return
    before, now = fields(PixelRun.model_validate(read_yaml(out / CONFIG))), fields(config)
    if changed := sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)):
        told = ", ".join(f"{name} was {before.get(name)}, now {now.get(name)}" for name in changed)
        raise UsageError(f"{out}: was begun with other settings: {told}; repeat those or choose another --out")


def fields(config: RunConfig) -> dict[str, Any]:
    """The settings by dotted name."""
    tree = config.model_dump(mode="json", exclude={"data": {"root", "cache"}})
    nested = {name: value for name, value in tree.items() if isinstance(value, dict)}
    flat = {name: value for name, value in tree.items() if name not in nested}
    return flat | {f"{section}.{name}": value for section, part in nested.items() for name, value in part.items()}


def take_slice(config: RunConfig, out: Path, seconds: float) -> bool:
    """Train for at most so long; whether the run is done. The engine's own way of stopping is used: a signal.

    Raises Interrupted if someone else sent one.
    """
    rung = threading.Event()

    def ring() -> None:
        rung.set()
        os.kill(os.getpid(), signal.SIGTERM)

    def stop(number: int, _: FrameType | None) -> NoReturn:
        raise Interrupted("stopped before or after training", 128 + number)

    # Outside the rounds, where the engine listens, a signal must not end the process before the run is packed.
    before = signal.signal(signal.SIGTERM, stop)
    timer = threading.Timer(seconds, ring)
    timer.daemon = True
    timer.start()
    try:
        train(config, out, resume=True)
    except Interrupted as stopped:
        if not rung.is_set():
            raise
        logging.getLogger("pixelloom").info("%s", stopped)
        return False
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)
    return True


def test_results(config: RunConfig, out: Path) -> dict[str, Any]:
    """The test split under the model that validation chose."""
    model = load_pixel(out / "model").to(config.train.device)
    found, data = likelihood_of(model, config.data, "test")
    return {"split": "test", "data": data.name, "note": data.note} | found.as_dict()


def main(arguments: list[str] | None = None) -> int:
    """One slice; prints one JSON line with how far the run is, and the test figures once it is done."""
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    seconds = 60 * options.slice_minutes
    seconds -= min(RESERVE, seconds / 10)
    try:
        config = config_of(options)
        if options.plan:
            plan = {"recipe": options.recipe, "settings": SETTINGS.get(options.recipe, {}), "stop_after_s": seconds}
            print(json.dumps(plan | {"out": str(options.out), "state": state_of(options.out)}))
            return 0
        if options.restore:
            unpack(options.restore, options.out)
        check_same(config, options.out)
        done, code = False, 0
        try:
            done = take_slice(config, options.out, seconds)
        except Interrupted as stopped:
            code = stopped.exit_code
        label = pack(options.out, options.parcel)
        figures = {"test": test_results(config, options.out)} if done else {}
    except PixelloomError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps({"recipe": options.recipe, "done": done, "total_images": options.total_images} | label | figures))
    return code


if __name__ == "__main__":
    sys.exit(main())
