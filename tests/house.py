"""The floors of the package: which room stands where and what it is for. CONTRIBUTING.md shows this table.

``python tests/house.py`` prints it, and counts rooms, floors, arrows between rooms, files and lines of another source
tree too: ``python tests/house.py src/pixelloom``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

SRC = Path(__file__).parent.parent / "src" / "pixelloom"

# A file imports only from lower floors, or from its own room. Rooms of one floor do not import each other.
FLOORS: tuple[dict[str, str], ...] = (
    {"core": "types, errors, random streams, atomic files, CPU threads"},
    {"hub": "the Hugging Face hub: names, downloads, uploads, errors"},
    {"data": "files and data sets to integer levels; splits, batches, model space; `data/io/` reads and writes"},
    {"layers": "layers of networks, which declare what they read", "heads": "distributions of a pixel's levels"},
    {"networks": "one file a paper, in `pixel/` and `gan/`; both tables", "objectives": "losses, penalties, phases"},
    {
        "engine": "the training loop, checkpoints, devices",
        "sampling": "the plain loop, and the fast sampler in `fast/`",
        "metrics": "likelihood, distances, memorization, accuracy by class",
    },
    {"models": "network, head and data scaling in one; pretrained models", "viz": "grids, curves, maps as images"},
    {
        "codec": "lossless compression: integer copies of models, a range coder, `.pxl` files",
        "onnx": "models as ONNX graphs, for other runtimes",
    },
    {"runs": "configuration, recipes, run folders, training and evaluation"},
    {
        "api": "the functions of `import pixelloom`",
        "report": "models side by side as HTML and PNG",
        "studio": "the page in the browser",
    },
    {"cli": "the command line, one file a command"},
    {"__init__": "names for `import pixelloom`", "__main__": "`python -m pixelloom`"},
)  # fmt: skip
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def table() -> str:
    """The floors as Markdown, lowest first; rooms that are still to come are left out."""
    rows = [
        f"| {number} | `{room}` | {what} |"
        for number, rooms in enumerate(FLOORS)
        for room, what in rooms.items()
        if (SRC / room).is_dir() or (SRC / f"{room}.py").is_file()
    ]
    return "\n".join(["| floor | room | what |", "|---|---|---|", *rows])


def files(src: Path) -> Iterator[tuple[str, ast.Module, str]]:
    """(path within the package, syntax tree, text) of every file."""
    for path in sorted(src.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        yield path.relative_to(src).as_posix(), ast.parse(text), text


def room_of(name: str) -> str:
    """The folder or file directly under the package that a file lies in: data/io/npy.py -> data, api.py -> api."""
    return name.split("/", maxsplit=1)[0].removesuffix(".py")


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, room) for every room of the package that a file imports, lazily or for types only included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, f"{'.' * node.level}{node.module or ''}"
        elif isinstance(node, ast.ImportFrom) and node.module == "pixelloom":
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pixelloom."):
            yield node.lineno, (node.module or "").split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (
                (node.lineno, alias.name.split(".")[1]) for alias in node.names if alias.name.startswith("pixelloom.")
            )
        elif (
            isinstance(node, ast.Attribute) and dotted_name(node) == f"pixelloom.{node.attr}" != "pixelloom.__version__"
        ):
            yield node.lineno, node.attr  # the version is the one thing that the package itself has to give


def dotted_name(node: ast.AST) -> str:
    """``torch.load`` of the expression torch.load, ``eval`` of the name eval, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return ""


def counts(src: Path) -> dict[str, int]:
    """Rooms, loose files in the root, arrows between rooms, files and lines of a package."""
    found = list(files(src))
    arrows = {(room_of(name), there) for name, tree, _ in found for _, there in imports(tree)}
    return {
        "rooms": len({room_of(name) for name, _, _ in found}),
        "loose files in the root": sum("/" not in name for name, _, _ in found),
        "arrows between rooms": sum(here != there for here, there in arrows),
        "files": len(found),
        "lines": sum(len(text.splitlines()) for _, _, text in found),
    }


def main() -> None:
    """Print the table, or count another tree."""
    src = Path(sys.argv[1]) if len(sys.argv) > 1 else SRC
    if src == SRC:
        sys.stdout.write(table() + "\n")
    for what, n in counts(src).items():
        sys.stdout.write(f"{n:6,} {what}\n")


if __name__ == "__main__":
    main()
