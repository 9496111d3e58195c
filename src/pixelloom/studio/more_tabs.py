"""The tabs that compress, interpolate, attend, compare and train. Each function builds one tab and its events."""

from __future__ import annotations

import html as escaping
from pathlib import Path
from typing import Any

import gradio as gr

from pixelloom.data.catalog import DATASETS
from pixelloom.runs.recipes import RECIPES
from pixelloom.studio import compression, gan_tasks
from pixelloom.studio.forms import QUEUE, Part, class_choices, class_field, file_field, html, line, polite, seed
from pixelloom.studio.images import contents_of, gallery
from pixelloom.studio.library import Entry, Library
from pixelloom.studio.training import PICKED, Trainings

_TICK = 1.5  # seconds between looks at a run


def compress_tab(library: Library, model: Any) -> Part:
    """Compress images, download the file, and open one."""
    with gr.Tab("Compress", id="compress", elem_id="tab-compress") as tab:
        with gr.Row():
            with gr.Column(min_width=280):
                files = file_field("Images to compress", "compress-files")
                button = gr.Button("Compress", variant="primary", elem_id="compress-button")
                download = gr.DownloadButton("Download", visible=False, elem_id="compress-download")
            with gr.Column(min_width=280):
                packed = gr.File(
                    label="A .pxl file to open", file_types=[compression.SUFFIX], elem_id="open-file", height=150
                )
                opening = gr.Button("Open", elem_id="open-button")
        about, shown = line("compress-line"), html("compress-result")

        def run(name: str, paths: list[str]) -> tuple[str, str, Any]:
            found = compression.pack(library.entry(name), contents_of(paths))
            path = gr.processing_utils.save_bytes_to_cache(found.data, "images.pxl", download.GRADIO_CACHE)
            return found.sizes, found.line, gr.DownloadButton(value=path, visible=True)

        def unpack(name: str, path: str | None) -> tuple[str, str]:
            (file, data), *_ = contents_of([path] if path else [])
            return compression.unpack(library.entry(name), file, data)

        button.click(polite(run), [model, files], [shown, about, download], api_name="compress", **QUEUE)
        opening.click(polite(unpack), [model, packed], [shown, about], api_name="decompress", **QUEUE)
    return Part(tab, [about, shown, download], lambda _: ["", "", gr.DownloadButton(visible=False)])


def interpolate_tab(library: Library, model: Any) -> Part:
    """Interpolate between images of a GAN."""
    with gr.Tab("Interpolate", id="interpolate", elem_id="tab-interpolate", visible="hidden") as tab:
        with gr.Row():
            stops = gr.Slider(
                2, gan_tasks.MOST_STOPS, 4, step=1, label="Images", elem_id="interpolate-stops", min_width=120
            )
            steps = gr.Slider(
                1, gan_tasks.MOST_STEPS, 8, step=1, label="Steps", elem_id="interpolate-steps", min_width=120
            )
            start, chosen = seed("interpolate-seed"), class_field("interpolate-class")
        button = gr.Button("Interpolate", variant="primary", elem_id="interpolate-button")
        about, shown = line("interpolate-line"), html("interpolate-images")

        def run(name: str, *values: Any) -> tuple[str, str]:
            return gan_tasks.interpolate(library.entry(name), *values)

        button.click(
            polite(run), [model, stops, steps, start, chosen], [shown, about], api_name="interpolate", **QUEUE
        )  # fmt: skip
    return Part(tab, [chosen, about, shown], lambda entry: [class_choices(entry), "", ""])


def attend_tab(library: Library, model: Any) -> Part:
    """Attention maps of a generator."""
    with gr.Tab("Attend", id="attend", elem_id="tab-attend", visible="hidden") as tab:
        with gr.Row():
            number = gr.Slider(1, gan_tasks.MOST_MAPS, 4, step=1, label="Images", elem_id="attend-n", min_width=120)
            start = seed("attend-seed")
            row = gr.Slider(0, 27, 14, step=1, label="Row of the query", elem_id="attend-row", min_width=120)
            column = gr.Slider(0, 27, 14, step=1, label="Column of the query", elem_id="attend-column", min_width=120)
            chosen = class_field("attend-class")
        button = gr.Button("Show attention", variant="primary", elem_id="attend-button")
        about, shown = line("attend-line"), html("attend-images")

        def run(name: str, *values: Any) -> tuple[str, str]:
            return gan_tasks.attend(library.entry(name), *values)

        inputs = [model, number, start, row, column, chosen]
        button.click(polite(run), inputs, [shown, about], api_name="attend", **QUEUE)

    def refresh(entry: Entry) -> list[Any]:
        height, width = entry.model.spec.height, entry.model.spec.width
        rows = gr.Slider(maximum=height - 1, value=height // 2), gr.Slider(maximum=width - 1, value=width // 2)
        return [*rows, class_choices(entry), "", ""]

    return Part(tab, [row, column, chosen, about, shown], refresh)


def compare_tab(library: Library, model: Any) -> Part:
    """Two models side by side."""
    names = library.names
    with gr.Tab("Compare", id="compare", elem_id="tab-compare") as tab:
        with gr.Row():
            other = gr.Dropdown(
                names, value=names[-1], label="With", elem_id="compare-other", filterable=False, min_width=160
            )
            number = gr.Slider(1, 36, 9, step=1, label="Images", elem_id="compare-n", min_width=120)
            start = seed("compare-seed")
        files = file_field("Images whose bits/dim are compared (optional)", "compare-files")
        button = gr.Button("Compare", variant="primary", elem_id="compare-button")
        summary = html("compare-table")
        with gr.Row():
            left, right = html("compare-left"), html("compare-right")

        def run(name: str, second: str, count: Any, first: Any, paths: list[str] | None) -> tuple[str, str, str]:
            both = library.entry(name), library.entry(second)
            return gan_tasks.compare(*both, count, first, contents_of(paths) if paths else [])

        inputs = [model, other, number, start, files]
        button.click(polite(run), inputs, [summary, left, right], api_name="compare", **QUEUE)
    return Part(tab, [summary, left, right], lambda _: ["", "", ""])


def train_tab(trainings: Trainings) -> Part:
    """Start, watch, stop and resume runs; only on the page of this computer."""
    with gr.Tab("Train", id="train", elem_id="tab-train") as tab:
        with gr.Row():
            data = gr.Textbox(
                label="Folder of images, or data set", placeholder="/home/me/images", elem_id="train-data",
                info=f"data sets: {', '.join(DATASETS)}", min_width=200,
            )  # fmt: skip
            recipe = gr.Dropdown(
                [PICKED, *RECIPES], value=PICKED, label="Recipe", elem_id="train-recipe", min_width=160
            )
            minutes = gr.Number(5, label="Minutes", minimum=0, elem_id="train-minutes", min_width=80)
            name = gr.Textbox("studio", label="Run", elem_id="train-name", info="folder under runs/", min_width=120)
        with gr.Row():
            start = gr.Button("Train", variant="primary", elem_id="train-start", min_width=80)
            stop = gr.Button("Stop", variant="stop", elem_id="train-stop", min_width=80)
            resume = gr.Button("Resume", elem_id="train-resume", min_width=80)
            look = gr.Button("Watch", elem_id="train-watch", min_width=80)
        about, shown, log = line("train-line"), html("train-images"), html("train-log")
        timer = gr.Timer(_TICK, active=False)

        def view(run: str) -> tuple[Any, ...]:
            found = trainings.watch(run)
            paths = [("curves", found.curves), ("newest samples", found.samples)]
            drawn = [(text, read) for text, path in paths if path is not None and (read := _content(path))]
            images = gallery([data for _, data in drawn], [text for text, _ in drawn], side=1)
            state = "in progress" if found.running else "stopped" if found.code is None else f"ended, code {found.code}"
            ready = f"; open it with: pixelloom studio runs/{run}" if found.model and not found.running else ""
            messages = f"<pre>{escaping.escape(found.log)}</pre>" if found.log else ""
            return f"{run}: {state}{ready}", images, messages, gr.Timer(active=found.running)

        def begin(run: str, *values: Any) -> tuple[Any, ...]:
            trainings.start(run, *values)
            return view(run)

        def again(run: str, *values: Any) -> tuple[Any, ...]:
            trainings.start(run, *values, resume=True)
            return view(run)

        def end(run: str) -> tuple[Any, ...]:
            trainings.stop(run)
            return view(run)

        outputs, fields = [about, shown, log, timer], [name, recipe, data, minutes]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_id": "train"}
        start.click(polite(begin), fields, outputs, **quiet)
        resume.click(polite(again), fields, outputs, **quiet)
        stop.click(polite(end), name, outputs, **quiet)
        look.click(polite(view), name, outputs, **quiet)
        timer.tick(polite(view), name, outputs, **quiet)
    return Part(tab, [], lambda _: [])


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # replaced meanwhile
        return b""
