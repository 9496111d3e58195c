"""Numbers and YAML of users: strict on the command line, in files and from Python, with bounded memory and messages."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from commands import Command, caller
from pixelloom.core.errors import UsageError, shortened
from pixelloom.core.numbers import as_integer, as_number
from pixelloom.runs.compose import compose, read_yaml
from pixelloom.runs.recipes import recipe
from pixelloom.runs.yaml_reader import LARGEST, read


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    return caller(capsys)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("-12", -12), ("+7", 7), ("1e3", 1000.0), (".5", 0.5), ("2.", 2.0), ("-1.5E-2", -0.015)],
)
def test_decimal_numbers(text: str, value: float) -> None:
    assert as_number(text) == value
    assert type(as_number(text)) is type(value)
    assert as_integer(text) == (value if isinstance(value, int) else None)


@pytest.mark.parametrize(
    "text",
    ["", "010", "1_0", "0x10", "0o7", "1:30", "yes", "true", "nan", ".inf", "inf", "٣", " 1", "1e999", "9" * 41, "--1"],
)
def test_what_is_no_number(text: str) -> None:
    assert as_number(text) is None
    assert as_integer(text) is None


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63))
def test_numbers_as_python_writes_them(value: float) -> None:
    assert as_number(repr(value)) == value


YAML = {
    "a: 2026-02-30": "2026-02-30",
    "a: 2026-01-02": "2026-01-02",
    "a: 0x_": "0x_",
    "a: 010": "010",
    "a: 1:30": "1:30",
    "a: yes": "yes",
    "a: .inf": ".inf",
    "a: '5'": "5",
    "a: 5": 5,
    "a: 1e-3": 1e-3,
    "a: true": True,
    "a: ~": None,
    "a:": None,
    "a: [1, [x, 2.5]]": [1, ["x", 2.5]],
    "a: |\n  5\n": "5\n",
    "a: =": "=",
    "a: <<": "<<",
}


@pytest.mark.parametrize("text", YAML)
def test_scalars(text: str) -> None:
    found = read(text)
    assert found == {"a": YAML[text]}
    assert type(found["a"]) is type(YAML[text])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: !!int foo", "the tag tag:yaml.org,2002:int; only plain data are read, line 1, column 4"),
        ("a: !x 1", "the tag !x"),
        ("a: &b 1\nc: *b", "the alias *b; write the value out, line 2, column 4"),
        ("a: " + "9" * 5000, "a number of 5,000 digits, line 1"),
        ("a: " + "[" * 5000, "more than 20 levels of nesting, line 1, column 23"),
        ("a: " + "{b: " * 5000, "more than 20 levels of nesting"),
        ("x" * (LARGEST + 1), f"{LARGEST + 1:,} characters, and {LARGEST:,} are the most"),
        ("? [a]\n: 3", "the key is not a plain text, line 1"),
        ("5: 3", "the key is not a plain text, line 1"),
        ("a: 1\na: 2", "duplicate key 'a', line 2"),
        ("a: \x1b[31m", "special characters are not allowed"),
        ("--- 1\n--- 2", "but found another document, line 2"),
        ("a: b: c", "mapping values are not allowed here, line 1, column 5"),
        ("%YAML 3.0\n---\na: 1", "incompatible YAML document"),
    ],
    ids=range(14),
)
def test_what_is_not_read(text: str, said: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        read(text)
    assert len(str(raised.value)) < 300
    assert time.monotonic() - begun < 5


def test_nested_aliases_take_no_memory(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    (tmp_path / "laughs.yaml").write_text("\n".join(lines))
    with pytest.raises(UsageError, match=r"laughs.yaml: not valid YAML: the alias \*a0") as raised:
        read_yaml(tmp_path / "laughs.yaml")
    assert len(str(raised.value)) < 400


@given(st.text(max_size=40) | st.text("[]{}:-&*!'\"|>#%@` \na0", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        read(text)


@given(st.dictionaries(st.text("abc", min_size=1), st.none() | st.booleans() | st.integers(-99, 99)))
def test_what_is_written_is_read(values: dict[str, object]) -> None:
    assert read(yaml.safe_dump(values)) == values


FIELDS = [
    ("train.batch", "yes", "train.batch: a whole number is needed (given: 'yes')"),
    ("train.batch", "true", "train.batch: a whole number is needed (given: True)"),
    ("train.batch", "64.0", "train.batch: a whole number is needed (given: 64.0)"),
    ("train.batch", "1:04", "train.batch: a whole number is needed (given: '1:04')"),
    ("model.channels", "true", "model.channels: a whole number is needed (given: True)"),
    ("model.head_kernels", "[3, yes]", "model.head_kernels: a whole number is needed (given: 'yes')"),
    ("optim.lr", "yes", "optim.lr: a number is needed (given: 'yes')"),
    ("optim.lr", "true", "optim.lr: a number is needed (given: True)"),
    ("optim.betas", "[0.9, true]", "optim.betas: a number is needed (given: True)"),
    ("train.minutes", "1:30", "train.minutes: a number is needed (given: '1:30')"),
    ("data.size", "28:28", "data.size: a whole number is needed (given: '28:28')"),
    ("data.size", "028", "data.size: a whole number is needed (given: '028')"),
    ("train.seed", "010", "train.seed: a whole number is needed (given: '010')"),
    ("train.seed", "0x1f", "train.seed: a whole number is needed (given: '0x1f')"),
    ("samples", "1_0", "samples: a whole number is needed (given: '1_0')"),
    ("data.bits", "8.4", "data.bits: a whole number is needed (given: 8.4)"),
    ("network", "[a]", "network: is a name, not ['a']"),
]


@pytest.mark.parametrize(("field", "text", "said"), FIELDS)
def test_numeric_fields_take_numbers_only(field: str, text: str, said: str, tmp_path: Path, run: Command) -> None:
    base = recipe("digits")
    with pytest.raises(UsageError) as raised:
        compose(base, overrides={field: text})
    assert said in str(raised.value)
    nested = (
        f"{field.split('.', maxsplit=1)[0]}: {{{field.split('.')[1]}: {text}}}" if "." in field else f"{field}: {text}"
    )
    (tmp_path / "c.yaml").write_text(nested)
    done = run("train", "digits", "--config", "c.yaml")
    assert done.code == 2
    assert said in done.err


@pytest.mark.parametrize("value", [True, 2.5, 64.0, float("inf"), float("nan")])
def test_numbers_from_python_are_strict_too(value: object) -> None:
    with pytest.raises(UsageError, match=r"train\.batch: a (whole|finite) number is needed"):
        compose(recipe("digits"), overrides={"train.batch": value})
    with pytest.raises(UsageError, match=r"optim\.lr"):
        compose(recipe("digits"), overrides={"optim.lr": True})
    assert compose(recipe("digits"), overrides={"optim.lr": 1, "data.size": "28x14"}).data.sides == (28, 14)


COMMANDS = [
    "train digits --images 64.5",
    "train digits --seed 1.5",
    "train digits --samples 1.4",
    "train digits --bits 8.4",
    "train digits --minutes nan",
    "train digits --minutes inf",
    "train digits --minutes 1_0",
    "train digits --levels 0x4",
    "sample m -n 2.5",
    "sample m --scale 2.5",
    "sample m --keep-rows 2.5",
    "sample m --temperature nan",
    "sample m --guidance yes",
    "sample m --batch 1_0",
    "sample m --seed 010",
    "evaluate m --limit true",
    "explain m --seed 1.5",
    "compare m -n 1.5",
    "interpolate m --stops 2.5",
    "interpolate m --truncation 1_0",
    "attention m --first 1e3",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_options_with_numbers_are_strict(command: str, run: Command) -> None:
    done = run(*command.split())
    assert done.code == 2
    assert "number" in done.err or "is none of 8" in done.err
    assert command.rsplit(maxsplit=1)[-1] in done.err


@pytest.mark.parametrize("option", ["--seed", "--first"])
@pytest.mark.parametrize("value", ["18446744073709551616", "9" * 40, "9" * 400])
def test_seeds_have_a_range(option: str, value: str, run: Command) -> None:
    done = run("sample", "m", option, value)
    assert done.code == 2
    assert "9223372036854775807" in done.err or "is not a whole number" in done.err
    assert len(done.err) < 400


def test_long_values_are_shortened_and_escaped(tmp_path: Path, run: Command) -> None:
    assert shortened("a" * 1000) == "a" * 53 + "..." + "a" * 26
    assert shortened("\x1b[31m\n") == "\\x1b[31m\\n"
    (tmp_path / "c.yaml").write_text(f"train: {{batch: {'x' * 9000}}}\n" + "".join(f"k{i}: 1\n" for i in range(500)))
    done = run("train", "digits", "--config", "c.yaml")
    assert done.code == 2
    assert len(done.err) < 3000
    done = run("train", "digits", "--train.batch", "[" * 3000)
    assert done.code == 2
    assert "train.batch: a whole number is needed" in done.err
    assert len(done.err) < 300
