"""The command line: ``pixelloom train``, ``sample``, ``complete``, ``score``, ``evaluate``, ``compare``, ``attention``,
``interpolate``, ``explain``, ``info``, ``inspect``, ``list``, ``config``, ``export``, ``compress``, ``decompress``,
``test``, ``push``, ``pull``.

Results go to standard output, progress, warnings and errors to standard error. torch is imported when a command runs,
so that help and usage errors are fast.

Exit codes: 0 success; 2 usage (an option, a field, a device); 3 data; 4 model or checkpoint, or training diverged; 5
compressed file; 130, 143, 129 and 138 stopped by a signal; 1 internal error.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from cyclopts import App, CycloptsError, UnknownOptionError

import pixelloom
from pixelloom.cli import (
    attention,
    check,
    compare,
    complete,
    compress,
    decompress,
    doctor,
    evaluate,
    explain,
    export,
    info,
    inspect,
    interpolate,
    listing,
    pull,
    push,
    sample,
    score,
    studio,
    train,
)
from pixelloom.cli.console import logs
from pixelloom.cli.other_names import LACKING, called
from pixelloom.core.errors import PixelloomError, shortened
from pixelloom.engine.signals import one_interrupt
from pixelloom.runs import renamed

_HELP = """Train, evaluate and sample image generators.

First steps: pixelloom train digits --minutes 1
             pixelloom sample runs/digits
Own images:  pixelloom train --data FOLDER --minutes 5

With any command, -v or --verbose shows long lists in full, --debug the traceback of an error."""

_VERBOSE = {"-v", "--verbose"}
_LONGEST = 3_000  # characters of a message

app = App(
    name="pixelloom",
    help=_HELP,
    version=pixelloom.__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,  # it would end the process from within
)
app.command(train.train, usage="Usage: pixelloom train [RECIPE|NETWORK] [--data DATA] [OPTIONS]", sort_key=1)
app.command(sample.sample, usage="Usage: pixelloom sample MODEL [OPTIONS]", sort_key=2)
app.command(complete.complete, usage="Usage: pixelloom complete MODEL [IMAGE...] --hide REGION [OPTIONS]", sort_key=3)
app.command(score.score, usage="Usage: pixelloom score MODEL [--data DATA] [OPTIONS]", sort_key=4)
app.command(evaluate.evaluate, usage="Usage: pixelloom evaluate MODEL [OPTIONS]", sort_key=5)
app.command(compare.compare, usage="Usage: pixelloom compare MODEL... [OPTIONS]", sort_key=6)
app.command(attention.attention, usage="Usage: pixelloom attention MODEL [OPTIONS]", sort_key=7)
app.command(interpolate.interpolate, usage="Usage: pixelloom interpolate MODEL [OPTIONS]", sort_key=8)
app.command(explain.explain, usage="Usage: pixelloom explain MODEL [IMAGE] [OPTIONS]", sort_key=9)
app.command(info.info, usage="Usage: pixelloom info MODEL [OPTIONS]", sort_key=10)
app.command(inspect.inspect, usage="Usage: pixelloom inspect DATA [OPTIONS]", sort_key=13)
app.command(
    listing.list_,
    name="list",
    usage="Usage: pixelloom list [recipes|networks|datasets|models|FILE] [--json]",
    sort_key=11,
)
app.command(listing.config, usage="Usage: pixelloom config RECIPE|NETWORK [--json]", sort_key=12)
app.command(export.export, usage="Usage: pixelloom export MODEL --codec FILE [OPTIONS]", sort_key=14)
app.command(compress.compress, usage="Usage: pixelloom compress IMAGES... -o FILE [OPTIONS]", sort_key=15)
app.command(decompress.decompress, usage="Usage: pixelloom decompress FILE [-o FOLDER] [OPTIONS]", sort_key=16)
app.command(studio.studio, usage="Usage: pixelloom studio [MODEL...] [OPTIONS]", sort_key=18)
app.command(check.check, name="test", usage="Usage: pixelloom test FILE... [OPTIONS]", sort_key=17)
app.command(doctor.doctor, usage="Usage: pixelloom doctor [--no-speed] [--json]", sort_key=20)
app.command(push.push, usage="Usage: pixelloom push MODEL USER/NAME [OPTIONS]", sort_key=18)
app.command(pull.pull, usage="Usage: pixelloom pull USER/NAME[@REVISION] [OPTIONS]", sort_key=19)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: ``sys.argv``); returns the exit code and never raises."""
    try:
        with one_interrupt(program=argv is None):
            return _run(argv)
    except KeyboardInterrupt:  # another one, while the first was handled
        return 130


def _run(argv: Sequence[str] | None) -> int:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell, as in `pixelloom list >&-`
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  # for as long as the process
    tokens = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in tokens
    verbose = bool(_VERBOSE & set(tokens))
    tokens = [token for token in tokens if token not in {"--debug", *_VERBOSE}]
    with logs(verbose=verbose):
        try:
            app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
            sys.stdout.flush()
        except (BrokenPipeError, SystemExit):  # `pixelloom list | head -1`; rich exits, from --help
            from rich.console import Console

            _discard_stdout()
            app.console = Console()  # rich silences one whose pipe has closed, for all later calls
        # Catches everything: users see a traceback only with --debug.
        except (Exception, KeyboardInterrupt) as error:
            if debug:
                traceback.print_exception(error)
            code, message = _verdict(error, tokens)
            if code:
                with contextlib.suppress(OSError):  # the terminal was closed
                    sys.stderr.write(f"pixelloom: {_plain(message)}\n")
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
        chain = error.command_chain or ()
        command = " ".join(["pixelloom", *chain])
        if isinstance(error, UnknownOptionError) and error.token is not None:
            option = (error.token.keyword or error.token.value).split("=")[0]
            if chain and (name := called(chain[0], option)):
                return 2, f"{option}: is called {name} here. See: {command} --help"
            if chain and (reason := LACKING.get(chain[0], {}).get(option)):
                return 2, f"{option}: {reason}"
        return 2, f"{error} See: {command} --help"
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if _out_of_memory(error):
        return 2, "out of memory; use fewer or smaller images, a smaller --batch, or a machine with more memory"
    if isinstance(error, OSError) and error.filename is not None:
        return 2, f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):  # of `> file`, for one
        _discard_stdout()
        return 2, f"writing failed: {error.strerror}; free space, or write elsewhere"
    return 1, f"internal error: {type(error).__name__}: {error}; please report it with the traceback of --debug"


def _out_of_memory(error: BaseException) -> bool:
    if "torch" not in sys.modules:  # importing it takes a second, and may need the memory that is missing
        return isinstance(error, MemoryError)
    from pixelloom.engine.memory import out_of_memory

    return out_of_memory(error)


def _plain(message: str) -> str:
    """A message without characters that a terminal would act on, of bounded length."""
    return "\n".join(shortened(line, _LONGEST) for line in message[: 4 * _LONGEST].split("\n")[:20])


def _discard_stdout() -> None:
    """Discard buffered output, so that the final flush of the interpreter does not fail."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError:  # stdout is no real file
        return
