"""A model of any family is loaded by what its file says; abilities that a family lacks are refused in words."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch

from pixelloom.core.errors import ModelError, UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import Scaling
from pixelloom.engine.safetensors_io import load_tensors, save_tensors
from pixelloom.heads.discrete import HeadConfig
from pixelloom.models.description import WEIGHTS
from pixelloom.models.family import GenerativeModel
from pixelloom.models.gan import GANDescription, GANModel
from pixelloom.models.pixel import PixelDescription, PixelModel
from pixelloom.models.registry import FAMILIES, load_model, require
from pixelloom.networks.gan.dcgan import DCGANConfig
from pixelloom.networks.pixel.gated import GatedPixelCNNConfig
from pixelloom.networks.pixel.made import MADEConfig
from pixelloom.networks.pixel.pixelcnn import PixelCNNConfig
from pixelloom.runs.families import RUN_FAMILIES


def pixel() -> PixelModel:
    return PixelModel.build(
        PixelDescription(
            network="pixelcnn",
            model=PixelCNNConfig(channels=4, blocks=1),
            head=HeadConfig(kind="bernoulli"),
            image=ImageSpec(1, 4, 4, 2),
            scaling=Scaling.unit(),
        )
    )


def gan() -> GANModel:
    return GANModel.build(
        GANDescription(
            network="dcgan",
            model=DCGANConfig(latent=3, generator_width=2, discriminator_width=2),
            image=ImageSpec(1, 16, 16, 256),
        )
    )


@pytest.mark.parametrize("build", [pixel, gan])
def test_either_family_comes_back_as_it_was(build: type, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model: GenerativeModel = build()
    model.save(tmp_path)
    again = load_model(tmp_path)
    assert type(again) is type(model)
    assert torch.equal(again.sample(3, seed=1), model.sample(3, seed=1))


def test_a_family_of_a_later_version_is_named(tmp_path: Path) -> None:
    pixel().save(tmp_path)
    tensors, meta = load_tensors(tmp_path / WEIGHTS)
    save_tensors(tmp_path / WEIGHTS, tensors, meta | {"family": "diffusion"})
    with pytest.raises(ModelError, match=r"model\.safetensors: its family is 'diffusion'; known families: pixel, gan"):
        load_model(tmp_path)


def test_what_a_family_cannot_do_is_said() -> None:
    with pytest.raises(UsageError, match=r"^evaluate: a GAN has no likelihood; this is a GAN \(dcgan\)$"):
        require(gan(), "likelihood", "evaluate")
    with pytest.raises(UsageError, match=r"^x: attention maps are available for GANs only; this is a pixel model"):
        require(pixel(), "attention", "x")
    with pytest.raises(UsageError, match=r"^x: this model has no classes; this is a pixel model \(pixelcnn\)$"):
        require(pixel(), "classes", "x")
    assert require(model := gan(), "interpolate", "x") is model


def test_both_registries_name_the_same_families() -> None:
    assert list(FAMILIES) == list(RUN_FAMILIES) == ["pixel", "gan"]


@pytest.mark.parametrize("build", [pixel, gan])
def test_abilities_are_methods_or_options_and_none_is_lacked(build: type) -> None:
    model = build()
    for ability, attribute in (
        ("likelihood", "log_prob"),
        ("interpolate", "interpolate"),
        ("attention", "attend"),
        ("receptive_field", "fast_sampler"),
    ):
        assert (ability in model.can) == hasattr(model, attribute)
    options = inspect.signature(model.sample).parameters
    assert {"seed", "first", "labels", "batch", "threads", "on_step"} <= options.keys()
    for option in ("temperature", "truncation", "method", "precision"):
        assert (option in model.can) == (option in options)


def test_abilities_follow_the_description() -> None:
    assert {"classes", "condition", "guidance"}.isdisjoint(pixel().can)
    about = pixel().description
    told = PixelModel.build(about.model_copy(update={"classes": 3}))
    assert told.can - pixel().can == {"classes", "guidance"}
    mixture = about.model_copy(
        update={"classes": 3, "head": HeadConfig(kind="logistics"), "image": ImageSpec(1, 4, 4, 9)}
    )
    assert PixelModel.build(mixture).can - pixel().can == {"classes"}
    gated = about.model_copy(
        update={
            "network": "gated-pixelcnn",
            "model": GatedPixelCNNConfig(channels=2, layers=1),
            "condition": "downsample@2",
        }
    )
    assert PixelModel.build(gated).can - pixel().can == {"condition"}
    orders = about.model_copy(update={"network": "made", "model": MADEConfig(hidden=2, layers=1, orders=2)})
    assert pixel().can - PixelModel.build(orders).can == {"given"}
