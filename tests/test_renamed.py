"""Names of Pixelloom 0.1: each field and option says what it is called now, and runs of 0.1 are recognized."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from commands import Command, caller
from pixelloom.core.errors import UsageError
from pixelloom.runs.compose import compose, fields_of
from pixelloom.runs.config import PixelRun
from pixelloom.runs.renamed import FIELDS, OPTIONS


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXELLOOM_OFFLINE", "1")
    return caller(capsys)


def old_run(name: str = "old") -> Path:
    """A run folder as 0.1 left it."""
    folder = Path("runs") / name
    (folder / "model").mkdir(parents=True)
    (folder / "model/model.safetensors").write_bytes(b"of 0.1")
    settings = {"network": "pixelcnn", "data": {"source": "digits", "grey": False}, "condition": "none"}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.mark.parametrize(("old", "new"), FIELDS.items())
def test_new_names_are_fields_and_old_ones_are_not(old: str, new: str) -> None:
    for name, there in ((old, False), (new, True)):
        *parents, leaf = name.split(".")
        assert (leaf in fields_of("dcgan", parents)) == there


@pytest.mark.parametrize("old", FIELDS)
def test_a_file_and_a_dotted_option_of_an_earlier_version(run: Command, old: str) -> None:
    *parents, leaf = old.split(".")
    Path("old.yaml").write_text(f"{parents[0]}:\n  {leaf}: 1\n" if parents else f"{leaf}: 1\n")
    said = run("train", "dcgan", "--config", "old.yaml")
    expected = f"old.yaml: {old}: is called {FIELDS[old]} since Pixelloom 0.2 (this file was written by 0.1)\n"
    assert (said.code, said.err) == (2, f"pixelloom: {expected}")
    with pytest.raises(UsageError, match=f"^--{old}: is called {FIELDS[old]} since Pixelloom 0.2$"):
        compose(PixelRun(), overrides={old: 1})
    if parents:
        said = run("train", "dcgan", f"--{old}", 1)
        assert (said.code, said.err) == (2, f"pixelloom: --{old}: is called {FIELDS[old]} since Pixelloom 0.2\n")


@pytest.mark.parametrize(("old", "new"), OPTIONS.items())
def test_an_option_of_an_earlier_version(run: Command, old: str, new: str) -> None:
    command = "evaluate" if old == "--neighbours" else "train"
    for word in (old, f"{old}=1"):
        said = run(command, "digits", word)
        assert (said.code, said.err) == (2, f"pixelloom: {old}: is called {new} since Pixelloom 0.2\n")


def test_a_value_of_an_earlier_version(run: Command) -> None:
    said = run("train", "gated-pixelcnn", "--condition", "smaller@4")
    assert said.err == "pixelloom: --condition: smaller@4 is called downsample@4 since Pixelloom 0.2\n"
    Path("old.yaml").write_text("condition: smaller@2\n")
    said = run("train", "gated-pixelcnn", "--config", "old.yaml")
    assert "old.yaml: condition: smaller@2 is called downsample@2 since Pixelloom 0.2 (this" in said.err


def test_a_run_of_an_earlier_version_is_not_resumed_and_can_be_replaced(run: Command) -> None:
    folder = old_run()
    said = run("train", "--resume", "--out", folder)
    assert said.code == 2
    assert "runs/old/config.yaml: data.grey: is called data.gray since Pixelloom 0.2" in said.err
    said = run("train", "digits", "--out", folder)
    assert "runs/old: holds a run already" in said.err
    tiny = [f"--model.{name}=2" for name in ("channels", "hidden", "blocks")]
    said = run("train", "digits", "--out", folder, "--force", "--images", 32, *tiny, "--samples", 0)
    assert said.code == 0, said.err
    assert "grey" not in (folder / "config.yaml").read_text()
