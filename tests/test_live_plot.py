"""``pl.train(..., plot=True)`` in a notebook: curves and samples that are updated in place."""

from __future__ import annotations

import base64
import io
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pixelloom as pl
from pixelloom.runs import live_plot
from pixelloom.runs.live_plot import LivePlot
from small_models import TINY

SMALL = TINY | {"samples": 0, "train.threads": 1, "train.batch": 16, "train.logger": "none", "data.limit": 200}


class Screen:
    """What a notebook shows, by display identifier."""

    def __init__(self) -> None:
        self.images: list[list[bytes]] = []

    def display(self, image: Any, *, display_id: bool) -> Any:
        assert display_id
        self.images.append([image.data])
        mine, screen = self.images[-1], self

        class Handle:
            def update(self, image: Any) -> None:
                assert screen.images
                mine.append(image.data)

        return Handle()


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    display = pytest.importorskip("IPython.display")
    found = Screen()
    monkeypatch.setattr(display, "display", found.display)
    monkeypatch.setattr(live_plot, "in_notebook", lambda: True)
    return found


def size(png: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(png)).size


def test_curves_and_samples_are_updated_in_place(
    screen: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_plot, "_LEAST", 0.0)
    monkeypatch.setattr(live_plot, "_SHARE", 1e9)
    settings = SMALL | {"train.validate_every": 160, "train.sample_every": 160}
    pl.train("digits", images=480, out=tmp_path / "run", overrides=settings, plot=True)
    assert len(screen.images) == 2  # one place each
    curves, samples = sorted(screen.images, key=lambda images: -size(images[0])[0])
    assert len(set(curves)) == len(curves) >= 3  # a longer curve each time
    assert size(curves[-1])[0] > 600
    kept = sorted((tmp_path / "run" / "samples").glob("0*.png"))
    assert samples == [path.read_bytes() for path in kept]
    assert len(kept) == 3
    final = np.asarray(Image.open(io.BytesIO(curves[-1])).convert("RGB"))
    assert np.array_equal(final, np.asarray(Image.open(tmp_path / "run" / "curves.png").convert("RGB")))


def test_drawing_takes_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now, drawn = [0.0], list[float]()

    def update(self: LivePlot) -> None:
        drawn.append(now[0])
        now[0] += 1.0  # a slow one

    monkeypatch.setattr(LivePlot, "update", update)

    class Run:
        progress = 0.0

    plot = LivePlot(tmp_path, lambda: now[0])
    for _ in range(100):
        now[0] += 1.0
        plot.on_step(Run(), {})  # type: ignore[arg-type]
    assert drawn == [1, 22, 43, 64, 85]  # 20 seconds after the end of each
    Run.progress = 1.0
    plot.on_step(Run(), {})  # type: ignore[arg-type]
    assert len(drawn) == 6  # and at the end


def test_without_a_notebook_there_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "pixelloom"):
        pl.train("digits", images=32, out=tmp_path / "run", overrides=SMALL, plot=True)
    assert f"plot: this is no notebook; the curves are in {tmp_path / 'run' / 'curves.png'}" in caplog.text


CELL = """
import pixelloom as pl
from pixelloom.runs import live_plot
live_plot._LEAST = 0.0
pl.train("digits", images=320, out=OUT, overrides=SETTINGS, plot=True).spec
"""


@pytest.mark.slow
def test_a_real_kernel_shows_two_images(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    settings = SMALL | {"train.validate_every": 80, "train.sample_every": 80}
    cell = CELL.replace("OUT", repr(str(tmp_path / "run"))).replace("SETTINGS", repr(settings))
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    nbclient.NotebookClient(book, timeout=600, kernel_name="python3").execute(env=os.environ | {"OMP_NUM_THREADS": "1"})
    shown = [each["data"]["image/png"] for each in book.cells[0].outputs if "image/png" in each.get("data", {})]
    images = [Image.open(io.BytesIO(base64.b64decode(each))) for each in shown]
    assert len(images) == 2
    assert not any("text/html" in each.get("data", {}) for each in book.cells[0].outputs)  # progress is plain lines
    newest = max((tmp_path / "run" / "samples").glob("0*.png"))
    assert any(image.size == Image.open(newest).size for image in images)
