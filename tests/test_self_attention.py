"""Self-attention against torch's own and against loops: first weights, gradients, attention maps, statistics."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_toys import double, pair
from pixelloom.layers.self_attention import SelfAttention, Style, attention_maps, attention_stats
from pixelloom.layers.spectral_norm import refresh, spectral_layers

each_style = pytest.mark.parametrize("style", ["tutorial", "paper"])
each_kind = pytest.mark.parametrize("kind", ["sagan", "sagan-paper"])


def attention(style: Style, features: int = 16, gamma: float = 0.7) -> SelfAttention:
    """In float64 and eval mode, with random biases."""
    with double():
        layer = SelfAttention(features, style)
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_()
            layer.gamma.fill_(gamma)
    return layer.eval()


def largest_of_squares(x: Tensor) -> Tensor:
    """The largest of each 2x2 square, by its words."""
    *_, height, width = x.shape
    out = torch.empty(*x.shape[:2], height // 2, width // 2, dtype=x.dtype)
    for v, u in itertools.product(range(height // 2), range(width // 2)):
        out[:, :, v, u] = x[:, :, 2 * v : 2 * v + 2, 2 * u : 2 * u + 2].amax(dim=(2, 3))
    return out


def by_torch(layer: SelfAttention, x: Tensor) -> Tensor:
    """Equation and shapes of the paper, attention by torch's function."""
    q, k, v = layer.query(x), layer.key(x), layer.value(x)
    if layer.pool:
        k, v = largest_of_squares(k), largest_of_squares(v)
    q, k, v = (part.flatten(2).mT[:, None] for part in (q, k, v))
    read = F.scaled_dot_product_attention(q, k, v, scale=1.0)[:, 0].mT.unflatten(2, x.shape[2:])
    return x + layer.gamma * (layer.output(read) if layer.pool else read)


@each_style
def test_equals_scaled_dot_product_attention_without_its_scale(style: Style) -> None:
    layer, x = attention(style), torch.randn(3, 16, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), by_torch(layer, x))
    assert not torch.allclose(layer(x), x)


@each_style
def test_weights_of_a_position_sum_to_1_over_what_it_attends_to(style: Style) -> None:
    layer, x = attention(style), torch.randn(2, 16, 4, 4, dtype=torch.float64)
    weights = layer.weights(x).detach()
    assert weights.shape == (2, 16, 16 if style == "tutorial" else 4)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(2, 16, dtype=torch.float64))
    assert (weights.sum(dim=1) - weights.shape[1] / weights.shape[2]).abs().max() > 0.1  # and not along the other axis

    q, k = layer.query(x), layer.key(x) if style == "tutorial" else largest_of_squares(layer.key(x))
    for b, i in itertools.product(range(2), range(16)):
        scores = [math.exp((q[b].flatten(1)[:, i] @ key).item()) for key in k[b].flatten(1).T]
        expected = torch.tensor([score / sum(scores) for score in scores], dtype=torch.float64)
        torch.testing.assert_close(weights[b, i], expected)


def test_widths_of_the_two_styles() -> None:
    def shapes(style: Style) -> dict[str, list[int]]:
        layer = SelfAttention(32, style)
        return {
            name: list(part.weight.shape[:2]) for name, part in layer.named_children() if isinstance(part, nn.Conv2d)
        }

    assert shapes("tutorial") == {"query": [4, 32], "key": [4, 32], "value": [32, 32]}
    assert shapes("paper") == {"query": [4, 32], "key": [4, 32], "value": [16, 32], "output": [32, 16]}
    assert len(list(spectral_layers(SelfAttention(32, "tutorial")))) == 0
    assert [name for name, *_ in spectral_layers(SelfAttention(32, "paper"))] == ["query", "key", "value", "output"]
    SelfAttention(3, "paper")(torch.randn(1, 3, 2, 2))  # fewer than eight features


@each_style
def test_starts_as_the_identity_with_gradients_for_gamma_alone(style: Style) -> None:
    layer, x = SelfAttention(16, style), torch.randn(2, 16, 4, 4)
    assert torch.equal(layer(x), x)
    for gamma in (0.0, 0.1):
        layer.zero_grad()
        layer.gamma.data.fill_(gamma)
        (layer(x) * torch.randn(2, 16, 4, 4)).sum().backward()
        moved = {name for name, parameter in layer.named_parameters() if parameter.grad.abs().max() > 1e-6}
        assert moved == ({"gamma"} if gamma == 0 else {name for name, _ in layer.named_parameters()})


@each_style
def test_starts_by_xavier_and_so_with_a_map_that_tells_places_apart(style: Style) -> None:
    layer = SelfAttention(64, style)
    for part in layer.children():
        if isinstance(part, nn.Conv2d):
            weight = part.parametrizations.weight.original if style == "paper" else part.weight
            bound = math.sqrt(6 / (part.in_channels + part.out_channels))
            assert 0.97 * bound < weight.abs().max() <= bound
            assert abs(weight.std().item() / (bound / math.sqrt(3)) - 1) < 0.1
            assert part.bias is None or not part.bias.any()

    def entropy(layer: SelfAttention) -> float:
        weights = layer.weights(torch.randn(4, 64, 8, 8, generator=torch.Generator().manual_seed(0)))
        return torch.special.entr(weights).sum(2).mean().item() / math.log(weights.shape[2])

    assert entropy(layer) < (0.6 if style == "tutorial" else 0.97)
    if style == "tutorial":
        for part in (layer.query, layer.key):
            nn.init.normal_(part.weight, 0.0, 0.02)
        assert entropy(layer) > 0.999


@each_style
def test_has_a_second_derivative(style: Style) -> None:
    """A penalty on the gradient of whatever attention is a part of needs it: torch's fused kernel has none."""
    layer = attention(style, features=4)
    x = torch.randn(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(layer, (x,))


def test_softmax_is_in_fp32_under_autocast() -> None:
    layer, x = SelfAttention(32), torch.randn(2, 32, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        layer.gamma.fill_(0.5)
        weights, out = layer.weights(x), layer(x)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 64), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.float(), layer(x).detach(), atol=0.2, rtol=0.05)


# Attention maps and statistics


@each_kind
@pytest.mark.parametrize("size", [16, 64, 128])
def test_maps_of_both_networks(kind: str, size: int) -> None:
    half = 2 if kind == "sagan-paper" else 1
    generator, discriminator = (network.eval() for network in pair(kind, size))
    with torch.no_grad():
        with attention_maps(generator) as made:
            images = generator(torch.randn(2, generator.latent))
        with attention_maps(discriminator) as judged:
            discriminator(images)
    sides = {16: (4, 8), 64: (16, 32), 128: (16, 32)}[size]
    for maps, expected in ((made, sides), (judged, (8, 4))):
        assert [tuple(weights.shape) for _, weights in maps] == [(2, s, s, s // half, s // half) for s in expected]
        for _, weights in maps:
            torch.testing.assert_close(weights.sum(dim=(3, 4)), torch.ones(weights.shape[:3]), atol=1e-5, rtol=0)


@each_kind
def test_a_map_says_where_its_position_looks(kind: str) -> None:
    network = pair(kind)[0].eval()
    given: dict[str, Tensor] = {}
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, SelfAttention)}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda _, args, name=name: given.update({name: args[0].detach()}))
    with attention_maps(network) as maps:
        network(torch.randn(2, network.latent))
        network(torch.randn(2, network.latent))
    assert [name for name, _ in maps] == [*layers, *layers] == ["after.0", "after.1"] * 2
    for name, weights in maps[2:]:
        layer, x = layers[name], given[name]
        k = largest_of_squares(layer.key(x)) if layer.pool else layer.key(x)
        scores = torch.einsum("bfyx,bfvu->byxvu", layer.query(x), k).exp()
        torch.testing.assert_close(weights, scores / scores.sum(dim=(3, 4), keepdim=True), atol=1e-5, rtol=1e-4)
        assert not weights.requires_grad


@each_kind
def test_recording_changes_nothing(kind: str) -> None:
    """Not the output, not the buffers of training mode, not the modes; and the hooks are gone after, errors or not."""

    def unsettled() -> nn.Module:
        torch.manual_seed(4)
        network = pair(kind)[1]
        for _, _, norm, _ in spectral_layers(network):  # vectors that the next step of the power iteration moves
            nn.init.uniform_(norm.u)
            nn.init.uniform_(norm.v)
        return network

    with_maps, without = unsettled(), unsettled()
    x = torch.randn(3, 1, 16, 16)
    with attention_maps(with_maps) as maps:
        seen = with_maps(x)
    assert torch.equal(seen, without(x))
    for (name, a), b in zip(with_maps.named_buffers(), without.buffers(), strict=True):
        assert torch.equal(a, b), name
    assert all(module.training for module in with_maps.modules())
    assert len(maps) == 2
    with pytest.raises(RuntimeError), attention_maps(with_maps) as more:  # noqa: PT012
        with_maps(x)
        with_maps(torch.randn(3, 2, 16, 16))
    with_maps(x)
    assert len(maps) == len(more) == 2


def test_results() -> None:
    network = nn.Sequential(SelfAttention(8), SelfAttention(8, "paper"))
    with torch.no_grad():
        network[0].gamma.fill_(0.25)
        network[0].query.weight.zero_()  # all scores alike: uniform
        refresh(network)
    x = torch.randn(2, 8, 4, 4)
    with attention_maps(network) as maps:
        network(x)
    stats = attention_stats(network, maps)
    assert stats.keys() == {"0", "1"}
    assert stats["0"].gamma == 0.25
    assert stats["0"].entropy == pytest.approx(1)
    weights = maps[1][1].flatten(3).double()
    assert stats["1"].gamma == 0
    assert stats["1"].entropy == pytest.approx(-(weights * weights.log()).sum(3).mean().item() / math.log(4))
    sure = torch.zeros(1, 2, 2, 2, 2)
    sure[..., 0, 0] = 1
    assert attention_stats(network, [("0", sure)])["0"].entropy == 0
    assert attention_stats(network, []) == {}
