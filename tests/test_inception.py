"""The network of published FIDs: its features, against another implementation and by hand, and files of its weights.

No weights that were trained are here. What is compared is the network with weights of ``inception_toys``, which any
implementation can be given.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pixelloom
from commands import caller
from inception_toys import picture, shapes, weights
from pixelloom.core.errors import ModelError, UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.config import DataConfig
from pixelloom.data.pixels import to_bytes
from pixelloom.metrics import extractors, inception, results
from pixelloom.metrics.extractors import EXTRACTORS, Inception, Pixels, choose, extractor_for, features, named
from pixelloom.metrics.inception import Conv, Folded, InceptionV3, Pool, Pooling, enlarged, read
from pixelloom.metrics.results import Reference, measure
from small_models import flat, save_run

SMALL = 75  # pixels, the least that the network takes: 16 times faster than 299

GOLDEN = {
    (3, 32, 32): "197.782 4.22893 7.25636 7.80663 5.55025 0.472763 3.05913 3.1823 0 1.91262 0.588571 0.135739 0.628688 "
    "0 0.0722541 2.38167 1.46929 0.0181974 0.242977 2.99132 0.340255 0.723305",
    (3, 64, 64): "223.093 4.83275 8.01739 8.73216 6.22428 0.612167 3.35712 3.58072 0 2.20869 0.685222 0.0928221 "
    "0.767373 0 0.103308 2.87969 1.88698 0.0174535 0.178955 3.78872 0.22846 1.10079",
    (1, 28, 48): "207.685 4.26987 7.40643 8.35928 5.88913 0.535121 3.07737 3.51953 0 1.67446 0.545663 0.0562179 "
    "0.655702 0 0.0701406 2.64433 1.54681 0.0311213 0.328883 3.02986 0.480433 0.953558",
    (
        3,
        299,
        299,
    ): "360.586 7.31885 12.3666 14.8563 10.2706 0.90988 5.20925 6.83416 0 4.04106 0.937284 0.243818 1.15336 "
    "0 0.11335 4.94401 2.77646 0.0307146 0.417464 5.56912 1.4733 1.10752",
}
"""Shape of a image -> the length of its features, and every hundredth of them, by torch-fidelity 0.4.0, torch 2.13.0.

Its FeatureExtractorInceptionV3, features "2048", with the weights and pictures of ``inception_toys``, whose recipes are
in the docstrings there; a gray picture was given three times. All 2048 features agree within 4e-7 of the largest.
"""


@pytest.fixture(scope="session")
def tensors() -> dict[str, Tensor]:
    return weights()


@pytest.fixture(scope="session")
def network(tensors: dict[str, Tensor]) -> InceptionV3:
    return InceptionV3(tensors)


@pytest.fixture(scope="session")
def file(tensors: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "toy.pth"
    torch.save(tensors, path)
    return path


@pytest.fixture(scope="session")
def extractor(file: Path) -> Inception:
    return Inception(file)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "SIDE", SMALL)


# The network


@pytest.mark.parametrize("shape", GOLDEN, ids=str)
def test_features_are_those_of_torch_fidelity(network: InceptionV3, shape: tuple[int, int, int]) -> None:
    with torch.no_grad():
        (found,) = network(picture(*shape)).double()
    expected = [float(word) for word in GOLDEN[shape].split()]
    assert found.shape == (2048,)
    torch.testing.assert_close([found.norm().item(), *found[::100].tolist()], expected, rtol=1e-4, atol=1e-4)


def test_the_file_is_as_large_as_the_published_one() -> None:
    """95,628,359 bytes, of which names and shapes are a thousandth."""
    numbers = sum(math.prod(shape) for shape in shapes().values())
    assert 0 < 95_628_359 - 4 * numbers < 95_628


def test_a_convolution_is_folded_with_its_norm() -> None:
    torch.manual_seed(1)
    layer = Folded("a.b", 3, Conv("b", 5, (3, 1), stride=2))
    given = {name: torch.rand(shape) + 0.1 for name, shape in layer.shapes().items()}
    assert list(given) == [
        "a.b.conv.weight",
        *(f"a.b.bn.{x}" for x in ("weight", "bias", "running_mean", "running_var")),
    ]
    layer.fold(given)
    w, g, b, m, v = given.values()
    x = torch.randn(2, 3, 8, 7)
    y = F.conv2d(x, w, stride=2, padding=(1, 0))
    g, b, m, v = (part[:, None, None] for part in (g, b, m, v))
    expected = (g * (y - m) / (v + 0.001).sqrt() + b).clamp(min=0)
    assert float((expected == 0).float().mean()) > 0.1
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pool", [Pool("mean"), Pool("max"), Pool("max", 2)])
def test_pools_take_what_lies_in_the_image(pool: Pool) -> None:
    x = torch.randn(1, 1, 6, 7)
    side = (6, 7) if pool.stride == 1 else (2, 3)  # of whole windows
    first = -1 if pool.stride == 1 else 0
    expected = torch.empty(1, 1, *side)
    for i in range(side[0]):
        for j in range(side[1]):
            window = [
                float(x[0, 0, row, column])
                for row in range(i * pool.stride + first, i * pool.stride + first + 3)
                for column in range(j * pool.stride + first, j * pool.stride + first + 3)
                if 0 <= row < 6 and 0 <= column < 7
            ]
            expected[0, 0, i, j] = max(window) if pool.kind == "max" else sum(window) / len(window)
    torch.testing.assert_close(Pooling(pool)(x), expected)


@pytest.mark.parametrize(("height", "width"), [(5, 8), (23, 11), (9, 30), (1, 2)])
def test_images_are_enlarged_without_a_shift(height: int, width: int) -> None:
    x, side = torch.rand(1, 2, height, width) * 255, 11
    expected = torch.empty(1, 2, side, side, dtype=torch.float64)
    for i in range(side):
        for j in range(side):
            y, z = i * height / side, j * width / side
            top, left = int(y), int(z)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            dy, dz = y - top, z - left
            part = x[0].double()
            upper = part[:, top, left] * (1 - dz) + part[:, top, right] * dz
            lower = part[:, bottom, left] * (1 - dz) + part[:, bottom, right] * dz
            expected[0, :, i, j] = upper * (1 - dy) + lower * dy
    torch.testing.assert_close(enlarged(x, side).double(), expected, rtol=1e-4, atol=1e-3)
    same = torch.rand(1, 3, side, side)
    assert torch.equal(enlarged(same, side), same)


# What it takes


def test_levels_are_the_bytes_of_a_file(extractor: Inception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InceptionV3, "forward", lambda _, x: x.flatten(1))
    for levels in (2, 4, 17, 256):
        images = torch.arange(levels, dtype=torch.uint8).view(1, 1, 1, -1)
        seen = features(images, levels, extractor)
        assert seen[0].tolist() == to_bytes(images.numpy(), levels).ravel().tolist()


@pytest.mark.usefixtures("small")
def test_gray_is_three_equal_colors_and_batches_change_nothing(extractor: Inception) -> None:
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    extractor.train()
    gray = torch.cat([picture(1, 20, 31) // (i + 1) for i in range(5)])
    found = features(gray, 256, extractor)
    assert (found[0] - found[1]).norm() > 1e-3 * found[0].norm()
    for other in (
        features(gray.expand(-1, 3, -1, -1), 256, extractor),
        features(gray, 256, extractor, batch=2),
        features(gray, 256, extractor.on(torch.device("cpu"))),
    ):
        torch.testing.assert_close(other, found, rtol=1e-5, atol=1e-5)
    taken: list[int] = []
    watch = extractor.register_forward_pre_hook(lambda _, given: taken.append(len(given[0])))
    features(gray[:1].expand(17, -1, -1, -1), 256, extractor)
    watch.remove()
    assert taken == [16, 1]


# Files


@pytest.mark.usefixtures("small")
def test_files_of_every_form_hold_the_same(
    file: Path, network: InceptionV3, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    x = picture(3, 32, 32)
    expected = network(x)
    counted: OrderedDict[str, Tensor] = OrderedDict(tensors)
    counted["Mixed_5b.branch1x1.bn.num_batches_tracked"] = torch.tensor(7)
    old, safe = tmp_path / "old.pth", tmp_path / "weights.safetensors"
    torch.save(counted, old, _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(tensors, safe)
    for path in (file, old, safe):
        loaded, sha256 = read(path)
        assert torch.equal(loaded(x), expected), path
        assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_metrics_of_other_weights_have_a_name_of_their_own(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert inception.PUBLISHED == "6726825d"
    assert Inception(file).name == f"inception-{digest[:8]}"
    assert f"{file}: not the published weights" in caplog.text
    assert "instead of 6726825d" in caplog.text
    caplog.clear()
    monkeypatch.setattr(inception, "PUBLISHED", digest[:8])
    with caplog.at_level(logging.WARNING):
        assert Inception(file).name == "inception"
    assert not caplog.records


class Command:
    """Makes a file when it is loaded by a loader that runs code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_no_code_is_run(tmp_path: Path) -> None:
    made, path = tmp_path / "made", tmp_path / "weights.pth"
    for zipped in (True, False):
        torch.save({"fc.bias": Command(made)}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(
            ModelError, match=r"weights.pth: contains more than tensors and would run code.*use pt_inception-2015"
        ):
            read(path)
    assert not made.exists()
    torch.load(path, weights_only=False)
    assert made.exists()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(path))
    with pytest.raises(ModelError, match="would run code"):
        read(path)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_files_that_are_damaged_or_none(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, whole = tmp_path / f"weights.{suffix}", {"fc.bias": torch.zeros(1000)}
    torch.save(whole, path) if suffix == "pth" else safetensors.torch.save_file(whole, path)
    content = path.read_bytes()
    for part in (content[:-100], content[: len(content) // 3], b"", b"<!DOCTYPE html>" * 99, bytes(2000)):
        path.write_bytes(part)
        with pytest.raises(ModelError, match=rf"weights.{suffix}: is damaged or not a file of weights; use pt_"):
            read(path)
    path.unlink()
    with pytest.raises(ModelError, match=r"there is no such file; features inception=FILE needs .* docs/metrics.md"):
        read(path)
    with pytest.raises(ModelError, match="is a folder"):
        read(tmp_path)
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"Conv2d_1a_3x3.conv.weight is missing"):
        read(path)
    monkeypatch.setattr(inception, "_LARGEST", 100)
    with pytest.raises(ModelError, match="too large"):
        read(path)


def test_a_file_of_something_else(tmp_path: Path) -> None:
    for other in ([torch.zeros(2)], {"state_dict": {"fc.bias": torch.zeros(2)}}, torch.zeros(3)):
        torch.save(other, tmp_path / "other.pth")
        with pytest.raises(ModelError, match=r"other.pth: is not a dictionary of tensors"):
            read(tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"Mixed_6b.branch7x7_2.conv.weight": None}, "Mixed_6b.branch7x7_2.conv.weight is missing"),
        ({"Mixed_7c.branch_pool.bn.running_var": None}, "Mixed_7c.branch_pool.bn.running_var is missing"),
        ({"AuxLogits.fc.bias": torch.zeros(1)}, "AuxLogits.fc.bias is unexpected"),
        ({"fc.weight": torch.zeros(1000, 2048)}, r"fc.weight is \[1000, 2048\], not \[1008, 2048\]"),
        ({"Conv2d_1a_3x3.bn.bias": torch.zeros(32, dtype=torch.int8)}, "Conv2d_1a_3x3.bn.bias is of torch.int8"),
    ],
)
def test_tensors_of_another_network(tensors: dict[str, Tensor], changes: dict[str, Tensor | None], said: str) -> None:
    other = {name: x for name, x in (tensors | changes).items() if x is not None}
    with pytest.raises(ModelError, match=f"mine: not the Inception-v3 of published FIDs: {said}; use pt_inception"):
        InceptionV3(other, "mine")


# Names


def test_names_of_features(file: Path) -> None:
    assert [named(name) for name in ("auto", *EXTRACTORS)] == ["auto", *EXTRACTORS]
    for name, extractor in EXTRACTORS.items():
        assert extractor(1).name == name == extractor_for(name, 1).name
    assert extractor_for("auto", 1, "mnist").name == "lenet-mnist"
    assert isinstance(extractor_for(f"inception={file}", 3), Inception)
    mine = Pixels(1)
    assert extractor_for(mine, 1) is mine
    for name in ("inception", "inception="):
        with pytest.raises(UsageError, match=r"inception=FILE: pt_inception-2015-12-05-6726825d.pth"):
            named(name)
    with pytest.raises(UsageError, match=r"no 'inception-v3'.*and inception=FILE"):
        named("inception-v3")
    with pytest.raises(UsageError):
        choose(f"inception={file}", 1)  # a run's own metrics are by what lies in the package


def test_a_metric_says_what_published_ones_take(monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = Pixels(1)
    monkeypatch.setattr(extractor, "name", "inception")
    monkeypatch.setattr(results, "_PUBLISHED", 100)
    images = torch.randint(0, 256, (200, 1, 8, 8), dtype=torch.uint8)
    for n, held_out, said in ((99, 100, True), (100, 99, True), (100, 100, False)):
        reference = Reference(images[-held_out:])
        (figure,) = measure(images[:n], reference, 256, metrics=("fd",), extractor=extractor)
        assert figure.name == "fd-inception"
        assert ("published FIDs use 10,000 to 50,000" in figure.note) == said


# The command line


@pytest.mark.usefixtures("small")
def test_evaluate_by_a_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXELLOOM_OFFLINE", "1")
    save_run(flat(ImageSpec(1, 8, 8, 17), DataConfig().model_dump(mode="json")), Path("runs/flat"))
    run = caller(capsys)
    asked = ("evaluate", "flat", "--features", f"inception={file}", "--limit", 44, "-n", 20, "--json", "--metrics")
    said = run(*asked, "kid,precision")
    kid, precision = json.loads(said.out)["results"]
    name = f"inception-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}"
    assert (kid["name"], precision["name"]) == (f"kid-{name}", f"precision-{name}")
    assert (kid["n"], kid["reference"], kid["baseline_n"]) == (20, 44, [20, 24])
    assert kid["value"] > 5 * abs(kid["baseline"])  # noise and digits
    assert "not the published weights" in said.err
    (found,) = pixelloom.measure(pixelloom.load("flat"), metrics=["kid"], features=f"inception={file}", n=20, limit=44)
    assert found.as_dict() | {"baseline_n": list(found.baseline_n or ())} == kid


def test_a_wrong_file_is_reported_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_run(flat(ImageSpec(1, 8, 8, 17), DataConfig().model_dump(mode="json")), Path("runs/flat"))
    Path("weights.pth").write_text("not found")
    run, asked = caller(capsys), ("evaluate", "flat", "--data", "nowhere", "--metrics", "likelihood,kid", "--features")
    for name, code, words in (
        ("inception=weights.pth", 4, "weights.pth: is damaged"),
        ("inception=none.pth", 4, "none.pth: there is no such file"),
        ("inception", 2, "inception=FILE"),
        ("lenet", 2, "Did you mean 'lenet-mnist'?"),
    ):
        said = run(*asked, name)
        assert (said.code, said.out) == (code, "")
        assert words in said.err
    assert extractors.INCEPTION == "inception="
