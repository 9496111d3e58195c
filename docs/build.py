"""Build the documentation site strictly: ``python docs/build.py``, which ``make docs`` calls.

The page of the command line is generated from ``--help`` of each command. Zensical stops at links and anchors that do
not exist; this script also stops at a page that the navigation lacks, an image that does not exist and any warning of
mkdocstrings.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
DOCS, SITE = ROOT / "docs", ROOT / "site"
CLI_PAGE = DOCS / "reference" / "cli.md"
_CLI_HEAD = """# Command line

The output of `--help`, generated from the code. Explanations and examples are in
[the command line in detail](../command-line.md)."""
COMMAND = re.compile(r"^│ ([a-z]+) ", re.MULTILINE)
IMAGE = re.compile(r"!\[[^]]*]\(([^)#\s]+)[^)]*\)")


def help_of(*command: str) -> str:
    """The help that ``pixelloom COMMAND --help`` prints at a width of 100 characters, without color."""
    os.environ.update(COLUMNS="100", NO_COLOR="1", TERM="dumb")
    from pixelloom.cli import main

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if main([*command, "--help"]):
            raise SystemExit(f"docs/build.py: `pixelloom {' '.join(command)} --help` fails")
    return "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())


def cli_page() -> str:
    """The page of the command line, in Markdown: what ``--help`` prints, of the program and of each command."""
    overview = help_of()
    sections = [("pixelloom", overview)] + [(f"pixelloom {name}", help_of(name)) for name in COMMAND.findall(overview)]
    return "\n\n".join([_CLI_HEAD, *(f"## {title}\n\n```text\n{text}\n```" for title, text in sections)]) + "\n"


def pages_of(nav: object) -> Iterator[str]:
    """The pages that a navigation names."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for entry in nav.values():
            yield from pages_of(entry)
    elif isinstance(nav, list):
        for entry in nav:
            yield from pages_of(entry)


def faults() -> list[str]:
    """Pages that are missing in the navigation or on disk, and images that do not exist."""
    named = set(pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    found = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    lines = [f"mkdocs.yml: the navigation lacks {page}" for page in sorted(found - named)]
    lines += [f"mkdocs.yml: {page} does not exist" for page in sorted(named - found)]
    for page in sorted(found):
        text = (DOCS / page).read_text(encoding="utf-8")
        images = [image for image in IMAGE.findall(text) if "://" not in image]
        lines += [
            f"{page}: {image} does not exist" for image in images if not (DOCS / page).parent.joinpath(image).is_file()
        ]
    return lines


def main() -> int:
    """Build; returns the exit code."""
    CLI_PAGE.write_text(cli_page(), encoding="utf-8")
    lines = faults()
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    output = re.sub(r"\x1b\[[\d;]*m", "", built.stdout + built.stderr)  # no colors
    output = output.split("Traceback (most recent call last)")[0]
    lines += [line for line in output.splitlines() if re.match(r"\s*(WARNING|ERROR)", line)]
    for unresolved in SITE.rglob("*.html"):
        if "<autoref" in unresolved.read_text(encoding="utf-8"):
            lines.append(f"{unresolved.relative_to(SITE)}: a cross-reference is not resolved")
    if built.returncode or lines:
        sys.stderr.write("\n".join([output.strip(), *lines]) + "\n")
        return 1
    sys.stdout.write(f"The site is in {SITE.relative_to(ROOT)}: {len(list(SITE.rglob('*.html')))} pages\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
