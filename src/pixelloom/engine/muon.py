"""Muon: an optimizer whose steps of a weight matrix have (nearly) equal singular values.

The momentum M = U S V' of a matrix is replaced by U V', the nearest (semi-)orthogonal matrix. Five iterations of an odd
polynomial bring the singular values of X = M / |M| nearer to 1:

    X <- a X + (b A + c A A) X        A = X X'

For normal matrices at least twice as wide as high, or the reverse, the result is 0.68 to 1.13. Square matrices have
singular values near 0, which stay below 1: 0.01 to 1.20 for 128 x 128, 1 % of them below 0.52.

A convolution is the matrix [outputs, inputs * taps]. All other parameters (biases, gains, learned positions) use Adam.
Both have one learning rate, since the step of a matrix is scaled by 0.2 sqrt(max(n, m)), which would be a root mean
square of 0.2, typical of Adam, if all singular values were 1; it is 0.15 to 0.19.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the scale: Liu et al. 2025, "Muon
is scalable for LLM training" (2502.16982), section 2.2. ``torch.optim.Muon(adjust_lr_fn="match_rms_adamw")`` is the
same for matrices up to rounding, since it iterates in bfloat16; it does not accept convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adam import adam

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a, b, c of Jordan et al., chosen for a steep slope at 0
ITERATIONS = 5
WIDE = 3  # from this ratio of columns to rows on, iterations of X X' alone take fewer products


class Muon(Optimizer):
    """Muon for weights of two and four dimensions, Adam for all others.

    Args:
        parameters: to optimize.
        lr: learning rate.
        betas: decay rates of Adam's moments; the first is also the momentum of matrices.
        eps: added to the denominator of Adam.
        weight_decay: decoupled, as in AdamW.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.95, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[nn.Parameter]] = {}
            others = []
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if is_matrix(parameter):
                    shapes.setdefault(tuple(parameter.shape), []).append(parameter)
                else:
                    others.append(parameter)
            for matrices in shapes.values():
                self._orthogonal_step(group, matrices)
            if others:
                self._adam_step(group, others)

    def _orthogonal_step(self, group: dict[str, Any], matrices: list[nn.Parameter]) -> None:
        """Update matrices of one shape by batched products, which are faster than many small ones."""
        momentum = group["betas"][0]
        means = [self._slot(p, "exp_avg") for p in matrices]
        gradients = [p.grad for p in matrices if p.grad is not None]
        torch._foreach_lerp_(means, gradients, 1 - momentum)
        nesterov = torch._foreach_lerp(gradients, means, momentum)
        steps = orthogonal(torch.stack([x.reshape(len(x), -1) for x in nesterov]).float())  # each [n, ...] -> [n, m]
        size = 0.2 * max(steps.shape[1:]) ** 0.5  # the rms of an orthogonal n x m matrix is max(n, m)^-1/2
        if group["weight_decay"]:
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])  # type: ignore[arg-type]
        shaped = [step.view(matrices[0].shape) for step in steps]  # each [n, m] -> [n, ...]
        torch._foreach_add_(matrices, shaped, alpha=-group["lr"] * size)  # type: ignore[arg-type]

    def _adam_step(self, group: dict[str, Any], parameters: list[nn.Parameter]) -> None:
        adam(
            parameters,  # type: ignore[arg-type]
            [p.grad for p in parameters],  # type: ignore[misc]
            [self._slot(p, "exp_avg") for p in parameters],
            [self._slot(p, "exp_avg_sq") for p in parameters],
            [],
            [self._slot(p, "step") for p in parameters],
            fused=True,
            decoupled_weight_decay=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _slot(self, parameter: nn.Parameter, name: str) -> Tensor:
        state = self.state[parameter]
        if name not in state:
            state[name] = torch.zeros((), device=parameter.device) if name == "step" else torch.zeros_like(parameter)
        value: Tensor = state[name]
        return value


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon treats a parameter as a matrix: two or four dimensions, more than one row and column."""
    return parameter.ndim in (2, 4) and len(parameter) > 1 and parameter[0].numel() > 1


def orthogonal(matrices: Tensor) -> Tensor:
    """Bring the singular values of matrices [N, n, m] near 1, except tiny ones, and keep the singular vectors."""
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if tall := x.shape[1] > x.shape[2]:
        x = x.mT  # X X' is then the smaller of both products
    x = _by_gram(x) if x.shape[2] >= WIDE * x.shape[1] else _iterated(x)
    return x.mT if tall else x


def _iterated(x: Tensor) -> Tensor:
    """The iterations for [N, n, m], n <= m, as written at the top of this file: ten products with m columns."""
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT  # A = X X'
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _by_gram(x: Tensor) -> Tensor:
    """The same with two products with m columns, all others n x n.

    An iteration multiplies X by the polynomial P = a + b A + c A A, which commutes with A, and A by P P. So the result
    is Q X with Q the product of all P. Rounding adds about 1e-7 |X| to the singular values, before the iterations
    multiply small ones by up to a^5 = 485.
    """
    a, b, c = COEFFICIENTS
    gram = x @ x.mT  # [N, n, n]
    product: Tensor | None = None
    for i in range(ITERATIONS):
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        product = polynomial if product is None else polynomial @ product
        if i + 1 < ITERATIONS:
            gram = polynomial @ gram @ polynomial
    assert product is not None
    return product @ x
