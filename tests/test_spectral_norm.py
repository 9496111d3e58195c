"""Spectral norm against singular values, through training, averages, copies, files and autocast."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from gan_toys import PAIRS, check_norms, double, matrices, pair, spec
from pixelloom.engine.optim import EMA
from pixelloom.engine.safetensors_io import load_tensors, save_tensors
from pixelloom.layers.spectral_norm import SpectralNorm, refresh, spectral, spectral_layers
from pixelloom.networks import build_pair
from pixelloom.networks.gan.sagan import SAGANConfig
from pixelloom.networks.gan.sngan import SNGANConfig

LAYERS = {
    "convolution": lambda: nn.Conv2d(6, 10, 3),
    "transposed": lambda: nn.ConvTranspose2d(6, 10, 4),
    "wide": lambda: nn.Linear(30, 7),
    "tall": lambda: nn.Linear(7, 30),
    "table": lambda: nn.Embedding(5, 12),
}
each_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
each_pair = pytest.mark.parametrize("kind", [kind for kind in PAIRS if kind[:5] in ("sagan", "sngan")])


def norm_of(layer: nn.Module) -> SpectralNorm:
    return next(spectral_layers(layer))[2]


@each_layer
def test_weight_is_the_initial_one_divided_by_its_largest_singular_value(make: object) -> None:
    layer = make()
    weight = layer.weight.detach().clone()
    matrix = weight.transpose(0, 1).flatten(1) if isinstance(layer, nn.ConvTranspose2d) else weight.flatten(1)
    spectral(layer)
    largest = torch.linalg.svdvals(matrix.double())[0].float()
    torch.testing.assert_close(layer.weight, weight / largest)
    torch.testing.assert_close(layer.eval().weight, weight / largest)


def test_many_equal_singular_values_leave_the_norm_right() -> None:
    """As an orthogonal start has them: each step of a refresh shortens its vector by the root of their number."""
    layer = nn.Linear(1536, 1536, bias=False)
    layer.weight.data.copy_(3 * torch.eye(1536))
    refresh(spectral(layer))
    torch.testing.assert_close(layer.eval().weight.detach(), torch.eye(1536))


@each_layer
def test_agrees_with_torch_once_that_has_converged(make: object) -> None:
    ours = make()
    theirs = parametrizations.spectral_norm(copy.deepcopy(ours), n_power_iterations=200)
    torch.testing.assert_close(spectral(ours).weight, theirs.weight)


def test_each_use_in_training_mode_is_one_step_of_the_power_iteration() -> None:
    layer = spectral(nn.Conv2d(4, 6, 3))
    norm, (_, matrix) = norm_of(layer), next(iter(matrices(layer)))
    norm.u.copy_(nn.functional.normalize(torch.randn(6), dim=0))
    norm.v.copy_(nn.functional.normalize(torch.randn(36), dim=0))
    original = layer.parametrizations.weight.original.detach()
    matrix = original.flatten(1)
    u = matrix @ norm.v / (matrix @ norm.v).norm()
    v = matrix.T @ u / (matrix.T @ u).norm()
    torch.testing.assert_close(layer.weight.detach(), original / (u @ matrix @ v))
    torch.testing.assert_close(norm.u, u)
    torch.testing.assert_close(norm.v, v)
    layer.eval()
    kept = norm.u.clone(), norm.v.clone()
    _ = layer.weight, layer.weight
    assert torch.equal(norm.u, kept[0])
    assert torch.equal(norm.v, kept[1])


def test_gradient_is_that_of_the_paper() -> None:
    """Eq. 12: dL/dW = (G - <G, W / sigma> u v') / sigma with G = dL/d(W / sigma)."""
    layer = spectral(nn.Linear(9, 5, bias=False).double()).eval()
    norm, original = norm_of(layer), layer.parametrizations.weight.original
    upstream = torch.randn(5, 9, dtype=torch.float64)
    (layer.weight * upstream).sum().backward()
    sigma = norm.u @ original.detach() @ norm.v
    inner = (upstream * original.detach() / sigma).sum()
    torch.testing.assert_close(original.grad, (upstream - inner * torch.outer(norm.u, norm.v)) / sigma)


def test_a_second_pass_leaves_the_gradient_of_the_first_alone() -> None:
    def gradient(passes: int) -> Tensor:
        torch.manual_seed(3)
        layer = spectral(nn.Conv2d(2, 3, 3))
        norm_of(layer).u.copy_(torch.tensor([1.0, 0, 0]))  # far from converged: each pass moves it
        norm_of(layer).v.copy_(nn.functional.normalize(torch.ones(18), dim=0))
        x = torch.randn(4, 2, 5, 5)
        first = layer(x).square().sum()
        for _ in range(passes - 1):
            layer(x)
        first.backward()
        return layer.parametrizations.weight.original.grad

    assert torch.equal(gradient(1), gradient(2))


def test_writing_to_the_weight_afterwards_changes_nothing_and_wrapping_twice_is_refused() -> None:
    layer = spectral(nn.Conv2d(3, 4, 3))
    before = layer.eval().weight.detach().clone()
    nn.init.normal_(layer.weight, 0.0, 5.0)
    assert torch.equal(layer.weight, before)
    with pytest.raises(ValueError, match="Conv2d is computed already; wrap a layer once"):
        spectral(layer)


def test_weights_under_the_norm_have_the_deviation_asked_for() -> None:
    """Each original of SAGAN has deviation 0.02, each of SNGAN that of Glorot's, within 4 standard errors."""
    for network in build_pair("sagan", SAGANConfig(), spec(64)):
        layers = [weight for name, _, _, weight in spectral_layers(network)]
        assert len(layers) == 4
        for weight in layers:
            assert abs(weight.std().item() / 0.02 - 1) < 4 / math.sqrt(2 * weight.numel())
    _, network = build_pair("sngan", SNGANConfig(), spec(32))
    for name, layer, _, weight in spectral_layers(network):
        if isinstance(layer, nn.Conv2d):
            gain = 1.0 if name.endswith("skip") else math.sqrt(2)
            taps = layer.kernel_size[0] ** 2
            expected = gain * math.sqrt(2 / (taps * (layer.in_channels + layer.out_channels)))
            assert abs(weight.std().item() / expected - 1) < 4 / math.sqrt(2 * weight.numel())


# Whole networks


def wander(network: nn.Module, ema: EMA, steps: int = 12) -> None:
    """As training does: weights move far, u and v follow in training mode, and the EMA is updated."""
    generator = torch.Generator().manual_seed(5)
    for t in range(1, steps + 1):
        with torch.no_grad():
            for _, _, norm, weight in spectral_layers(network):
                weight.add_(0.7 * weight.std() * torch.randn(weight.shape, generator=generator))
                norm.train()(weight)
        ema.update(t)


@each_pair
def test_every_norm_is_1_after_averaging_loading_and_copying(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    for i, network in enumerate(pair(kind, classes=3)):
        expected = sum(1 for _ in spectral_layers(network.eval()))
        assert check_norms(network) == expected

        ema = EMA(network, 0.1)
        wander(network, ema)
        if expected:
            with pytest.raises(AssertionError):  # the average of weights is no weight that u and v know
                check_norms(ema.module)
        refresh(ema.module)
        assert not any(module.training for module in ema.module.modules())
        assert check_norms(ema.module) == check_norms(copy.deepcopy(ema.module)) == expected

        save_tensors(tmp_path / "network", ema.module.state_dict(), {})
        torch.manual_seed(2)
        other = pair(kind, classes=3)[i].eval()
        other.load_state_dict(load_tensors(tmp_path / "network")[0])
        assert check_norms(other) == expected
        for (name, a), (_, b) in zip(matrices(ema.module), matrices(other), strict=True):
            assert torch.equal(a, b), name


def test_number_of_layers_under_the_norm() -> None:
    counts = {kind: [sum(1 for _ in spectral_layers(network)) for network in pair(kind, 64)] for kind in PAIRS}
    assert counts == {
        "dcgan": [0, 0],
        "sagan": [4, 4],  # all but the last
        "sagan-paper": [4 + 2 * 4, 4 + 2 * 4],  # and query, key, value, output of two blocks
        "sngan": [0, 3 * 3 + 2 * 2 + 1],  # three halving blocks with a skip connection, two without, the linear layer
        "sngan-doubling": [0, 3 * 3 + 2 * 2 + 1],
        "r3gan": [0, 0],
    }


def test_full_width_networks_start_with_norms_of_1() -> None:
    for network in (build_pair("sagan", SAGANConfig(), spec(32))[0], build_pair("sngan", SNGANConfig(), spec(32))[1]):
        check_norms(network.eval())


def test_few_steps_do_where_the_vectors_nearly_fit() -> None:
    layer = spectral(nn.Conv2d(32, 64, 4)).eval()
    with torch.no_grad():
        original = layer.parametrizations.weight.original
        original.add_(0.1 * original.std() * torch.randn(original.shape))
    refresh(layer, steps=5)
    check_norms(layer)


@each_layer
def test_a_copy_has_a_life_of_its_own(make: object) -> None:
    layer = spectral(make())
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.parametrizations.weight.original.mul_(-2)
        norm_of(twin).u.neg_()
    refresh(twin)
    torch.testing.assert_close(twin.eval().weight, -layer.eval().weight)


def test_refresh_leaves_modes_and_graphs_alone() -> None:
    network = nn.Sequential(spectral(nn.Linear(3, 4)), spectral(nn.Linear(4, 3)).eval())
    refresh(network)
    assert [module.training for module in network] == [True, False]
    assert all(not buffer.requires_grad for buffer in network.buffers())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_autocast_does_not_touch_the_norm() -> None:
    layer = spectral(nn.Conv2d(16, 32, 3))
    twin = copy.deepcopy(layer)
    with torch.autocast("cpu", torch.bfloat16):
        seen = layer.weight
        refresh(layer)
    assert seen.dtype == torch.float32
    assert torch.equal(seen, twin.weight)
    refresh(twin)
    assert torch.equal(norm_of(layer).u, norm_of(twin).u)
    assert torch.equal(norm_of(layer).v, norm_of(twin).v)


def test_double_precision_stays() -> None:
    with double():
        layer = spectral(nn.Linear(8, 6)).eval()
    sigma = torch.linalg.svdvals(layer.weight.detach())[0].item()
    assert abs(sigma - 1) < 1e-6
    assert norm_of(layer).u.dtype == torch.float64
