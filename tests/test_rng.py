"""Random streams: unique, stable, equal to their definitions, and the only random numbers of NumPy in the package."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import pixelloom
from pixelloom.core import rng
from pixelloom.core.rng import Stream
from pixelloom.core.types import ImageSpec

SRC = Path(pixelloom.__file__).parent
HOME = "core/rng.py"
BYPASS = re.compile(r"(np|numpy)\.random\.(?!(BitGenerator|Generator)$)\w+")  # these two are types of arguments


def test_streams_are_unique() -> None:
    values = [int(member) for member in Stream.__members__.values()]  # aliases included
    assert len(values) == len(set(values))


@pytest.mark.parametrize("line", ["TWICE = 101  # the number of SHUFFLE", "ALIAS = SHUFFLE"])
def test_a_stream_that_shares_a_number_is_an_error(line: str) -> None:
    source = f"{inspect.getsource(Stream)}    {line}\n"
    with pytest.raises(ValueError, match="-> SHUFFLE"):
        exec(f"from enum import IntEnum, unique\n{source}")


def test_splits_have_successive_streams_for_static_bits() -> None:
    assert [Stream.STATIC_BITS + i for i in range(3)] == [201, Stream.STATIC_BITS_VAL, Stream.STATIC_BITS_TEST]


def test_every_stream_is_used() -> None:
    text = "".join(path.read_text() for path in SRC.rglob("*.py"))
    derived = {"STATIC_BITS_VAL", "STATIC_BITS_TEST"}
    assert [name for name in Stream.__members__ if name not in derived and f"Stream.{name}" not in text] == []


@pytest.mark.parametrize("key", [(0, 101, 0), (7, 301, 2), (2**32 - 1, 5)])
def test_permutation_sorts_by_raw_draws(key: tuple[int, ...]) -> None:
    raw = [int(x) for x in np.random.Philox(np.random.SeedSequence(key)).random_raw(500)]
    assert rng.permutation(500, *key).tolist() == sorted(range(500), key=lambda i: (raw[i], i))


def test_keys_below_32_bits_have_the_entropy_of_numpy() -> None:
    for key in [(0,), (7, 301, 2), (2**32 - 1, 101, 2**32 - 1), (1, 2, 3, 4, 5), (3, rng.Stream.SHUFFLE, np.int64(9))]:
        expected = np.random.SeedSequence(tuple(map(int, key)))
        assert rng.sequence(*key).generate_state(8).tolist() == expected.generate_state(8).tolist()
        assert rng.seed_of(*key) == int(expected.generate_state(1, np.uint64)[0])


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_different_keys_of_one_length_have_different_streams(length: int) -> None:
    """All keys of these values: 64-bit words that share halves, where joined words would be equal."""
    values = (0, 1, 5, 2**32 - 1, 2**32, 2**32 + 1, 5 + 7 * 2**32, 7 * 2**32, 2**63 - 1, 2**64)
    keys = list(itertools.product(values if length < 5 else values[1::2], repeat=length))
    pools = {tuple(rng.sequence(*key).pool.tolist()) for key in keys}
    assert len(pools) == len(keys)


def test_a_large_seed_is_no_other_key() -> None:
    """As joined words, each pair would be the same stream."""
    for one, other in (
        ((5 + 7 * 2**32, 101), (5, 7 + 101 * 2**32)),
        ((3 * 2**32, 101, 9), (0, 3 + 101 * 2**32, 9)),
        ((1, 2 + 3 * 2**32, 4), (1 + 2 * 2**32, 3, 4)),
    ):
        assert rng.bits(*one).random_raw(4).tolist() != rng.bits(*other).random_raw(4).tolist()
        assert rng.seed_of(*one) != rng.seed_of(*other)


def test_equal_draws_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ties:
        def random_raw(self, n: int) -> np.ndarray:
            return np.arange(n, dtype=np.uint64)[::-1] // np.uint64(2)

    monkeypatch.setattr(rng, "bits", lambda *_: Ties())
    assert rng.permutation(40).tolist() == [i + j for i in range(38, -1, -2) for j in (0, 1)]


@pytest.mark.parametrize("n", [0, 1, 1000])
def test_uniform_is_its_closed_form(n: int) -> None:
    raw = np.random.Philox(np.random.SeedSequence((7, 301, 1))).random_raw(n)
    drawn = rng.uniform(n, 7, 301, 1)
    assert drawn.tolist() == [(int(x) >> 11) * 2.0**-53 for x in raw]
    assert drawn.dtype == np.float64


def test_uniform_reaches_both_ends_of_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ends:
        def random_raw(self, n: int) -> np.ndarray:
            return np.array([0, 2**11 - 1, 2**11, 2**64 - 1], np.uint64)[:n]

    monkeypatch.setattr(rng, "bits", lambda *_: Ends())
    assert rng.uniform(4).tolist() == [0.0, 0.0, 2.0**-53, 1 - 2.0**-53]


def test_golden_values() -> None:
    """Saved results and data sets depend on these numbers."""
    raw = [0x51D7D9B87ECD3533, 0x103079DD7F883505, 0xBF43FB224DEC0FA7, 0xE63B46D491BD8BDC]
    assert rng.bits(0, Stream.SHUFFLE, 0).random_raw(4).tolist() == raw
    assert rng.permutation(10, 0, Stream.SHUFFLE, 0).tolist() == [1, 8, 5, 0, 9, 4, 7, 2, 3, 6]
    uniform = ["0x1.62fefa39e687fp-1", "0x1.19cfb73ec7c73p-1", "0x1.283a8e715ee54p-1"]
    assert [u.hex() for u in rng.uniform(3, 7, Stream.SHAPES, 1).tolist()] == uniform
    assert rng.seed_of(0, 0, 0, 0, 0) == 8668861027912758289
    assert rng.seed_of(1, 2, 3) == 12997252459554536576
    latent = [["0x1.b4fb548f77634p-1", "0x1.1f2e1fb271881p-1"], ["0x1.1e7205c86cbfap-2", "0x1.d87b746d88224p-1"]]
    drawn = rng.uniform_per_image((2,), 3, 5, 2, Stream.LATENT).tolist()
    assert [[u.hex() for u in row] for row in drawn] == latent


def test_seeds_of_similar_keys_differ() -> None:
    keys = [(a, b, c) for a in range(10) for b in range(10) for c in range(10)]
    seeds = {rng.seed_of(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**64 for seed in seeds)


def test_each_image_has_a_generator_of_its_own() -> None:
    spec = ImageSpec(3, 2, 4, 256)
    noise = rng.image_noise(spec, 5, 10, 4)
    for i in range(4):
        assert noise[i].tolist() == np.random.default_rng((5, 10 + i)).random((3, 2, 4)).tolist()
    assert torch.equal(rng.image_noise(spec, 5, 12, 2), noise[2:])
    with_stream = rng.uniform_per_image((2, 3), 5, 10, 2, Stream.LATENT)
    for i in range(2):
        assert with_stream[i].tolist() == np.random.default_rng((5, 10 + i, 0x7A)).random((2, 3)).tolist()
    single = rng.uniform_per_image((), 5, 10, 2, Stream.LABEL)
    assert single.tolist() == [np.random.default_rng((5, 10 + i, 0x79)).random() for i in range(2)]
    assert rng.uniform_per_image((7,), 5, 0, 0).shape == (0, 7)


# -- all other files take their random numbers from core/rng.py


def other_sources(src: Path) -> Iterator[str]:
    """Uses of NumPy's generators, seeds and raw draws outside core/rng.py that bypass its functions."""
    for path in sorted(src.rglob("*.py")):
        name = path.relative_to(src).as_posix()
        if name == HOME:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = False
            if isinstance(node, ast.Attribute):
                found = BYPASS.fullmatch(ast.unparse(node)) is not None
            elif isinstance(node, ast.Import):
                found = bool({alias.name for alias in node.names} & {"random", "numpy.random"})
            elif isinstance(node, ast.ImportFrom):
                taken = {alias.name for alias in node.names}
                found = node.module in ("random", "numpy.random") or (node.module == "numpy" and "random" in taken)
            elif isinstance(node, ast.Call):
                sorts = ast.unparse(node.func).rpartition(".")[2] in ("argsort", "sort")
                found = sorts and "random_raw" in ast.unparse(node)
            if found:
                yield f"{name}:{getattr(node, 'lineno', 0)}: {ast.unparse(node)}"


def test_numpy_s_generators_are_made_in_one_file() -> None:
    assert list(other_sources(SRC)) == []


@pytest.mark.parametrize(
    "text",
    [
        "import numpy as np\nx = np.random.default_rng(0).random()",
        "import numpy as np\nx = np.random.Philox(np.random.SeedSequence((0, 1)))",
        "import numpy as np\nx = np.random.rand(3)",
        "import numpy.random",
        "from numpy.random import default_rng",
        "from numpy import random",
        "import random",
        "from random import random",
        "from pixelloom.core.rng import bits\nimport numpy as np\nx = np.argsort(bits(0).random_raw(9))",
        "from pixelloom.core.rng import bits\nx = bits(0).random_raw(9).argsort()",
    ],
)
def test_the_rule_finds_each_other_source(tmp_path: Path, text: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "stream.py").write_text(text)
    assert any(found.startswith("data/stream.py:") for found in other_sources(tmp_path))


def test_the_rule_allows_core_rng_and_other_names(tmp_path: Path) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "rng.py").write_text("import numpy as np\nx = np.random.default_rng(0)")
    (tmp_path / "a.py").write_text(
        "import torch\ng = torch.Generator()\ndef f(g: torch.Generator, x): return x.argsort()"
    )
    assert list(other_sources(tmp_path)) == []
