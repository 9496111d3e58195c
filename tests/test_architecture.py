"""Holds the house to DESIGN: floors, a small loop without family names, constants in one place, nothing executed.

Each rule is a function from a source tree to its violations; each is shown to find one in a small tree that breaks it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from house import FLOOR, SRC, counts, dotted_name, files, imports, room_of, table

LONGEST, LONGEST_LOOP = 400, 150
FAMILY_WORDS = ("gan", "gans", "pixelcnn", "likelihood", "discriminator", "bits/dim")
PIXEL_CONSTANTS = {255, 127.5}
# Bytes of a file or of a color, where 255 is the format's own number and no level of ours:
BYTES = {
    "data/io/decode.py": "alpha, and the largest value of a PNM file",
    "data/synthetic.py": "8-bit digits and colors of synthetic images",
}
UNPICKLES = {
    "data/io/published_formats.py": "CIFAR-10's python files, by an unpickler that looks up nothing",
    "engine/messages.py": "nothing that is read: calls on a pipe between a process and those that it has started",
}
LAZY = {"__init__.py": "names are imported at first use"}


def climbing_imports(src: Path) -> list[str]:
    """Imports from a higher floor, or from another folder of the same one."""
    wrong = []
    for name, tree, _ in files(src):
        here = room_of(name)
        if here not in FLOOR:
            wrong.append(f"{name}: {here} stands on no floor: add it to FLOORS")
            continue
        for line, there in imports(tree):
            same_folder = there == here or ((src / f"{there}.py").is_file() and "/" not in name)
            if there not in FLOOR:
                wrong.append(f"{name}:{line}: imports {there}, which stands on no floor")
            elif FLOOR[there] > FLOOR[here] or (FLOOR[there] == FLOOR[here] and not same_folder):
                wrong.append(f"{name}:{line}: floor {FLOOR[here]} imports {there} of floor {FLOOR[there]}")
    return wrong


def hidden_imports(src: Path) -> list[str]:
    """Imports by string, which the floors cannot see."""
    return [
        f"{name}:{node.lineno}: {found}"
        for name, tree, _ in files(src)
        if name not in LAZY
        for node in ast.walk(tree)
        if (found := dotted_name(node)) in ("import_module", "importlib.import_module", "__import__")
    ]


def long_files(src: Path) -> list[str]:
    """Files that do not read in one sitting, and a loop that has grown."""
    lengths = {name: len(text.splitlines()) for name, _, text in files(src)}
    return [
        f"{name}: {n} lines"
        for name, n in lengths.items()
        if n > (LONGEST_LOOP if name == "engine/loop.py" else LONGEST)
    ]


def family_names(src: Path) -> list[str]:
    """Words in the engine that belong to one family of models, comments and documentation included."""
    words = re.compile(rf"(?<![a-z])({'|'.join(map(re.escape, FAMILY_WORDS))})(?![a-z])")
    return [
        f"{name}:{number}: {found[0]}"
        for name, _, text in files(src)
        if room_of(name) == "engine"
        for number, line in enumerate(text.splitlines(), 1)
        if (found := words.search(line.lower()))
    ]


def pixel_constants(src: Path) -> list[str]:
    """255 and 127.5 as numbers outside data/pixels.py, however they are written."""
    return [
        f"{name}:{node.lineno}: {node.value}"
        for name, tree, _ in files(src)
        if name != "data/pixels.py" and name not in BYTES
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and abs(node.value) in PIXEL_CONSTANTS
    ]


def executed_data(src: Path) -> list[str]:
    """Ways by which a file could run code: pickles, eval, exec, and loaders that allow them."""
    modules = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    calls = {"eval", "exec", "compile", "torch.load", "yaml.unsafe_load", "yaml.full_load", "np.loads", "os.system"}
    wrong = []
    for name, tree, _ in files(src):
        for node in ast.walk(tree):
            found = None
            if isinstance(node, ast.Import | ast.ImportFrom) and name not in UNPICKLES:
                taken = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                found = next((module for module in taken if module.split(".")[0] in modules), None)
            elif isinstance(node, ast.Call):
                unsafe = [k.arg for k in node.keywords if (k.arg, getattr(k.value, "value", None)) in UNSAFE]
                found = next(iter(unsafe), None) or (
                    dotted_name(node.func) if dotted_name(node.func) in calls else None
                )
                if found == "torch.load" and any(
                    (k.arg, getattr(k.value, "value", None)) == ("weights_only", True) for k in node.keywords
                ):
                    found = None  # tensors and plain containers alone, of what others' files hold
            if found:
                wrong.append(f"{name}:{getattr(node, 'lineno', 0)}: {found}")
            if name in UNPICKLES and dotted_name(node) in ("pickle.load", "pickle.loads"):
                wrong.append(f"{name}: {dotted_name(node)} instead of the restricted unpickler")
    return wrong


UNSAFE = (("allow_pickle", True), ("shell", True), ("weights_only", False))


RULES: dict[str, Callable[[Path], list[str]]] = {
    "imports climb no floor": climbing_imports,
    "no import is hidden in a string": hidden_imports,
    "files read in one sitting": long_files,
    "the engine knows no family": family_names,
    "levels become numbers in data/pixels.py only": pixel_constants,
    "nothing that is read can run": executed_data,
}


@pytest.mark.parametrize("rule", RULES)
def test_the_house_stands(rule: str) -> None:
    assert RULES[rule](SRC) == []


def test_exceptions_are_still_needed() -> None:
    for name in (*BYTES, *UNPICKLES, *LAZY):
        assert (SRC / name).is_file(), name
    bytes_read = {name for name, tree, _ in files(SRC) for n in ast.walk(tree) if getattr(n, "value", None) == 255}
    assert set(BYTES) <= bytes_read


def test_the_house_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """Few rooms and arrows, none upward; ``pytest -s`` prints them."""
    found = counts(SRC)
    with capsys.disabled():
        print("\n" + ", ".join(f"{n:,} {what}" for what, n in found.items()))  # noqa: T201
    assert found["rooms"] <= 21
    assert found["loose files in the root"] == 3
    assert found["arrows between rooms"] <= 115


def test_contributing_shows_the_floors() -> None:
    assert table() in (SRC.parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_every_room_is_known_and_most_are_there() -> None:
    rooms = {room_of(name) for name, _, _ in files(SRC)}
    assert rooms <= set(FLOOR)
    assert {"core", "data", "layers", "heads", "networks", "engine", "models", "runs"} <= rooms


BROKEN = [
    ("imports climb no floor", "layers/reads.py", "from pixelloom.models.pixel import PixelModel"),
    ("imports climb no floor", "layers/reads.py", "def f():\n    from pixelloom import runs"),
    ("imports climb no floor", "layers/reads.py", "if TYPE_CHECKING:\n    import pixelloom.networks.pixel.nade as p"),
    ("imports climb no floor", "engine/loop.py", "from pixelloom.metrics.likelihood import score"),
    ("imports climb no floor", "sampling/ancestral.py", "from pixelloom.engine import loop"),
    ("imports climb no floor", "models/pixel.py", "from pixelloom.api import load"),
    ("imports climb no floor", "models/pixel.py", "from pixelloom.viz.grid import grid"),
    ("imports climb no floor", "api.py", "from pixelloom.cli import main"),
    ("imports climb no floor", "core/types.py", "from pixelloom import data"),
    ("imports climb no floor", "data/splits.py", "from . import pixels"),
    ("imports climb no floor", "data/splits.py", "from ..models import PixelModel"),
    ("imports climb no floor", "utils/misc.py", "x = 1"),
    ("imports climb no floor", "models/pixel.py", "from pixelloom.utils import x"),
    ("imports climb no floor", "models/pixel.py", "import pixelloom\nmodel = pixelloom.load('runs/digits')"),
    ("no import is hidden in a string", "api.py", "import importlib\nimportlib.import_module('pixelloom.api')"),
    ("no import is hidden in a string", "api.py", "from importlib import import_module\nimport_module('pickle')"),
    ("no import is hidden in a string", "api.py", "__import__('pixelloom.api')"),
    ("files read in one sitting", "api.py", "x = 1\n" * 401),
    ("files read in one sitting", "engine/loop.py", "x = 1\n" * 151),
    ("the engine knows no family", "engine/hooks.py", "# bits/dim of the batch"),
    ("the engine knows no family", "engine/hooks.py", "is_gan = True"),
    ("the engine knows no family", "engine/state.py", "from pixelloom.networks import PixelCNN"),
    ("the engine knows no family", "engine/loop.py", 'def likelihood() -> float:\n    """Nats."""'),
    ("levels become numbers in data/pixels.py only", "models/pixel.py", "x = (y * 255).long()"),
    ("levels become numbers in data/pixels.py only", "data/splits.py", "x = y / 255.0"),
    ("levels become numbers in data/pixels.py only", "viz/grid.py", "x = y / 127.5 - 1"),
    ("levels become numbers in data/pixels.py only", "viz/grid.py", "x = y & 0xFF"),
    ("levels become numbers in data/pixels.py only", "viz/grid.py", "x = y + -127.5"),
    ("nothing that is read can run", "models/pixel.py", "import pickle"),
    ("nothing that is read can run", "models/pixel.py", "from pickle import load"),
    ("nothing that is read can run", "models/pixel.py", "weights = torch.load(path)"),
    ("nothing that is read can run", "models/pixel.py", "weights = torch.load(path, weights_only=safe)"),
    ("nothing that is read can run", "models/pixel.py", "weights = load(path, weights_only=False)"),
    ("nothing that is read can run", "data/splits.py", "np.load(path, allow_pickle=True)"),
    ("nothing that is read can run", "cli/train.py", "value = eval(text)"),
    ("nothing that is read can run", "cli/train.py", "exec(text)"),
    ("nothing that is read can run", "data/io/published_formats.py", "import pickle\npickle.loads(content)"),
]


@pytest.mark.parametrize(("rule", "name", "text"), BROKEN, ids=[f"{name}: {text[:40]}" for _, name, text in BROKEN])
def test_each_rule_finds_a_house_that_breaks_it(tmp_path: Path, rule: str, name: str, text: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    assert any(found.startswith(name) for found in RULES[rule](tmp_path)), f"{rule} saw nothing"


SOUND = {
    "data/pixels.py": "x = (y - 127.5) / 255",
    "data/io/published_formats.py": "import pickle\nclass Strict(pickle.Unpickler): ...",
    "engine/loop.py": "from pixelloom.objectives.base import Phase\nfrom pixelloom.engine.state import S\n",
    "engine/state.py": "x = 255.5",
    "objectives/base.py": "from pixelloom.heads.discrete import Head\nfrom pixelloom.data import pixels",
    "heads/discrete.py": "from pixelloom.core.types import ImageSpec",
    "models/pixel.py": "network.eval()\nregex = re.compile('x')\nx = np.load(path, allow_pickle=False)  # not 255",
    "models/gan.py": "weights = torch.load(path, weights_only=True)",
    "runs/train.py": "import pixelloom\nfrom pixelloom.viz import grid\nversion = pixelloom.__version__",
    "viz/grid.py": '"""Bytes 0..255."""',
    "cli/__init__.py": "def main():\n    from pixelloom import api, runs\n",
}


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_finds_fault_with_a_sound_house(tmp_path: Path, rule: str) -> None:
    for name, text in SOUND.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert RULES[rule](tmp_path) == []
