"""Muon: a step of the same size along every direction of a weight matrix, where Adam has one for every entry.

The gradient's running mean M = U S V' of a matrix is replaced by U V', its nearest (semi-)orthogonal matrix, so that
rare directions move as much as common ones. A few iterations of an odd polynomial bring all singular values of
X = M / |M| near 1 (between 0.7 and 1.2, which is near enough):

    X <- a X + (b A + c A A) X        A = X X'

A convolution's weights are the matrix [outputs, inputs * taps]. What is no matrix (biases, gains, learned positions)
moves by Adam. One rate serves both, because the matrix step is scaled to the root mean square of a typical step of
Adam's, 0.2.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the scale: Liu et al. 2025, "Muon
is scalable for LLM training" (arXiv 2502.16982), section 2.2. ``torch.optim.Muon`` is the same for parameters of two
dimensions and refuses convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adam import adam

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a, b, c of Jordan et al.: steepest at zero
ITERATIONS = 5


class Muon(Optimizer):
    """Muon for weights of two and four dimensions, Adam for all others.

    Args:
        parameters: what moves.
        lr: the rate.
        betas: of both running means; the first is the momentum of matrices too.
        eps: of Adam.
        weight_decay: share of each weight taken off a step, times the rate (decoupled, as in AdamW).
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
        """Move every parameter that has a gradient."""
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
        """Weights of one shape together: many small products would take longer than one."""
        momentum = group["betas"][0]
        means = [self._slot(p, "exp_avg") for p in matrices]
        gradients = [p.grad for p in matrices if p.grad is not None]
        torch._foreach_lerp_(means, gradients, 1 - momentum)
        ahead = torch._foreach_lerp(gradients, means, momentum)  # Nesterov's
        steps = orthogonal(torch.stack([x.reshape(len(x), -1) for x in ahead]).float())
        size = 0.2 * max(steps.shape[1:]) ** 0.5  # an orthogonal n x m matrix has root mean square 1 / sqrt(max(n, m))
        for parameter, step in zip(matrices, steps, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.sub_(step.view(parameter.shape), alpha=group["lr"] * size)

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
    """Whether Muon moves it: two or four dimensions, and more than one row and column."""
    return parameter.ndim in (2, 4) and len(parameter) > 1 and parameter[0].numel() > 1


def orthogonal(matrices: Tensor) -> Tensor:
    """[N, n, m] -> the same with all singular values that are not tiny brought near 1."""
    a, b, c = COEFFICIENTS
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if tall := x.shape[1] > x.shape[2]:
        x = x.mT  # the smaller product
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    found: Tensor = x.mT if tall else x
    return found
