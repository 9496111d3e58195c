"""The studio in Chromium: what arrives is what the library gives; many users, closed pages, and what is refused."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pixelloom as pl
from browsers import chromium
from pixelloom.data.pixels import to_bytes
from pixelloom.models.pixel import PixelModel
from pixelloom.studio import canvas, tasks
from pixelloom.studio.images import MAX_BYTES, pngs_of
from pixelloom.studio.library import Library
from pixelloom.studio.server import ServeOptions, serving
from pixelloom.studio.watching import CancelledError
from studio_toys import pixels_of, pngs_in, saved

pytestmark = pytest.mark.browser
WAIT = 120_000  # milliseconds; beside other programs each step takes long


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Studio:
    """A served studio and a browser."""

    def __init__(self, url: str, library: Library, browser: Any) -> None:
        self.url, self.library, self.browser = url, library, browser
        self.elsewhere: list[str] = []
        self.errors: list[str] = []

    def model(self, name: str) -> Any:
        return self.library.entry(self.name(name)).model

    def name(self, name: str) -> str:
        return next((known for known in self.library.names if Path(known).name == name), name)

    def page(self, name: str = "digits", width: int = 1100) -> Any:
        """A page with a model chosen."""
        page = self.browser.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(WAIT)
        page.on("request", self._seen)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.goto(self.url)
        page.wait_for_selector("#about p, #about :text('parameters')")
        if page.input_value("#model input") != self.name(name):
            page.click("#model input")
            page.click(f'[role=option]:has-text("{self.name(name)}")')
        shape = "x".join(map(str, (self.model(name).spec.height, self.model(name).spec.width)))
        page.wait_for_function("text => document.querySelector('#about').innerText.includes(text)",
                               arg=shape.replace("x", " x "))  # fmt: skip
        page.wait_for_timeout(400)  # updates of the tabs
        return page

    def _seen(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.elsewhere.append(request.url)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder, environment, before = tmp_path_factory.mktemp("studio"), dict(os.environ), Path.cwd()
    os.chdir(folder)
    library = Library([str(path) for path in saved(folder / "models").values()])
    try:
        with serving(library, ServeOptions(port=free_port(), queue=64)) as url, chromium() as browser:
            yield Studio(url.rstrip("/"), library, browser)
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)


def tab(page: Any, name: str) -> None:
    page.click(f'button[role=tab]:has-text("{name}")')


def shown(page: Any, place: str, count: int) -> np.ndarray:
    """The images of a place as the browser has decoded them, one channel or three, [n, H, W, 3]."""
    page.wait_for_function(f"() => document.querySelectorAll('{place} img').length === {count}")
    found = page.evaluate(
        """async (place) => Promise.all([...document.querySelectorAll(place + " img")].map(async (image) => {
            await image.decode();
            const sheet = document.createElement("canvas");
            sheet.width = image.naturalWidth; sheet.height = image.naturalHeight;
            const pen = sheet.getContext("2d"); pen.drawImage(image, 0, 0);
            return [sheet.height, sheet.width, [...pen.getImageData(0, 0, sheet.width, sheet.height).data]];
        }))""",
        place,
    )
    return np.stack([np.array(data, np.uint8).reshape(height, width, 4)[..., :3] for height, width, data in found])


def rgb(images: torch.Tensor, levels: int) -> np.ndarray:
    """Levels [n, C, H, W] as bytes [n, H, W, 3]."""
    pixels = [pixels_of(png) for png in pngs_of(images.numpy(), levels)]
    return np.stack([each if each.ndim == 3 else np.repeat(each[..., None], 3, 2) for each in pixels])


def upload(page: Any, place: str, files: list[tuple[str, bytes]]) -> None:
    """Choose files, and wait until the page lists them."""
    page.set_input_files(
        f"{place} input[type=file]",
        [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in files],
    )
    page.wait_for_function("([place, name]) => document.querySelector(place).innerText.includes(name)",
                           arg=[place, Path(files[-1][0]).stem])  # fmt: skip


def pngs(model: Any, n: int, seed: int) -> list[tuple[str, bytes]]:
    drawn = model.sample(n, seed=seed).numpy()
    return [(f"image-{i}.png", png) for i, png in enumerate(pngs_of(drawn, model.spec.levels))]


# Each tab


@pytest.mark.parametrize("name", ["digits", "color", "gan"])
def test_drawn_pixels_are_those_of_the_same_seed(studio: Studio, name: str) -> None:
    page, model = studio.page(name), studio.model(name)
    page.fill("#draw-seed input", "11")
    page.fill("#draw-n input[type=number]", "5")
    page.click("#draw-button")
    page.wait_for_selector("#draw-line :text('5 images, seed 11')")
    assert (shown(page, "#draw-images", 5) == rgb(model.sample(5, seed=11), model.spec.levels)).all()
    style = page.evaluate("""() => { const image = document.querySelector("#draw-images img");
        return [getComputedStyle(image).imageRendering, image.clientWidth / image.naturalWidth]; }""")
    assert style[0] == "pixelated"
    assert style[1] == int(style[1]) > 1
    page.click("#draw-next")
    page.wait_for_selector("#draw-line :text('5 images, seed 12')")
    assert (shown(page, "#draw-images", 5) == rgb(model.sample(5, seed=12), model.spec.levels)).all()
    page.close()


def test_tabs_are_those_of_the_model(studio: Studio) -> None:
    for name, tabs in (("gan", "Draw Interpolate Attend Compare Train"),
                       ("digits", "Draw Complete Score Compress Compare Train")):  # fmt: skip
        page = studio.page(name)
        page.wait_for_timeout(500)
        seen = [each.inner_text() for each in page.query_selector_all("button[role=tab]") if each.is_visible()]
        assert " ".join(dict.fromkeys(seen)) == tabs
        page.close()


@pytest.fixture
def arrived(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """States of the canvas that reach the server."""
    states: list[Any] = []
    real = tasks.complete

    def complete(entry: Any, state: object, *more: Any) -> tuple[str, str]:
        states.append(canvas.parsed(state, entry.model.spec))
        return real(entry, state, *more)

    monkeypatch.setattr(tasks, "complete", complete)
    return states


def click_pixel(page: Any, spec: Any, cells: list[tuple[int, int]]) -> None:
    """Press at the first pixel, move over the others, release."""
    box = page.locator("canvas.pixel-canvas").bounding_box()
    for i, (row, column) in enumerate(cells):
        page.mouse.move(box["x"] + 1 + (column + 0.5) * (box["width"] - 2) / spec.width,
                        box["y"] + 1 + (row + 0.5) * (box["height"] - 2) / spec.height)  # fmt: skip
        if i == 0:
            page.mouse.down()
    page.mouse.up()


def brush(page: Any, side: int) -> None:
    page.locator("input.brush").fill(str(side))


def completed(page: Any) -> list[float]:
    page.click("#complete-button")
    page.wait_for_function("() => document.querySelectorAll('#complete-images img').length === 8")
    return [float(found) for found in re.findall(r"log p = (-?[\d.]+)", page.inner_text("#complete-images"))]


def test_a_hole_painted_by_mouse_arrives_exactly_and_is_completed(studio: Studio, arrived: list[Any]) -> None:
    page, model = studio.page("binarized-mnist"), studio.model("binarized-mnist")
    tab(page, "Complete")
    page.fill("#complete-seed input", "4")
    page.click("#canvas-example")
    page.wait_for_selector(".canvas-help:has-text('392 of 784')")
    page.click("[data-hole=none]")
    brush(page, 1)
    click_pixel(page, model.spec, [(20, 3), (20, 24)])  # a fast move leaves no gap
    click_pixel(page, model.spec, [(25, 5)])
    brush(page, 3)
    click_pixel(page, model.spec, [(0, 0)])  # cut by the corner
    page.click("[data-tool=show]")
    brush(page, 1)
    click_pixel(page, model.spec, [(20, 10)])
    page.click("[data-tool=paint]")
    click_pixel(page, model.spec, [(27, 27), (27, 25)])
    hole = np.zeros((28, 28), np.bool_)
    hole[20, 3:25] = hole[25, 5] = True
    hole[:2, :2] = True
    hole[20, 10] = False
    image = model.sample(1, seed=4)[0].numpy().copy()
    image[0, 27, 25:] = 1
    values = completed(page)
    assert (arrived[0][1] == hole).all()
    assert (arrived[0][0] == image).all()
    truth = model.complete(image[None], torch.from_numpy(hole), 8, seed=4)
    order = np.argsort(-truth.log_prob[0].numpy(), kind="stable")
    assert values == [round(float(truth.log_prob[0, i]), 2) for i in order]
    assert (shown(page, "#complete-images", 8) == rgb(truth.images[0, order], 2)).all()
    page.close()


def test_the_canvas_is_used_by_keys_alone(studio: Studio, arrived: list[Any]) -> None:
    page, model = studio.page("digits"), studio.model("digits")
    tab(page, "Complete")
    page.wait_for_selector(".canvas-help:has-text('64 of 64')")
    page.focus("[data-hole=none]")
    page.keyboard.press("Enter")
    page.focus("input.brush")
    page.keyboard.press("Home")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "CANVAS"
    for key in ("ArrowUp", "ArrowLeft", "h", " ", "ArrowDown", "Shift+ArrowRight", "s", "Shift+ArrowLeft"):
        page.keyboard.press(key)  # from (4, 4): (3, 3) hidden, (4, 4) hidden, (4, 3) shown
    page.keyboard.press("p")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")  # (2, 3) painted
    page.focus("#complete-button")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('#complete-images img').length === 8")
    hole = np.zeros((8, 8), np.bool_)
    hole[3, 3] = hole[4, 4] = True
    image = np.zeros(model.spec.shape, np.uint8)
    image[0, 2, 3] = 16
    assert (arrived[0][1] == hole).all()
    assert (arrived[0][0] == image).all()
    page.close()


def test_a_painted_color_becomes_the_nearest_one_of_the_palette(studio: Studio, arrived: list[Any]) -> None:
    page, model = studio.page("sprites"), studio.model("sprites")
    tab(page, "Complete")
    page.wait_for_selector(".canvas-help:has-text('54 of 54')")
    page.click("#canvas-example")
    page.wait_for_selector(".canvas-help:has-text('27 of 54')")
    brush(page, 1)
    page.click("[data-tool=paint]")
    page.fill("input.color", "#e02010")
    click_pixel(page, model.spec, [(1, 8)])
    completed(page)
    image = model.sample(1, seed=0)[0].numpy().copy()
    image[0, 1, 8] = 1  # red
    assert (arrived[0][0] == image).all()
    given = to_bytes(image, model.spec.display)[:, :3].transpose(1, 2, 0)  # the known rows, [3, 9, 3]
    assert all((drawn[:3] == given).all() for drawn in shown(page, "#complete-images", 8))
    page.close()


def test_a_loaded_image_and_painted_colors_keep_their_values(studio: Studio, arrived: list[Any]) -> None:
    page, model = studio.page("color"), studio.model("color")
    tab(page, "Complete")
    page.wait_for_selector(".canvas-help:has-text('54 of 54')")
    page.set_input_files("#tab-complete input[type=file], #canvas-load input[type=file]",
                         [{"name": "a.png", "mimeType": "image/png", "buffer": pngs(model, 1, 9)[0][1]}])  # fmt: skip
    page.wait_for_selector(".canvas-help:has-text('27 of 54')")
    brush(page, 1)
    page.click("[data-tool=paint]")
    page.fill("input.color", "#ff8003")
    click_pixel(page, model.spec, [(1, 8)])
    completed(page)
    image = model.sample(1, seed=9)[0].numpy().copy()
    image[:, 1, 8] = (255, 128, 3)
    assert (arrived[0][0] == image).all()
    assert arrived[0][1].sum() == 27
    page.close()


def test_scores_equal_those_of_the_library(studio: Studio) -> None:
    page, model = studio.page("digits"), studio.model("digits")
    tab(page, "Score")
    upload(page, "#score-files", pngs(model, 3, 1))
    page.click("#score-button")
    page.wait_for_selector("#score-line :text('p-values among')")
    calibration = studio.library.entry(studio.name("digits")).calibration(lambda: pytest.fail("calibrated twice"))
    truth = pl.score(model, model.sample(3, seed=1), calibrate=calibration)
    text = page.inner_text("#score-images")
    for i in range(3):
        assert f"image-{i}.png\n{truth.bits_per_dim[i] * 64:.1f} bits, {truth.bits_per_dim[i]:.4f} bits/dim" in text
        assert f"p-value {truth.p_values[i]:.3f}" in text
    html, _ = tasks.score(studio.library.entry(studio.name("digits")), pngs(model, 3, 1))
    maps = np.stack([pixels_of(png) for png in pngs_in(html)])
    assert (shown(page, "#score-images", 3) == maps).all()
    page.close()


def test_a_compressed_file_is_downloaded_and_opened_again(studio: Studio, tmp_path: Path) -> None:
    page, model = studio.page("binarized-mnist"), studio.model("binarized-mnist")
    tab(page, "Compress")
    upload(page, "#compress-files", pngs(model, 4, 8))
    page.click("#compress-button")
    page.wait_for_selector("#compress-result table")
    with page.expect_download() as download:
        page.click("#compress-download")
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert path.suffix == ".pxl"
    with pl.open_pxl(path) as file:
        assert torch.equal(torch.stack([file[i] for i in range(4)]), model.sample(4, seed=8))
    text = page.inner_text("#compress-result")
    assert f"{path.stat().st_size:,}" in text
    assert "PNG" in text
    page.set_input_files("#open-file input[type=file]", str(path))
    page.wait_for_selector("#open-file :text('images')")
    page.click("#open-button")
    assert (shown(page, "#compress-result", 4) == rgb(model.sample(4, seed=8), 2)).all()
    page.close()


def says(page: Any, place: str, text: str) -> None:
    """Wait until an element, which the page may draw again at any time, has a text."""
    page.wait_for_function(
        "([place, text]) => document.querySelector(place)?.innerText.includes(text)",
        arg=[place, text],
        timeout=2 * WAIT,
    )


def near(found: Any, wanted: Any) -> bool:
    """Whether images of a GAN are equal but for the rounding of sums, which depends on the number of threads."""
    return int(abs(found.astype(int) - wanted.astype(int)).max()) <= 1


def test_a_gan_interpolates_and_attends(studio: Studio) -> None:
    page, model = studio.page("gan"), studio.model("gan")
    tab(page, "Interpolate")
    page.fill("#interpolate-seed input", "3")
    page.fill("#interpolate-stops input[type=number]", "3")
    page.fill("#interpolate-steps input[type=number]", "2")
    page.click("#interpolate-button")
    path = model.interpolate(3, 2, seed=3)
    assert near(shown(page, "#interpolate-images", 6), rgb(path[[0, 1, 2, 2, 3, 4]], 256))
    tab(page, "Attend")
    page.click("#attend-button")
    page.wait_for_selector("#attend-line :text('attention layers')")
    assert shown(page, "#attend-images", 1).std() > 10
    page.close()


def test_two_models_side_by_side(studio: Studio) -> None:
    page = studio.page("digits")
    tab(page, "Compare")
    page.click("#compare-other input")
    page.click(f'#compare-other [role=option]:has-text("{studio.name("gan")}"), '
               f'[role=listbox] [role=option]:has-text("{studio.name("gan")}")')  # fmt: skip
    page.fill("#compare-n input[type=number]", "4")
    page.click("#compare-button")
    for place, name in (("#compare-left", "digits"), ("#compare-right", "gan")):
        model = studio.model(name)
        assert near(shown(page, place, 4), rgb(model.sample(4, seed=0), model.spec.levels))
    assert f"{studio.model('gan').parameters:,}" in page.inner_text("#compare-table")
    page.close()


@pytest.mark.timeout(900)
def test_a_run_is_trained_watched_stopped_and_resumed(studio: Studio) -> None:
    page = studio.page("digits")
    tab(page, "Train")
    page.fill("#train-name input, #train-name textarea", "page")
    page.click("#train-recipe input")
    page.click('[role=option]:text-is("digits")')
    page.fill("#train-minutes input", "6")  # the first validation, with its curve, is after a twentieth
    page.click("#train-start")
    try:
        says(page, "#train-line", "page: in progress")
        page.wait_for_selector("#train-images img", timeout=3 * WAIT)
        page.click("#train-stop")
        says(page, "#train-line", "page: ended, code 143")
        checkpoints = [path.name for path in Path("runs/page/checkpoints").iterdir()]
        assert checkpoints
        page.click("#train-resume")
        says(page, "#train-line", "page: in progress")
        page.wait_for_function(
            "() => document.querySelector('#train-log').innerText.includes('validation')", timeout=3 * WAIT
        )
    finally:  # a run that goes on would slow the tests that follow
        page.click("#train-stop")
    says(page, "#train-line", "page: ended, code 143")
    page.fill("#train-name input, #train-name textarea", "../page")
    page.click("#train-watch")
    page.wait_for_selector(":text('run: a name of letters')")
    page.close()


# Narrow, offline


def test_a_page_of_400_pixels_does_not_scroll_sideways(studio: Studio) -> None:
    for name in ("binarized-mnist", "gan"):
        page = studio.page(name, width=400)
        for each in ("Draw", "Complete", "Score", "Compress", "Interpolate", "Attend", "Compare", "Train"):
            found = page.locator(f'button[role=tab]:has-text("{each}")').first
            if not found.is_visible():
                more = page.locator(".overflow-menu > button")
                if not more.count() or not more.first.is_visible():
                    continue
                more.first.click()
                found = page.locator(f'.overflow-dropdown button:has-text("{each}")').first
                if not found.count() or not found.is_visible():
                    more.first.click()
                    continue
            found.click()
            page.wait_for_timeout(150)
            if each == "Draw":
                page.click("#draw-button")
                shown(page, "#draw-images", 16)
            if each == "Complete":
                page.wait_for_selector("canvas.pixel-canvas")
            widths = page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]")
            assert max(widths) <= 400, (name, each, widths)
        page.close()


def test_nothing_was_loaded_from_elsewhere_and_no_script_failed(studio: Studio) -> None:
    page = studio.page("digits")
    answer = page.goto(studio.url)
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    page.close()
    assert studio.elsewhere == []
    assert studio.errors == []


# Many users, closed pages, refusals


def client(url: str) -> Any:
    from gradio_client import Client

    return Client(url, verbose=False, httpx_kwargs={"timeout": WAIT / 1000})


def test_twenty_users_at_once_get_their_own_images(studio: Studio) -> None:
    clients = [client(studio.url) for _ in range(20)]

    def draw(i: int) -> list[bytes]:
        name = ("digits", "color")[i % 2]
        html, _ = clients[i].predict(studio.name(name), 2, i, 1, 0, "any class", api_name="/draw")
        return pngs_in(html)

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(draw, range(20)))
    for i, files in enumerate(found):
        model = studio.model(("digits", "color")[i % 2])
        assert (np.stack(list(map(pixels_of, files))) == np.stack(
            [pixels_of(png) for png in pngs_of(model.sample(2, seed=i).numpy(), model.spec.levels)]
        )).all()  # fmt: skip


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Sampling takes a minute, and records how it ends."""
    ends: list[str] = []

    def sample(self: PixelModel, n: int, *, on_step: Any, **_: Any) -> torch.Tensor:
        images = torch.zeros(n, *self.spec.shape, dtype=torch.uint8)
        try:
            for step in range(1, 3000):
                on_step(step, 3000, images)
                time.sleep(0.02)
        except CancelledError:
            ends.append("canceled")
            raise
        ends.append("whole")
        return images

    monkeypatch.setattr(PixelModel, "sample", sample)
    return lambda: ends


def wait_for(condition: Callable[[], bool], seconds: float = 40) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def test_a_closed_page_cancels_its_sampling(studio: Studio, slow: Callable[[], list[str]]) -> None:
    page = studio.page("digits")
    page.click("#draw-button")
    page.wait_for_selector("#draw-line :text('step ')")
    page.close()
    assert wait_for(lambda: slow() == ["canceled"])


def test_the_cancel_button_cancels(studio: Studio, slow: Callable[[], list[str]]) -> None:
    page = studio.page("digits")
    page.click("#draw-button")
    page.wait_for_selector("#draw-line :text('step ')")
    page.click("#draw-cancel")
    assert wait_for(lambda: slow() == ["canceled"])
    page.wait_for_selector("#draw-line :text('canceled')")
    page.close()


def test_a_full_queue_says_so(studio: Studio, slow: Callable[[], list[str]]) -> None:
    with serving(studio.library, ServeOptions(port=free_port(), queue=2)) as url:
        jobs = []
        for seed in range(6):
            jobs.append(client(url).submit(studio.name("digits"), 1, seed, 1, 0, "any class", api_name="/draw"))
            time.sleep(0.2)
        assert wait_for(lambda: sum(job.done() for job in jobs) >= 3)
        refused = [str(job.exception()) for job in jobs if job.done()]
        assert refused
        assert all("Queue is full" in text for text in refused)
        for job in jobs:
            job.cancel()


def test_large_uploads_are_refused(studio: Studio) -> None:
    import httpx

    small = httpx.post(f"{studio.url}/gradio_api/upload", files={"files": ("a.png", b"x" * 1000)})
    assert small.status_code == 200
    large = httpx.post(
        f"{studio.url}/gradio_api/upload", files={"files": ("a.png", b"x" * (MAX_BYTES + 1))}, timeout=60
    )
    assert large.status_code == 413


def test_no_path_but_uploads_is_read(studio: Studio, tmp_path: Path) -> None:
    import httpx
    from gradio_client import handle_file

    secret = tmp_path / "secret.png"
    secret.write_bytes(pngs(studio.model("digits"), 1, 0)[0][1])
    inside = Path("models/digits/config.json").resolve()  # in the working directory
    assert inside.is_file()
    for path in (
        secret,
        inside,
        "/etc/passwd",
        "models/digits/config.json",
        "../../../etc/passwd",
        "..%2f..%2fetc/passwd",
    ):
        answer = httpx.get(f"{studio.url}/gradio_api/file={path}")
        assert answer.status_code in (403, 404), path
    for path in (secret, inside, Path("/etc/passwd")):
        for api, more in (("/score", ()), ("/compress", ())):
            file = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
            joined = httpx.post(
                f"{studio.url}/gradio_api/call{api}", json={"data": [studio.name("digits"), [file], *more]}
            ).json()
            answer = httpx.get(f"{studio.url}/gradio_api/call{api}/{joined['event_id']}", timeout=60).text
            assert "event: error" in answer
            assert "image/png" not in answer
    good = client(studio.url).predict(studio.name("digits"), [handle_file(secret)], api_name="/score")
    assert len(pngs_in(good[0])) == 1


def test_direct_calls_cannot_pass_the_queue_and_other_hosts_are_refused(studio: Studio) -> None:
    import httpx

    config = httpx.get(f"{studio.url}/config").json()
    number = next(each["id"] for each in config["dependencies"] if each["api_name"] == "draw")
    body = {"data": [studio.name("digits"), 1, 0, 1, 0, None], "fn_index": number}
    assert httpx.post(f"{studio.url}/gradio_api/run/predict", json=body).status_code in (401, 403, 404, 422)
    assert httpx.get(studio.url, headers={"host": "evil.example"}).status_code == 403
    assert httpx.get(studio.url).status_code == 200


def test_a_page_for_other_computers_has_no_training(studio: Studio) -> None:
    import httpx

    with serving(studio.library, ServeOptions(host="0.0.0.0", port=free_port())) as url:
        config = json.dumps(httpx.get(f"{url.replace('0.0.0.0', '127.0.0.1')}config").json())
    assert "train-start" not in config
    assert "draw-button" in config
    assert "train-start" in httpx.get(f"{studio.url}/config").text
    assert threading.main_thread().is_alive()
