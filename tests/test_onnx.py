"""Models in ONNX Runtime give the outputs that they give in torch; what has no graph is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import pixelloom as pl
from codec_models import cases
from commands import Command, caller
from gan_toys import PAIRS, awake
from gan_toys import spec as gan_spec
from pixelloom.core.errors import ModelError, UsageError
from pixelloom.data.pixels import Scaling, from_model
from pixelloom.engine.safetensors_io import digest_of
from pixelloom.heads.config import HeadConfig
from pixelloom.models.gan import GANDescription, GANModel
from pixelloom.models.pixel import PixelModel
from pixelloom.models.pixel_description import PixelDescription
from pixelloom.networks import GAN_NETWORKS, PIXEL_NETWORKS
from pixelloom.onnx import export, graphs
from pixelloom.onnx.export import TOLERANCE, export_onnx
from settings import live
from test_condition_networks import model_of as conditioned

pytestmark = pytest.mark.browser

COLOR = pl.ImageSpec(3, 6, 5, 4)
PIXEL: dict[str, Callable[[], PixelModel]] = {
    name: make
    for name, make in cases().items()
    if name.startswith("pixelcnn/") or name.endswith(("/gray", "/color", "/logistics", "/embedded"))
}


def run(path: Path, **inputs: Tensor) -> np.ndarray:
    """The output of a file in ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return np.asarray(found)


def close(found: np.ndarray, expected: Tensor) -> None:
    """Equal but for float32 sums in another order, see TOLERANCE, which is 20 times what is asked here."""
    wanted = expected.detach().numpy()
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    assert np.abs(wanted).max() > 1e-3  # away from zero
    assert np.abs(wanted - wanted.mean()).max() > 1e-3  # and not constant
    assert np.abs(found - wanted).max() <= TOLERANCE / 20 * np.abs(wanted).max()


def levels(spec: pl.ImageSpec, n: int) -> Tensor:
    return torch.randint(spec.levels, (n, *spec.shape), generator=torch.Generator().manual_seed(n), dtype=torch.uint8)


def conditional(classes: int = 3, condition: str = "mask", null: bool = True) -> PixelModel:
    """A gated PixelCNN with classes and a conditioning image, with random weights."""
    config = PIXEL_NETWORKS["gated-pixelcnn"][0]
    torch.manual_seed(0)
    description = PixelDescription(
        network="gated-pixelcnn",
        model=config.model_validate({"channels": 6, "layers": 2, "kernel": 3, "first_kernel": 3, "condition": 4}),
        head=HeadConfig(kind="categorical"),
        image=pl.ImageSpec(1, 8, 8, 4),
        scaling=Scaling.symmetric(),
        classes=classes,
        condition=condition,
        null_class=null,
    )
    model = PixelModel.build(description)
    live(model.network)
    return model


def gan(kind: str, classes: int = 0) -> GANModel:
    name, config = PAIRS[kind]
    torch.manual_seed(0)
    model = GANModel.build(
        GANDescription(network=name, model=config, image=gan_spec(16, 3), classes=classes)  # type: ignore[call-arg]
    )
    awake(model.network)
    return model


def test_every_pixel_network_is_among_the_cases() -> None:
    assert {name.partition("/")[0] for name in PIXEL} == set(PIXEL_NETWORKS)


@pytest.mark.parametrize("name", PIXEL)
def test_parameters_of_every_pixel_network(name: str, tmp_path: Path) -> None:
    model, path = PIXEL[name](), tmp_path / "model.onnx"
    export_onnx(model, path)
    for n in (1, 5):
        images = levels(model.spec, n)
        close(run(path, images=images), model.predict(images))


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("classes", [0, 3])
def test_images_of_every_generator(kind: str, classes: int, tmp_path: Path) -> None:
    assert {name for name, _ in PAIRS.values()} == set(GAN_NETWORKS)
    model, path = gan(kind, classes), tmp_path / "model.onnx"
    about = pl.export_onnx(model, path)
    assert json.loads(about["inputs"]) == ["z", "labels"][: 1 + (classes > 0)]
    for n in (1, 5):
        z = model.latents(n, seed=n)
        labels = torch.arange(n) % 3
        given = {"z": z, "labels": labels} if classes else {"z": z}
        found = run(path, **given)
        with torch.no_grad():
            close(found, model.network(*given.values()))
        drawn = model.render(z, labels if classes else None)
        again = from_model(torch.from_numpy(found), model.spec.levels, Scaling.symmetric())
        assert (again.int() - drawn.int()).abs().max() <= 1  # rounding of a value between two levels


@pytest.mark.parametrize("condition", ["mask", "edges", "downsample@2"])
def test_classes_and_a_conditioning_image(condition: str, tmp_path: Path) -> None:
    model, path = conditional(condition=condition), tmp_path / "model.onnx"
    about = export_onnx(model, path, name="toy")
    assert json.loads(about["inputs"]) == ["images", "labels", "condition"]
    assert model.condition is not None
    outputs = []
    for n, labels in ((1, torch.tensor([3])), (5, torch.tensor([0, 1, 2, 3, 1]))):
        images = levels(model.spec, n)
        given = model.condition.of(levels(model.spec, n)) if condition != "mask" else None
        cond = graphs.graph_of(model).inputs[2].example(n) if given is None else torch.as_tensor(given)
        outputs.append(run(path, images=images, labels=labels, condition=cond))
        close(outputs[-1], model.predict(images, labels, cond))
        other = run(path, images=images, labels=(labels + 1) % 4, condition=cond)
        assert np.abs(other - outputs[-1]).max() > 1e-3


@pytest.mark.parametrize("name", ["pixelcnn", "pixelcnn-pp", "pixel-transformer"])
def test_partly_known_images_in_other_networks(name: str, tmp_path: Path) -> None:
    model, path = conditioned(name), tmp_path / "model.onnx"
    model.network.float()
    assert json.loads(export_onnx(model, path, name="toy")["inputs"]) == ["images", "condition"]
    images = levels(model.spec, 3)
    cond = graphs.graph_of(model).inputs[1].example(3)
    found = run(path, images=images, condition=cond)
    close(found, model.predict(images, None, cond))
    assert np.abs(run(path, images=images, condition=1 - cond) - found).max() > 1e-3


def test_metadata(tmp_path: Path) -> None:
    import onnx

    model = conditional(null=False)
    sha256 = model.save(tmp_path / "model")
    export_onnx(model, tmp_path / "model.onnx", name="toy", sha256=sha256)
    proto = onnx.load(tmp_path / "model.onnx")
    about = {entry.key: entry.value for entry in proto.metadata_props}
    assert about == {
        "format": "pixelloom 1", "name": "toy", "family": "pixel", "network": "gated-pixelcnn", "levels": "4",
        "shape": "[1, 8, 8]", "classes": '["0", "1", "2"]', "inputs": '["images", "labels", "condition"]',
        "head": "categorical", "head.channels": "ordered", "condition": "mask", "null_class": "false",
        "sha256": digest_of(tmp_path / "model" / "model.safetensors"),
    }  # fmt: skip
    assert str(Path(pl.__file__).parent).encode() not in (tmp_path / "model.onnx").read_bytes()
    for value in (*proto.graph.input, *proto.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == graphs.BATCH
    assert proto.opset_import[0].version == export.OPSET
    export_onnx(model, tmp_path / "again.onnx", name="toy", sha256=sha256)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()


def test_what_has_no_graph_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    config = PIXEL_NETWORKS["made"][0].model_validate({"hidden": 3, "layers": 2, "orders": 2})
    several = PixelModel.build(
        PixelDescription(
            network="made", model=config, head=HeadConfig(), image=pl.ImageSpec(1, 4, 4, 2), scaling=Scaling.symmetric()
        )
    )
    with pytest.raises(ModelError, match="averages over 2 pixel orders"):
        export_onnx(several, path)
    double = conditional()
    double.network.double()
    with pytest.raises(ModelError, match="float32 on the CPU are needed, not float64 on cpu"):
        export_onnx(double, path)

    class Loop(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight if float(x.sum()) > 0 else -x  # depends on values

    model = conditional(0, "none")
    model.network = Loop()
    with pytest.raises(ModelError, match="torch cannot export this network"):
        export_onnx(model, path)
    monkeypatch.setattr(export, "_LARGEST", 1000)
    with pytest.raises(ModelError, match="an ONNX file has at most 1000"):
        export_onnx(conditional(), path)
    monkeypatch.setattr(export, "_PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(UsageError, match=r"needs no_such_package: pip install 'pixelloom\[onnx\]'"):
        export_onnx(conditional(), path)
    assert not list(tmp_path.iterdir())


def test_a_file_that_computes_something_else_gets_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"before")
    model, other = conditional(), conditional()
    live(other.network, 5)
    wrong = export._converted(graphs.graph_of(other))
    monkeypatch.setattr(export, "_converted", lambda graph: wrong)
    with pytest.raises(ModelError, match="computes other outputs than torch"):
        export_onnx(model, path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    return caller(capsys)


def test_the_command(command: Command, tmp_path: Path) -> None:
    done = command("export", "binarized-mnist", "--onnx", "digits.onnx", "--json")
    assert done.code == 0, done.err
    about = json.loads(done.out)
    assert about["bytes"] == (tmp_path / "digits.onnx").stat().st_size
    model = pl.load("binarized-mnist")
    images = levels(model.spec, 2)
    close(run(tmp_path / "digits.onnx", images=images), model.predict(images))
    assert about["metadata"]["name"] == "binarized-mnist"
    assert len(about["metadata"]["sha256"]) == 64
    assert command("export", "binarized-mnist", "--onnx", "digits.onnx").code == 2  # exists
    for options, message in (
        (("--onnx", "digits.onnx", "--codec", "codec.safetensors"), "--onnx, --codec: write one file at a time"),
        (("--onnx", "digits.bin"), "ends in .onnx"),
        (("--onnx", "digits.onnx", "--data", "digits"), "--data"),
    ):
        done = command("export", "binarized-mnist", *options, "--force")
        assert done.code == 2
        assert message in done.err
