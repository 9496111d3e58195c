"""What a network may have beyond its paper: by default it has none of it, and each is its formula, causal and fast."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from checks import check_fast_is_plain
from fast_toys import poisoned
from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import Scaling
from pixelloom.heads.discrete import HeadConfig
from pixelloom.layers.blocks import ChannelNorm, Positions
from pixelloom.models.pixel import PixelDescription, PixelModel
from pixelloom.networks import PIXEL_NETWORKS, build_network
from pixelloom.networks.pixel.pixelcnnpp import PixelCNNPlusPlusConfig, Residual, down_shifted
from pixelloom.networks.pixel.pixelsnail import GatedResidual, PixelSNAILConfig
from pixelloom.sampling.fast.analysis import assert_autoregressive
from settings import BERNOULLI, ORDERED, live

SMALL: dict[str, dict[str, Any]] = {
    "pixelcnn": {"block": "residual", "channels": 6, "blocks": 2, "first_kernel": 3, "kernel": 3, "head_kernels": [1]},
    "gated-pixelcnn": {"channels": 6, "layers": 3, "first_kernel": 3, "kernel": 3},
    "pixelcnn-pp": {"channels": 4, "blocks": 1, "scales": 2, "dropout": 0.2},
    "pixelsnail": {"channels": 6, "blocks": 2, "layers": 1, "keys": 8, "values": 4, "heads": 2},
    "pixel-transformer": {"channels": 8, "layers": 2, "heads": 2},
    "row-lstm": {"hidden": 4, "layers": 2, "first_kernel": 3, "head": 6},
    "diagonal-bilstm": {"hidden": 4, "layers": 2, "first_kernel": 3, "head": 6},
    "nade": {"hidden": 5},
    "made": {"hidden": 2, "layers": 2},
}
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("pixelcnn", {"activation": "silu"}),
    ("pixelcnn", {"activation": "silu", "block": "plain", "norm": "channel", "positions": True}),
    ("pixelcnn", {"activation": "silu", "block": "preactivation"}),
    ("gated-pixelcnn", {"norm": "channel", "activation": "silu"}),
    ("pixelcnn-pp", {"norm": "channel", "activation": "silu", "positions": True}),
    ("pixelsnail", {"norm": "channel", "activation": "silu", "rotary": True}),
    ("pixel-transformer", {"activation": "silu", "positions": "rotary"}),
    ("row-lstm", {"activation": "silu", "norm": "channel"}),
    ("diagonal-bilstm", {"activation": "silu", "norm": "channel", "positions": True}),
    ("nade", {"activation": "silu"}),
    ("nade", {"activation": "relu"}),
    ("made", {"activation": "silu"}),
]
each_option = pytest.mark.parametrize(("name", "options"), OPTIONS, ids=lambda part: str(part).replace("'", ""))
each_world = pytest.mark.parametrize(
    ("head", "spec"), [(BERNOULLI, ImageSpec(1, 4, 5, 2)), (ORDERED, ImageSpec(3, 3, 4, 4))], ids=["binary", "color"]
)
GRAY = ImageSpec(1, 4, 5, 3)


def config_of(name: str, **options: Any) -> BaseModel:
    return PIXEL_NETWORKS[name][0].model_validate(SMALL[name] | options)


def network_of(name: str, **options: Any) -> nn.Module:
    """As if trained, in float64, for gray images."""
    network = build_network(name, config_of(name, **options), GRAY, outputs=3, groups=1)
    return alive(network).double().eval()


def alive(network: nn.Module) -> nn.Module:
    live(network)
    with torch.no_grad():
        for name in ("enter", "leave"):  # of NADE: tables of vectors that look like kernels
            if name in dict(network.named_parameters()):
                network.get_parameter(name).normal_(std=0.7, generator=torch.Generator().manual_seed(0))
    return network


def picture(features: int = 1, images: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(images, features, GRAY.height, GRAY.width, generator=generator, dtype=torch.float64)


def normed(x: Tensor, norm: nn.Module) -> Tensor:
    """By the equation: over the features of a position."""
    mean, variance = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    p = dict(norm.named_parameters())
    return (x - mean) / (variance + 1e-5).sqrt() * p["gain"][:, None, None] + p["bias"][:, None, None]


def smooth(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


@each_option
@each_world
def test_with_options_it_is_autoregressive_and_drawn_fast(
    name: str, options: dict[str, Any], head: HeadConfig, spec: ImageSpec
) -> None:
    description = PixelDescription(
        network=name, model=config_of(name, **options), head=head, image=spec, scaling=Scaling.symmetric()
    )
    model = PixelModel.build(description)
    assert not model.predict(torch.zeros(1, *spec.shape, dtype=torch.uint8)).detach().any()  # uniform at first
    alive(model.network).double()
    assert_autoregressive(model.network, spec, groups=model.head.groups)
    with poisoned():
        images = check_fast_is_plain(model, n=2)
    assert len(images.unique()) > 1


@pytest.mark.parametrize("name", PIXEL_NETWORKS)
def test_by_default_a_network_is_that_of_its_paper(name: str) -> None:
    fields = PIXEL_NETWORKS[name][0].model_fields
    faithful = {
        "norm": {"none"},
        "activation": {"concat-elu" if name in ("pixelcnn-pp", "pixelsnail") else "gelu", "relu", "sigmoid"},
        "positions": {False, "learned"},
        "rotary": {False},
    }
    for option, allowed in faithful.items():
        assert option not in fields or fields[option].default in allowed
    assert "activation" in fields


# Their formulas


class Smooth(nn.Module):
    """The activation by its equation."""

    def forward(self, x: Tensor) -> Tensor:
        return smooth(x)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("pixelcnn", {"block": block, "norm": "channel"}) for block in ("plain", "residual", "preactivation")),
        *(
            (name, {})
            for name in ("gated-pixelcnn", "pixel-transformer", "row-lstm", "diagonal-bilstm", "nade", "made")
        ),
    ],
)
def test_silu_stands_wherever_the_papers_function_stood(name: str, options: dict[str, Any]) -> None:
    plain, wanted = network_of(name, **options), network_of(name, **options, activation="silu")
    wanted.load_state_dict(plain.state_dict())
    before = plain(picture())
    for path, layer in list(plain.named_modules()):
        assert not isinstance(layer, nn.SiLU)
        if isinstance(layer, nn.ReLU | nn.Sigmoid | nn.GELU):
            plain.set_submodule(path, Smooth())
    assert float((wanted(picture()) - before).detach().abs().max()) > 0.01
    torch.testing.assert_close(wanted(picture()), plain(picture()), rtol=1e-9, atol=1e-10)


def test_norm_of_gated_pixelcnn_stands_before_the_convolutions_of_each_layer_but_the_first() -> None:
    plain, wanted = network_of("gated-pixelcnn"), network_of("gated-pixelcnn", norm="channel")
    plain.load_state_dict(wanted.state_dict(), strict=False)
    norms = dict(wanted.named_modules())
    count = 0
    for path, layer in plain.named_modules():
        for stack, norm in (("vertical", "norm_above"), ("horizontal", "norm_beside")):
            if path.endswith(stack) and not path.startswith("layers.0."):
                module = norms[path.replace(stack, norm)]
                layer.register_forward_pre_hook(lambda _, args, module=module: normed(args[0], module))
                count += 1
    assert count == sum(isinstance(module, ChannelNorm) for module in wanted.modules()) == 4
    torch.testing.assert_close(wanted(picture()), plain(picture()), rtol=1e-9, atol=1e-10)


def test_norm_of_ordered_channels_keeps_them_apart() -> None:
    network = build_network(
        "gated-pixelcnn", config_of("gated-pixelcnn", norm="channel"), ImageSpec(3, 4, 4, 2), outputs=3, groups=3
    )
    sizes = {path: module.sizes for path, module in network.named_modules() if isinstance(module, ChannelNorm)}
    assert {sizes[path] == [2, 2, 2] for path in sizes if path.endswith("beside")} == {True}
    assert {sizes[path] == [6] for path in sizes if path.endswith("above")} == {True}


def test_options_of_a_block_of_pixelcnnpp() -> None:
    """x + gate(last * silu(first * silu(norm(x)) + A silu(a)))"""
    config = PixelCNNPlusPlusConfig(channels=4, activation="silu", norm="channel", weight_norm=False, dropout=0.0)
    block = live(Residual(config, down_shifted(4, 4), 3, down_shifted(4, 8), 0, 0)).double().eval()
    assert isinstance(block, Residual)
    assert block.join is not None
    x, a = picture(4), picture(3)
    h = block.first(smooth(normed(x, block.norm))) + block.join(smooth(a))
    p, q = block.last(smooth(h)).chunk(2, dim=1)
    torch.testing.assert_close(block(x, a, None, None), x + p / (1 + torch.exp(-q)), rtol=1e-9, atol=1e-10)


def test_positions_of_pixelcnnpp_follow_the_first_layers() -> None:
    plain, wanted = network_of("pixelcnn-pp"), network_of("pixelcnn-pp", positions=True)
    plain.load_state_dict(wanted.state_dict(), strict=False)
    for layer, where in (("above", "where_u"), ("beside", "where_ul")):
        table = wanted.get_submodule(where)
        assert isinstance(table, Positions)
        rows, columns = table.rows.detach(), table.columns.detach()
        plain.get_submodule(layer).register_forward_hook(lambda _, __, out, r=rows, c=columns: out + r + c)
    torch.testing.assert_close(wanted(picture()), plain(picture()), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("near", [False, True])
def test_options_of_a_residual_layer_of_pixelsnail(near: bool) -> None:
    """x + p sigmoid(q), (p, q) = conv(silu(conv(silu(norm(x))) + 1x1(silu(y))))"""
    config = PixelSNAILConfig(activation="silu", norm="channel")
    layer = live(GatedResidual(config, 4, near=near, extra=3)).double().eval()
    assert isinstance(layer, GatedResidual)
    x, y = picture(4), picture(3)
    h = layer.enter(smooth(normed(x, layer.norm))) + layer.extra[0](smooth(y))
    p, q = layer.gate(smooth(h)).chunk(2, dim=1)
    torch.testing.assert_close(layer(x, None, None, y), x + p / (1 + torch.exp(-q)), rtol=1e-9, atol=1e-10)


def turned(x: Tensor, heads: int) -> Tensor:
    """Pairs of features of each head as complex numbers, times e^(i angle): half by the row, half by the column."""
    parts = []
    for head in x.detach().chunk(heads, dim=1):
        a, b = head.numpy()[:, : head.shape[1] // 2], head.numpy()[:, head.shape[1] // 2 :]
        n, (height, width) = a.shape[1] // 2, a.shape[2:]
        rates = [math.pi / max(height, width) ** (j / max(1, n - 1)) for j in range(n)]
        rows, columns = np.indices((height, width))
        angles = np.stack([rate * rows for rate in rates] + [rate * columns for rate in rates])
        parts += [((a + 1j * b) * np.exp(1j * angles)).real, ((a + 1j * b) * np.exp(1j * angles)).imag]
    return torch.from_numpy(np.concatenate(parts, axis=1))


def test_rotary_pixelsnail_turns_queries_and_keys() -> None:
    plain, wanted = network_of("pixelsnail"), network_of("pixelsnail", rotary=True)
    before = plain(picture())
    for path, layer in plain.named_modules():
        if path.endswith((".query", ".key")):
            layer.register_forward_hook(lambda _, __, out: turned(out, 2))
    assert float((wanted(picture()) - before).detach().abs().max()) > 1e-3
    torch.testing.assert_close(wanted(picture()), plain(picture()), rtol=1e-5, atol=1e-5)  # angles are float32


def test_keys_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(ValidationError, match="rotary: keys=6 must be a multiple of 8, four times heads"):
        PixelSNAILConfig(rotary=True, keys=6, values=4, heads=2)
