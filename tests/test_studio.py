"""The studio without its page: states of the canvas, frames and their cancellation, files, scores, processes."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pixelloom as pl
from pixelloom.cli import main
from pixelloom.core.errors import DataError, ModelError, PixelloomError, UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import to_bytes
from pixelloom.runs.anomaly import calibrate
from pixelloom.runs.score import normals
from pixelloom.studio import canvas, compression, gan_tasks, tasks, training
from pixelloom.studio.images import contents_of, gallery, integer, levels_of, pngs_of
from pixelloom.studio.library import Library, tabs_of
from pixelloom.studio.server import LOOPBACK, ServeOptions, _is_own, prepare_environment
from pixelloom.studio.watching import CancelledError, frames
from studio_toys import pixels_of, pngs_in, saved


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("models")
    return Library([str(path) for path in saved(folder).values()])


def entry(library: Library, name: str) -> Any:
    return library.entry(next((known for known in library.names if Path(known).name == name), name))


# The canvas


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(2, 256), st.integers(0, 1000))
def test_a_canvas_keeps_every_pixel(channels: int, height: int, width: int, levels: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    image = draw.integers(0, levels, (channels, height, width)).astype(np.uint8)
    hole = draw.random((height, width)) < 0.5
    back, again = canvas.parsed(canvas.dumped(image, hole, levels), ImageSpec(channels, height, width, levels))
    assert (back == image).all()
    assert (again == hole).all()


def test_other_states_of_a_canvas_are_refused() -> None:
    spec = ImageSpec(1, 2, 3, 2)
    good = json.loads(canvas.empty(spec))
    assert canvas.parsed(json.dumps(good), spec)[1].all()
    wrong: list[object] = [
        None, 3, "", "[]", "null", "[" * 100_000, json.dumps(good | {"hole": "11111"}), json.dumps(good | {"hole": 7}),
        json.dumps(good | {"hole": "111112"}), json.dumps(good | {"pixels": "A"}),
        json.dumps(good | {"pixels": "AAAA"}),
        json.dumps(good | {"pixels": "AgAAAAAA"}), json.dumps({"hole": "111111"}), canvas.empty(ImageSpec(1, 3, 3, 2)),
    ]  # fmt: skip
    for state in wrong:
        with pytest.raises(UsageError, match="canvas: holds no image of 2 x 3 pixels"):
            canvas.parsed(state, spec)


# Frames


def test_the_last_frame_is_the_result_and_each_holds_the_batches_before() -> None:
    def run(on_step: Any) -> torch.Tensor:
        for batch in range(2):
            for step in range(1, 4):
                on_step(step, 3, torch.full((2, 1, 1, 1), 10 * batch + step, dtype=torch.uint8))
                time.sleep(0.02)
        return torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1)

    found = list(frames(run, between=0))
    assert found[-1].done
    assert found[-1].images.ravel().tolist() == [0, 1, 2, 3]
    assert {tuple(frame.images.ravel().tolist()) for frame in found[:-1]} <= {
        (1, 1), (2, 2), (3, 3), (3, 3, 11, 11), (3, 3, 12, 12), (3, 3, 13, 13)
    }  # fmt: skip
    assert len(found) > 2


def test_closing_the_frames_stops_the_sampler() -> None:
    stopped = threading.Event()

    def run(on_step: Any) -> torch.Tensor:
        try:
            for step in range(1, 10_000):
                on_step(step, 10_000, torch.zeros(1, 1, 1, 1, dtype=torch.uint8))
                time.sleep(0.002)
        except CancelledError:
            stopped.set()
            raise
        raise AssertionError("the sampler went on to its end")

    found = frames(run, between=0)
    next(found)
    found.close()
    assert stopped.wait(20)


def test_an_error_of_the_sampler_reaches_the_one_who_iterates() -> None:
    def run(_: Any) -> torch.Tensor:
        raise UsageError("no such thing")

    with pytest.raises(UsageError, match="no such thing"):
        list(frames(run))


# Models


def test_a_model_has_the_tabs_of_its_abilities(library: Library) -> None:
    assert tabs_of(entry(library, "digits").model) == ["draw", "complete", "score", "compress", "compare", "train"]
    assert tabs_of(entry(library, "gan").model) == ["draw", "interpolate", "attend", "compare", "train"]
    assert "train" not in tabs_of(entry(library, "gan").model, train=False)
    assert "complete" in tabs_of(entry(library, "binarized-mnist-complete").model)


def test_a_name_that_the_page_lacks_is_refused_even_if_it_is_a_path(library: Library, tmp_path: Path) -> None:
    entry(library, "digits").model.save(tmp_path / "other")
    with pytest.raises(UsageError, match="the page has"):
        library.entry(str(tmp_path / "other"))
    with pytest.raises(ModelError):
        Library(["nowhere"])


def test_drawn_images_are_those_of_sample(library: Library) -> None:
    model = entry(library, "color").model
    *_, (html, line) = tasks.draw(entry(library, "color"), 5, 7, 0.8, None, "blue")
    truth = model.sample(5, seed=7, temperature=0.8, labels="blue").numpy()
    assert [pixels_of(png).transpose(2, 0, 1).tolist() for png in pngs_in(html)] == truth.tolist()
    assert line == "5 images, seed 7"
    for n, seed, temperature, name in ((0, 0, 1, None), (65, 0, 1, None), (2.5, 0, 1, None), (1, -1, 1, None),
                                       (1, 0, 0, None), (1, 0, float("nan"), None), (1, 0, 1, "green")):  # fmt: skip
        with pytest.raises(UsageError):
            list(tasks.draw(entry(library, "color"), n, seed, temperature, None, name))


def test_completions_are_those_of_complete_likeliest_first(library: Library) -> None:
    digits = entry(library, "digits")
    image = digits.model.sample(1, seed=3)[0].numpy()
    hole = np.zeros((8, 8), np.bool_)
    hole[2:, 1:] = True  # row 3 begins with a known pixel after hidden ones: no order of the model, so particles
    html, line = tasks.complete(digits, canvas.dumped(image, hole, 17), 5, None)
    truth = digits.model.complete(image[None], torch.from_numpy(hole), 8, seed=5)
    order = np.argsort(-truth.log_prob[0].numpy(), kind="stable")
    shown = np.stack([pixels_of(png) for png in pngs_in(html)])
    assert (shown == to_bytes(truth.images[0, order, 0].numpy(), 17)).all()
    captions = [float(text.split("<br>")[0]) for text in html.split("log p = ")[2::2]]
    assert captions == [round(float(truth.log_prob[0, i]), 2) for i in order]
    assert "42 of 64 values hidden; method particles" in line
    with pytest.raises(UsageError, match="nothing is hidden"):
        tasks.complete(digits, canvas.dumped(image, np.zeros((8, 8), np.bool_), 17), 0, None)


def test_scores_are_those_of_the_library_on_one_scale(library: Library, tmp_path: Path) -> None:
    digits = entry(library, "digits")
    images = digits.model.sample(3, seed=1)
    files = [(f"{i}.png", png) for i, png in enumerate(pngs_of(images.numpy(), 17))]
    assert (levels_of(digits.model, files)[1] == images.numpy()).all()
    html, line = tasks.score(digits, files)
    scorer = tasks.Scorer(digits.model, maps=True)
    with normals(digits.model, "val") as source:
        calibration = calibrate(scorer, source, 0.01, tasks.NORMALS)
    truth = pl.score(digits.model, images, calibrate=calibration)
    for i in range(3):
        assert f"{truth.bits_per_dim[i] * 64:.1f} bits, {truth.bits_per_dim[i]:.4f} bits/dim" in html
        assert f"p-value {truth.p_values[i]:.3f}" in html
    assert f"red {calibration.scale:.3g} bits above" in line
    assert len(pngs_in(html)) == 3


def test_scores_without_training_data_are_bits_and_say_so(library: Library) -> None:
    color = entry(library, "color")
    images = color.model.sample(2, seed=1)
    html, line = tasks.score(color, [(f"{i}.png", png) for i, png in enumerate(pngs_of(images.numpy(), 256))])
    bits = -color.model.log_prob(images) / np.log(2)
    assert all(f"{value:.1f} bits" in html for value in bits.tolist())
    assert "p-value" not in html
    assert line.startswith("no p-values: ")


def test_a_compressed_file_gives_the_same_images(library: Library) -> None:
    model = entry(library, "binarized-mnist")
    images = model.model.sample(3, seed=2)
    files = [(f"{i}.png", png) for i, png in enumerate(pngs_of(images.numpy(), 2))]
    found = compression.pack(model, files)
    with pl.open_pxl(found.data) as file:
        assert torch.equal(torch.stack([file[i] for i in range(3)]), images)
    html, line = compression.unpack(model, "x.pxl", found.data)
    assert [pixels_of(png).tolist() for png in pngs_in(html)] == [(image[0] * 255).tolist() for image in images.numpy()]
    assert f"{len(found.data):,}" in found.sizes
    assert "3 files" in line
    with pytest.raises(PixelloomError):
        compression.unpack(model, "x.pxl", found.data[:-9])
    with pytest.raises(ModelError, match="is not exported"):
        compression.pack(entry(library, "color"), [("a.png", pngs_of(np.zeros((1, 3, 6, 9), np.uint8), 256)[0])])


def test_paths_and_maps_of_a_gan_and_two_models_side_by_side(library: Library) -> None:
    gan = entry(library, "gan")
    html, _ = gan_tasks.interpolate(gan, 3, 4, 6, None)
    truth = gan.model.interpolate(3, 4, seed=6).numpy()[:, 0]
    rows = np.concatenate([truth[:5], truth[4:9]])
    assert (np.stack([pixels_of(png) for png in pngs_in(html)]) == rows).all()
    html, line = gan_tasks.attend(gan, 2, 0, 3, 5, None)
    assert len(pngs_in(html)) == 1
    assert line.startswith(f"{len(gan.model.attend(gan.model.latents(1))[1])} attention layers")
    with pytest.raises(UsageError, match="row: a whole number from 0 to 15"):
        gan_tasks.attend(gan, 2, 0, 16, 5, None)
    digits = entry(library, "digits")
    files = [("a.png", pngs_of(digits.model.sample(1, seed=1).numpy(), 17)[0])]
    table, left, right = gan_tasks.compare(digits, gan, 4, 2, files)
    assert (np.stack([pixels_of(png) for png in pngs_in(right)]) == gan.model.sample(4, seed=2).numpy()[:, 0]).all()
    assert len(pngs_in(left)) == 4
    bits = -float(digits.model.log_prob(digits.model.sample(1, seed=1))) / 64 / np.log(2)
    assert f"<td>{bits:.4f} bits/dim</td><td>no likelihood</td>" in table


# Files and forms


def test_uploads_are_bounded_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").mkdir()
    for path in (tmp_path / "a.png", tmp_path / "x" / "a.png"):
        path.write_bytes(str(path).encode())
    found = contents_of([str(tmp_path / "a.png"), str(tmp_path / "x" / "a.png")])
    assert [name for name, _ in found] == ["a.png", "a-2.png"]
    with pytest.raises(DataError, match="drop image files"):
        contents_of([])
    with pytest.raises(DataError, match="at most 64"):
        contents_of([str(tmp_path / "a.png")] * 65)
    monkeypatch.setattr("pixelloom.studio.images.MAX_BYTES", 3)
    with pytest.raises(DataError, match="is larger than"):
        contents_of([str(tmp_path / "a.png")])


def test_what_is_no_image_is_named(library: Library) -> None:
    model = entry(library, "digits").model
    for name, data in (("a.txt", b"text"), ("a.png", b"text"), ("b.png", b"")):
        with pytest.raises(DataError, match=name):
            levels_of(model, [(name, data)])


def test_captions_and_names_cannot_hold_html() -> None:
    html = gallery(pngs_of(np.zeros((1, 1, 2, 2), np.uint8), 2), ['<script>"&\nx'], note="<b>")
    assert "<script>" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;&quot;&amp;<br>x" in html


@pytest.mark.parametrize("value", [None, "3", True, 2.5, -1, 11, float("nan"), float("inf")])
def test_numbers_of_forms_are_checked(value: object) -> None:
    assert integer("n", 3.0, 0, 10) == 3
    with pytest.raises(UsageError, match="n: a whole number from 0 to 10"):
        integer("n", value, 0, 10)


# Serving


def test_the_page_is_local_unless_asked() -> None:
    assert ServeOptions().local
    assert not ServeOptions(host="0.0.0.0").local
    assert not ServeOptions(share=True).local
    assert all(_is_own(name.encode()) for name in (*LOOPBACK[:2], "[::1]", "localhost:80", "[::1]:7860"))
    assert not any(
        _is_own(name) for name in (b"", b"evil.com", b"evil.com:7860", b"127.0.0.1.evil.com", b"localhost.x")
    )


def test_settings_by_environment_cannot_widen_what_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ) | {"GRADIO_ALLOWED_PATHS": "/", "GRADIO_SHARE": "True"})
    before = prepare_environment()
    assert "GRADIO_ALLOWED_PATHS" not in os.environ
    assert "GRADIO_SHARE" not in os.environ
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert os.environ["PIXELLOOM_OFFLINE"] == "1"
    assert before["GRADIO_SHARE"] == "True"


def test_without_gradio_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["studio"]) == 2
    assert "pip install 'pixelloom[studio]'" in capsys.readouterr().err


# Training


def test_commands_of_runs_are_checked() -> None:
    words = training.command("mine", training.PICKED, " /a b ", 2)
    assert words[1:] == ["-m", "pixelloom", "train", "--data=/a b", "--out=runs/mine", "--minutes=2"]
    assert training.command("mine", "digits", "", 0.5)[4:] == ["digits", "--out=runs/mine", "--minutes=0.5"]
    assert training.command("mine", None, None, 3, resume=True)[4:] == ["--out=runs/mine", "--resume", "--minutes=3"]
    for name in ("", "..", "../x", "a/b", "-x", "/etc", "a" * 65, None, "a\n"):
        with pytest.raises(UsageError, match="run: "):
            training.command(name, "digits", "", 1)
    for recipe, data, minutes in (("--help", "", 1), ("digits", "", 0), ("digits", "", "1"), (training.PICKED, " ", 1),
                                  ("digits", 3, 1), ("digits", "", float("nan")), ("digits", "", 1e9)):  # fmt: skip
        with pytest.raises(UsageError):
            training.command("mine", recipe, data, minutes)


def test_a_run_is_a_process_group_that_ends_by_sigterm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(143))\n"
    code += "print('begun', flush=True)\ntime.sleep(600)"
    monkeypatch.setattr(training, "command", lambda *_, **__: [sys.executable, "-c", code, "train"])
    runs = training.Trainings(tmp_path)
    with pytest.raises(UsageError, match="is not in progress"):
        runs.stop("one")
    with pytest.raises(UsageError, match="no run to resume"):
        runs.start("one", "digits", "", 1, resume=True)
    runs.start("one", "digits", "", 1)
    process = runs._running["one"].process
    assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    deadline = time.monotonic() + 60
    while "begun" not in runs.watch("one").log:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert runs.watch("one").running
    with pytest.raises(UsageError, match="is in progress"):
        runs.start("one", "digits", "", 1)
    runs.stop("one")
    process.wait(60)
    assert (runs.watch("one").running, runs.watch("one").code) == (False, 143)
    runs.start("two", "digits", "", 1)
    while "begun" not in runs.watch("two").log:
        time.sleep(0.05)
    runs.close()
    assert runs.watch("two").code == 143
