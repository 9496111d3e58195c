"""The page of docs/browser in Chromium, offline: the digits of Python for the same noise, and painted pixels."""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import browsers
import pixelloom as pl
from pixelloom.core.rng import image_noise
from pixelloom.models.pixel import PixelModel

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "browser"
RESULT = ROOT / "benchmarks" / "results" / "browser-page.json"
DIGITS = 12
STATE = "import('./page.js').then(({ state }) => ({ image: [...state.image], chance: [...state.chance] }))"


class Quiet(SimpleHTTPRequestHandler):
    """Without a line per request."""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    assert (PAGE / "vendor" / "binarized-mnist.onnx").is_file(), "run `make page` first"
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(PAGE))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browsers.chromium() as browser:
        yield browser


@pytest.fixture
def page(chromium: Any, address: str) -> Iterator[Any]:
    """The page after its first digit; requests to other addresses and errors fail the test."""
    faults: list[str] = []
    context = chromium.new_context(viewport={"width": 1200, "height": 800})
    found = context.new_page()

    def only_own(route: Any) -> None:
        if route.request.url.startswith((address, "data:")):
            route.continue_()
        else:
            faults.append(route.request.url)
            route.abort()

    context.route("**/*", only_own)
    found.on("pageerror", lambda error: faults.append(str(error)))
    found.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    found.goto(address)
    found.wait_for_selector("body[data-drawn]")
    yield found
    context.close()
    assert not faults


@pytest.fixture(scope="module")
def model() -> PixelModel:
    found = pl.load("binarized-mnist")
    assert isinstance(found, PixelModel)
    return found


def image_of(page: Any) -> torch.Tensor:
    return torch.tensor(page.evaluate(STATE)["image"], dtype=torch.uint8).view(1, 1, 28, 28)


def drawn_after(page: Any, action: Any) -> torch.Tensor:
    """The image that is drawn after an action."""
    page.evaluate("delete document.body.dataset.drawn")
    action()
    page.wait_for_selector("body[data-drawn]")
    return image_of(page)


def test_noise_digits_mask_and_receptive_field_are_those_of_python(page: Any, model: PixelModel) -> None:
    script = """async (n) => {
        const { noiseOf } = await import('./noise.js');
        const { Network, draw, readSafetensors } = await import('./network.js');
        const file = await (await fetch('vendor/binarized-mnist.safetensors')).arrayBuffer();
        const network = new Network(readSafetensors(file));
        const images = [], noises = [], big = [...noiseOf(4294967295, 4294967295, 784)];
        for (let index = 0; index < n; index++) {
            const noise = noiseOf(7, index, 784), drawing = network.start(), image = [];
            for (const u of noise) { image.push(draw(drawing.next(), u)); drawing.set(image.at(-1)); }
            images.push(image); noises.push([...noise]);
        }
        const of = (set) => [...set].sort((a, b) => a - b), mask = of(network.mask(14, 9));
        const places = [[0, 0], [14, 9], [27, 27], [5, 27], [20, 0]];
        const fields = places.map(([y, x]) => [y, x, of(network.field(y, x))]);
        return { images, noises, big, fields, mask };
    }"""
    found = page.evaluate(script, DIGITS)
    noise = image_noise(model.spec, 7, 0, DIGITS)
    assert (np.array(found["noises"]) == noise.flatten(1).numpy()).all()
    big = image_noise(model.spec, 2**32 - 1, 2**32 - 1, 1)
    assert (np.array(found["big"]) == big.flatten().numpy()).all()
    images = model.sample(DIGITS, seed=7)
    assert (np.array(found["images"]) == images.flatten(1).numpy()).all()
    assert 0.05 < float(images.float().mean()) < 0.5
    for y, x, field in found["fields"]:
        assert np.flatnonzero(pl.receptive_field(model.network, model.spec, (y, x))).tolist() == field
    assert found["mask"] == [y * 28 + x for y in (11, 12, 13) for x in range(6, 13)] + [14 * 28 + x for x in (6, 7, 8)]


def test_what_the_page_shows(page: Any, model: PixelModel) -> None:
    assert torch.equal(image_of(page), model.sample(1))
    assert torch.equal(drawn_after(page, lambda: page.keyboard.press("n")), model.sample(1, first=1))
    chance = torch.tensor(page.evaluate(STATE)["chance"], dtype=torch.float64)
    expected = torch.sigmoid(model.predict(model.sample(1, first=1)).double()).flatten()
    assert torch.allclose(chance, expected.detach(), rtol=0, atol=1e-5)  # logits in float32
    page.focus("#image")
    for key in ("ArrowUp", "ArrowRight"):  # the first one points at the center of the upper half
        page.keyboard.press(key)
    assert page.inner_text("#where") == "Row 7, column 15"
    at = 7 * 28 + 15
    assert page.inner_text("#p1").startswith(f"ink {100 * float(chance[at]):.1f}"[:6])
    field = int(pl.receptive_field(model.network, model.spec, (7, 15)).sum())
    assert page.inner_text("#reach") == f"receptive field: {field} pixels"


def test_a_painted_half_is_kept_and_completed_as_by_python(page: Any, model: PixelModel) -> None:
    page.wait_for_selector("body[data-runtime=ready]")
    page.click("#clear")
    box = page.locator("#image").bounding_box()

    def stroke() -> None:
        def at(column: int, row: int) -> tuple[float, float]:
            return box["x"] + (column + 0.5) * box["width"] / 28, box["y"] + (row + 0.5) * box["height"] / 28

        page.mouse.move(*at(9, 5))
        page.mouse.down()
        page.mouse.move(*at(17, 5), steps=30)
        page.mouse.move(*at(14, 12), steps=30)
        stroke.painted = image_of(page)  # type: ignore[attr-defined]
        page.mouse.up()

    found = drawn_after(page, stroke)
    painted = stroke.painted  # type: ignore[attr-defined]
    assert painted[0, 0, 5:7, 9:19].all()
    assert not painted[0, 0, 14:].any()
    mask = torch.zeros(28, 28, dtype=torch.bool)
    mask[:14] = True
    for index in (0, 1):
        assert torch.equal(found[:, :, :14], painted[:, :, :14])
        assert torch.equal(found, model.sample(1, first=index, given=painted, mask=mask))
        assert found[:, :, 14:].any()
        found = drawn_after(page, lambda: page.keyboard.press("c"))
    kept = drawn_after(
        page, lambda: (page.focus("#image"), page.keyboard.press("ArrowUp"), page.keyboard.press("Space"))
    )
    assert int((kept[:, :, :14] != painted[:, :, :14]).sum()) == 1  # the pixel of the keyboard


def test_one_pass_in_onnx_runtime_gives_the_same_probabilities(page: Any, model: PixelModel) -> None:
    page.wait_for_selector("body[data-runtime=ready]")
    page.click("#clear")
    page.wait_for_function(f"() => {STATE}.then(({{ chance }}) => Math.abs(chance[783] - chance[0]) < 1)")
    page.wait_for_timeout(500)
    chance = torch.tensor(page.evaluate(STATE)["chance"], dtype=torch.float64)
    empty = torch.zeros(1, *model.spec.shape, dtype=torch.uint8)
    expected = torch.sigmoid(model.predict(empty).double()).flatten().detach()
    assert torch.allclose(chance, expected, rtol=0, atol=1e-5)
    assert float(expected.max()) > 0.05


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_one_screen(chromium: Any, address: str, width: int, scheme: str) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 820}, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("body[data-drawn]")
    size = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    assert size[0] <= width
    assert size[1] <= 820
    for button in ("another", "again", "clear"):
        assert page.locator(f"#{button}").bounding_box()["width"] > 40
    context.close()


def test_time_to_the_first_digit_is_written(page: Any) -> None:
    """Written, not asserted: milliseconds since the navigation began, on loopback."""
    page.wait_for_selector("body[data-runtime=ready]")
    times = page.evaluate("performance.getEntriesByType('mark').map((m) => [m.name, Math.round(m.startTime)])")
    compute = """async () => {
        const { Network, readSafetensors } = await import('./network.js');
        const file = await (await fetch('vendor/binarized-mnist.safetensors')).arrayBuffer();
        const network = new Network(readSafetensors(file));
        const ort = await import('./vendor/ort.wasm.bundle.min.mjs');
        const session = await ort.InferenceSession.create('vendor/binarized-mnist.onnx');
        const timed = async (run) => {
            const found = [];
            for (let i = 0; i < 7; i++) {
                const begin = performance.now();
                await run();
                found.push(performance.now() - begin);
            }
            return found.sort((a, b) => a - b)[3];
        };
        const images = new ort.Tensor('uint8', new Uint8Array(784), [1, 1, 28, 28]);
        const digit = () => {
            const drawing = network.start();
            for (let i = 0; i < 784; i++) { drawing.next(); drawing.set(0); }
        };
        return { digit: await timed(digit), pass: await timed(() => session.run({ images })) };
    }"""
    spent = {name: round(value, 1) for name, value in page.evaluate(compute).items()}
    found = {
        "browser": page.context.browser.version,
        "first_digit_ms": dict(times)["first-digit"],
        "runtime_ready_ms": dict(times)["runtime-ready"],
        "digit_in_javascript_ms": spent["digit"],
        "pass_in_onnx_runtime_ms": spent["pass"],
        "digit_by_784_passes_ms": round(784 * spent["pass"]),
    }
    sys.stdout.write(f"{found}\n")
    if os.environ.get("PIXELLOOM_RECORD"):
        RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
