"""Serving the page: on this computer alone unless asked otherwise, and without any other connection."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelloom.core.errors import UsageError
from pixelloom.studio.images import MAX_BYTES
from pixelloom.studio.library import Library
from pixelloom.studio.training import Trainings

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_OWN = ("GRADIO_ALLOWED_PATHS", "GRADIO_SHARE", "GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "GRADIO_ROOT_PATH")
"""Environment variables that would change what is served."""
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-ancestors 'self'; base-uri 'self'; "
    "form-action 'self'"
)


@dataclass(frozen=True)
class ServeOptions:
    """Where the page is served.

    Attributes:
        host: address to listen on.
        port: port; None for the first free one from 7860.
        share: whether to make a public link through gradio's servers.
        queue: computations that may wait.
    """

    host: str = LOOPBACK[0]
    port: int | None = None
    share: bool = False
    queue: int = 32

    @property
    def local(self) -> bool:
        """Whether only this computer reaches the page."""
        return self.host in LOOPBACK and not self.share


def prepare_environment() -> dict[str, str]:
    """Turn off gradio's own connections and settings, before gradio is imported; returns the environment before."""
    before = dict(os.environ)
    for name in _OWN:
        os.environ.pop(name, None)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("PIXELLOOM_OFFLINE", "1")  # visitors start no downloads of data sets
    return before


class _Policy:
    """Adds a content security policy to every answer: the page loads nothing from elsewhere.

    A page of this computer alone answers only under its own names, so that no other site reaches it by a name that
    resolves to this computer (DNS rebinding).
    """

    def __init__(self, app: Any, local: bool) -> None:
        self.app, self.local = app, local

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", []), (b"content-security-policy", _POLICY.encode())]
                message = {**message, "headers": [*headers, (b"x-content-type-options", b"nosniff")]}
            await send(message)

        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif self.local and not _is_own(dict(scope["headers"]).get(b"host", b"")):
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"this page answers on this computer only"})
        else:
            await self.app(scope, receive, with_policy)


def _is_own(host: bytes) -> bool:
    """Whether the Host header names this computer."""
    name = (
        host.decode("latin-1").rpartition(":")[0]
        if host.rstrip(b"0123456789").endswith(b":")
        else host.decode("latin-1")
    )
    return name.strip("[]") in LOOPBACK


@contextmanager
def serving(library: Library, options: ServeOptions) -> Iterator[str]:
    """Serve the page in threads of this process; yields its URL.

    Uploads and downloads lie in a temporary folder that is removed at the end; no other path is served.

    Raises:
        UsageError: if gradio is not installed, or host and port cannot be used.
    """
    environment = prepare_environment()
    with tempfile.TemporaryDirectory(prefix="pixelloom-studio-") as folder:
        earlier = os.environ.get("GRADIO_TEMP_DIR", folder)
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            import gradio as gr
            from starlette.middleware import Middleware
        except ImportError as error:
            raise UsageError(f"studio: needs gradio ({error}); pip install 'pixelloom[studio]'") from error
        from pixelloom.studio.page import CSS, build

        trainings = Trainings(Path(folder), environment) if options.local else None
        page = build(library, queue=options.queue, trainings=trainings)
        try:
            _, local, public = page.launch(
                server_name=options.host, server_port=options.port, share=options.share, prevent_thread_lock=True,
                quiet=True, inbrowser=False, show_error=False, footer_links=[], run_history=False, allowed_paths=[],
                max_file_size=MAX_BYTES, enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False,
                css_paths=[CSS], theme=theme(gr), app_kwargs={"middleware": [Middleware(_Policy, local=options.local)]},
            )  # fmt: skip
        except OSError as error:
            raise UsageError(f"--host {options.host}, --port {options.port}: {error}") from error
        try:
            yield public or local
        finally:
            if trainings is not None:
                trainings.close()
            page.close(verbose=False)
            os.environ["GRADIO_TEMP_DIR"] = earlier  # of another studio of this process


def theme(gr: Any) -> Any:
    """Gradio's theme with the fonts of the system, so that none is downloaded."""
    return gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
