"""The client ``huggingface_hub``, and its errors as one line that names what to do.

``HF_TOKEN``, ``HF_HOME`` and ``HF_HUB_CACHE`` are those of the client. ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` are read
at each call; the client itself reads them when it is imported.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pixelloom.core.errors import PixelloomError, UsageError, shortened
from pixelloom.hub.reference import Reference

ENDPOINT = "https://huggingface.co"
_LOGIN = "set HF_TOKEN, or log in with `hf auth login`"
_FALSE = ("", "0", "off", "no", "false")


@dataclass(frozen=True)
class Access:
    """How a repository is read.

    Attributes:
        cache_dir: cache folder of the hub; default: $HF_HUB_CACHE, or ``hub`` in $HF_HOME.
        local_files_only: use the cache alone.
        token: access token; default: $HF_TOKEN, or that of ``hf auth login``. False sends none.
    """

    cache_dir: Path | str | None = None
    local_files_only: bool = False
    token: str | bool | None = None

    def here(self) -> Access:
        """The same, from the cache alone in offline mode."""
        return replace(self, local_files_only=self.local_files_only or offline())


def library() -> Any:
    """The module ``huggingface_hub``.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise UsageError("the Hugging Face hub needs huggingface_hub: pip install 'pixelloom[hub]'") from None
    return huggingface_hub


def endpoint() -> str:
    """The address of the hub."""
    return (os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")


def offline() -> bool:
    """Whether HF_HUB_OFFLINE or PIXELLOOM_OFFLINE is set."""
    flag = os.environ.get("HF_HUB_OFFLINE", "").lower()
    return flag not in _FALSE or bool(os.environ.get("PIXELLOOM_OFFLINE"))


def api(token: str | bool | None = None) -> Any:
    """A client for the address of the hub."""
    return library().HfApi(endpoint=endpoint(), token=token, library_name="pixelloom")


@contextmanager
def explained(reference: Reference, error: type[PixelloomError], instead: str = "") -> Iterator[None]:
    """Convert the errors of the client.

    Args:
        reference: what is read or written.
        error: class of the error.
        instead: what to use instead, such as a cached copy.

    Raises:
        PixelloomError: of class ``error``, for each error of the client, the network and the disk.
    """
    errors = _errors()
    try:
        yield
    except PixelloomError:
        raise
    except (errors.HTTPError, errors.EntryNotFoundError, errors.HFValidationError, OSError, ValueError) as found:
        more = f"; {instead}" if instead else ""
        raise error(f"{reference}: {_reason(found, reference)}{more}") from found


def _reason(error: Exception, reference: Reference) -> str:
    """What went wrong, and what to do."""
    errors = _errors()
    page = f"{endpoint()}/{reference.page}"
    cause = error.__cause__ or error.__context__
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(cause, Exception):
        return _reason(cause, reference)  # the client's wrapper for a failed request
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "offline mode is on; unset HF_HUB_OFFLINE"
    if isinstance(error, errors.GatedRepoError):
        return f"the repository is gated (HTTP 403 or 401); accept its terms at {page}, then {_LOGIN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the repository has no branch, tag or commit {reference.revision or 'main'!r}; see {page}/tree/main"
    if isinstance(error, errors.EntryNotFoundError):
        return f"a file is missing in the repository (HTTP 404); see {page}/tree/main"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no such repository, or it is private (HTTP {status}); check the name, and {_LOGIN}"
    if status is not None:
        return f"the hub answers HTTP {status}; {_by_status(status)}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk of the cache is full; free space, or set another cache folder by HF_HOME"
    text = shortened(" ".join(str(error).split()) or type(error).__name__, 160)
    if "onsistency check failed" in text or "RemoteProtocol" in type(error).__name__:
        return "the download was interrupted; run again to continue it"
    if isinstance(error, errors.HTTPError | ConnectionError | TimeoutError):
        return f"no connection to {endpoint()} ({text}); check the network, or HF_ENDPOINT"
    if isinstance(error, PermissionError) and error.filename:
        return f"{error.filename}: {error.strerror}; set another cache folder by HF_HOME"
    return text


def _errors() -> Any:
    """The exceptions of the client; HTTPError among them is that of its HTTP library."""
    from huggingface_hub import errors

    return errors


def _by_status(status: int) -> str:
    """What to do after an HTTP status."""
    if status == 401:
        return f"the token is missing or invalid: {_LOGIN}"
    if status == 403:
        return "the token does not allow this; use one with write access for uploads"
    if status == 429:
        return "too many requests: wait, or log in with `hf auth login`"
    return "try again later" if status >= 500 else "check the name and the revision"
