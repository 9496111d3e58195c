"""The graph of a model: its inputs and outputs, and a module that computes them from tensors alone.

A pixel model is one pass of its network: the levels of an image give the parameters of the head at every position.

    images     uint8   [batch, C, H, W]   levels 0 .. L-1
    labels     int64   [batch]            class-conditional models; the number of classes is the null class
    condition  uint8   [batch, c, h, w]   models with a conditioning image; its levels
    parameters float32 [batch, outputs, H, W]

A GAN is its generator. Level v of an image in model space is round((y + 1) / 2 * (L - 1)).

    z          float32 [batch, latent]
    labels     int64   [batch]            class-conditional models
    images     float32 [batch, C, H, W]   model space, [-1, 1]
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pixelloom.core.errors import ModelError
from pixelloom.core.types import ImageSpec
from pixelloom.data.conditions import Condition
from pixelloom.data.pixels import to_model
from pixelloom.layers.compiled import uncompiled
from pixelloom.models import order_ensemble
from pixelloom.models.family import GenerativeModel
from pixelloom.models.gan import GANModel
from pixelloom.models.pixel import PixelModel
from pixelloom.models.pixel_description import PixelDescription

BATCH = "batch"
"""Name of the first dimension of all inputs and outputs."""


@dataclass(frozen=True)
class Input:
    """An input of a graph.

    Attributes:
        name: its name.
        dtype: its type.
        shape: its shape without the batch.
        end: values are integers below it; 0 for normally distributed floats.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    end: int = 0

    def example(self, n: int, seed: int = 0) -> Tensor:
        """Random values, [n, *shape]."""
        generator = torch.Generator().manual_seed(seed)
        if not self.end:
            return torch.randn(n, *self.shape, generator=generator, dtype=self.dtype)
        return torch.randint(self.end, (n, *self.shape), generator=generator).to(self.dtype)


@dataclass(frozen=True)
class Graph:
    """What is exported: a module from inputs to one output, on the CPU.

    Attributes:
        module: takes the inputs in their order.
        inputs: names, types and shapes.
        output: name of the output.
        about: entries of the metadata.
    """

    module: nn.Module
    inputs: tuple[Input, ...]
    output: str
    about: dict[str, str]


class _Pixel(nn.Module):
    def __init__(self, network: nn.Module, about: PixelDescription) -> None:
        super().__init__()
        self.network = network
        self._levels, self._scaling = about.image.levels, about.scaling
        self._condition: Condition | None = about.conditioning_image()
        self._classes = about.classes > 0

    def forward(self, images: Tensor, *more: Tensor) -> Tensor:
        """Inputs in the order of the file's head -> parameters."""
        conditioning = {}
        if self._classes:
            conditioning["labels"] = more[0]
        if self._condition is not None:
            conditioning["condition"] = self._condition.planes(more[-1])
        found: Tensor = self.network(to_model(images, self._levels, self._scaling), **conditioning)
        return found


class _Generator(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, *labels: Tensor) -> Tensor:
        """Inputs in the order of the file's head -> images."""
        found: Tensor = self.network(z, *labels)
        return found


def graph_of(model: GenerativeModel) -> Graph:
    """The graph of a model.

    Raises:
        ModelError: for a model of several pixel orders, of weights other than float32, or of another family.
    """
    if isinstance(model, PixelModel):
        return _pixel_graph(model)
    if isinstance(model, GANModel):
        return _gan_graph(model)
    raise ModelError(f"export to ONNX: models of the family {model.description.family!r} have no ONNX graph")


def _pixel_graph(model: PixelModel) -> Graph:
    about, spec = model.description, model.spec
    number = order_ensemble.orders(model.network)
    if number > 1:
        raise ModelError(
            f"export to ONNX: this model averages over {number} pixel orders, which one pass does not compute; train "
            "one with orders=1"
        )
    network = _in_float32(model.network)
    inputs = [Input("images", torch.uint8, spec.shape, spec.levels)]
    if about.classes:
        inputs.append(Input("labels", torch.int64, (), about.classes + about.null_class))
    condition = about.conditioning_image()
    if condition is not None:
        inputs.append(
            Input("condition", torch.uint8, condition.spec.shape, 2 if condition.masks else condition.spec.levels)
        )
    entries = _about(model, spec, tuple(inputs)) | {
        "head": model.head.kind,
        "head.channels": about.head.channels,
        "condition": about.condition,
        "null_class": json.dumps(bool(about.classes and about.null_class)),
    }
    if model.head.kind == "logistics":
        entries["head.mixtures"] = str(about.head.mixtures)
    return Graph(_Pixel(network, about), tuple(inputs), "parameters", entries)


def _gan_graph(model: GANModel) -> Graph:
    inputs = [Input("z", torch.float32, (model.latent,))]
    if model.description.classes:
        inputs.append(Input("labels", torch.int64, (), model.description.classes))
    entries = _about(model, model.spec, tuple(inputs)) | {"latent": str(model.latent), "scaling": "[-1, 1]"}
    return Graph(_Generator(_in_float32(model.network)), tuple(inputs), "images", entries)


def _about(model: GenerativeModel, spec: ImageSpec, inputs: tuple[Input, ...]) -> dict[str, str]:
    description = model.description
    return {
        "family": description.family,
        "network": description.network,
        "levels": str(spec.levels),
        "shape": json.dumps(spec.shape),
        "classes": json.dumps(description.class_names, ensure_ascii=False),
        "inputs": json.dumps([each.name for each in inputs]),
    }


def _in_float32(network: nn.Module) -> nn.Module:
    """The network itself.

    Raises:
        ModelError: if its weights have another precision, or lie on another device than the CPU.
    """
    first = next(network.parameters())
    if first.dtype != torch.float32 or first.device.type != "cpu":
        given = f"{str(first.dtype).removeprefix('torch.')} on {first.device}"
        raise ModelError(f"export to ONNX: weights of float32 on the CPU are needed, not {given}")
    return uncompiled(network)
