"""Names of repositories on the Hugging Face hub: ``hf:user/name``, with ``:config`` and ``@revision`` where wanted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pixelloom.core.errors import UsageError, shortened

PREFIX = "hf:"
_PART = r"[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_FORM = re.compile(
    rf"(?P<repo>{_PART}/{_PART})(?::(?P<config>[\w.+-]{{1,96}}))?(?:@(?P<revision>[\w.+/-]{{1,200}}))?", re.ASCII
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Reference:
    """A repository on the hub.

    Attributes:
        repo: USER/NAME.
        revision: branch, tag or commit; None for the main branch.
        config: configuration of a data set; None for its only or default one.
        kind: model or dataset.
    """

    repo: str
    revision: str | None = None
    config: str | None = None
    kind: Literal["model", "dataset"] = "model"

    @classmethod
    def parse(cls, text: str, kind: Literal["model", "dataset"] = "model") -> Reference:
        """Parse ``user/name@revision``, with or without ``hf:``.

        Args:
            text: the name.
            kind: model or dataset; ``:config`` may follow the name of a data set.

        Raises:
            UsageError: for another text.
        """
        match = _FORM.fullmatch(text.removeprefix(PREFIX))
        plain = match is not None and not ({"--", ".."} & {text[i : i + 2] for i in range(len(text))})
        if match is None or not plain or (match["config"] and kind == "model"):
            form = "USER/NAME or USER/NAME@REVISION" if kind == "model" else "USER/NAME, :CONFIG and @REVISION optional"
            raise UsageError(f"{shortened(text)!r}: a repository of the Hugging Face hub is named {form}")
        return cls(match["repo"], match["revision"], match["config"], kind)

    def at(self, revision: str | None) -> Reference:
        """The repository at another revision; itself for None.

        Raises:
            UsageError: for a text that cannot be a revision.
        """
        return self if revision is None else Reference.parse(f"{self.repo}@{revision}", self.kind)

    @property
    def name(self) -> str:
        """The name without the user."""
        return self.repo.partition("/")[2]

    @property
    def page(self) -> str:
        """The path of its page."""
        return self.repo if self.kind == "model" else f"datasets/{self.repo}"

    @property
    def is_commit(self) -> bool:
        """Whether the revision is a whole commit hash, whose files never change."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        config = f":{self.config}" if self.config else ""
        return f"{PREFIX}{self.repo}{config}{f'@{self.revision}' if self.revision else ''}"


def is_reference(text: object) -> bool:
    """Whether a name is one of the hub."""
    return isinstance(text, str) and text.startswith(PREFIX)
