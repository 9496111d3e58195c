"""The command line: ``pixelloom train``, ``sample``, ``evaluate``, ``compare``, ``attention``, ``interpolate``,
``explain``, ``info``, ``list``, ``config``.

Results go to standard output, everything else (progress, warnings, errors) to standard error. Nothing heavy is imported
before a command runs: help and a typo must not wait for torch.

Exit codes: 0 done; 2 a flag, a field or a device is wrong; 3 data; 4 a model or checkpoint, or training diverged;
130 and 143 stopped by a signal; 1 a fault of Pixelloom itself.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from cyclopts import App, CycloptsError

import pixelloom
from pixelloom.cli import attention, compare, evaluate, explain, info, interpolate, listing, sample, train
from pixelloom.cli.console import logs
from pixelloom.core.errors import PixelloomError
from pixelloom.runs import renamed

_HELP = """Train image generators on your own pictures, measure them, draw with them.

To start: pixelloom train digits --minutes 1
and then: pixelloom sample runs/digits

With any command, --debug shows the traceback of an error."""

app = App(
    name="pixelloom",
    help=_HELP,
    version=pixelloom.__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,  # it would end the process from within
)
app.command(train.train, usage="Usage: pixelloom train RECIPE|NETWORK [OPTIONS]", sort_key=1)
app.command(sample.sample, usage="Usage: pixelloom sample MODEL [OPTIONS]", sort_key=2)
app.command(evaluate.evaluate, usage="Usage: pixelloom evaluate MODEL [OPTIONS]", sort_key=3)
app.command(compare.compare, usage="Usage: pixelloom compare MODEL... [OPTIONS]", sort_key=4)
app.command(attention.attention, usage="Usage: pixelloom attention MODEL [OPTIONS]", sort_key=5)
app.command(interpolate.interpolate, usage="Usage: pixelloom interpolate MODEL [OPTIONS]", sort_key=6)
app.command(explain.explain, usage="Usage: pixelloom explain MODEL [IMAGE] [OPTIONS]", sort_key=7)
app.command(info.info, usage="Usage: pixelloom info MODEL [OPTIONS]", sort_key=8)
app.command(listing.list_, name="list", usage="Usage: pixelloom list [recipes|networks|datasets] [--json]", sort_key=9)
app.command(listing.config, usage="Usage: pixelloom config RECIPE|NETWORK [--json]", sort_key=10)


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out a command line (by default the process's own); returns the exit code and never raises an error."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in tokens
    tokens = [token for token in tokens if token != "--debug"]
    with logs():
        try:
            app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
            sys.stdout.flush()
        except BrokenPipeError:  # `pixelloom list | head -1`: nobody listens any more, which is no fault
            _discard_stdout()
        # The one place that may catch everything: a user sees a traceback only with --debug.
        except (Exception, KeyboardInterrupt) as error:
            if debug:
                traceback.print_exception(error)
            code, message = _verdict(error, tokens)
            if code:
                sys.stderr.write(f"pixelloom: {message}\n")
            return code
    return 0


def _verdict(error: BaseException, tokens: Sequence[str]) -> tuple[int, str]:
    """The exit code and the message of an error."""
    if isinstance(error, PixelloomError):
        return error.exit_code, str(error)
    if isinstance(error, CycloptsError):
        old = next((word for word in (token.split("=")[0] for token in tokens) if word in renamed.OPTIONS), None)
        if old is not None:
            return 2, f"{old}: is called {renamed.OPTIONS[old]} since Pixelloom {renamed.SINCE}"
        command = " ".join(["pixelloom", *(error.command_chain or ())])
        return 2, f"{error} See: {command} --help"
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, MemoryError):
        return 2, "out of memory; use fewer or smaller pictures, or a machine with more"
    if isinstance(error, OSError) and error.filename is not None:
        return 2, f"{error.filename}: {error.strerror}"
    return 1, f"a fault of Pixelloom itself, {type(error).__name__}: {error}; run again with --debug and report it"


def _discard_stdout() -> None:
    """Let what is still buffered go nowhere, so that the interpreter's last flush does not complain."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError:  # no real file beneath: nothing to flush into
        return
