"""The command line: what it writes where, its exit codes, and that it never destroys or swallows anything."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import pixelloom
from commands import Command, caller
from forks import Server, server
from pixelloom.cli import app, outputs
from pixelloom.cli import sample as drawing
from pixelloom.cli.console import memory
from pixelloom.cli.options import DrawOptions
from pixelloom.cli.training_options import DataOptions, FieldOptions, TrainOptions
from pixelloom.core.errors import ModelError
from pixelloom.core.types import ImageSpec
from pixelloom.data.catalog import DATASETS
from pixelloom.data.config import DataConfig
from pixelloom.data.pixels import quantize
from pixelloom.engine.config import TrainConfig
from pixelloom.models.pixel import PixelModel
from pixelloom.models.pretrained import MODELS
from pixelloom.networks import GAN_NETWORKS, PIXEL_NETWORKS
from pixelloom.runs import locate
from pixelloom.runs.compose import compose
from pixelloom.runs.config import GANRun, PixelRun
from pixelloom.runs.recipes import RECIPES, recipe
from pixelloom.sampling.fast import sampler
from pixelloom.viz import grid as plots
from small_models import TINY, flat, save_run

DIGITS = ImageSpec(1, 8, 8, 17)
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PIXELLOOM_OFFLINE": "1"}
COMMANDS = (
    "train",
    "sample",
    "complete",
    "score",
    "evaluate",
    "compare",
    "attention",
    "interpolate",
    "explain",
    "info",
    "inspect",
    "list",
    "config",
    "export",
    "compress",
    "decompress",
    "test",
    "studio",
    "push",
    "pull",
    "doctor",
)
QUICK = [f"--{field}={value}" for field, value in TINY.items()]
QUICK += ["--samples=0", "--train.validate-every=1000", "--train.sample-every=1000000"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """``run("train", "digits")``: the command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXELLOOM_OFFLINE", "1")
    monkeypatch.setenv("PIXELLOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PIXELLOOM_DATA", raising=False)

    return caller(capsys)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Runs commands in processes of their own."""
    with server("cli_program", tmp_path_factory.mktemp("forks")) as forks:
        yield forks


@pytest.fixture
def model(run: Command) -> PixelModel:
    """``runs/flat``: every one of 17 levels equally likely."""
    found = flat(DIGITS, DataConfig().model_dump(mode="json"))
    save_run(found, Path("runs/flat"))
    return found


@pytest.fixture
def lively(run: Command) -> PixelModel:
    """``runs/lively``: random weights, so that each pixel depends on those before it."""
    found = flat(DIGITS, DataConfig().model_dump(mode="json"))
    torch.manual_seed(0)
    for parameter in found.network.parameters():
        torch.nn.init.normal_(parameter, 0, 0.5)
    save_run(found, Path("runs/lively"))
    return found


# --------------------------------------------------------------------------------------------------- parse, help


LIGHT: list[list[str]] = [
    ["--help"],
    ["train", "--help"],
    ["sample", "--help"],
    ["compare", "--help"],
    ["--version"],
    ["train", "--minuts", "3"],
    [],
]
"""Command lines that are answered by what is imported anyhow; one process answers all."""


def test_nothing_heavy_is_imported_before_a_command_runs() -> None:
    heavy = {"torch", "numpy", "matplotlib", "yaml", "PIL", "lightning_fabric", "jinja2"}
    program = (
        f"import sys; from pixelloom.cli import main\n"
        f"for argv in {LIGHT}: main(argv); print(argv, sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert [line for line in done.stdout.splitlines() if line in {f"{argv} []" for argv in LIGHT}] == [
        f"{argv} []" for argv in LIGHT
    ]


def test_help_lists_every_command_and_option(run: Command) -> None:
    said = run("--help")
    assert said.code == 0
    for command in COMMANDS:
        assert f" {command} " in said.out
        assert run(command, "--help").code == 0
    text = run("train", "--help").out
    for word in ("RECIPE|NETWORK", "--minutes", "--levels", "--resume", "--force", "--model.channels 64", "fp32, bf16"):
        assert word in text
    assert run("--version").out == f"{pixelloom.__version__}\n"


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ("tran digits", ['"train"']),
        ("train digits --minuts 3", ["--minutes", "pixelloom train --help"]),
        ("train digits --model.chanels 64", ["'channels'", "model.chanels"]),
        ("train digits --model.chanels=64", ["'channels'"]),
        ("train digits --modl.channels 64", ["--model"]),
        ("train digits --train.bach 64", ["'batch'"]),
        ("train digts", ["'digits'", "pixelcnn"]),
        ("train digits --precision fp31", ['"fp32"', '"bf16"']),
        ("train digits --levels 999", ["--levels", "<= 256", "999"]),
        ("train digits --levels x", ["--levels"]),
        ("train digits --binarize dynamc", ["data.binarize", "dynamic", "'dynamc'"]),
        ("train digits --seed -1", ["--seed", ">= 0", "-1"]),
        ("train digits --minutes 0", ["--minutes", "> 0"]),
        ("train digits --model.channels", ["--model.channels"]),
        ("train digits --model.kernel 4", ["odd side such as 5"]),
        ("train digits --levels 4 --data.levels 5", ["data.levels", "given twice"]),
        ("train digits --config absent.yaml", ["absent.yaml", "No such file"]),
        ("train digits --resume --force", ["choose one"]),
        ("train digits extra", ["extra"]),
        ("train", ["name your images", "train --data FOLDER"]),
        ("list recipe", ["'recipes'", ".pxl"]),
        ("config rbg", ["'rgb'"]),
        ("sample", ["MODEL"]),
        ("evaluate flat --split tst", ['"test"']),
        ("evaluate flat --limit 0", ["--limit"]),
        ("sample flat -n 0", ["for -n. Must be >= 1."]),
        ("sample flat -n -3", ["for -n. Must be >= 1."]),
        ("sample flat --batch 0", ["--batch: auto or", "1 or more", "'0'"]),
        ("sample flat --batch foo", ["--batch: auto or", "'foo'"]),
        ("sample flat --batch 2.5", ["--batch: auto or", "'2.5'"]),
        ("sample flat --first -1", ["first"]),
        ("sample flat --columns 0", ["--columns"]),
        ("sample flat --scale 0", ["--scale"]),
        ("sample flat --seed -1", ["seed"]),
        ("sample flat --temperature 0", ["temperature"]),
        ("sample flat --temperature nan", ["temperature"]),
        ("sample flat --method fats", ['Did you mean "fast"?', '"plain"']),
        ("sample flat --precision fp8", ["--precision", '"fp32"', '"bf16"', '"fp64"']),
        ("sample flat --npy x --out x", ["name two files"]),
        ("sample flat -n 2000000", ["2000000 images", "too many to be opened"]),
        ("sample flat -n 400000 --scale 2", ["too many to be opened"]),
        ("sample flat --each README.txt", ["is a file; name a folder"]),
        ("sample flat --npy README.txt/x.npy", ["README.txt: cannot be created"]),
        ("sample flat --keep-rows 3", ["--given"]),
        ("sample flat --out .", ["is a folder"]),
        ("info flat --position 1,1", ["--receptive-field"]),
        ("info flat --receptive-field x.png --position 8,0", ["rows 0 to 7", "columns 0 to 7", "'8,0'"]),
        ("info flat --receptive-field x.png --position -1,0", ["--position", "'-1,0'"]),
        ("info flat --receptive-field x.png --position 3", ["ROW,COLUMN", "'3'"]),
        ("info flat --receptive-field x.png --position a,b", ["ROW,COLUMN", "'a,b'"]),
        ("info flat --receptive-field .", ["is a folder"]),
        ("info flat --receptive-field kept.png", ["exists already", "--force"]),
        ("info flat --receptive-field README.txt/x.png", ["README.txt: cannot be created"]),
    ],
)
def test_wrong_usage_is_told_in_a_line_and_writes_nothing(
    argv: str, parts: list[str], run: Command, model: PixelModel
) -> None:
    for name in ("README.txt", "kept.png"):
        Path(name).write_text("mine")
    before = sorted(Path().rglob("*"))
    said = run(*argv.split())
    assert said.code == 2
    assert said.out == ""
    assert said.err.splitlines()[-1].startswith("pixelloom: ")
    assert "Traceback" not in said.err
    assert len(said.err.splitlines()) <= 2  # the device may have been named before
    for part in parts:
        assert part in said.err
    assert sorted(Path().rglob("*")) == before


def test_the_page_on_the_command_line_is_true(run: Command) -> None:
    page = (Path(__file__).parents[1] / "docs/command-line.md").read_text()
    commands = [line for line in page.splitlines() if line.startswith("pixelloom ")]
    assert len(commands) > 10
    for line in commands:
        app.parse_args(shlex.split(line)[1:], exit_on_error=False, print_error=False)
    told = set(re.findall(r"`(--[a-z][a-z-]*)", page))
    help_texts = [run(name, "--help").out for name in COMMANDS]
    there = {word for text in help_texts for word in re.findall(r"(?<![\w.-])--[a-z][a-z-]*(?=[ ,])", text)}
    assert told - {"--help", "--debug", "--verbose", "--nproc-per-node"} - there == set()
    assert there - told - {"--no-gray", "--model", "--head", "--optim", "--train"} == set()


def test_no_device_is_substituted_in_silence(run: Command, model: PixelModel) -> None:
    if torch.cuda.is_available():
        pytest.skip("CUDA is here")
    for command in ("train digits", "sample flat", "evaluate flat", "compare flat"):
        said = run(*command.split(), "--device", "cuda")
        assert said.code == 2
        assert "no CUDA device here; available: 'cpu'" in said.err


def test_a_name_that_is_neither_data_nor_path_is_an_error_of_data(run: Command, model: PixelModel) -> None:
    said = run("evaluate", "flat", "--data", "nothing-of-this-name")
    assert said.code == 3
    assert "no data set or path is named 'nothing-of-this-name'" in said.err
    assert ".png .jpg" in said.err
    assert ".zip .tar .npz" in said.err


def test_options_are_fields_of_the_configuration_with_the_same_choices() -> None:
    fields = (DataConfig.model_fields, TrainConfig.model_fields, GANRun.model_fields | PixelRun.model_fields)
    for options, known in zip((DataOptions, TrainOptions, FieldOptions), fields, strict=True):
        names = {"data": "source", "data_root": "root"} if options is DataOptions else {}
        for name, hint in typing.get_type_hints(options).items():
            field = known[names.get(name, name)]
            if "Literal" in str(hint):
                assert choices(hint) == choices(field.annotation), name


def choices(hint: Any) -> set[Any]:
    arms = [arm for arm in (hint, *typing.get_args(hint)) if typing.get_origin(arm) is typing.Literal]
    return {choice for arm in arms for choice in typing.get_args(arm)}


def test_debug_shows_the_traceback_and_nothing_else_does(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    said = run("sample", "absent", "--debug")
    assert said.code == 4
    assert "Traceback" in said.err
    assert "ModelError" in said.err

    def broken(_: str) -> Path:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(locate, "find", broken)
    said = run("info", "x")
    assert said.code == 1
    assert "ZeroDivisionError: division by zero" in said.err
    assert "--debug" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (MemoryError(), 2, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ModelError("x is damaged"), 4, "x is damaged"),
        (PermissionError(13, "Permission denied", "/root/x"), 2, "/root/x: Permission denied"),
    ],
)
def test_exit_codes(error: BaseException, code: int, word: str, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> Path:
        raise error

    monkeypatch.setattr(locate, "find", broken)
    said = run("info", "x")
    assert said.code == code
    assert said.err == f"pixelloom: {word}\n" or word in said.err
    assert "Traceback" not in said.err


def test_the_log_is_left_as_it_was_found(run: Command) -> None:
    logger = logging.getLogger("pixelloom")
    before = (list(logger.handlers), logger.level)
    run("list")
    run("info", "absent")
    assert (logger.handlers, logger.level) == before


@pytest.mark.parametrize("buffered", [True, False])
def test_a_closed_pipe_ends_quietly(buffered: bool) -> None:
    command = [sys.executable, "-m", "pixelloom", "list", "datasets"]
    environment = ENVIRONMENT | {"PYTHONUNBUFFERED": "" if buffered else "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # the reader leaves before anything is written
    assert process.stderr.read() == b""
    assert process.wait() == 0


# ----------------------------------------------------------------------------------------------------------- list


def test_the_lists_hold_the_tables(run: Command) -> None:
    tables = {
        "recipes": ("recipe", RECIPES),
        "networks": ("network", PIXEL_NETWORKS | GAN_NETWORKS),
        "datasets": ("dataset", DATASETS),
        "models": ("model", MODELS),
    }
    for kind, (key, table) in tables.items():
        assert [row[key] for row in json.loads(run("list", kind, "--json").out)] == list(table)
        assert [line.split()[0] for line in run("list", kind).out.splitlines()] == [key, *table]
    assert list(json.loads(run("list", "--json").out)) == list(tables)
    assert len(run("list").out.splitlines()) == sum(len(table) + 2 for _, table in tables.values()) - 1


@pytest.mark.parametrize("name", [*RECIPES, *PIXEL_NETWORKS, *GAN_NETWORKS])
def test_a_printed_recipe_is_that_recipe(name: str, run: Command) -> None:
    for printed in (yaml.safe_load(run("config", name).out), json.loads(run("config", name, "--json").out)):
        assert compose(PixelRun(), file=printed) == recipe(name)


# ---------------------------------------------------------------------------------------------------------- train


def test_train_sample_evaluate_info(run: Command) -> None:
    said = run("train", "digits", "--images", 200, *QUICK, "--data.limit", 500, "--levels=4", "--optim.lr", "1e-3")
    assert (said.code, said.out) == (0, "runs/digits\n")  # results alone on stdout
    assert "validation after" in said.err
    settings = yaml.safe_load(Path("runs/digits/config.yaml").read_text())
    assert (settings["data"]["levels"], settings["data"]["limit"], settings["optim"]["lr"]) == (4, 500, 1e-3)
    assert (settings["train"]["images"], settings["train"]["epochs"]) == (200, None)
    assert run("sample", "runs/digits", "-n", 2).out == "samples.png\n"
    facts = json.loads(run("evaluate", "digits", "--json").out)
    assert facts["levels"] == 4
    assert 0 < facts["bits_per_dim"] < 2
    assert "images      1x8x8 with 4 levels" in run("info", "digits").out

    said = run("train", "digits", "--out", "runs/digits", "--images", 200, *QUICK)
    assert said.code == 2
    assert "--resume" in said.err
    assert "--force" in said.err
    said = run("train", "--config", "runs/digits/config.yaml", "--out", "again")
    assert (said.code, said.out) == (0, "again\n")
    assert Path("again/config.yaml").read_bytes() == Path("runs/digits/config.yaml").read_bytes()
    assert tensors("again") == tensors("runs/digits")
    assert run("train", "digits", "--resume", "--images", 300).code == 0
    assert yaml.safe_load(Path("runs/digits/config.yaml").read_text())["train"]["images"] == 300
    said = run("train", "digits", "--force", "--images", 32, *QUICK)
    assert said.code == 0
    assert "runs/digits: removed the run that was there" in said.err


def tensors(name: str) -> dict[str, list[float]]:
    state = pixelloom.load(name).network.state_dict()
    return {key: value.flatten().tolist() for key, value in state.items()}


def test_a_folder_whose_name_is_a_number(run: Command) -> None:
    np.save("2024.npy", np.random.default_rng(0).integers(0, 4, (40, 4, 4)).astype(np.uint8))
    Path("2024").mkdir()
    for i in range(20):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (4, 4)).astype(np.uint8)).save(f"2024/{i}.png")
    said = run("train", "pixelcnn", "--data", "2024", "--images", 64, *QUICK)
    assert said.code == 0, said.err
    assert yaml.safe_load(Path("runs/pixelcnn-2024/config.yaml").read_text())["data"]["source"] == "2024"


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ("--data mnist", ["mnist", "train-images-idx3-ubyte.gz", "PIXELLOOM_DATA"]),
        ("--data ./absent", ["absent: no such file or folder"]),
        ("--data empty", ["empty: no image found", ".png"]),
    ],
)
def test_data_that_are_not_there(argv: str, parts: list[str], run: Command) -> None:
    Path("empty").mkdir()
    said = run("train", "digits", *argv.split())
    assert said.code == 3
    assert all(part in said.err for part in parts)
    assert not Path("runs").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_go_on(
    number: signal.Signals, code: int, tmp_path: Path, programs: Server
) -> None:
    process = programs.start("train", "digits", "--epochs", "10000", *QUICK, cwd=tmp_path, **ENVIRONMENT)
    metrics = tmp_path / "runs/digits/metrics.jsonl"
    while not (metrics.is_file() and metrics.stat().st_size):
        assert process.poll() is None
        time.sleep(0.05)
    process.send(number)
    returned, _, err = process.wait()
    assert returned == code
    assert f"stopped by {number.name}" in err
    assert "--resume" in err
    assert "Traceback" not in err
    assert list((tmp_path / "runs/digits/checkpoints").glob("step-*.safetensors"))
    assert not list(tmp_path.rglob("*.part"))


# --------------------------------------------------------------------------------------------------------- sample


def read(path: str | Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_the_same_seed_is_the_same_picture_at_any_batch(run: Command, model: PixelModel) -> None:
    assert run("sample", "flat", "-n", 5, "--seed", 7, "--out", "a.png", "--npy", "a.npy").out == "a.png\na.npy\n"
    assert run("sample", "flat", "-n", 5, "--seed", 7, "--out", "b.png", "--batch", 2).code == 0
    assert run("sample", "flat", "-n", 5, "--seed", 8, "--out", "c.png").code == 0
    assert np.array_equal(read("a.png"), read("b.png"))
    assert not np.array_equal(read("a.png"), read("c.png"))
    images = np.load("a.npy")
    assert np.array_equal(images, model.sample(5, seed=7).numpy())
    assert np.array_equal(read("a.png"), np.asarray(plots.grid(images, 17)))
    run("sample", "flat", "-n", 2, "--seed", 7, "--first", 3, "--npy", "tail.npy")
    assert np.array_equal(np.load("tail.npy"), images[3:])
    assert not Path("samples.png").exists()  # --npy alone


def test_the_shape_of_the_grid(run: Command, model: PixelModel) -> None:
    run("sample", "flat", "-n", 6, "--columns", 3, "--scale", 2)
    images = model.sample(6, seed=0).numpy()
    assert np.array_equal(read("samples.png"), np.asarray(plots.grid(images, 17, columns=3, scale=2)))


def test_single_pictures_hold_the_levels(run: Command, model: PixelModel) -> None:
    said = run("sample", "flat", "-n", 3, "--first", 2, "--each", "new/singles", "--npy", "all.npy")
    assert said.out == "new/singles\nall.npy\n"
    images = np.load("all.npy")
    assert sorted(path.name for path in Path("new/singles").iterdir()) == ["00002.png", "00003.png", "00004.png"]
    for i, image in enumerate(images):
        assert np.array_equal(quantize(read(f"new/singles/{i + 2:05d}.png"), 256, 17), image[0])


def test_nothing_is_overwritten_without_force(run: Command, model: PixelModel) -> None:
    Path("mine.png").write_text("mine")
    Path("mine.npy").write_text("mine")
    Path("singles").mkdir()
    Path("singles/00001.png").write_text("mine")
    for target in (["--out", "mine.png"], ["--npy", "mine.npy"], ["--each", "singles"]):
        said = run("sample", "flat", "-n", 2, *target)
        assert said.code == 2
        assert "exists already" in said.err
        assert "--force" in said.err
    assert Path("mine.png").read_text() == Path("singles/00001.png").read_text() == "mine"
    assert list(Path("singles").iterdir()) == [Path("singles/00001.png")]
    assert run("sample", "flat", "-n", 2, "--out", "mine.png", "--force").code == 0
    assert read("mine.png").shape


def test_a_picture_is_completed_below_the_rows_that_are_kept(run: Command, model: PixelModel) -> None:
    run("sample", "flat", "-n", 1, "--seed", 5, "--each", "given")
    known = quantize(read("given/00000.png"), 256, 17)
    for option, rows in (([], 4), (["--keep-rows", 2], 2), (["--keep-rows", 8], 8), (["--keep-rows", 0], 0)):
        said = run("sample", "flat", "-n", 3, "--given", "given/00000.png", *option, "--npy", "out.npy", "--force")
        assert said.code == 0
        found = np.load("out.npy")[:, 0]
        assert (found[:, :rows] == known[:rows]).all()
        assert rows == 8 or len(np.unique(found[:, rows:], axis=0)) == 3  # the rest is drawn anew
    said = run("sample", "flat", "--given", "given/00000.png", "--out", "given/00000.png", "--force")
    assert said.code == 2
    assert "write to another file" in said.err
    assert run("sample", "flat", "--given", "given/00000.png", "--keep-rows", 9).code == 2
    Path("text.png").write_text("no picture")
    assert run("sample", "flat", "--given", "text.png").code == 3
    assert run("sample", "flat", "--given", "absent.png").code == 3


def test_every_way_of_drawing_gives_the_same_pictures(run: Command, lively: PixelModel) -> None:
    truth = lively.sample(5, seed=3, method="plain").numpy()
    assert len(np.unique(truth.reshape(5, -1), axis=0)) == 5
    for name, options in (
        ("auto", []),
        ("two", ["--batch", 2]),
        ("plain", ["--method", "plain", "--batch", 3]),
        ("double", ["--precision", "fp64"]),
    ):
        assert run("sample", "lively", "-n", 5, "--seed", 3, "--npy", f"{name}.npy", *options).code == 0
        assert np.array_equal(np.load(f"{name}.npy"), truth), name
    half = lively.sample(5, seed=3, precision="bf16").numpy()
    assert (half != truth).any()  # 8 bits of a factor do move a pixel
    assert run("sample", "lively", "-n", 5, "--seed", 3, "--npy", "half.npy", "--precision", "bf16").code == 0
    assert np.array_equal(np.load("half.npy"), half)


def test_what_drawing_takes_is_said(run: Command, lively: PixelModel) -> None:
    # Two 3x3 layers: a pixel waits for the one that is up and to the right, so pixel (y, x) is drawn at step x + 2 y.
    each = memory(lively.fast_sampler().bytes_per_image)
    assert f"22 steps for 64 pixels, {each} per image, batches of 3 images\n" in run("sample", "lively", "-n", 3).err
    assert "per image, batches of 2 images" in run("sample", "lively", "-n", 3, "--batch", 2, "--force").err
    run("sample", "lively", "-n", 1, "--each", "given")
    # With the upper half given, the lower four rows take 7 + 2 * 3 steps after the first.
    said = run("sample", "lively", "-n", 1, "--given", "given/00000.png", "--force")
    assert "14 steps for 32 pixels" in said.err
    said = run("sample", "lively", "-n", 1, "--given", "given/00000.png", "--keep-rows", 8, "--force")
    assert "0 steps for 0 pixels" in said.err
    said = run("sample", "lively", "-n", 70, "--method", "plain", "--force")
    assert "64 passes of the network, batches of 64 images" in said.err


def test_a_batch_is_as_large_as_the_memory_allows(
    run: Command, lively: PixelModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = batches_of(monkeypatch)
    monkeypatch.setattr(sampler, "MEMORY", 3 * lively.fast_sampler().bytes_per_image)
    assert "batches of 3 images" in run("sample", "lively", "-n", 7, "--npy", "a.npy", "--device", "cpu").err
    assert batches == [3, 3, 1]
    monkeypatch.setattr(drawing, "_HELD", 4 * 64)  # bytes: one call of the sampler returns no more than four images
    run("sample", "lively", "-n", 7, "--npy", "b.npy", "--batch", 2)
    assert np.array_equal(np.load("a.npy"), np.load("b.npy"))


def batches_of(monkeypatch: pytest.MonkeyPatch, before: Callable[[int], None] = lambda n: None) -> list[int]:
    """How many images the fast sampler is asked for, batch by batch; ``before`` is called with each number."""
    sample, asked = sampler.FastSampler.sample, list[int]()

    def watched(self: sampler.FastSampler, noise: torch.Tensor, **settings: Any) -> torch.Tensor:
        asked.append(len(noise))
        before(len(noise))
        return sample(self, noise, **settings)

    monkeypatch.setattr(sampler.FastSampler, "sample", watched)
    return asked


def test_a_batch_is_on_disk_before_the_next_begins(
    run: Command, model: PixelModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def look(_: int) -> None:
        (part,) = Path().glob(".all.npy.*.part")
        seen.append((len(list(Path("singles").glob("*.png"))), part.stat().st_size - 128))

    batches_of(monkeypatch, look)
    assert run("sample", "flat", "-n", 7, "--batch", 3, "--each", "singles", "--npy", "all.npy").code == 0
    assert seen == [(0, 0), (3, 3 * 64), (6, 6 * 64)]


def test_an_array_is_the_file_that_numpy_writes(run: Command, model: PixelModel) -> None:
    run("sample", "flat", "-n", 7, "--batch", 3, "--npy", "all.npy")
    np.save("truth.npy", model.sample(7, seed=0).numpy())
    assert Path("all.npy").read_bytes() == Path("truth.npy").read_bytes()


@pytest.mark.parametrize(
    "given",
    [
        DrawOptions(),
        DrawOptions(number=7, first=3, out=Path("a b.png"), force=True, keep_rows=0, batch=4, scale=2),
        DrawOptions(npy=Path("x.npy"), method="plain", precision="bf16", temperature=0.7, given=Path("it's.png")),
    ],
)
def test_options_as_they_are_written(given: DrawOptions) -> None:
    _, bound, _ = app.parse_args(["sample", "flat", *given.words()], exit_on_error=False, print_error=False)
    assert bound.arguments.get("options", DrawOptions()) == given


def test_threads_that_are_asked_for_are_taken(run: Command, model: PixelModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """And without --threads what pays, of what may be used: here one, as torch is set to."""
    asked: list[int] = []
    right = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda n: (asked.append(n), right(n)))
    draw = ("sample", "flat", "--device", "cpu", "--force", "-n", 2)
    for options, numbers in (((), {1}), (("--threads", 2), {1, 2}), (("--threads", 2, "--method", "plain"), {1, 2})):
        asked.clear()
        assert run(*draw, *options).code == 0
        assert set(asked) == numbers
        assert torch.get_num_threads() == 1  # put back
    assert "threads: 2 (as set)" in run(*draw, "--threads", 2).err
    assert "threads: 2 (as set)" in run("evaluate", "flat", "--threads", 2, "--device", "cpu").err
    monkeypatch.setattr(pixelloom.core.threads, "usable", lambda: 3)
    right(3)
    assert "threads: 1 to 3, chosen by measured time" in run(*draw).err
    right(1)
    for command in (draw, ("evaluate", "flat")):
        refused = run(*command, "--threads", 0)
        assert refused.code == 2
        assert "for --threads. Must be >= 1." in refused.err


def test_a_batch_that_does_not_fit_is_halved(run: Command, model: PixelModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model.sample(7, seed=0).numpy()

    def small(n: int) -> None:
        if n > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    asked = batches_of(monkeypatch, small)
    said = run("sample", "flat", "-n", 7, "--npy", "x.npy")
    assert said.code == 0
    assert "out of memory with batches of 7 images; continuing with --batch 3" in said.err
    assert asked == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    assert np.array_equal(np.load("x.npy"), whole)

    def none(n: int) -> None:
        raise MemoryError

    batches_of(monkeypatch, none)
    said = run("sample", "flat", "-n", 7, "--npy", "y.npy")
    assert said.code == 2
    assert "out of memory with a single image" in said.err
    assert not list(Path().glob("*y.npy*"))


# ------------------------------------------------------------------------------------------- sample, interrupted


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Do something at a step of the drawing, counted over all batches."""
    show, steps = drawing.Meter.show, iter(range(1, 10**6))

    def watched(self: Any, done: float, note: str = "") -> None:
        show(self, done, note)
        if next(steps) == number:
            act()

    monkeypatch.setattr(drawing.Meter, "show", watched)


def kick(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def goes_on(err: str) -> list[str]:
    """The command that an interrupted one says would go on."""
    (command,) = re.findall(r"continue with: pixelloom (.*)", err)
    return shlex.split(command)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("method", ["fast", "plain"])
def test_an_interrupt_keeps_what_is_done_and_the_rest_can_follow(
    number: signal.Signals, code: int, method: str, run: Command, lively: PixelModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = lively.sample(7, seed=5, first=10, temperature=0.9).numpy()
    steps = {"fast": 22, "plain": 8}[method]  # of a batch
    command = ["sample", "lively", "-n", 7, "--seed", 5, "--first", 10, "--temperature", 0.9, "--batch", 2]
    command += ["--method", method, "--npy", "all.npy", "--each", "singles", "--out", "a grid.png"]
    with monkeypatch.context() as patch:
        at_step(patch, 2 * steps + 3, kick(number))  # in the third batch
        said = run(*command)
    assert (said.code, said.out) == (code, "")
    assert said.err.splitlines()[-2].startswith("kept 4 of 7 images in all.npy, a grid.png, singles; continue with: ")
    assert said.err.splitlines()[-1] == f"pixelloom: stopped by {number.name}"
    assert np.array_equal(np.load("all.npy"), whole[:4])
    assert np.array_equal(read("a grid.png"), np.asarray(plots.grid(whole[:4], 17)))
    assert sorted(path.name for path in Path("singles").iterdir()) == [f"{10 + i:05d}.png" for i in range(4)]

    with monkeypatch.context() as patch:  # and once more
        at_step(patch, steps, kick(number))
        said = run(*goes_on(said.err))
    assert said.code == code
    assert "kept 2 of 3 images in all-from-14.npy, a grid-from-14.png, singles; continue with:" in said.err
    said = run(*goes_on(said.err))
    assert (said.code, said.out) == (0, "a grid-from-16.png\nsingles\nall-from-16.npy\n")
    parts = [np.load(name) for name in ("all.npy", "all-from-14.npy", "all-from-16.npy")]
    assert np.array_equal(np.concatenate(parts), whole)
    assert len(list(Path("singles").iterdir())) == 7
    for i, image in enumerate(whole):
        assert np.array_equal(quantize(read(f"singles/{10 + i:05d}.png"), 256, 17), image[0])
    assert not list(Path().rglob("*.part"))


def test_a_completion_can_be_interrupted_and_resumed(
    run: Command, lively: PixelModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("sample", "lively", "-n", 1, "--seed", 9, "--each", "given")
    command = ["sample", "lively", "-n", 5, "--batch", 2, "--given", "given/00000.png", "--keep-rows", 3]
    assert run(*command, "--npy", "whole.npy").code == 0
    with monkeypatch.context() as patch:
        at_step(patch, 20, kick(signal.SIGINT))
        said = run(*command, "--npy", "part.npy")
    assert said.code == 130
    assert run(*goes_on(said.err)).code == 0
    assert np.array_equal(np.concatenate([np.load("part.npy"), np.load("part-from-2.npy")]), np.load("whole.npy"))


def test_the_rest_is_drawn_with_the_batch_that_fitted(
    run: Command, model: PixelModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "MEMORY", 3 * model.fast_sampler().bytes_per_image)
    with monkeypatch.context() as patch:
        at_step(patch, 22 + 3, kick(signal.SIGINT))
        said = run("sample", "flat", "-n", 10, "--npy", "all.npy", "--device", "cpu")
    assert "kept 3 of 10 images" in said.err
    assert "--batch 3 " in said.err.splitlines()[-2]

    def small(n: int) -> None:
        if n > 1:
            raise MemoryError

    batches_of(monkeypatch, small)
    at_step(monkeypatch, 22 + 3, kick(signal.SIGINT))
    said = run(*goes_on(said.err))
    assert "kept 1 of 7 images" in said.err
    assert goes_on(said.err)[goes_on(said.err).index("--batch") + 1] == "1"


def test_an_interrupt_before_anything_is_done_leaves_nothing(
    run: Command, model: PixelModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(monkeypatch, 3, kick(signal.SIGINT))
    said = run("sample", "flat", "-n", 7, "--batch", 2, "--npy", "all.npy", "--out", "grid.png", "--each", "singles")
    assert said.code == 130
    assert "kept" not in said.err
    assert not [path for path in Path().rglob("*") if path.is_file() and "runs" not in path.parts]


def test_an_interrupt_in_the_last_step_comes_too_late(
    run: Command, model: PixelModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(monkeypatch, 2 * 22, kick(signal.SIGINT))
    said = run("sample", "flat", "-n", 4, "--batch", 2, "--npy", "all.npy")
    assert (said.code, said.out) == (0, "all.npy\n")
    assert np.array_equal(np.load("all.npy"), model.sample(4, seed=0).numpy())


def test_two_interrupts_keep_what_is_done_too(run: Command, model: PixelModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        kick(signal.SIGINT)()
        kick(signal.SIGINT)()

    at_step(monkeypatch, 22 + 3, twice)
    said = run("sample", "flat", "-n", 7, "--batch", 2, "--npy", "all.npy")
    assert said.code == 130
    assert said.err.splitlines()[-1] == "pixelloom: interrupted"
    assert "kept 2 of 7 images in all.npy; continue with: pixelloom sample flat -n 5 --first 2" in said.err
    assert np.array_equal(np.load("all.npy"), model.sample(2, seed=0).numpy())


def test_what_was_there_is_replaced_at_the_end_only(
    run: Command, model: PixelModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("all.npy").write_text("mine")
    with monkeypatch.context() as patch:
        at_step(patch, 3, kick(signal.SIGINT))
        assert run("sample", "flat", "-n", 4, "--batch", 2, "--npy", "all.npy", "--force").code == 130
    assert Path("all.npy").read_text() == "mine"
    run("sample", "flat", "-n", 4, "--each", "singles")
    with monkeypatch.context() as patch:
        at_step(patch, 22 + 3, kick(signal.SIGINT))
        said = run("sample", "flat", "-n", 4, "--seed", 1, "--batch", 2, "--each", "singles", "--force")
    assert "--force" in goes_on(said.err)  # the rest is there too, of another seed
    assert run(*goes_on(said.err)).code == 0
    for i, image in enumerate(model.sample(4, seed=1).numpy()):
        assert np.array_equal(quantize(read(f"singles/{i:05d}.png"), 256, 17), image[0])


def test_a_fault_in_the_middle_keeps_what_is_done(
    run: Command, model: PixelModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("division by zero")

    at_step(monkeypatch, 22 + 3, broken)
    said = run("sample", "flat", "-n", 5, "--batch", 2, "--npy", "all.npy")
    assert said.code == 1
    assert "kept 2 of 5 images in all.npy; continue with:" in said.err
    assert "ZeroDivisionError" in said.err.splitlines()[-1]
    assert np.load("all.npy").shape == (2, 1, 8, 8)


def test_a_picture_that_does_not_fit_the_disk_costs_none_before_it(
    run: Command, model: PixelModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, whole = Path.write_bytes, model.sample(7, seed=0).numpy()

    def full(self: Path, content: bytes) -> int:
        if "00003" in self.name:
            self.write_text("half")
            raise OSError(28, "No space left on device", str(self))
        return write(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        said = run("sample", "flat", "-n", 7, "--batch", 2, "--npy", "all.npy", "--each", "singles", "--out", "a.png")
    assert said.code == 2
    assert said.err.splitlines()[-1] == (
        "pixelloom: singles/00003.png: cannot be written: No space left on device; free space, or write elsewhere"
    )
    assert "kept 3 of 7 images in all.npy, a.png, singles; continue with:" in said.err
    assert sorted(path.name for path in Path("singles").iterdir()) == ["00000.png", "00001.png", "00002.png"]
    assert np.array_equal(np.load("all.npy"), whole[:3])
    assert Path("all.npy").stat().st_size == 128 + 3 * 64  # nothing behind them: it held four
    assert run(*goes_on(said.err)).code == 0
    assert np.array_equal(np.concatenate([np.load("all.npy"), np.load("all-from-3.npy")]), whole)
    assert len(list(Path("singles").iterdir())) == 7


def test_an_array_that_does_not_fit_the_disk_keeps_what_does(model: PixelModel, programs: Server) -> None:
    room = 128 + 50 * 64  # bytes: two batches and half of the third
    command = ("sample", "flat", "-n", "80", "--batch", "20", "--npy", "all.npy")
    done = programs.run(*command, cwd=Path.cwd(), file_size=room, **ENVIRONMENT)
    assert done.returncode == 2
    assert "kept 40 of 80 images in all.npy; continue with: pixelloom sample flat -n 40 --first 40" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("pixelloom: all.npy: cannot be written: ")
    assert np.array_equal(np.load("all.npy"), model.sample(40, seed=0).numpy())
    assert not list(Path().glob(".*.part"))


def test_a_grid_that_cannot_be_written_costs_nothing_else(
    run: Command, model: PixelModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(image: Image.Image, path: Path) -> None:
        raise ModelError(f"{path}: cannot write 9 bytes: No space left on device.")

    monkeypatch.setattr(plots, "save_png", full)
    said = run("sample", "flat", "-n", 3, "--npy", "all.npy", "--out", "grid.png")
    assert (said.code, said.out) == (2, "")
    assert said.err.splitlines()[-2:] == [
        "kept 3 of 3 images in all.npy",
        "pixelloom: grid.png: cannot write 9 bytes: No space left on device.",
    ]
    assert np.array_equal(np.load("all.npy"), model.sample(3, seed=0).numpy())


@pytest.mark.parametrize("target", ["--out", "--npy", "--each"])
def test_a_folder_that_cannot_be_written_is_told_before_drawing(
    target: str, run: Command, model: PixelModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(outputs.tempfile, "TemporaryFile", refused)
    asked = batches_of(monkeypatch)
    said = run("sample", "flat", target, "there/x")
    assert said.code == 2
    assert re.search(r"pixelloom: there(/x)?: cannot be written: Permission denied; choose another folder\n$", said.err)
    assert asked == []
    said = run("info", "flat", "--receptive-field", "elsewhere/x.png")
    assert said.code == 2
    assert "elsewhere: cannot be written: Permission denied" in said.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_process_keeps_what_is_done(
    number: signal.Signals, code: int, lively: PixelModel, tmp_path: Path, programs: Server
) -> None:
    command = ("sample", "lively", "-n", "1000000", "--batch", "5", "--npy", "a.npy")
    process = programs.start(*command, cwd=tmp_path, **ENVIRONMENT)
    while not any(part.stat().st_size > 128 for part in tmp_path.glob(".a.npy.*.part")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send(number)
    returned, _, err = process.wait()
    assert returned == code
    assert err.splitlines()[-1] == f"pixelloom: stopped by {number.name}"
    images = np.load("a.npy")
    assert f"kept {len(images)} of 1000000 images in a.npy; continue with: " in err
    assert f"-n {1000000 - len(images)} --first {len(images)} " in err
    assert len(images) % 5 == 0
    assert np.array_equal(images, lively.sample(len(images), batch=5).numpy())
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"", "empty"), (b"<!DOCTYPE html><html>", "web page"), (b"\x00" * 100, "damaged"), (None, "truncated")],
)
def test_a_damaged_model_is_refused(content: bytes | None, word: str, run: Command, model: PixelModel) -> None:
    path = Path("runs/flat/model/model.safetensors")
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    for command in ("sample", "evaluate", "info"):
        said = run(command, "flat")
        assert said.code == 4
        assert "model.safetensors" in said.err
        assert word in said.err


def test_a_model_that_is_not_there(run: Command, model: PixelModel) -> None:
    said = run("sample", "flt")
    assert said.code == 4
    assert "Did you mean 'flat'? Runs: flat" in said.err
    Path("empty").mkdir()
    said = run("info", "empty")
    assert said.code == 4
    assert "empty: holds no model; expected model.safetensors" in said.err


# -------------------------------------------------------------------------------------------------- evaluate, info


def test_the_figures_as_one_json_object(run: Command, model: PixelModel) -> None:
    said = run("evaluate", "flat", "--json")
    facts = json.loads(said.out)  # all of stdout is the object
    assert said.code == 0
    assert facts["nats_per_image"] == pytest.approx(64 * math.log(17), rel=1e-6)
    assert facts["nats_per_dim"] == pytest.approx(math.log(17), rel=1e-6)
    assert facts["bits_per_dim"] == pytest.approx(math.log2(17), rel=1e-6)
    assert facts["nats_per_image_95"] == pytest.approx([64 * math.log(17)] * 2, rel=1e-6)
    assert facts["bits_per_dim_95"] == pytest.approx([math.log2(17)] * 2, rel=1e-6)
    assert (facts["split"], facts["data"], facts["binarize"]) == ("test", "digits", "none")
    assert facts["n"] == facts["of"] >= 250
    assert facts["model"] == "runs/flat/model"
    few = json.loads(run("evaluate", "flat", "--json", "--split", "val", "--limit", 10).out)
    assert (few["n"], few["split"]) == (10, "val")
    assert json.loads(run("evaluate", "flat", "--json", "--limit", 1).out)["nats_per_image_95"] is None


def test_the_figures_in_words(run: Command, model: PixelModel) -> None:
    lines = run("evaluate", "flat", "--limit", 20).out.splitlines()
    assert lines[0].startswith("digits, test split: 20 of 269 images of 64 values, 17 levels")
    assert lines[1].split()[:2] == ["nats/image", f"{64 * math.log(17):.2f}"]
    assert lines[2].split()[:2] == ["nats/dim", f"{math.log(17):.4f}"]
    assert lines[3].split()[:2] == ["bits/dim", f"{math.log2(17):.4f}"]
    assert "95 % interval" in lines[3]


def test_other_data_are_binarized_as_in_training(run: Command) -> None:
    np.save("other.npy", np.random.default_rng(1).integers(0, 256, (60, 6, 5)).astype(np.uint8))
    trained = DataConfig(source="mine", binarize="threshold@0.75").model_dump(mode="json")
    save_run(flat(ImageSpec(1, 6, 5, 2), trained, ink=0.9), Path("runs/ink"))
    facts = json.loads(run("evaluate", "ink", "--data", "./other.npy", "--json").out)
    assert (facts["levels"], facts["binarize"]) == (2, "threshold@0.75")
    assert facts["nats_per_dim"] == pytest.approx(-(0.25 * math.log(0.9) + 0.75 * math.log(0.1)), rel=0.1)
    other = json.loads(run("evaluate", "ink", "--data", "./other.npy", "--binarize", "threshold@0.25", "--json").out)
    assert other["nats_per_dim"] == pytest.approx(-(0.75 * math.log(0.9) + 0.25 * math.log(0.1)), rel=0.1)


def test_data_of_another_shape_are_refused(run: Command, model: PixelModel) -> None:
    save_run(
        flat(ImageSpec(3, 8, 8, 17), DataConfig(source="shapes", levels=17, size=8).model_dump(mode="json")),
        Path("runs/rgb"),
    )
    said = run("evaluate", "rgb", "--data", "digits", "--levels", 5)
    assert said.code == 3
    assert "with 5 levels" in said.err
    assert "3x8x8 with 17 levels" in said.err
    assert "--size" in said.err
    assert "converted from gray to RGB" in run("evaluate", "rgb", "--data", "digits", "--limit", 4).out
    said = run("evaluate", "flat", "--data", "shapes", "--levels", 17, "--gray", "--size", 8, "--limit", 20)
    assert said.code == 0, said.err


def test_info_tells_what_a_model_is(run: Command, model: PixelModel) -> None:
    text = run("info", "flat").out
    facts = json.loads(run("info", "flat", "--json").out)
    stored = json.loads(Path("runs/flat/model/config.json").read_text())
    assert facts["sha256"] == stored["sha256"]
    assert stored["sha256"] in text
    assert facts["parameters"] == sum(p.numel() for p in model.network.parameters())
    assert f"{facts['parameters']:,}" in text
    assert facts["image"] == {"channels": 1, "height": 8, "width": 8, "levels": 17, "palette": None}
    assert "categorical" in text
    assert text.endswith("# # #\n# . .\n. . .\n")  # mask A of a 3x3 kernel


def test_info_draws_what_a_pixel_sees(run: Command, lively: PixelModel) -> None:
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    truth = {}  # by differentiating the network
    for y, column in ((4, 4), (6, 2)):
        (gradient,) = torch.autograd.grad(lively.network(x)[0, :, y, column].sum(), x)
        truth[y, column] = int((gradient != 0).sum())
    said = run("info", "lively", "--receptive-field", "field.png")
    assert said.code == 0
    assert f"sees        {truth[4, 4]} of the 36 pixels before row 4, column 4" in said.out
    assert "sampling    22 steps for 64 pixels" in said.out
    with Image.open("field.png") as picture:
        assert picture.format == "PNG"
    assert run("info", "lively", "--receptive-field", "field.png").code == 2
    before = Path("field.png").read_bytes()
    said = run("info", "lively", "--receptive-field", "field.png", "--position", "6, 2", "--force", "--json")
    seen = json.loads(said.out)["receptive_field"]
    assert Path("field.png").read_bytes() != before
    assert (seen["position"], seen["before"], seen["seen"]) == ([6, 2], 50, truth[6, 2])
    assert seen["seen"] + seen["blind_spot"] + seen["out_of_reach"] == 50
    assert (seen["steps"], seen["pixels"], seen["image"]) == (22, 64, "field.png")
    told = PixelModel.build(lively.description.model_copy(update={"classes": 10}))  # of a network that takes labels
    save_run(told, Path("runs/told"))
    said = run("info", "told", "--receptive-field", "told.png")
    assert f"sees        {truth[4, 4]} of the 36 pixels" in said.out
    said = run("info", "lively", "--receptive-field", "corner.png", "--position", "0,0")
    assert "sees        0 of the 0 pixels before row 0, column 0; 0 in the blind spot" in said.out


def test_the_last_of_ordered_channels_sees_the_others(run: Command) -> None:
    save_run(flat(ImageSpec(3, 6, 5, 4)), Path("runs/rgb"))
    said = run("info", "rgb", "--receptive-field", "field.png", "--position", "0,1", "--json")
    seen = json.loads(said.out)["receptive_field"]
    # Pixels, not values; and the pixel itself, of which blue sees red and green, is not among those before it.
    assert (seen["before"], seen["seen"], seen["pixels"]) == (1, 1, 30)
    steps = pixelloom.load("rgb").fast_sampler().steps
    assert seen["steps"] == steps > 3 * 5


def test_json_has_no_figures_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    from pixelloom.cli.console import say_json

    say_json({"a": math.inf, "b": [math.nan, 1.5], "c": (1, "x")})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5], "c": [1, "x"]}


def test_progress_is_told_in_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from pixelloom.cli import console

    now, stream = iter(range(0, 100, 4)), io.StringIO()
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(now)))
    monkeypatch.setattr(sys, "stderr", stream)
    with console.logs(), console.Meter("drawing", 8) as meter:
        for i in range(8):
            meter.show(i + 1, f"step {i + 1}" if i > 4 else "")
    assert stream.getvalue().splitlines() == ["drawing: 38 %", "drawing: 75 %, step 6"]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (62_701, "62.7 kB"), (1_155_000, "1.16 MB"), (2.5e9, "2.5 GB")],
)
def test_memory_in_the_unit_that_suits_it(size: float, text: str) -> None:
    assert memory(size) == text
