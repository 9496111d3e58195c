"""matplotlib without a backend: charts are drawn on a ``Figure`` and saved by Agg, whatever MPLBACKEND says."""

from __future__ import annotations

import os
import sys


def ready() -> None:
    """Import matplotlib; a MPLBACKEND that is not installed here, as notebooks set one, does not prevent it.

    A valid backend is left to the user's own charts.
    """
    try:
        import matplotlib  # raises for an unknown backend
    except ValueError:
        for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
            del sys.modules[name]  # half imported
        backend = os.environ.pop("MPLBACKEND", "")
        try:
            import matplotlib  # noqa: F401
        finally:
            os.environ["MPLBACKEND"] = backend
