"""A model of any family is loaded by what its file says; abilities that a family lacks are refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pixelloom.core.errors import ModelError, UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import Scaling
from pixelloom.engine.safetensors_io import load_tensors, save_tensors
from pixelloom.heads.discrete import HeadConfig
from pixelloom.models.description import WEIGHTS
from pixelloom.models.gan import GANDescription, GANModel
from pixelloom.models.pixel import PixelDescription, PixelModel
from pixelloom.models.registry import Model, load_model, need
from pixelloom.networks.gan.dcgan import DCGANConfig
from pixelloom.networks.pixel.pixelcnn import PixelCNNConfig


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


def latent() -> GANModel:
    return GANModel.build(
        GANDescription(
            network="dcgan",
            model=DCGANConfig(latent=3, generator_width=2, discriminator_width=2),
            image=ImageSpec(1, 16, 16, 256),
        )
    )


@pytest.mark.parametrize("build", [pixel, latent])
def test_either_family_comes_back_as_it_was(build: type, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model: Model = build()
    model.save(tmp_path)
    again = load_model(tmp_path)
    assert type(again) is type(model)
    assert torch.equal(again.sample(3, seed=1), model.sample(3, seed=1))


def test_a_family_of_a_later_version_is_named(tmp_path: Path) -> None:
    pixel().save(tmp_path)
    tensors, meta = load_tensors(tmp_path / WEIGHTS)
    save_tensors(tmp_path / WEIGHTS, tensors, meta | {"family": "diffusion"})
    with pytest.raises(ModelError, match=r"model\.safetensors: holds a model of a family 'diffusion'; known are pixel"):
        load_model(tmp_path)


def test_what_a_family_cannot_do_is_said() -> None:
    with pytest.raises(UsageError, match=r"a likelihood needs a pixel model, and this is a latent model \(dcgan\)"):
        need(latent(), PixelModel, "a likelihood")
    with pytest.raises(UsageError, match=r"a map of attention needs a latent model, and this is a pixel model \(pixel"):
        need(pixel(), GANModel, "a map of attention")
    assert need(model := latent(), GANModel, "x") is model
