"""Output files: what is replaced, which formats are written, default names, and names of options that others use."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from cyclopts import App
from PIL import Image

from commands import Command, caller
from pixelloom.cli import app
from pixelloom.cli.other_names import NAMES
from pixelloom.cli.outputs import free
from pixelloom.core.types import ImageSpec
from pixelloom.data.config import DataConfig
from pixelloom.models.pixel import PixelModel
from pixelloom.runs.plan import planned
from pixelloom.viz.grid import FORMATS, grid
from small_models import TINY, flat, save_run

SMALL = [f"--{field}={value}" for field, value in TINY.items()] + ["--images=64", "--samples=0", "--train.threads=1"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXELLOOM_OFFLINE", "1")
    monkeypatch.setenv("PIXELLOOM_CACHE", str(tmp_path / "cache"))
    return caller(capsys)


@pytest.fixture
def model(run: Command) -> PixelModel:
    found = flat(ImageSpec(1, 8, 8, 17), DataConfig().model_dump(mode="json"))
    save_run(found, Path("runs/flat"))
    return found


@pytest.mark.parametrize("option", ["--out", "--npy"])
def test_only_regular_files_are_replaced(option: str, run: Command, model: PixelModel) -> None:
    os.mkfifo("pipe")
    for path in ("pipe", "/dev/null"):
        before = Path(path).stat()
        said = run("sample", "flat", "-n", 1, option, path, "--force")
        assert said.code == 2
        assert f"{path}: is not a regular file, and is not replaced" in said.err
        assert (Path(path).stat().st_mode, Path(path).stat().st_ino) == (before.st_mode, before.st_ino)


OUTPUTS = ["sample flat -n 1 --npy", "sample flat -n 1 --out", "compare flat --out", "compare flat --png"]
OUTPUTS += ["info flat --receptive-field", "explain flat --seed 0 --out", "evaluate flat -n 9 --neighbors"]


@pytest.mark.parametrize("command", OUTPUTS)
@pytest.mark.parametrize("path", ["runs/flat/model/model.safetensors", "runs/flat/model/new.png", "link/new.png"])
def test_no_output_is_a_model_or_lies_in_its_folder(command: str, path: str, run: Command, model: PixelModel) -> None:
    Path("link").symlink_to("runs/flat/model")
    before = {p: p.read_bytes() for p in Path("runs").rglob("*") if p.is_file()}
    said = run(*command.split(), path, "--force")
    assert (said.code, said.out) == (2, "")
    assert {p: p.read_bytes() for p in Path("runs").rglob("*") if p.is_file()} == before


def test_no_output_is_a_file_of_a_run_or_a_folder_of_its_model(run: Command, model: PixelModel) -> None:
    for name in ("config.yaml", "metrics.jsonl"):
        Path("runs/flat", name).write_text("mine")
        said = run("compare", "flat", "--out", f"runs/flat/{name}", "--force")
        assert said.code == 2
        assert Path("runs/flat", name).read_text() == "mine"
    said = run("sample", "flat", "-n", 1, "--each", "runs/flat/model/drawn")
    assert "lies in one (model.safetensors); write to another folder" in said.err
    assert not Path("runs/flat/model/drawn").exists()


@pytest.mark.parametrize("suffix", FORMATS)
def test_lossless_formats_are_written_in_that_format(suffix: str, run: Command, model: PixelModel) -> None:
    assert run("sample", "flat", "-n", 4, "--out", f"x{suffix}").code == 0
    with Image.open(f"x{suffix}") as image:
        assert image.format == FORMATS[suffix]
        drawn = np.asarray(image.convert("L"))
    assert np.array_equal(drawn, np.asarray(grid(model.sample(4).numpy(), 17)))


@pytest.mark.parametrize(
    ("option", "name", "said"),
    [
        ("--out", "x.jpg", "x.jpg: .jpg is lossy; images are written as .png, .webp, .tif, .tiff, .bmp"),
        ("--out", "x.GIF", "x.GIF: .gif is lossy"),
        ("--out", "x.npy", "--npy writes arrays"),
        ("--out", "x.pdf", ".pdf is no image format here"),
        ("--npy", "x.png", "--npy x.png: writes a NumPy array; name a file that ends in .npy"),
    ],
)
def test_other_formats_are_refused(option: str, name: str, said: str, run: Command, model: PixelModel) -> None:
    done = run("sample", "flat", "-n", 1, option, name)
    assert done.code == 2
    assert said in done.err
    assert not Path(name).exists()


def test_default_names_never_collide(run: Command, model: PixelModel) -> None:
    for name in ("samples.png", "samples-2.png", "samples-3.png"):
        assert run("sample", "flat", "-n", 1).out == f"{name}\n"
    assert run("sample", "flat", "-n", 1, "--force").out == "samples.png\n"
    assert run("explain", "flat", "--seed", 0).out == "explain.png\n"
    assert run("explain", "flat", "--seed", 0).out == "explain-2.png\n"
    Path("compare.png").write_text("mine")
    assert run("compare", "flat").out == "compare-2.html\ncompare-2.png\n"
    assert Path("compare.png").read_text() == "mine"
    assert free(Path("new.png")) == Path("new.png")


def test_default_run_folders_never_collide(run: Command, caplog: pytest.LogCaptureFixture) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 8, 8)).astype(np.uint8)
    Path("my data").mkdir()
    np.save("my data/the cats.npy", noise)
    for folder in ("runs/pixelcnn-the-cats", "runs/pixelcnn-the-cats-2"):
        assert run("train", "pixelcnn", "--data", "my data/the cats.npy", *SMALL).out == f"{folder}\n"
    done = run("train", "pixelcnn", *SMALL)
    assert done.out == "runs/pixelcnn\n"
    assert "data: none is named, so the run trains on digits; --data takes a name or a path" in done.err
    done = run("train", "pixelcnn", *SMALL)
    assert done.out == "runs/pixelcnn-2\n"
    assert "runs/pixelcnn is taken; the run folder is runs/pixelcnn-2" in done.err
    assert "none is named" not in run("train", "digits", *SMALL).err
    assert run("train", "pixelcnn", "--resume", "--images", 128, *SMALL[:-3]).out == "runs/pixelcnn-2\n"
    assert run("train", "pixelcnn", "--force", *SMALL).out == "runs/pixelcnn\n"
    done = run("train", "pixelcnn", "--out", "runs/pixelcnn", *SMALL)
    assert done.code == 2
    assert "holds a run already" in done.err


def test_several_processes_agree_on_the_folder(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("runs/digits/x").mkdir(parents=True)
    assert planned("digits")[1] == Path("runs/digits-2")
    assert planned("digits", overrides={"train.devices": 2})[1] == Path("runs/digits")
    assert planned("digits", overrides={"data.source": "'shapes'"})[1] == Path("runs/digits-shapes")
    assert planned("digits", overrides={"data.source": "digits"}, force=True)[1] == Path("runs/digits")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert planned("digits")[1] == Path("runs/digits")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("train digits --lr 1e-3", "--lr: is called --optim.lr"),
        ("train digits --batch-size 16", "--batch-size: is called --train.batch"),
        ("train digits --batch_size=16", "--batch_size: is called --train.batch"),
        ("train digits --epoch 2", "--epoch: is called --epochs"),
        ("train digits --steps 100", "--steps: is called --images (steps times the batch size), --epochs or --minutes"),
        ("train digits --workers 2", "--workers: is called --train.workers"),
        ("sample flat --batch-size 2", "--batch-size: is called --batch"),
        ("sample flat --num-samples 2", "--num-samples: is called -n"),
        ("sample flat --cfg-scale 2", "--cfg-scale: is called --guidance"),
        ("evaluate flat --fid", "--fid: is called --metrics fd"),
        ("info --ckpt x", "--ckpt: is called the first argument"),
    ],
)
def test_option_names_of_other_tools(command: str, said: str, run: Command) -> None:
    done = run(*command.split())
    assert done.code == 2
    assert said in done.err
    assert f"See: pixelloom {command.split(maxsplit=1)[0]} --help" in done.err


def test_names_of_other_tools_lead_to_options_that_exist(run: Command) -> None:
    for command, names in NAMES.items():
        assert isinstance(app[command], App)
        text = run(command, "--help").out
        for other, here in names.items():
            assert f" {other} " not in text, f"{command} {other} exists"
            option = here.split()[0].split(".")[0].rstrip(",")
            assert here.startswith("the first") or f"{option} " in text or f"{option}." in text, (
                f"{command} {other}: {here}"
            )
