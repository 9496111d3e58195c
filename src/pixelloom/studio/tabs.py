"""The tabs that sample, complete and score. Each function builds one tab and its events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from pixelloom.studio import canvas, tasks
from pixelloom.studio.forms import (
    QUEUE,
    Part,
    class_choices,
    class_field,
    file_field,
    html,
    line,
    polite,
    politely,
    seed,
)
from pixelloom.studio.images import contents_of
from pixelloom.studio.library import Entry, Library

_ASSETS = Path(__file__).parent / "assets"


def cancels(button: Any, events: list[Any], about: Any) -> None:
    """A button that cancels events, and says so afterwards: a frame under way would replace a text sent at once."""
    done = button.click(lambda: None, None, None, cancels=events, queue=False, api_visibility="private")
    done.then(lambda: "canceled", None, about, queue=False, api_visibility="private")


def draw_tab(library: Library, model: Any) -> Part:
    """Sample images, watched step by step."""
    with gr.Tab("Draw", id="draw", elem_id="tab-draw") as tab:
        with gr.Row():
            number = gr.Slider(1, tasks.MOST_IMAGES, 16, step=1, label="Images", elem_id="draw-n", min_width=140)
            start = seed("draw-seed")
            temperature = gr.Slider(
                0.1, 2, 1, step=0.05, label="Temperature", elem_id="draw-temperature", min_width=140
            )
            truncation = gr.Slider(
                0, 3, 0, step=0.1, label="Truncation (0: none)", elem_id="draw-truncation", visible=False, min_width=140
            )
            chosen = class_field("draw-class")
        with gr.Row():
            button = gr.Button("Draw", variant="primary", elem_id="draw-button", min_width=90)
            again = gr.Button("Next seed", elem_id="draw-next", min_width=90)
            stop = gr.Button("Cancel", variant="stop", elem_id="draw-cancel", min_width=90)
        about, shown = line("draw-line"), html("draw-images")

        def run(name: str, *values: Any) -> Iterator[tuple[str, str]]:
            yield from tasks.draw(library.entry(name), *values)

        inputs = [model, number, start, temperature, truncation, chosen]
        drawing = button.click(politely(run), inputs, [shown, about], api_name="draw", **QUEUE)
        more = again.click(lambda value: int(value or 0) + 1, start, start, queue=False, api_visibility="private")
        further = more.then(politely(run), inputs, [shown, about], api_visibility="private", **QUEUE)
        cancels(stop, [drawing, further], about)

    def refresh(entry: Entry) -> list[Any]:
        can = entry.model.can
        return [
            gr.Slider(visible="temperature" in can),
            gr.Slider(visible="truncation" in can),
            class_choices(entry),
            "",
            "",
        ]

    return Part(tab, [temperature, truncation, chosen, about, shown], refresh)


def pixel_canvas() -> Any:
    """The canvas of whole pixels; its value is the JSON of :mod:`pixelloom.studio.canvas`."""
    return gr.HTML(
        value="",
        html_template=(_ASSETS / "canvas.html").read_text(encoding="utf-8"),
        js_on_load=(_ASSETS / "canvas.js").read_text(encoding="utf-8"),
        elem_id="canvas",
        apply_default_css=False,
    )


def complete_tab(library: Library, model: Any) -> Part:
    """Hide or paint pixels, and complete what is hidden."""
    with gr.Tab("Complete", id="complete", elem_id="tab-complete") as tab:
        with gr.Row():
            with gr.Column(min_width=340):
                sheet = pixel_canvas()
            with gr.Column(min_width=200):
                upload = gr.UploadButton("Load an image", file_types=["image"], elem_id="canvas-load")
                example = gr.Button("Draw an image", elem_id="canvas-example")
                start, chosen = seed("complete-seed"), class_field("complete-class")
                button = gr.Button("Complete", variant="primary", elem_id="complete-button")
                stop = gr.Button("Cancel", variant="stop", elem_id="complete-cancel")
        about, shown = line("complete-line"), html("complete-images")

        def load(name: str, path: str) -> str:
            (file, content), *_ = contents_of([path])
            return tasks.on_canvas(library.entry(name), file, content)

        def drawn(name: str, number: Any, label: str) -> str:
            return tasks.example(library.entry(name), number, label)

        def run(name: str, *values: Any) -> tuple[str, str]:
            return tasks.complete(library.entry(name), *values)

        upload.upload(polite(load), [model, upload], sheet, api_visibility="private", **QUEUE)
        example.click(polite(drawn), [model, start, chosen], sheet, api_visibility="private", **QUEUE)
        running = button.click(polite(run), [model, sheet, start, chosen], [shown, about], api_name="complete", **QUEUE)
        cancels(stop, [running], about)

    def refresh(entry: Entry) -> list[Any]:
        return [canvas.empty(entry.model.spec), class_choices(entry), "", ""]

    return Part(tab, [sheet, chosen, about, shown], refresh)


def score_tab(library: Library, model: Any) -> Part:
    """Bits, p-value and map of images."""
    with gr.Tab("Score", id="score", elem_id="tab-score") as tab:
        files = file_field("Images", "score-files")
        button = gr.Button("Score", variant="primary", elem_id="score-button")
        about, shown = line("score-line"), html("score-images")

        def run(name: str, paths: list[str]) -> tuple[str, str]:
            return tasks.score(library.entry(name), contents_of(paths))

        button.click(polite(run), [model, files], [shown, about], api_name="score", **QUEUE)
    return Part(tab, [about, shown], lambda _: ["", ""])
