"""One term a thing: what the glossary replaces occurs nowhere in source, docs, README and CLI help."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import pixelloom
from glossary import GLOSSARY, Term, table

SRC = Path(pixelloom.__file__).parent
ROOT = Path(__file__).parent.parent
SOURCES = {"*.py": SRC, "*.html": SRC, "*.md": ROOT / "docs"}
LAWFUL_FILES = {
    "src/pixelloom/runs/renamed.py": "names of 0.1, which it translates",
    "src/pixelloom/cli/other_names.py": "options of other tools, which it translates",
}


def lines() -> list[tuple[str, int, str]]:
    """(file, number, text) of every line that people read."""
    files = [path for pattern, folder in SOURCES.items() for path in sorted(folder.rglob(pattern))]
    found = []
    for path in [*files, ROOT / "README.md"]:
        if path.relative_to(ROOT).as_posix() in LAWFUL_FILES:
            continue
        text = path.read_text(encoding="utf-8")
        found += [(path.relative_to(ROOT).as_posix(), n, line) for n, line in enumerate(text.splitlines(), 1)]
    return found


LINES = lines()


@pytest.mark.parametrize("term", GLOSSARY, ids=lambda term: term.instead_of)
def test_the_words_that_the_glossary_replaces_do_not_occur(term: Term) -> None:
    found = [f"{name}:{n}: {word!r} in {line.strip()}" for name, n, line in LINES if (word := term.found(line))]
    assert not found, f"say {term.say}:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("A picture of 28x28 pixels.", "picture"),
        ("    pictures = read(path)", "pictures"),
        ("The network is told the class.", "told"),
        ("images it goes by", "goes by"),
        ("figures of samples", "figures"),
        ("The loop runs one round.", "round"),
        ("the colour of a pixel", "colour"),
        ("penalties.every", "penalties.every"),
    ],
)
def test_a_word_of_the_right_column_is_found(line: str, word: str) -> None:
    assert any(term.found(line) == word for term in GLOSSARY)


@pytest.mark.parametrize(
    "line",
    [
        "x = round(y)",
        "![Digits](figures/digits.png)",
        "from matplotlib.figure import Figure",
        "math.floor(x)",
        "an image of the test split",
        "fetch(url)",
        "value rounds to 3",
    ],
)
def test_lawful_uses_are_left_alone(line: str) -> None:
    assert not [term for term in GLOSSARY if term.found(line)]


def test_contributing_shows_the_glossary() -> None:
    assert table() in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def main() -> None:
    """Print every unlawful word, for whoever edits."""
    for term in GLOSSARY:
        for name, n, line in LINES:
            if word := term.found(line):
                sys.stdout.write(f"{name}:{n}: {word} -> {term.say}\n")


if __name__ == "__main__":
    main()
