"""The page: one model at the top, a tab for each of its abilities."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from pixelloom.studio.forms import Part, polite
from pixelloom.studio.library import Library, summary, tabs_of
from pixelloom.studio.more_tabs import attend_tab, compare_tab, compress_tab, interpolate_tab, train_tab
from pixelloom.studio.tabs import complete_tab, draw_tab, score_tab
from pixelloom.studio.training import Trainings

CSS = Path(__file__).parent / "assets" / "page.css"
BUILDERS: Mapping[str, Callable[[Library, Any], Part]] = {
    "draw": draw_tab,
    "complete": complete_tab,
    "score": score_tab,
    "compress": compress_tab,
    "interpolate": interpolate_tab,
    "attend": attend_tab,
    "compare": compare_tab,
}


def build(library: Library, *, queue: int = 32, trainings: Trainings | None = None) -> Any:
    """The gradio page.

    Args:
        library: the models.
        queue: computations that may wait; further ones are refused.
        trainings: the training processes; without them the page has no tab for training.
    """
    with gr.Blocks(title="Pixelloom studio", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML("<h1>Pixelloom studio</h1>")
        model = gr.Dropdown(library.names, value=library.names[0], label="Model", elem_id="model", filterable=False)
        about = gr.HTML(elem_id="about")
        with gr.Tabs(elem_id="tabs") as tabs:
            parts = {name: make(library, model) for name, make in BUILDERS.items()}
            if trainings is not None:
                parts["train"] = train_tab(trainings)

        def switch(name: str) -> list[Any]:
            entry = library.entry(name)
            shown = tabs_of(entry.model, train=trainings is not None)
            updates = [html.escape(summary(entry)), gr.Tabs(selected=shown[0])]
            # gradio 6.31 does not hide a tab that it has shown by visible=False.
            updates += [gr.Tab(visible=True if tab in shown else "hidden") for tab in parts]
            for part in parts.values():
                updates += part.refresh(entry)
            return updates

        changed = [about, tabs, *(part.tab for part in parts.values())]
        changed += [component for part in parts.values() for component in part.components]
        model.change(polite(switch), model, changed, queue=False, show_progress="hidden", api_visibility="private")
        page.load(polite(switch), model, changed, queue=False, show_progress="hidden", api_visibility="private")
    page.queue(max_size=queue, api_open=False, default_concurrency_limit=1)
    return page
