"""Parts of forms that tabs share, and errors as messages of the page."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import Any

import gradio as gr

from pixelloom.core.errors import PixelloomError
from pixelloom.studio.library import Entry
from pixelloom.studio.tasks import ANY_CLASS

QUEUE = {"concurrency_id": "models", "concurrency_limit": 1, "show_progress": "hidden"}
"""One computation at a time uses all CPU threads; the others wait in the queue."""


@dataclass
class Part:
    """A tab of the page.

    Attributes:
        tab: the gradio tab.
        components: what changes with the model.
        refresh: a model -> updates of ``components``.
    """

    tab: Any
    components: list[Any]
    refresh: Callable[[Entry], list[Any]]


def polite(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose errors for users are messages of the page."""

    @wraps(function)
    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except PixelloomError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return call


def politely(function: Callable[..., Iterator[Any]]) -> Callable[..., Any]:
    """The generator function, whose errors for users are messages of the page."""

    @wraps(function)
    def iterate(*args: Any) -> Generator[Any, None, None]:
        try:
            yield from function(*args)
        except PixelloomError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return iterate


def html(elem_id: str) -> Any:
    """A place for HTML."""
    return gr.HTML(elem_id=elem_id)


def line(elem_id: str) -> Any:
    """A line of text, read aloud when it changes."""
    return gr.HTML(elem_id=elem_id, html_template='<p role="status" aria-live="polite">${value}</p>', value="")


def seed(elem_id: str) -> Any:
    """The field of a seed."""
    return gr.Number(0, label="Seed", precision=0, minimum=0, elem_id=elem_id, min_width=100)


def class_field(elem_id: str) -> Any:
    """The field of a class; its choices follow the model."""
    return gr.Dropdown(
        [ANY_CLASS],
        value=ANY_CLASS,
        label="Class",
        visible=False,
        allow_custom_value=True,
        elem_id=elem_id,
        min_width=120,
    )


def class_choices(entry: Entry, *, needed: bool = False) -> Any:
    """The update of :func:`class_field` for a model."""
    names = list(entry.model.description.class_names)
    choices = names if needed and names else [ANY_CLASS, *names]
    return gr.Dropdown(choices=choices, value=choices[0], visible=bool(names))


def file_field(label: str, elem_id: str, kinds: list[str] | None = None) -> Any:
    """The field of uploaded files; their content arrives unchanged."""
    return gr.File(
        label=label,
        file_count="multiple",
        file_types=["image"] if kinds is None else kinds,
        elem_id=elem_id,
        height=150,
    )
