"""The documentation agrees with the code: commands, options, Python blocks, links, navigation."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from pixelloom.cli import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md"])
PLACEHOLDERS = re.compile(r"\b(MODEL|RECIPE|NETWORK|NAME|RUN|COMMAND|FOLDER|FILE|DATA)\b|\.\.\.|my-network|<|\[")


def build(path: str = "build.py") -> ModuleType:
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{Path(path).stem}", DOCS / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names() -> list[str]:
    """The commands of the program."""
    return [name for name in app if not name.startswith("-")]


@pytest.fixture(scope="module")
def cli_page() -> str:
    return build().cli_page()


@pytest.mark.parametrize("name", names())
def test_page_of_the_command_line_has_every_option(name: str, cli_page: str) -> None:
    section = cli_page.split(f"## pixelloom {name}\n", 1)[1].split("\n## ", 1)[0]
    words = set(re.findall(r"--?[a-z][\w.-]*", section))
    shown = [argument for argument in app[name].assemble_argument_collection() if argument.show]
    assert shown
    for argument in shown:
        assert argument.names[0] in words or argument.names[0].upper() in section, argument.names


def test_page_of_the_command_line_has_no_other_command(cli_page: str) -> None:
    found = re.findall(r"^## pixelloom (\w+)$", cli_page, re.MULTILINE)
    assert sorted(found) == sorted(names())


def test_navigation_names_every_page_and_images_exist() -> None:
    faults = [fault for fault in build().faults() if "reference/cli.md" not in fault]  # which the build generates
    assert faults == []


def test_build_finds_missing_pages_and_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = build()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("![x](none.png) ![y](https://example.org/y.png)")
    (tmp_path / "docs" / "other.md").write_text("# Other")
    (tmp_path / "mkdocs.yml").write_text("nav:\n  - Home: index.md\n  - Rest:\n      - gone.md\n")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "DOCS", tmp_path / "docs")
    assert module.faults() == [
        "mkdocs.yml: the navigation lacks other.md",
        "mkdocs.yml: gone.md does not exist",
        "index.md: none.png does not exist",
    ]


def commands() -> list[tuple[str, str]]:
    """(page, command) of each `pixelloom ...` line in the code blocks of the documentation."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"^(?: {4}|\$ )?(?:\w+=\S+ )*(?:\$ )?(pixelloom [a-z].*)$", text, re.MULTILINE):
            command = line.split("  #")[0].split(" # ")[0].strip()
            if not PLACEHOLDERS.search(command) and "`" not in command:
                found.append((page.relative_to(ROOT).as_posix(), " ".join(command.split())))
    return sorted(set(found))


def test_commands_of_the_documentation_parse() -> None:
    found = commands()
    assert len(found) > 80
    wrong = []
    for page, command in found:
        try:
            app.parse_args(shlex.split(command)[1:], exit_on_error=False, print_error=False)
        except Exception as error:
            wrong.append(f"{page}: {command}: {error}")
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_blocks_compile(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        compile(block, str(page), "exec")


def test_every_name_of_the_python_reference_exists() -> None:
    names = re.findall(r"^::: (\S+)$", (DOCS / "reference" / "python.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(names) > 10
    for name in names:
        module, _, last = name.rpartition(".")
        try:
            assert hasattr(importlib.import_module(module), last), name
        except ModuleNotFoundError:
            importlib.import_module(name)


def test_links_of_the_readme_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(links) > 15
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_of_the_repository_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    paths = re.findall(r"\b((?:benchmarks|examples|tests|docs|src)/[\w/.-]+\.(?:py|md|png|json))\b", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.slow
def test_images_of_the_concepts_that_need_no_data() -> None:
    module = build("figures/make.py")
    mask_a, mask_b, within_a, within_b = (axes.collections[0].get_array() for axes in module.masks().axes)
    assert (mask_a.sum(), mask_b.sum(), within_a.sum(), within_b.sum()) == (12, 13, 3, 6)
    plain, gated = (axes.collections[0].get_array() for axes in module.fields().axes)
    blind = list(module.FIELD_KINDS).index("blind spot")
    hidden = sum(6 - k for k in range(1, 6))  # of six columns to the right, k rows above see k
    assert ((plain == blind).sum(), (gated == blind).sum()) == (hidden, 0)
    titles = [axes.get_title() for axes in module.wavefronts().axes if axes.get_title()]
    # mnist-gray: column + 4 row, at column 27 and row 27; gated-pixelcnn: column + 20 row; pixelsnail: every pixel
    assert titles == ["mnist-gray: 136 steps", "gated-pixelcnn: 568 steps", "pixelsnail: 784 steps"]
