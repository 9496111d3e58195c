"""Norms, positions and blocks, each against its formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from checks import check_residual, check_starts_as_identity
from pixelloom.layers.blocks import ChannelNorm, GatedBlock, Norm, PlainBlock, Positions, ResidualBlock, make_norm
from settings import live


def residual(activation: str, norm: Norm = "none", groups: int = 1) -> ResidualBlock:
    block = ResidualBlock(8, 6, 3, activation=activation, norm=norm, bias=True, groups=groups)  # type: ignore[arg-type]
    live(block)
    return block.eval()


@pytest.mark.parametrize("activation", ["before", "after"])
@pytest.mark.parametrize("norm", ["none", "batch", "channel"])
def test_residual_is_added_once(activation: str, norm: Norm) -> None:
    check_residual(residual(activation, norm), 8)


def test_where_the_activations_stand() -> None:
    """After each convolution the branch only adds; before each it takes away as well."""
    x = torch.randn(4, 8, 6, 6)
    after, before = residual("after"), residual("before")
    assert float(after.branch(x).detach().min()) == 0.0
    assert float(before.branch(x).detach().min()) < -0.1
    assert torch.equal(before.branch(x), before.branch(F.relu(x)))
    names = [type(layer).__name__ for layer in after.branch]
    assert names == ["MaskedConv2d", "Identity", "ReLU"] * 3
    assert [type(layer).__name__ for layer in before.branch] == ["Identity", "ReLU", "MaskedConv2d"] * 3


@pytest.mark.parametrize("norm", ["none", "channel"])
@pytest.mark.parametrize(("features", "groups"), [(8, 1), (20, 3), (64, 3)])
def test_gated_block_starts_as_the_identity(norm: Norm, features: int, groups: int) -> None:
    block = GatedBlock(features, features // 2, 3, norm=norm, bias=True, groups=groups, dropout=0.5)
    check_starts_as_identity(block, features)


def test_gated_block_is_its_formula() -> None:
    block = GatedBlock(4, 3, 3, norm="none", bias=True, groups=1, dropout=0.5)
    live(block)
    block.eval()
    x = torch.randn(2, 4, 5, 5)
    mixed = block.mix(F.silu(block.down(F.silu(x))))
    expected = x + block.up(mixed[:, :3] / (1 + torch.exp(-mixed[:, 3:])))
    torch.testing.assert_close(block(x), expected)


def test_plain_block_is_convolution_norm_relu() -> None:
    block = PlainBlock(4, 3, norm="batch", bias=False, groups=1)
    live(block)
    block.eval()
    x = torch.randn(2, 4, 5, 5)
    norm = block[1]
    assert isinstance(norm, torch.nn.BatchNorm2d)
    assert block[0].bias is None
    out = (block[0](x).movedim(1, -1) - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps)  # type: ignore[operator]
    torch.testing.assert_close(block(x), F.relu(out * norm.weight + norm.bias).movedim(-1, 1))


@pytest.mark.parametrize(("features", "groups", "shares"), [(6, 1, [6]), (7, 3, [3, 2, 2]), (64, 3, [22, 21, 21])])
def test_channel_norm_is_its_formula(features: int, groups: int, shares: list[int]) -> None:
    norm = ChannelNorm(features, groups)
    live(norm)
    x = 3 * torch.randn(2, features, 4, 3) + 1
    parts = [
        (part - part.mean(1, keepdim=True)) / torch.sqrt(part.var(1, keepdim=True, unbiased=False) + 1e-5)
        for part in torch.split(x, shares, dim=1)
    ]
    expected = torch.cat(parts, 1) * norm.gain[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), expected, rtol=1e-4, atol=1e-5)


def test_channel_norm_is_the_same_in_training() -> None:
    """Unlike batch normalization (trap 7)."""
    x = torch.randn(3, 6, 4, 4)
    channel, batch = make_norm("channel", 6, 3), make_norm("batch", 6, 3)
    assert torch.equal(channel.train()(x), channel.eval()(x))
    assert torch.equal(channel(x)[:1], channel(x[:1]))
    assert not torch.allclose(batch.train()(x)[:1], batch(x[:1]), atol=1e-3)


def test_positions_add_a_row_and_a_column() -> None:
    positions = Positions(3, 4, 5)
    x = torch.zeros(2, 3, 4, 5)
    assert torch.equal(positions(x), x)
    live(positions)
    for f, i, j in [(0, 0, 0), (1, 3, 2), (2, 1, 4)]:
        expected = float((positions.rows[f, i, 0] + positions.columns[f, 0, j]).detach())
        assert positions(x)[:, f, i, j].tolist() == pytest.approx([expected] * 2)
