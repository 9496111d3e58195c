"""Gates and concatenated ELU: the passes of a training against the plain expressions in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pixelloom.layers.gates import concat_elu, glu, sigmoid_gate, tanh_gate

Function = Callable[[Tensor], Tensor]


def plain_sigmoid(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=1)
    return a * torch.sigmoid(b)


def plain_tanh(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b)


def plain_elu(x: Tensor) -> Tensor:
    return F.elu(torch.cat((x, -x), dim=1))


PAIRS: list[tuple[Function, Function]] = [
    (sigmoid_gate, plain_sigmoid),
    (glu, lambda x: F.glu(x, dim=1)),
    (tanh_gate, plain_tanh),
    (concat_elu, plain_elu),
]
pairs = pytest.mark.parametrize(("function", "plain"), PAIRS, ids=lambda f: f.__name__)


def inputs(dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    """Values from -20 to 20, many near 0, and zeros of both signs; bfloat16 rounds the slope of large ones to 0."""
    torch.manual_seed(0)
    x = torch.randn(3, 8, 5, 4) * torch.logspace(-4, 1, 4)
    x[0, :, 0, 0], x[1, :, 0, 0] = 0.0, -0.0
    return x.clamp(*((-4, 4) if dtype == torch.bfloat16 else (-20, 20))).to(memory_format=layout).to(dtype)


@pairs
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-6)])
def test_training_passes_compute_the_plain_expressions(
    dtype: torch.dtype, error: float, layout: torch.memory_format, function: Function, plain: Function
) -> None:
    x = inputs(dtype, layout).requires_grad_()
    exact = x.detach().double().requires_grad_()
    out, truth = function(x), plain(exact)
    assert type(out.grad_fn).__name__.startswith("_")  # not the plain expression
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=layout)
    weights = torch.linspace(0.5, 1.5, out.numel(), dtype=torch.float64).view(out.shape)
    weights = weights.to(dtype).contiguous(memory_format=layout)
    (gradient,) = torch.autograd.grad(out, x, weights)
    (true_gradient,) = torch.autograd.grad(truth, exact, weights.double())
    assert gradient.is_contiguous(memory_format=layout)
    for found, wanted in ((out, truth), (gradient, true_gradient)):
        assert ((found.double() - wanted).abs() <= error * (1 + wanted.abs())).all()


@pairs
def test_without_gradients_the_plain_expression_is_evaluated(function: Function, plain: Function) -> None:
    """To the bit: sampling and scoring are the same as before training used other passes."""
    for dtype in (torch.float32, torch.bfloat16):
        x = inputs(dtype, torch.channels_last)
        assert torch.equal(function(x), plain(x))
        with torch.no_grad():
            assert torch.equal(function(x.clone().requires_grad_()), plain(x))


@pairs
def test_second_derivatives_are_refused(function: Function, plain: Function) -> None:
    x = inputs(torch.float32, torch.channels_last).requires_grad_()
    (gradient,) = torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pairs
def test_float64_is_exact(function: Function, plain: Function) -> None:
    x = inputs(torch.float64, torch.channels_last).requires_grad_()
    assert torch.equal(function(x), plain(x))
