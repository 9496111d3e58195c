"""Exports: integers that stay what they are, files that are refused when they do not fit together, and the command."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pixelloom as pl
from codec_models import GRAY, images_of, model_of
from commands import Command, caller
from pixelloom.codec import stored_graph
from pixelloom.codec.coder import Decoder
from pixelloom.codec.export import entropy, image_table, lower
from pixelloom.codec.lowering import PROFILES, as_integer
from pixelloom.codec.model import _NO_IDENTITY, CodecModel, _identity_of, known_images
from pixelloom.codec.parallel import ParallelPass
from pixelloom.codec.proof import prove
from pixelloom.core.errors import CodecError, ModelError, UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import Scaling, to_model
from pixelloom.engine.safetensors_io import load_tensors, save_tensors
from pixelloom.models.training_record import TrainingRecord
from small_models import flat, save_run


@pytest.fixture(scope="module")
def codec() -> CodecModel:
    return lower(model_of("gated-pixelcnn", GRAY), images_of(GRAY, 20))


@pytest.mark.parametrize("scaling", [Scaling.unit(), Scaling.symmetric(), Scaling(0.5, 0.25), Scaling(0.125, 1.0)])
@pytest.mark.parametrize("levels", [2, 3, 17, 256])
def test_levels_are_exact_multiples_of_a_scale(scaling: Scaling, levels: int) -> None:
    spec = ImageSpec(1, 1, levels, levels)
    table, scale = image_table(spec, scaling)
    real = to_model(torch.arange(levels, dtype=torch.uint8), levels, scaling)
    zero = scaling.shift * (levels - 1)
    if (8 * zero) % 1 == 0:
        assert torch.allclose(table.double() * scale, real.double(), atol=1e-6)
    else:  # the nearest multiple of an eighth of a level
        assert (table.double() * scale - real.double()).abs().max() <= scale / 2 + 1e-6


def test_level_indices_are_themselves() -> None:
    table, scale = image_table(GRAY, Scaling.numbers(GRAY.levels))
    assert scale == 1
    assert table.tolist() == list(range(GRAY.levels))


@pytest.mark.parametrize("ratio", [1.0, 0.25, 8.0, 1 / 255, 3.7, 1e-4])
def test_a_ratio_becomes_an_integer_and_a_shift(ratio: float) -> None:
    multiplier, shift = as_integer(ratio, 1 << 14)
    assert 0 < multiplier <= 1 << 14
    assert abs(multiplier * 2.0**-shift / ratio - 1) <= 2.0**-13
    if math.frexp(ratio)[0] == 0.5:
        assert multiplier == 1
        assert 2.0**-shift == ratio


def test_all_intermediate_results_are_below_the_bound(codec: CodecModel) -> None:
    assert len(codec.bounds) == len(codec.nodes)
    assert max(codec.bounds) < PROFILES[1].bound == 1 << 24
    seen: dict[int, int] = {}

    def look(number: int, value: torch.Tensor) -> None:
        seen[number] = int(value.abs().max())
        assert torch.equal(value, value.round())
        assert codec.nodes[number].low <= int(value.min())
        assert int(value.max()) <= codec.nodes[number].high

    execution = codec.execution("float64")
    for levels in (images_of(GRAY, 4, 7), known_images(GRAY)):  # also images that are unlike those of the calibration
        image = execution.image[levels.permute(0, 2, 3, 1).long()].double()
        ParallelPass(execution.nodes, torch.float64)(image, look)
    assert len(seen) == len(codec.nodes)


def test_the_ideal_bits_are_those_of_the_coded_tables(codec: CodecModel) -> None:
    levels = images_of(GRAY, 5, 3)
    bits = entropy(codec, levels)
    _, count = codec.intervals(levels)
    assert float(bits.sum()) == pytest.approx(float((24 - count.double().log2()).sum()), rel=1e-12)
    assert 0 <= 8 * len(codec.encode(levels)) - float(bits.sum()) < 16


def test_identity_covers_every_integer_and_not_the_card(codec: CodecModel, tmp_path: Path) -> None:
    codec.save(tmp_path / "codec.safetensors")
    again = CodecModel.load(tmp_path / "codec.safetensors")
    assert again.identity == codec.identity
    other = CodecModel.load(tmp_path / "codec.safetensors")
    other.card["note"] = "another card"
    assert other.identity == codec.identity
    for number, name in ((1, "weight"), (1, "bias")):
        changed = CodecModel.load(tmp_path / "codec.safetensors")
        tensor = changed.nodes[number].tensors[name]
        tensor.view(-1)[0] += 1 if int(tensor.view(-1)[0]) < 0 else -1
        del changed.identity  # computed when the file was read
        assert changed.identity != codec.identity, name


def test_threads_may_share_a_model(codec: CodecModel, tmp_path: Path) -> None:
    """While one thread decodes, another one decodes a block of another size."""
    codec.save(tmp_path / "codec.safetensors")
    shared, levels = CodecModel.load(tmp_path / "codec.safetensors"), images_of(GRAY, 5, 3)
    payload, other = shared.encode(levels), shared.encode(levels[:2])
    found: list[torch.Tensor] = []
    second = threading.Thread(target=lambda: found.append(shared.decode(other, 2)))
    coder = Decoder(payload)

    def draw(params: torch.Tensor, group: int, channels: slice) -> torch.Tensor:
        if second.ident is None:
            second.start()
            second.join(0.5)  # it waits for this one
        return shared.head.decode(params, coder)

    assert torch.equal(shared._execution.draw(5, draw), levels)
    second.join()
    assert torch.equal(found[0], levels[:2])


def test_an_answer_that_no_carrier_gives_is_refused(codec: CodecModel, tmp_path: Path) -> None:
    codec.save(tmp_path / "codec.safetensors")
    wrong = CodecModel.load(tmp_path / "codec.safetensors")
    wrong.answer = "0" * 64
    with pytest.raises(ModelError, match="known answer"):
        wrong.encode(images_of(GRAY, 1))
    with pytest.raises(ModelError, match="known answer"):
        wrong.decode(b"", 1)


def test_known_images_are_integers_of_a_formula() -> None:
    found = known_images(GRAY).flatten().tolist()
    assert found[:200] == [((i * 2654435761) >> 13) % 17 for i in range(200)]


def _forged(path: Path, change: Any) -> None:
    tensors, meta = load_tensors(path)
    change(meta, tensors)
    save_tensors(path, tensors, meta)


def _set(*keys: Any, to: Any) -> Any:
    def change(meta: Any, tensors: Any) -> None:
        where = meta
        for key in keys[:-1]:
            where = where[key]
        where[keys[-1]] = to

    return change


def _tensor(name: str, to: torch.Tensor) -> Any:
    return lambda meta, tensors: tensors.__setitem__(name, to)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("codec", to=7), "an export of format 7.*update Pixelloom"),
        (_set("profile", to=9), "profile 9"),
        (_set("profile", to=1.0), "profile 1.0"),
        (_set("image", "levels", to=16), "head does not fit"),
        (_set("image", "height", to=10**9), "order of values"),
        (_set("groups", to=2), "order of values"),
        (_set("groups", to=1.0), "no integers"),
        (_set("image", "height", to=7.0), "no integers"),
        (_set("image", "height", to=math.inf), "no integers"),
        (_set("answer", to=None), "known answer is missing"),
        (_set("nodes", 3, "size", to=[7]), "node 3: cannot be read"),
        (_set("nodes", 3, "size", to=[7, 1 << 40]), "grids of positions"),
        (_set("nodes", 0, "size", to=[7, 7]), "grids of positions"),
        (lambda meta, _: meta["nodes"][-1].update(low=-(1 << 20) - 1), "may exceed 1048576"),
        (_set("nodes", to=[]), "nodes are missing"),
        (_set("nodes", 1, "kind", to="eval"), "newer Pixelloom"),
        (_set("nodes", 2, "inputs", to=[5]), "does not come before it"),
        (_set("nodes", 1, "numbers", to={}), "node 1"),
        (_set("nodes", 1, "low", to=0), "node 1"),
        (_set("nodes", 3, "features", to=-1), "cannot be read|impossible|fit"),
        (_set("nodes", 3, "edges", 0, "where", to={"taps": [[0]], "stride": [1, 1], "up": [1, 1]}), "node 3"),
        (_set("nodes", 3, "edges", 0, "where", "stride", to=[0, 1]), "stride"),
        (_set("head", "kind", to="beta"), "head.kind"),
        (_set("head", to={}), "head.kind"),
        (_tensor("steps", torch.zeros(2, 2, dtype=torch.int32)), "order of values"),
        (_tensor("steps", torch.zeros(GRAY.shape)), "order of values"),
        (_set("identity", to="00"), "identity"),
    ],
)
def test_a_forged_export_is_refused_by_name(codec: CodecModel, tmp_path: Path, change: Any, said: str) -> None:
    path = tmp_path / "codec.safetensors"
    codec.save(path)
    _forged(path, change)
    with pytest.raises(ModelError, match=said):
        CodecModel.load(path)


def test_nodes_that_do_not_fit_together_are_refused_also_when_they_are_executed(
    codec: CodecModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "codec.safetensors"
    codec.save(path)
    tensors, meta = load_tensors(path)
    relu = next(i for i, node in enumerate(codec.nodes) if node.kind == "sum")
    meta["nodes"][relu]["kind"] = "table"  # of one value, and it has two
    meta["nodes"][relu] |= {"numbers": {"first": codec.nodes[relu].low}, "tensors": {"table": "extra"}}
    inputs = [codec.nodes[i] for i in codec.nodes[relu].inputs]
    low, high = min(node.low for node in inputs), max(node.high for node in inputs)
    meta["nodes"][relu]["numbers"]["first"] = low
    tensors["extra"] = torch.zeros(high - low + 1, dtype=torch.int16)
    meta["identity"] = _identity_of({k: v for k, v in meta.items() if k not in _NO_IDENTITY}, tensors).hex()
    save_tensors(path, tensors, meta)
    with pytest.raises(ModelError, match="reads 2 nodes, which does not fit its kind"):
        CodecModel.load(path)
    monkeypatch.setattr("pixelloom.codec.model.prove", lambda nodes, bound: [0] * len(nodes))
    forged = CodecModel.load(path)
    with pytest.raises(ModelError, match="cannot be executed"):
        forged.encode(images_of(GRAY, 1))
    with pytest.raises(ModelError, match="cannot be executed"):
        forged.decode(b"", 1)


@pytest.mark.parametrize(
    ("kind", "field", "value", "said"),
    [
        ("table", "size", (7, 5), "its grid is not that of its inputs"),
        ("rescale", "features", 1, "has other features than its input"),
        ("sum", "features", 5, "its features are not those of its inputs|do not fit the features"),
        ("product", "inputs", (0,), "reads 1 nodes|do not fit its inputs"),
    ],
)
def test_the_proof_compares_nodes_with_their_inputs(
    codec: CodecModel, kind: str, field: str, value: Any, said: str
) -> None:
    nodes = list(codec.nodes)
    number = next(i for i, node in enumerate(nodes) if node.kind == kind)
    node = replace(nodes[number], **{field: value})
    if field == "features":  # reads that fit by themselves
        node = replace(node, edges=tuple(replace(edge, features=None) for edge in node.edges))
    if field == "inputs":
        node = replace(node, edges=tuple(replace(edge, source=0, input=0, features=None) for edge in node.edges[:1]))
    nodes[number] = node
    with pytest.raises(ModelError, match=said):
        prove(nodes, PROFILES[1].bound)


def test_the_identity_of_a_file_is_that_of_its_stored_integers(
    codec: CodecModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later version that stores the same nodes in another way reads the file as the same model."""
    path = tmp_path / "codec.safetensors"
    codec.save(path)

    def other(nodes: Any) -> Any:
        stored, tensors = store(nodes)
        return [node | {"later": True} for node in stored], tensors

    store = stored_graph.store
    monkeypatch.setattr(stored_graph, "store", other)
    assert CodecModel.load(path).identity == codec.identity


def test_the_proof_is_stored(codec: CodecModel, tmp_path: Path) -> None:
    codec.save(tmp_path / "codec.safetensors")
    assert load_tensors(tmp_path / "codec.safetensors")[1]["bounds"] == codec.bounds


def test_changed_integers_are_another_model_or_refused(codec: CodecModel, tmp_path: Path) -> None:
    """Tensors changed at random, with a fitting checksum: never anything but a ModelError."""
    path = tmp_path / "codec.safetensors"
    codec.save(path)
    tensors, meta = load_tensors(path)
    generator = np.random.default_rng(0)
    for name in sorted(tensors)[:40]:
        forged = dict(tensors)
        tensor = forged[name].clone().view(-1)
        place, info = int(generator.integers(len(tensor))), torch.iinfo(tensor.dtype)
        if tensor.dtype == torch.uint8:  # a mask of what is read
            tensor[place] = 1 - tensor[place]
        else:
            tensor[place] = info.max if generator.random() < 0.5 else info.min
        forged[name] = tensor.view(tensors[name].shape)
        if torch.equal(forged[name], tensors[name]):
            continue
        save_tensors(path, forged, meta)
        with pytest.raises(ModelError, match=r"codec\.safetensors: damaged"):
            CodecModel.load(path)


def test_a_model_is_no_export(tmp_path: Path) -> None:
    model_of("gated-pixelcnn", GRAY).save(tmp_path / "model")
    with pytest.raises(ModelError, match="a model, not an export"):
        CodecModel.load(tmp_path / "model" / "model.safetensors")


@pytest.mark.parametrize(
    ("calibration", "said"),
    [
        (torch.zeros(0, 1, 7, 6, dtype=torch.uint8), "calibration"),
        (torch.zeros(2, 1, 7, 7, dtype=torch.uint8), "calibration"),
        (torch.zeros(2, 1, 7, 6), "calibration"),
        (torch.full((2, 1, 7, 6), 17, dtype=torch.uint8), "17 levels"),
    ],
)
def test_calibration_images_must_fit(calibration: torch.Tensor, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        pl.lower(model_of("gated-pixelcnn", GRAY), calibration)


# The command


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    return caller(capsys)


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    model = flat(ImageSpec(1, 8, 8, 17), {"source": "digits"})
    assert isinstance(model.description.training, TrainingRecord)
    return save_run(model, tmp_path / "runs" / "flat")


@pytest.mark.usefixtures("digits")
def test_export_writes_beside_the_model(run: Command, tmp_path: Path) -> None:
    said = run("export", "flat", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    path = tmp_path / "runs" / "flat" / "model" / "codec.safetensors"
    assert Path(found["file"]).resolve() == path.resolve()
    loaded = CodecModel.load(path)
    assert loaded.identity.hex() == found["identity"]
    assert found["bits_per_dim"]["model"] == pytest.approx(math.log2(17), abs=1e-6)  # all levels equally likely
    assert found["bits_per_dim"]["lowered"] == pytest.approx(math.log2(17), abs=1e-4)
    said = run("export", "flat")
    assert said.code == 2
    assert "exists already" in said.err
    assert run("export", "flat", "--force", "--validation", "0").code == 0
    assert CodecModel.load(path).identity == loaded.identity


@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("export flt", 4, "flat"),
        ("export flat --codec x.txt", 2, "ends in .safetensors"),
        ("export flat --calibration 0", 2, "calibration"),
        ("export flat --data nothing-here", 3, "nothing-here"),
        ("export binarized-mnist", 2, "--codec"),
        ("export binarized-mnist-complete --codec x", 4, "a conditioning image"),
    ],
)
def test_export_says_what_is_wrong(run: Command, line: str, code: int, said: str) -> None:
    found = run(*line.split())
    assert found.code == code, found.err
    assert said in found.err


def test_blocks_of_a_file_are_decoded_several_at_once(codec: CodecModel) -> None:
    """Blocks before a damaged one are given out before its error, whatever group it is in."""
    images = images_of(GRAY, 43, 9)
    content = pl.compress(images, codec, block=4)
    with pl.open_pxl(content, codec) as file:
        assert [len(block) for block in file.blocks()] == [4] * 10 + [3]
        assert torch.equal(torch.cat(list(file.blocks())), images)
        places = [block.start + block.head_size for block in file.index.blocks]
    for damaged in (0, 2, 5, 10):
        broken = bytearray(content)
        broken[places[damaged]] ^= 1
        seen = []
        with pl.open_pxl(bytes(broken), codec) as file, pytest.raises(CodecError, match=f"block {damaged}"):
            seen.extend(file.blocks())
        assert torch.equal(torch.cat([*seen, images[:0]]), images[: 4 * damaged])
