"""Adversarial losses, penalties and the objective of two phases: formulas, closed forms, the loop, and breaks."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from engine_toys import (
    ADAM,
    At,
    N,
    config,
    newest,
    one_thread,  # noqa: F401  # a fixture for every test here
    same,
    split,
    stream,
    train,
)
from pixelloom.core.errors import DataError
from pixelloom.core.types import Batch
from pixelloom.engine.fabric import make_fabric
from pixelloom.engine.hooks import Validate
from pixelloom.engine.loop import _phase_step, fit
from pixelloom.engine.safetensors_io import load_tensors
from pixelloom.engine.signals import Interrupted
from pixelloom.engine.state import Hook, Run
from pixelloom.objectives import adversarial as adversarial_module
from pixelloom.objectives import gan_losses as losses
from pixelloom.objectives.adversarial import AdversarialObjective
from pixelloom.objectives.base import Monitor, Objective
from pixelloom.objectives.config import Penalties
from pixelloom.objectives.diffaugment import Policy
from pixelloom.objectives.gan_losses import LOSSES, OverfittingWatch, gradient_penalty, r1, r2

Patch = pytest.MonkeyPatch
Stats = dict[str, float]
PLAIN = ADAM.model_copy(update={"warmup": 0, "decay": "none", "clip": None})


# Toys: 4x4 images of two levels, as in engine_toys


class Generator(nn.Module):
    latent = 3

    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(3 + classes, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.out = nn.ConvTranspose2d(2, 1, 2, stride=2)
        self.classes = classes
        self.labels: list[Tensor | None] = []

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        self.labels.append(labels)
        if self.classes:
            z = torch.cat([z, F.one_hot(labels, self.classes)], 1)
        return torch.tanh(self.out(self.hidden(z).view(-1, 2, 2, 2)))


class Discriminator(nn.Module):
    def __init__(self, classes: int = 0, norm: bool = False, outputs: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.outputs = outputs
        self.convs = nn.Sequential(
            spectral_norm(nn.Conv2d(1, 4, 3, padding=1)),
            nn.BatchNorm2d(4) if norm else nn.Identity(),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2),
            nn.LeakyReLU(0.2),
        )
        self.out = nn.Linear(16, 1)
        self.classes = nn.Embedding(classes, 16) if classes else None
        self.seen: list[tuple[Tensor, Tensor | None]] = []

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        self.seen.append((x.detach().clone(), labels))
        features = self.convs(x).flatten(1)
        logits = self.out(features)[:, 0]
        if self.classes:
            logits = logits + (features * self.classes(labels)).sum(1)
        return logits.view(-1, *self.outputs)


def monitor() -> Monitor:
    return Monitor("gap", lambda g: {"gap": abs(g(torch.linspace(-1, 1, 24).view(8, 3)).mean().item())})


def game(loss: str = "non-saturating", norm: bool = False, seed: int = 0, **options: Any) -> Objective:
    torch.manual_seed(seed)
    classes = options.get("classes", 0)
    d = Discriminator(classes, norm)
    optimizers = options.pop("optimizers", (ADAM, ADAM))
    return AdversarialObjective(Generator(classes), d, LOSSES[loss], 2, *optimizers, monitor(), **options).build()


def minimal(g: nn.Module, d: nn.Module, loss: str, **options: Any) -> Objective:
    return AdversarialObjective(g, d, LOSSES[loss], 2, ADAM, ADAM, monitor(), **options).build()


def batch(n: int = 8, labels: bool = False) -> Batch:
    images, numbers = split().all()
    return Batch(torch.from_numpy(images[:n]), torch.from_numpy(numbers[:n] % 4) if labels else None)


def called(
    objective: Objective, phase: int, given: Batch | None = None, seed: int = 5
) -> tuple[Tensor, dict[str, Any]]:
    torch.manual_seed(seed)
    return objective.phases[phase].loss(batch() if given is None else given)


def gradients(module: nn.Module) -> list[Tensor | None]:
    found = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    return found


# Losses


def sigmoid(t: float) -> float:
    return 1 / (1 + math.exp(-t))


FORMULAS: dict[str, tuple[Callable[[float, float], float], Callable[[float, float], float]]] = {
    "non-saturating": (
        lambda x, y: -math.log(sigmoid(x)) - math.log(1 - sigmoid(y)),
        lambda y, x: -math.log(sigmoid(y)),
    ),
    "hinge": (lambda x, y: max(0, 1 - x) + max(0, 1 + y), lambda y, x: -y),
    "least-squares": (lambda x, y: 0.5 * (x - 1) ** 2 + 0.5 * y**2, lambda y, x: 0.5 * (y - 1) ** 2),
    "wasserstein": (lambda x, y: y - x, lambda y, x: -y),
    "relativistic": (lambda x, y: -math.log(sigmoid(x - y)), lambda y, x: -math.log(sigmoid(y - x))),
}
TABLE = [(0.0, 0.0), (1.5, -0.25), (-2.0, 3.0), (0.5, 0.75), (4.0, -4.0)]


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_the_formulas(name: str) -> None:
    loss, (d, g) = LOSSES[name], FORMULAS[name]
    real, fake = torch.tensor(TABLE, dtype=torch.float64).unbind(1)
    for i, (x, y) in enumerate(TABLE):
        assert loss.discriminator(real[i : i + 1], fake[i : i + 1]).item() == pytest.approx(d(x, y))
        assert loss.generator(fake[i : i + 1], real[i : i + 1]).item() == pytest.approx(g(y, x))
    mean = sum(d(x, y) for x, y in TABLE) / len(TABLE)  # and not a sum, nor a mean of something else
    assert loss.discriminator(real, fake).item() == pytest.approx(mean)
    assert loss.generator(fake, real).item() == pytest.approx(sum(g(y, x) for x, y in TABLE) / len(TABLE))
    assert set(FORMULAS) == set(LOSSES)


def test_non_saturating_is_binary_cross_entropy() -> None:
    real, fake = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    bce = F.binary_cross_entropy_with_logits
    loss = LOSSES["non-saturating"]
    expected = bce(real, torch.ones(9)) + bce(fake, torch.zeros(9))
    torch.testing.assert_close(loss.discriminator(real, fake), expected)
    torch.testing.assert_close(loss.generator(fake, None), bce(fake, torch.ones(9)))


@pytest.mark.parametrize(
    ("name", "real", "fake", "least"),
    [
        ("hinge", 1.0, -1.0, 0.0),  # and nothing is gained beyond the margins
        ("hinge", 7.0, -3.0, 0.0),
        ("least-squares", 1.0, 0.0, 0.0),
        ("non-saturating", 200.0, -200.0, 0.0),
        ("relativistic", 200.0, -200.0, 0.0),
    ],
)
def test_discriminators_least_loss(name: str, real: float, fake: float, least: float) -> None:
    x, y = (torch.full((3,), v, requires_grad=True) for v in (real, fake))
    loss = LOSSES[name].discriminator(x, y)
    assert loss.item() == least
    slopes = torch.autograd.grad(loss, (x, y))
    if (name, real) != ("hinge", 1.0):  # where it has a corner, and no one slope
        assert not any(slope.any() for slope in slopes)


@pytest.mark.parametrize(("name", "undecided"), [("non-saturating", 2 * math.log(2)), ("relativistic", math.log(2))])
def test_loss_of_a_discriminator_that_knows_nothing(name: str, undecided: float) -> None:
    assert LOSSES[name].discriminator(torch.zeros(4), torch.zeros(4)).item() == pytest.approx(undecided)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_pull_the_right_way(name: str) -> None:
    """D is led to raise D(x) and lower D(G(z)), G to raise D(G(z)); equal logits have equal shares."""
    real, fake = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    up, down = torch.autograd.grad(LOSSES[name].discriminator(real - 0.25, fake + 0.25), (real, fake))
    (made,) = torch.autograd.grad(LOSSES[name].generator(fake + 0.25, real.detach()), fake)
    for slope, sign in ((up, -1), (down, 1), (made, -1)):
        assert (slope * sign > 0).all()
        assert (slope == slope[0]).all()


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_stay_finite(name: str) -> None:
    logits = torch.tensor([-1e4, 1e4], requires_grad=True)
    for value in (LOSSES[name].discriminator(logits, logits.flip(0)), LOSSES[name].generator(logits, logits.flip(0))):
        assert value.isfinite()
        assert torch.autograd.grad(value, logits)[0].isfinite().all()


def test_only_differences_count_where_no_boundary_is_given() -> None:
    real, fake = torch.tensor(TABLE).unbind(1)
    for loss in LOSSES.values():
        moved = [loss.discriminator(real + 3, fake + 3) - loss.discriminator(real, fake)]
        if loss.paired:
            moved += [loss.generator(fake + 3, real + 3) - loss.generator(fake, real)]
        assert (loss.boundary is None) == all(abs(m.item()) < 1e-5 for m in moved)
    with pytest.raises(ValueError, match="needs the logits of real images"):
        LOSSES["relativistic"].generator(fake, None)


def test_overfitting_heuristic() -> None:
    real, fake = torch.tensor([0.2, 0.7, 3.0, -1.0]), torch.tensor([0.0, 0.8, 0.0, 0.0])
    values = {name: loss.r_t(real, fake).item() for name, loss in LOSSES.items()}
    above_zero, above_half, above_fake = (3 - 1) / 4, (2 - 2) / 4, (2 - 2) / 4
    assert values == {
        "non-saturating": above_zero,
        "hinge": above_zero,
        "least-squares": above_half,
        "wasserstein": above_fake,
        "relativistic": above_fake,
    }


# Penalties


def linear(seed: int = 0) -> tuple[nn.Module, Tensor]:
    """D(x) = w x + b, and its w."""
    torch.manual_seed(seed)
    d = nn.Sequential(nn.Flatten(), nn.Linear(16, 1), nn.Flatten(0))
    return d, d[1].weight[0]


def check_penalties_of_a_linear_discriminator(autocast: bool = False) -> None:
    d, w = linear()
    d_of = lambda x, labels: d(x)  # noqa: E731
    real, fake = torch.randn(2, 6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        values = r1(d_of, real), r2(d_of, fake), gradient_penalty(d_of, real, fake, None, torch.rand(6))
    norm = w.detach().double().norm()
    for value, expected in zip(values, (norm**2, norm**2, (norm - 1) ** 2), strict=True):
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    (slope,) = torch.autograd.grad(values[0], d[1].weight)
    torch.testing.assert_close(slope[0], 2 * w.detach())  # d |w|^2 / dw


@pytest.mark.parametrize("autocast", [False, True])
def test_penalties_of_a_linear_discriminator(autocast: bool) -> None:
    check_penalties_of_a_linear_discriminator(autocast)


def test_penalties_are_means_over_images() -> None:
    """D(x) = |x|^2 / 2 has the gradient x: R1 is the mean of |x|^2."""
    x, y = torch.randn(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def d_of(x: Tensor, labels: Tensor | None) -> Tensor:
        return x.square().flatten(1).sum(1) / 2

    assert r1(d_of, x).item() == pytest.approx(sum((p**2).sum().item() for p in x) / 5)
    assert r1(d_of, x).dtype == torch.float64
    u = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    between = [t * a + (1 - t) * b for t, a, b in zip(u.tolist(), x, y, strict=True)]
    expected = sum((p.square().sum().sqrt().item() - 1) ** 2 for p in between) / 5
    assert gradient_penalty(d_of, x, y, None, u).item() == pytest.approx(expected)


def test_labels_reach_the_discriminator() -> None:
    x, labels = torch.randn(3, 1, 2, 2), torch.tensor([1, 2, 3])

    def d_of(x: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        return x.flatten(1).sum(1) * labels

    assert r1(d_of, x, labels).item() == pytest.approx(4 * (1 + 4 + 9) / 3)
    assert gradient_penalty(d_of, x, x, labels, torch.rand(3)).item() == pytest.approx((1 + 9 + 25) / 3)


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(2).transpose(1, 2)[:, None]  # with a dimension of heads, or no fused kernel is chosen
        return F.scaled_dot_product_attention(h, h, h)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(32, 4)),
    "convolution": lambda: nn.Conv2d(2, 3, 3, padding=1),
    "strided": lambda: nn.Conv2d(2, 3, 4, stride=2, padding=1),
    "grouped": lambda: nn.Conv2d(2, 4, 3, padding=1, groups=2),
    "spectral": lambda: spectral_norm(nn.Conv2d(2, 3, 3)).eval(),
    "batch norm": lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)),
    "attention": Attention,
}


@pytest.mark.parametrize("name", LAYERS)
def test_second_derivatives(name: str) -> None:
    """The gradient of R1 in D's weights, by autograd, against differences; D ends in a leaky ReLU and a square."""
    torch.manual_seed(0)
    first = nn.Conv2d(2, 2, 1)
    d = nn.Sequential(first, LAYERS[name]()).double().to(memory_format=torch.channels_last)
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)

    def d_of(x: Tensor, labels: Tensor | None) -> Tensor:
        return F.leaky_relu(d(x), 0.2).flatten(1).square().mean(1)

    for parameter in d.parameters():
        (slope,) = torch.autograd.grad(r1(d_of, x), parameter, allow_unused=True)
        assert slope is not None
        direction = torch.randn_like(parameter)
        ends = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter.add_(direction, alpha=step)
            ends.append(r1(d_of, x).item())
            with torch.no_grad():
                parameter.sub_(direction, alpha=step)
        assert (slope * direction).sum().item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-9)


def test_gradient_penalty_of_a_constant_discriminator_can_be_differentiated() -> None:
    """The norm of a zero gradient has a corner: as in a network whose last layer starts at zero."""
    d, _ = linear()
    nn.init.zeros_(d[1].weight)
    x = torch.randn(3, 1, 4, 4)
    value = gradient_penalty(lambda x, labels: d(x), x, -x, None, torch.rand(3))
    assert value.item() == 1
    assert torch.autograd.grad(value, d[1].weight)[0].isfinite().all()


# One call of a phase


def check_fakes_are_cut_off() -> None:
    """Outside the loop, where nothing else keeps the gradient of a D step from G."""
    for options in ({}, {"penalties": Penalties(r1=1, r2=1, gradient=1), "policy": Policy(translation=0.2)}):
        objective = game(**options)
        called(objective, 0)[0].backward()
        assert gradients(objective.parts["G"]) == [None] * 6
        assert all(g is not None and g.any() for g in gradients(objective.parts["D"]))


def test_fakes_of_a_d_step_carry_no_gradient_to_g() -> None:
    check_fakes_are_cut_off()


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_of_a_g_step_reaches_g_through_the_augmentation(loss: str) -> None:
    objective = game(loss, policy=Policy(translation=0.25, cutout=0.25, color=1))
    called(objective, 1)[0].backward()
    assert all(g is not None and g.isfinite().all() for g in gradients(objective.parts["G"]))


def plain_step(objective: Objective, loss: str, given: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """D's and G's loss and D's logits, written out; the networks as they are after as many passes."""
    g, d = objective.parts["G"], objective.parts["D"]
    x = given.images.float() * 2 - 1
    torch.manual_seed(5)
    fake = g(torch.randn(len(x), 3))
    real_logits, fake_logits = d(x), d(fake)
    return LOSSES[loss].discriminator(real_logits, fake_logits), fake, real_logits, fake_logits


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("joint_batch", [False, True])
def test_statistics_of_a_step_mean_what_they_say(loss: str, joint_batch: bool) -> None:
    sound, written = (game(loss, joint_batch=joint_batch) for _ in range(2))
    for objective in (sound, written):
        objective.parts["D"].eval()  # spectral norm as it is: no matter how many passes
    value, stats = called(sound, 0)
    expected, _, real, fake = plain_step(written, loss, batch())
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(stats["D/adversarial"], expected.detach())
    assert stats["D/real"].item() == pytest.approx(real.mean().item())
    assert stats["D/fake"].item() == pytest.approx(fake.mean().item())
    assert stats["D/r_t"].item() == pytest.approx(LOSSES[loss].r_t(real, fake).item())
    value, stats = called(sound, 1)
    _, _, real, fake = plain_step(written, loss, batch())
    torch.testing.assert_close(value, LOSSES[loss].generator(fake, real))
    assert stats["G/fake"].item() == pytest.approx(fake.mean().item())
    assert not any(s.requires_grad for s in stats.values())


def test_penalties_enter_with_their_weights() -> None:
    d_loss = {}
    for name, given in {"none": {}, "r1": {"r1": 3.0}, "r2": {"r2": 5.0}, "gradient": {"gradient": 7.0}}.items():
        objective = game(penalties=Penalties(**given))
        objective.parts["D"].eval()
        value, stats = called(objective, 0)
        d_loss[name] = value.item()
        assert ({"D/r1", "D/r2", "D/gradient"} & stats.keys()) == ({f"D/{name}"} - {"D/none"})
        if name != "none":
            weight = {"r1": 1.5, "r2": 2.5, "gradient": 7.0}[name]
            assert stats[f"D/{name}"] > 0
            assert value.item() == pytest.approx(d_loss["none"] + weight * stats[f"D/{name}"].item())
            assert stats["D/adversarial"].item() == pytest.approx(d_loss["none"])


class Square(nn.Module):
    """D(x) = s |x|^2 / 2 with s = 1, whose gradient is x itself."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.scale * x.square().flatten(1).sum(1) / 2


def test_each_penalty_is_taken_at_its_own_images() -> None:
    """R1 at real ones, R2 at generated ones, the gradient penalty anywhere between."""
    every = Penalties(r1=1, r2=1, gradient=1)
    torch.manual_seed(0)
    g = Generator()
    objective = minimal(g, Square(), "hinge", penalties=every)
    _, stats = called(objective, 0)
    torch.manual_seed(5)
    made, x = g(torch.randn(8, 3)), batch().images.float() * 2 - 1
    torch.rand(16, 7)  # for the augmentation, which is off
    u = torch.rand(8)
    between = (u * x.flatten(1).T + (1 - u) * made.flatten(1).T).square().sum(0).sqrt()
    assert stats["D/r1"].item() == 16  # 4x4 values of -1 or 1
    assert stats["D/r2"].item() == pytest.approx(made.square().sum().item() / 8)
    assert stats["D/gradient"].item() == pytest.approx((between - 1).square().mean().item(), rel=1e-5)


def test_penalties_are_of_images_before_their_augmentation() -> None:
    """The slope of D(T x): pixels that a shift has moved out of the image have none."""
    torch.manual_seed(0)
    d = nn.Sequential(nn.Flatten(), nn.Linear(16, 1, bias=False), nn.Flatten(0))
    w = d[1].weight.detach().view(1, 16)

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.d = d

        def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
            return self.d(x)

    policy = Policy(translation=0.25)
    objective = minimal(Generator(), Linear(), "hinge", penalties=Penalties(r1=2), policy=policy)
    torch.manual_seed(5)
    torch.randn(8, 3)  # z comes first
    drawn = 2 * torch.rand(8, 7) - 1
    _, stats = called(objective, 0)
    squares = []
    for u, v in drawn[:, 3:5].tolist():
        dy, dx = (int((t + 1) / 2 * 3) - 1 for t in (u, v))
        # the weights that some pixel still meets after a shift by (dy, dx)
        kept = w.view(4, 4)[max(dy, 0) : 4 + min(dy, 0), max(dx, 0) : 4 + min(dx, 0)]
        squares.append(kept.square().sum().item())
    assert stats["D/r1"].item() == pytest.approx(sum(squares) / 8)


def check_lazy_penalty() -> None:
    """Over four steps at fixed weights a lazy penalty gives four times as much once: the same mean gradient."""

    def mean_gradient(every: int, accumulate: int = 1) -> tuple[list[Tensor], list[set[str]]]:
        objective = game("hinge", penalties=Penalties(r1=2, r2=1, lazy_interval=every), accumulate=accumulate)
        objective.parts["D"].eval()
        names = []
        for _ in range(4 * accumulate):
            value, stats = called(objective, 0)
            (value / 4 / accumulate).backward()
            names.append(stats.keys() & {"D/r1"})
        return gradients(objective.parts["D"]), names

    eager, always = mean_gradient(1)
    for every, accumulate in ((2, 1), (4, 1), (2, 2)):
        lazy, taken = mean_gradient(every, accumulate)
        for a, b in zip(eager, lazy, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        assert [bool(t) for t in taken] == [r % every == 0 for r in range(4) for _ in range(accumulate)]
    assert all(always)


def test_lazy_penalties_have_the_same_mean_gradient() -> None:
    check_lazy_penalty()


def test_one_pass_or_two() -> None:
    """The same loss, but for batch norm: its statistics are of each kind alone in two passes, as in the tutorials."""
    for norm in (False, True):
        values = []
        for together in (False, True):
            objective = game(norm=norm, joint_batch=together)
            spectral = objective.parts["D"].convs[0].eval()
            assert not spectral.training
            values.append(called(objective, 0)[0].item())
            sizes = [len(x) for x, _ in objective.parts["D"].seen]
            assert sizes == ([16] if together else [8, 8])
        assert (values[0] == pytest.approx(values[1], rel=1e-5)) is not norm


@pytest.mark.parametrize("joint_batch", [False, True])
def test_fakes_have_the_labels_of_the_batch(joint_batch: bool) -> None:
    objective = game("relativistic", classes=4, joint_batch=joint_batch, penalties=Penalties(r1=1, r2=1, gradient=1))
    given = batch(labels=True)
    for phase in (0, 1):
        called(objective, phase, given)[0].backward()
    assert all(torch.equal(labels, given.labels) for labels in objective.parts["G"].labels)
    for x, labels in objective.parts["D"].seen:
        assert torch.equal(labels, given.labels.repeat(len(x) // 8))
    with pytest.raises(DataError, match="the training data has no labels"):
        called(objective, 0, batch())
    unconditional = game()
    called(unconditional, 0, given)
    assert unconditional.parts["G"].labels == [None]


@pytest.mark.parametrize("loss", LOSSES)
def test_matching_aware_d_sees_real_images_with_each_wrong_label_alike(loss: str) -> None:
    """The loss is the mean of those of generated images and of real ones with wrong labels (Reed et al. 2016)."""
    objective, given = game(loss, classes=4, matching_aware=True), batch(labels=True)
    d = objective.parts["D"].eval()
    value, stats = called(objective, 0, given)
    (real, labels), (fake, _), (shown, wrong) = d.seen
    assert torch.equal(shown, real)
    assert (wrong != labels).all()
    ours, made, other = d(real, labels), d(fake, labels), d(real, wrong)
    rule = LOSSES[loss].discriminator
    torch.testing.assert_close(value, (rule(ours, made) + rule(ours, other)) / 2)
    assert stats["D/fake"].item() == pytest.approx(made.mean().item())
    draw = objective.phases[0].loss.__self__._wrong_labels
    offsets = torch.cat([draw(given.labels) - given.labels for _ in range(300)]) % 4
    counts = torch.bincount(offsets, minlength=4)
    assert counts[0] == 0
    torch.testing.assert_close(counts[1:] / len(offsets), torch.full((3,), 1 / 3), atol=0.04, rtol=0)
    assert len(game(loss).parts["D"].seen) == 0
    untold = game(loss, matching_aware=True)
    called(untold, 0)
    assert len(untold.parts["D"].seen) == 2, "without classes there are none to mistake"


def test_logits_of_another_shape_are_refused() -> None:
    """[B, 1] minus [B] is [B, B]: every real image against every generated one."""
    d = Discriminator(outputs=(1,))
    objective = minimal(Generator(), d, "relativistic")
    with pytest.raises(ValueError, match=r"one logit per image, \[8\], not \[8, 1\]"):
        called(objective, 0)


# The same augmentation everywhere


class Constant(nn.Module):
    """Makes the image that the data consists of."""

    latent = 1

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image = nn.Parameter(image)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.image.expand(len(z), 1, 4, 4)


def check_augmentation_is_the_same() -> None:
    """Real and generated images are one and the same: D sees the same distribution of both in either phase."""
    images = torch.zeros(3600, 1, 4, 4, dtype=torch.uint8)
    images[:, :, 1, 2] = 1
    g = Constant(images[:1].float() * 2 - 1)
    d = Discriminator()
    objective = minimal(g, d, "hinge", policy=Policy(translation=0.25))
    for phase in (0, 1):
        called(objective, phase, Batch(images, None))
    real, fake, again = (x for x, _ in d.seen)
    assert not torch.equal(real, fake)  # each image by noise of its own
    for seen in (real, fake, again):
        lit = (seen == 1).float().sum(0)[0]
        expected = torch.zeros(4, 4)
        expected[0:3, 1:4] = 400
        assert ((lit - expected).square().sum() / 400).item() < 26.1  # 8 degrees of freedom, p = 0.001
    if g.image.grad is None:
        called(objective, 1, Batch(images, None))[0].backward()
    assert g.image.grad.all()


def test_real_and_fake_are_augmented_alike_in_both_phases() -> None:
    check_augmentation_is_the_same()


# Through the loop


def ready(objective: Objective) -> tuple[Run, Batch]:
    conf = config()
    fabric = make_fabric(conf)
    return Run(objective, conf, fabric, N), next(stream(conf, fabric)(0))


FULL: dict[str, Any] = {
    "penalties": Penalties(r1=1, r2=1, gradient=0.5, lazy_interval=3),
    "policy": Policy(translation=0.25, cutout=0.25, color=0.5),
}


def check_routing() -> None:
    """A phase moves its own network only, to the bit; in its backward pass the other collects no gradients."""
    for loss, options in (("hinge", {}), ("relativistic", FULL), ("non-saturating", {"joint_batch": True})):
        for index, moves, stays in ((0, "D", "G"), (1, "G", "D")):
            objective = game(loss, **options)
            run, given = ready(objective)
            collected: list[str] = []
            for name, part in objective.parts.items():
                for parameter in part.parameters():
                    parameter.register_post_accumulate_grad_hook(lambda _, c=collected, name=name: c.append(name))
            before = {name: [p.clone() for p in part.parameters()] for name, part in objective.parts.items()}
            _phase_step(run, run.phases[index], index, given)
            assert set(collected) == {moves}
            for old, new in zip(before[stays], objective.parts[stays].parameters(), strict=True):
                assert torch.equal(old, new)
                assert new.grad is None
            moved = [
                not torch.equal(a, b) for a, b in zip(before[moves], objective.parts[moves].parameters(), strict=True)
            ]
            assert (
                sum(moved) >= len(moved) - 1
            )  # a bias that is taken off again, by batch norm or a difference, may stay


def test_each_phase_moves_its_own_network_only() -> None:
    check_routing()


class Note(Hook):
    def __init__(self) -> None:
        self.steps: list[Stats] = []

    def on_step(self, run: Run, stats: Stats) -> None:
        self.steps.append(dict(stats))


def test_several_steps_of_d_for_one_of_g() -> None:
    """Each on its own images with its own noise."""
    objective, note = game(d_steps=3), Note()
    train(objective, config(images=28), None, note)
    assert ["G/loss" in stats for stats in note.steps] == [True, False, False, True, False, False, True]
    assert all({"D/loss", "D/adversarial", "D/real", "D/fake", "D/r_t"} <= stats.keys() for stats in note.steps)
    seen = [x for x, _ in objective.parts["D"].seen]
    real, fake = [seen[i] for i in (0, 3, 5)], [seen[i] for i in (1, 4, 6)]
    assert [len(x) for x in seen] == [4] * (2 * 7 + 3)
    for images in (real, fake):
        assert not any(torch.equal(a, b) for i, a in enumerate(images) for b in images[:i])


def test_steps_of_lazy_penalties_are_counted_with_micro_batches() -> None:
    note = Note()
    train(game(penalties=Penalties(r1=1, lazy_interval=2), accumulate=2), config(images=20, accumulate=2), None, note)
    assert ["D/r1" in stats for stats in note.steps] == [True, False, True, False, True]
    for stats in note.steps:
        expected = stats["D/adversarial"] + stats.get("D/r1", 0)  # 2 steps times 1/2
        assert stats["D/loss"] == pytest.approx(expected, rel=1e-5)


def check_resume(out: Path) -> None:
    """Cut in the middle of a lazy penalty's period and of G's: all goes on to the same bits."""

    def make(seed: int = 0) -> Objective:
        return game("relativistic", norm=True, seed=seed, d_steps=2, accumulate=2, **FULL)

    conf = config(ema=0.1, accumulate=2, images=48)
    train(make(), conf, out / "whole", Validate())
    with pytest.raises(Interrupted):
        train(make(), conf, out / "cut", Validate(), At(4, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    train(make(seed=1), conf, out / "cut", Validate(), resume=True)
    whole, cut = (load_tensors(newest(out / name))[0] for name in ("whole", "cut"))
    assert int(whole["part/steps/count"]) == 24
    assert same(whole, cut)


def test_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    check_resume(tmp_path)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains(loss: str) -> None:
    """On one binary image in many copies G comes near it, in fifty steps.

    To 0.08 to 0.26 of the distance before, over twelve seeds of each loss; a loss of the wrong sign drives it away.
    """
    image = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    image[..., :2, :] = 1
    data, target = Batch(image.expand(8, -1, -1, -1), None), image.float() * 2 - 1
    rates = PLAIN.model_copy(update={"betas": (0.0, 0.9), "lr": 0.03})
    objective = game(loss, optimizers=(rates, rates), penalties=Penalties(r1=0.5, r2=0.5, lazy_interval=4))
    conf = config(batch=8, images=8 * 50)

    def endless(step: int) -> Any:
        while True:
            yield data

    def distance() -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            return (objective.parts["G"](torch.randn(64, 3)) - target).abs().mean().item()

    before = distance()
    fit(objective, endless, conf, make_fabric(conf), epoch=8)
    assert distance() < 0.5 * before


def test_deploys_the_generator() -> None:
    objective = game()
    assert objective.ema_part == "G"
    assert [phase.name for phase in objective.phases] == ["D", "G"]
    assert objective.monitor.name == "gap"
    d, g = (ADAM.model_copy(update={"lr": lr}) for lr in (4e-4, 1e-4))
    assert [p.optimizer.lr for p in game(optimizers=(d, g)).phases] == [4e-4, 1e-4]


# Overfitting


def warned(values: list[float], **options: Any) -> list[int]:
    watch = OverfittingWatch(**options)
    return [i for i, r_t in enumerate(values) if watch.update(r_t)]


def test_the_watch_warns_once_when_d_overfits() -> None:
    steps = warned([1.0] * 2000)
    # 1 - (1 - 1/50)^t exceeds 0.9 after 114 steps, then 200 in a row
    assert steps == [math.ceil(math.log(0.1) / math.log(0.98)) - 1 + 199]
    assert warned([0.85] * 3000) == []
    assert warned([1.0] * 250 + [-1.0] * 50 + [0.5] * 2000) == []  # sure for a while at the start
    assert warned([1.0, 0.6] * 2000) == []  # 0.8 on average, however often it is 1
    assert warned([0.95] * 30, smooth=1, patience=10) == [9]
    assert warned(([0.95] * 9 + [0.0]) * 5, smooth=1, patience=10) == []
    watch = OverfittingWatch(smooth=1, patience=1)
    assert "D/r_t 0.97" in str(watch.update(0.97))
    assert watch.update(0.97) is None


# Each guard can fail


def not_cut_off(patch: Patch, out: Path) -> Callable[[], None]:
    patch.setattr(adversarial_module, "torch", SimpleNamespace(**vars(torch) | {"no_grad": contextlib.nullcontext}))
    return check_fakes_are_cut_off


def all_collect(patch: Patch, out: Path) -> Callable[[], None]:
    patch.setattr(Run, "require_grad_only", lambda self, active: None)
    return check_routing


def half_precision(patch: Patch, out: Path) -> Callable[[], None]:
    patch.setattr(losses, "_full_precision", lambda device: contextlib.nullcontext())
    return lambda: check_penalties_of_a_linear_discriminator(autocast=True)


def lazy_without_weight(patch: Patch, out: Path) -> Callable[[], None]:
    right = adversarial_module.AdversarialObjective._penalty

    def wrong(self: Any, *args: Any) -> Any:
        added, values = right(self, *args)
        return added / self.penalties.lazy_interval, values

    patch.setattr(adversarial_module.AdversarialObjective, "_penalty", wrong)
    return check_lazy_penalty


def real_only(patch: Patch, out: Path) -> Callable[[], None]:
    """Generated images, which the toy G of the check gives as a view of its parameter, are left as they are."""
    right = adversarial_module.augment
    patch.setattr(adversarial_module, "augment", lambda x, *args: x if x.stride(0) == 0 else right(x, *args))
    return check_augmentation_is_the_same


def counter_forgotten(patch: Patch, out: Path) -> Callable[[], None]:
    def init(self: Any) -> None:
        nn.Module.__init__(self)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64), persistent=False)

    def check() -> None:
        with contextlib.suppress(KeyError):  # which would be the first to tell
            check_resume(out)
            return
        whole, cut = (load_tensors(newest(out / name))[0] for name in ("whole", "cut"))
        assert same(whole, cut)

    patch.setattr(adversarial_module.StepCounter, "__init__", init)
    return check


BREAKS = [not_cut_off, all_collect, half_precision, lazy_without_weight, real_only, counter_forgotten]


@pytest.mark.parametrize("broken", BREAKS, ids=lambda b: b.__name__)
def test_each_guard_can_fail(broken: Callable[[Patch, Path], Callable[[], None]], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        check = broken(patch, tmp_path)
        with pytest.raises(AssertionError):
            check()
