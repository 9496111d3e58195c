"""Models with odd contents, memory that runs out, seeds that must not meet, and models in other processes."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pixelloom as pl
from commands import Command, caller
from gan_toys import PAIRS, spec
from pixelloom.core import rng
from pixelloom.core.errors import ModelError, UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.config import DataConfig
from pixelloom.engine.memory import out_of_memory
from pixelloom.engine.safetensors_io import load_tensors, save_tensors
from pixelloom.models.gan import GANDescription, GANModel
from pixelloom.models.pixel import PixelModel
from small_models import flat, save_run

SPEC = ImageSpec(1, 8, 8, 17)
WEIGHTS = Path("runs/flat/model/model.safetensors")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXELLOOM_OFFLINE", "1")
    return caller(capsys)


@pytest.fixture
def model(run: Command) -> PixelModel:
    found = flat(SPEC, DataConfig().model_dump(mode="json"))
    torch.manual_seed(0)
    for parameter in found.network.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    save_run(found, Path("runs/flat"))
    return found


COMMANDS = ("sample flat -n 1", "evaluate flat --limit 4", "info flat", "explain flat --seed 0")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, run: Command, model: PixelModel) -> None:
    name, weight = next(iter(model.network.named_parameters()))
    with torch.no_grad():
        weight.view(-1)[-1] = value
    save_run(model, Path("runs/flat"))
    for command in COMMANDS:
        done = run(*command.split())
        assert (done.code, done.out) == (4, "")
        assert f"model.safetensors: its weights are not finite ({name})" in done.err


ODD: list[Any] = [
    {"data": ["digits"]},
    {"data": "digits"},
    {"images": "x"},
    {"images": -1},
    {"minutes": []},
    {"classes": 3},
    {"validation": None},
    {"validation": {"metrics": {"a": "b"}}},
    {"surprise": 1},
    {"date": "tomorrow"},
    [],
    None,
    "trained",
]


@pytest.mark.parametrize("record", ODD, ids=repr)
def test_an_odd_training_record_is_an_error_of_the_model(record: Any, run: Command, model: PixelModel) -> None:
    tensors, meta = load_tensors(WEIGHTS)
    whole = meta["training"] | record if isinstance(record, dict) else record
    save_tensors(WEIGHTS, tensors, meta | {"training": whole})
    for command in COMMANDS:
        done = run(*command.split())
        assert done.code == 4, done.err
        assert "its description is not one of a pixel model (training" in done.err


@pytest.mark.parametrize("missing", ["data", "images", "minutes", "epochs", "date", "seed"])
def test_a_record_with_gaps_is_shown(missing: str, run: Command, model: PixelModel) -> None:
    tensors, meta = load_tensors(WEIGHTS)
    full = meta["training"] | {"images": 640, "minutes": 1.5, "epochs": 2.0, "seed": 3, "date": "2026-01-02"}
    save_tensors(WEIGHTS, tensors, meta | {"training": full | {missing: None}})
    done = run("info", "flat")
    assert done.code == 0
    assert "None" not in done.out
    parts = {"images": "640 images", "epochs": "2.0 epochs", "minutes": "1.5 minutes", "seed": "seed 3"}
    parts["date"] = "2026-01-02"
    shown = ", ".join(text for name, text in parts.items() if name != missing)
    assert f"training    {shown}\n" in done.out
    done = run("evaluate", "flat", "--limit", 4)
    assert done.code == (2 if missing == "data" else 0)


def test_names_of_tensors_are_escaped_and_shortened(run: Command, model: PixelModel) -> None:
    tensors, meta = load_tensors(WEIGHTS)
    more = {"\x1b[31mred\x07": torch.zeros(1), "n" * 200_000: torch.zeros(1)}
    save_tensors(WEIGHTS, tensors | more, meta)
    done = run("info", "flat")
    assert done.code == 4
    assert "\\x1b[31mred\\x07 is not part of this model" in done.err
    assert "\x1b" not in done.err
    assert len(done.err) < 600


def test_names_of_families_and_networks_are_escaped(run: Command, model: PixelModel) -> None:
    tensors, meta = load_tensors(WEIGHTS)
    for field in ("family", "network"):
        save_tensors(WEIGHTS, tensors, meta | {field: "\x1b]0;x" + "y" * 9000})
        done = run("info", "flat")
        assert done.code == 4
        assert "\x1b" not in done.err
        assert len(done.err) < 900


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("could not create a primitive"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"),
        RuntimeError("std::bad_alloc"),
        OSError(12, "Cannot allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory."),
    ],
    ids=str,
)
def test_a_lack_of_memory_is_told_as_such_in_every_command(
    error: Exception, run: Command, model: PixelModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert out_of_memory(error)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(PixelModel, "log_prob", fail)
    monkeypatch.setattr(PixelModel, "sample", fail)
    monkeypatch.setattr(PixelModel, "predict", fail)
    for command in ("sample flat -n 1", "evaluate flat --limit 4", "explain flat --seed 0"):
        done = run(*command.split())
        assert done.code == 2, done.err
        assert "out of memory" in done.err
    for other in (RuntimeError("shape mismatch"), OSError(2, "No such file"), ValueError("out of memory")):
        assert not out_of_memory(other)


def test_noise_of_different_images_never_meets() -> None:
    """(5 + 7 * 2^32, image 0) was once (5, image 7), since words are joined without their lengths."""
    big = 1 << 32
    keys = [(s, i) for s in (0, 5, 7, big, 5 + 7 * big, (1 << 63) - 1) for i in (0, 5, 7, big, 5 + 7 * big)]
    drawn = {rng.uniform_per_image((4,), seed, index, 1).tobytes() for seed, index in keys}
    assert len(drawn) == len(keys)
    streams = {
        rng.uniform_per_image((4,), seed, index, 1, stream).tobytes()
        for seed, index in keys
        for stream in (rng.Stream.LABEL, rng.Stream.LATENT)
    }
    assert len(streams) == 2 * len(keys)
    assert not streams & drawn


def test_noise_of_small_seeds_is_as_ever() -> None:
    for seed, index in ((0, 0), (5, 7), ((1 << 32) - 1, 12)):
        before = np.random.default_rng((seed, index)).random((1, 2, 3))
        assert np.array_equal(rng.uniform_per_image((1, 2, 3), seed, index, 1)[0], before)
    latent = np.random.default_rng((3, 4, rng.Stream.LATENT)).random(6)
    assert np.array_equal(rng.uniform_per_image((6,), 3, 4, 1, rng.Stream.LATENT)[0], latent)


def test_a_pickled_or_copied_model_is_the_same(model: PixelModel) -> None:
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
        assert torch.equal(other.sample(3, seed=1), model.sample(3, seed=1))
        assert other.description == model.description
    name, config = PAIRS["sagan"]
    adversarial = GANModel.build(GANDescription(network=name, model=config, image=spec()))
    other = pickle.loads(pickle.dumps(adversarial))
    assert torch.equal(other.sample(3, seed=1), adversarial.sample(3, seed=1))
    assert (other.discriminator is None) == (adversarial.discriminator is None)


def _draw(model: PixelModel, seed: int) -> torch.Tensor:
    return model.sample(2, seed=seed)


def test_models_go_to_processes_that_are_spawned(model: PixelModel) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        drawn = pool.starmap(_draw, [(model, 1), (model, 2)])
    for seed, images in enumerate(drawn, 1):
        assert torch.equal(images, model.sample(2, seed=seed))


def test_calls_from_python_end_in_errors_that_name_the_argument(model: PixelModel) -> None:
    with pytest.raises(UsageError, match="seed: must be a whole number, not None"):
        model.sample(1, seed=None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"n: must be a whole number, not 2\.5"):
        model.sample(2.5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="seed: must be 0 to 9223372036854775807"):
        model.sample(1, seed=1 << 64)
    with pytest.raises(UsageError, match="unconditional"):
        model.sample(1, labels="dogs")
    with pytest.raises(UsageError, match="limit: must be 1 or more, not 0"):
        pl.evaluate(model, limit=0)


def test_a_model_is_loaded_by_its_weights_and_under_any_default_type(model: PixelModel) -> None:
    assert torch.equal(pl.load(WEIGHTS).sample(2), model.sample(2))
    assert torch.equal(pl.load(str(WEIGHTS)).sample(2), model.sample(2))
    torch.set_default_dtype(torch.float64)
    try:
        found = pl.load("flat")
        drawn = found.sample(2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert next(found.network.parameters()).dtype == torch.float32
    assert torch.equal(drawn, model.sample(2))


def test_strings_are_paths(model: PixelModel, tmp_path: Path) -> None:
    model.save("out/m")
    assert torch.equal(pl.load("out/m").sample(2), model.sample(2))
    with pytest.raises(ModelError):
        pl.load(str(tmp_path / "nowhere"))


def test_a_compiled_network_is_looked_through(model: PixelModel) -> None:
    drawn, scored = model.sample(3), model.log_prob(model.sample(3))
    model.network = torch.compile(model.network, backend="eager")  # type: ignore[assignment]
    assert torch.equal(model.sample(3), drawn)
    assert torch.equal(model.sample(3, method="plain"), drawn)
    assert model.sample(2, precision="fp64").shape == (2, 1, 8, 8)
    assert torch.equal(model.log_prob(drawn), scored)
    model.save("compiled")
    assert torch.equal(pl.load("compiled").sample(3), drawn)
    assert torch.equal(pickle.loads(pickle.dumps(model)).sample(3), drawn)
