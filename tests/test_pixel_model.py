"""Model folders: bit-equal round trips, strict loading, nothing allocated for a hostile description."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from torch import Tensor

from checks import check_batch_free
from pixelloom.core.errors import ModelError, UsageError
from pixelloom.core.types import CanSample, CanScore, ImageSpec
from pixelloom.data.config import DataConfig
from pixelloom.data.pixels import Scaling
from pixelloom.engine.safetensors_io import load_tensors, save_tensors
from pixelloom.heads.discrete import HeadConfig
from pixelloom.models.description import CONFIG, WEIGHTS
from pixelloom.models.inputs import check_levels
from pixelloom.models.pixel import PixelDescription, PixelModel, load_pixel
from pixelloom.models.training_record import TrainingRecord, ValidationRecord
from pixelloom.networks.pixel.pixelcnn import PixelCNNConfig
from settings import CONFIGS, ORDERED, Setting, tiny

SMALL = tiny("gated", ORDERED, ImageSpec(3, 3, 4, 5), norm="channel", positions=True)
each_config = pytest.mark.parametrize("setting", CONFIGS.values(), ids=CONFIGS)


def pictures(spec: ImageSpec, n: int = 5) -> Tensor:
    return torch.randint(0, spec.levels, (n, *spec.shape), generator=torch.Generator().manual_seed(9)).byte()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    SMALL.model().save(tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], None]) -> None:
    """A file that is sound by its checksum, but holds something else."""
    tensors, meta = load_tensors(folder / WEIGHTS)
    change(tensors, meta)
    save_tensors(folder / WEIGHTS, tensors, meta)


# Round trips


@each_config
def test_saved_and_loaded_is_the_same_model(setting: Setting, tmp_path: Path) -> None:
    model, images = setting.model(3), pictures(setting.image)
    model.save(tmp_path / "a" / "model")
    other = load_pixel(tmp_path / "a" / "model")
    assert torch.equal(model.log_prob(images), other.log_prob(images))
    assert torch.equal(model.predict(images), other.predict(images))
    assert other.description == model.description
    assert other.spec == setting.image
    assert not other.network.training
    assert other.parameters == model.parameters


def test_description_survives_whole(tmp_path: Path) -> None:
    record = TrainingRecord(
        data=DataConfig(source="mnist", root=Path("/data"), size="8x9"),
        counts={"train": 5, "val": 2},
        epochs=1.5,
        classes=("null", "ä"),
        date=date(2026, 11, 21),
        validation=ValidationRecord(metrics={"bits/dim": 0.1}, n=7, split="training"),
    )
    description = SMALL.fresh().description.model_copy(update={"training": record, "scaling": Scaling(0.1307, 0.3081)})
    PixelModel.build(description).save(tmp_path)
    other = load_pixel(tmp_path).description
    assert other == description
    assert isinstance(other.model, PixelCNNConfig)
    assert other.scaling == Scaling(0.1307, 0.3081)


def test_folder_holds_a_file_for_machines_and_one_for_people(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS]
    config = json.loads((folder / CONFIG).read_text())
    assert config["image"] == {"channels": 3, "height": 3, "width": 4, "levels": 5, "palette": None}
    assert config["model"]["channels"] == 12
    assert config["network"] == "pixelcnn"
    with safetensors.safe_open(folder / WEIGHTS, "pt") as file:
        assert config["sha256"] == file.metadata()["sha256"]
        assert not any("mask" in name for name in file.keys())  # masks follow from the description  # noqa: SIM118


def test_same_model_same_digest(tmp_path: Path) -> None:
    assert SMALL.model(1).save(tmp_path / "a") == SMALL.model(1).save(tmp_path / "b")
    assert SMALL.model(1).save(tmp_path / "a") != SMALL.model(2).save(tmp_path / "b")


def test_config_json_is_for_reading_only(folder: Path) -> None:
    (folder / CONFIG).write_text('{"image": {"channels": 1}, "network": "rm -rf"}')
    assert torch.equal(
        load_pixel(folder).log_prob(pictures(SMALL.image)), SMALL.model().log_prob(pictures(SMALL.image))
    )
    (folder / CONFIG).unlink()
    load_pixel(folder)


def test_saving_over_an_older_model(folder: Path) -> None:
    SMALL.model(8).save(folder)
    assert torch.equal(
        load_pixel(folder).log_prob(pictures(SMALL.image)), SMALL.model(8).log_prob(pictures(SMALL.image))
    )


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for target in (tmp_path / "file", tmp_path / "file" / "model"):
        with pytest.raises(ModelError, match=r"file.*: cannot be (made|created): "):
            SMALL.fresh().save(target)


# Strict loading


def test_missing_and_damaged_files(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.safetensors: cannot be read: No such file"):
        load_pixel(tmp_path)
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-3] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelError, match="do not match their SHA-256"):
        load_pixel(folder)


def test_another_architecture_lists_the_first_five_keys(folder: Path) -> None:
    def change(tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        del tensors["first.weight"]
        tensors["extra"] = torch.zeros(3)
        tensors["output.bias"] = torch.zeros(7)
        meta["model"]["blocks"] = 3

    rewrite(folder, change)
    with pytest.raises(ModelError) as caught:
        load_pixel(folder)
    text = str(caught.value)
    assert str(folder / WEIGHTS) in text
    assert "made by another model: blocks.2.down.bias is missing; blocks.2.down.weight is missing; " in text
    assert text.count(";") == 4
    assert text.count(" is ") == 5
    assert text.endswith(" and 6 more.")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.pop("output.weight"), "output.weight is missing"),
        (lambda t: t.update(more=torch.zeros(1)), "more is not part of this model"),
        (lambda t: t.update({"output.bias": torch.zeros(16)}), "output.bias is float32 [16], needed float32 [15]"),
        (
            lambda t: t.update({"output.bias": torch.zeros(15, 1)}),
            "output.bias is float32 [15, 1], needed float32 [15]",
        ),
        (lambda t: t.update({"output.bias": torch.zeros(15).half()}), "is float16 [15], needed float32 [15]"),
    ],
)
def test_weights_that_do_not_fit(folder: Path, change: Callable[[dict[str, Tensor]], object], complaint: str) -> None:
    rewrite(folder, lambda tensors, meta: (change(tensors), None)[1])
    with pytest.raises(ModelError) as caught:
        load_pixel(folder)
    assert "made by another model: " in str(caught.value)
    assert str(caught.value).endswith(f"{complaint}.")


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "many features": ({"model": {"channels": 4096, "blocks": 200, "kernel": 63}}, "made by another model: "),
    "more features": ({"model": {"channels": 10**9}}, "less than or equal to 4096"),
    "deep": ({"model": {"blocks": 10**9}}, "less than or equal to 256"),
    "wide kernel": ({"model": {"head_kernels": [10**9 + 1]}}, "less than or equal to 63"),
    "many channels": ({"image": {"channels": 10**9, "height": 1, "width": 1, "levels": 256}}, "no side may exceed"),
    "channels": ({"image": {"channels": 60_000, "height": 1, "width": 1, "levels": 256}}, "cannot be shared among"),
    "independent": (
        {
            "image": {"channels": 60_000, "height": 60_000, "width": 60_000, "levels": 256},
            "head": {"kind": "categorical", "channels": "independent"},
            "model": {"channels": 4096, "positions": True},
        },
        "made by another model: ",
    ),
    "huge": ({"image": {"channels": 10**30, "height": 1, "width": 1, "levels": 2}}, "image"),
    "no image": ({"image": {"channels": 3, "height": 0, "width": 4, "levels": 5}}, "positive sides"),
    "levels": ({"image": {"channels": 3, "height": 3, "width": 4, "levels": 257}}, "2 to 256 levels"),
    "unknown network": ({"network": "pixelcn"}, "no network is called 'pixelcn'. Did you mean 'pixelcnn'?"),
    "network is a list": ({"network": ["pixelcnn"]}, "no network is called"),
    "model is a number": ({"model": 5}, "takes a PixelCNNConfig, not a int"),
    "unknown field": ({"models": 5}, "models: Extra inputs are not permitted"),
    "unknown setting": ({"model": {"chanels": 5}}, "chanels: Extra inputs are not permitted"),
    "another family": ({"family": "gan"}, "family: Input should be 'pixel'"),
    "record of another kind": ({"training": {"images": "<b>"}}, "training.images: Input should be a valid integer"),
    "unknown part of the record": ({"training": {"score": 1}}, "training.score: Extra inputs are not permitted"),
    "even kernel": ({"model": {"kernel": 4}}, "an odd side such as 5, not 4"),
    "wrong head": ({"head": {"kind": "bernoulli"}}, "a Bernoulli head needs 2 levels"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_descriptions_are_refused_and_take_no_memory(folder: Path, case: str) -> None:
    """FAULTS 13 and 14: the file is sound by its checksum, and claims what it does not hold."""
    changes, complaint = HOSTILE[case]
    rewrite(folder, lambda tensors, meta: meta.update(changes))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError) as caught:
        load_pixel(folder)
    assert str(folder / WEIGHTS) in str(caught.value)
    assert complaint in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000, f"{grown} kB more"


@pytest.mark.parametrize("meta", [{}, {"family": "pixel"}])
def test_files_of_another_kind(tmp_path: Path, meta: dict[str, Any]) -> None:
    save_tensors(tmp_path / WEIGHTS, {"a": torch.zeros(1)}, meta)
    with pytest.raises(ModelError, match="its description is not one of a pixel model"):
        load_pixel(tmp_path)


# What a model can do


def test_capabilities_are_offered_by_type() -> None:
    model = SMALL.model()
    assert isinstance(model, CanSample)
    assert isinstance(model, CanScore)


@each_config
def test_likelihood_is_that_of_the_image_alone(setting: Setting) -> None:
    """Batch normalization sees the batch in training; figures are those of evaluation (trap 7)."""
    model, images = setting.model(), pictures(setting.image, 6)
    whole = model.log_prob(images)
    assert whole.dtype == torch.float64
    for batch in (1, 4, 6, 64):
        torch.testing.assert_close(model.log_prob(images, batch=batch), whole, rtol=1e-6, atol=0)
    torch.testing.assert_close(model.log_prob(images.flip(0)).flip(0), whole, rtol=1e-6, atol=0)
    if setting.config.norm == "batch":
        model.network.train()
        with torch.no_grad():
            training = -model.head.nats(model.predict(images), images).double().flatten(1).sum(1)
        assert not torch.allclose(training, whole, rtol=1e-3)


def test_a_network_in_training_is_evaluated_by_its_model() -> None:
    setting = CONFIGS["gated-batch"]
    network = setting.model().network.train()
    model = PixelModel(network, setting.fresh().description)
    check_batch_free(model)


def test_likelihood_of_no_images() -> None:
    assert SMALL.model().log_prob(torch.empty(0, 3, 3, 4).byte()).tolist() == []


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.int8, np.int16])
def test_integer_arrays_of_any_kind(dtype: type) -> None:
    model, images = SMALL.model(), pictures(SMALL.image)
    array = images.numpy().astype(dtype)
    array.flags.writeable = False
    assert torch.equal(model.log_prob(array), model.log_prob(images))
    assert torch.equal(model.log_prob(array[::-1]).flip(0), model.log_prob(images))
    assert torch.equal(model.log_prob(torch.from_numpy(images.numpy().astype(dtype))), model.log_prob(images))


def test_bits_may_be_booleans() -> None:
    model = CONFIGS["mnist-binary"].model()
    images = pictures(model.spec)
    assert torch.equal(model.log_prob(images.bool()), model.log_prob(images))
    assert torch.equal(model.log_prob(images.bool().numpy()), model.log_prob(images))


@pytest.mark.filterwarnings("error")
def test_memory_maps_are_scored_without_a_warning(tmp_path: Path) -> None:
    images = pictures(SMALL.image)
    np.save(tmp_path / "images.npy", images.numpy())
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert torch.equal(check_levels(mapped, SMALL.image), images)


@pytest.mark.parametrize(
    ("images", "complaint"),
    [
        (torch.zeros(2, 3, 3, 4), "levels are integers 0..4, not torch.float32; quantize them first"),
        (torch.zeros(2, 3, 3, 4, dtype=torch.complex64), "not torch.complex64"),
        (np.zeros((2, 3, 3, 4)), "levels are integers 0..4, not float64"),
        (np.full((2, 3, 3, 4), None), "not object"),
        (np.zeros((2, 3, 3, 4), np.uint16), "not uint16"),
        (torch.zeros(3, 3, 4).byte(), "the model takes [N, 3, 3, 4], not [3, 3, 4]"),
        (torch.zeros(2, 3, 4, 3).byte(), "the model takes [N, 3, 3, 4], not [2, 3, 4, 3]"),
        (torch.zeros(2, 1, 3, 4).byte(), "the model takes [N, 3, 3, 4], not [2, 1, 3, 4]"),
        (torch.full((2, 3, 3, 4), 5).byte(), "levels go from 0 to 4, found 5 to 5"),
        (torch.full((2, 3, 3, 4), 260), "levels go from 0 to 4, found 260"),  # would wrap to 4 as uint8
        (torch.full((2, 3, 3, 4), -1), "levels go from 0 to 4, found -1"),
    ],
)
def test_images_that_are_none_of_the_models(images: Any, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        SMALL.model().log_prob(images)
    assert complaint in str(caught.value)


def test_batches_of_none() -> None:
    with pytest.raises(UsageError, match="batch: must be 1 or more, not 0"):
        SMALL.model().log_prob(pictures(SMALL.image), batch=0)


def test_scaling_is_part_of_the_model() -> None:
    images, given = pictures(SMALL.image), SMALL.model().description
    log_probs = []
    for scaling in (Scaling.unit(), Scaling.symmetric()):
        model = PixelModel(SMALL.model().network, given.model_copy(update={"scaling": scaling}))
        x = (images.float() / 4 - scaling.shift) / scaling.scale
        assert torch.equal(model.predict(images), model.network(x))
        log_probs.append(model.log_prob(images))
    assert not torch.allclose(*log_probs)


def test_an_untrained_model_is_built_by_its_description() -> None:
    description = PixelDescription.model_validate(
        {
            "network": "pixelcnn",
            "model": {"channels": 6, "block": "plain", "blocks": 1},
            "head": {"kind": "categorical", "channels": "independent"},
            "image": {"channels": 3, "height": 2, "width": 2, "levels": 4},
            "scaling": {"shift": 0, "scale": 1},
        }
    )
    model = PixelModel.build(description)
    assert description.head == HeadConfig(kind="categorical", channels="independent")
    assert model.head.groups == 1
    assert model.predict(pictures(model.spec)).shape == (5, 12, 2, 2)
    assert str(model.device) == "cpu"
    assert model.to("cpu") is model
