"""``pixelloom studio``: a page in the browser."""

from __future__ import annotations

import logging
import signal
import threading
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from pixelloom.cli.console import say
from pixelloom.cli.options import Flag, whole_number

_log = logging.getLogger("pixelloom")
_Port = Annotated[int | None, Parameter(validator=Number(gte=1, lte=65535), converter=whole_number)]
_Size = Annotated[int, Parameter(validator=Number(gte=1, lte=10_000), converter=whole_number)]


def studio(
    *models: str,
    host: str = "127.0.0.1",
    port: _Port = None,
    share: Flag = False,
    queue: _Size = 32,
) -> None:
    """Open a page for the browser: draw, complete, score, compress and compare images, and train models.

    It is served on this computer alone, and loads nothing from elsewhere. Ctrl-C ends it.

    Args:
        models: Run folders, model folders, or names of runs under runs/; the pretrained models are there as well.
        host: Address to listen on; 0.0.0.0 lets other computers in. Training is then off.
        port: Port; default: the first free one from 7860.
        share: Make a public link through gradio's servers, which anyone who has it can open. Training is then off.
        queue: Number of computations that may wait; further ones are refused.
    """
    from pixelloom.engine.signals import Signals, Stopped
    from pixelloom.studio.library import Library
    from pixelloom.studio.server import ServeOptions, serving

    options = ServeOptions(host, port, share, queue)
    with Signals() as received, serving(Library(models), options) as url:
        say(url)
        if not options.local:
            _log.warning("other computers can reach this page; training is off")
        _log.info("Ctrl-C ends the studio")
        try:
            with received.interruptible():
                threading.Event().wait()
        except Stopped:
            _log.info("stopped by %s", signal.Signals(received.received).name)
