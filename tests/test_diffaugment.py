"""Differentiable augmentation: against plain renderings, its gradients, its defaults."""

from __future__ import annotations

import itertools

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pixelloom.core.types import ImageSpec
from pixelloom.objectives import diffaugment as module
from pixelloom.objectives.diffaugment import (
    CUTOUT_FROM,
    ENOUGH,
    NOISE,
    Policy,
    augment,
    brighten,
    contrast,
    cut_out,
    draw_noise,
    policy_for,
    saturate,
    translate,
)

PAPER = Policy(translation=0.125, cutout=0.5, color=1)
SHAPES = [(5, 1, 8, 8), (4, 3, 8, 12), (3, 2, 5, 7)]


def images_of(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) - 1


def noise_of(n: int, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return draw_noise(n)


# Plain renderings: one image, one pixel at a time


def plain_translation(x: Tensor, dy: int, dx: int) -> Tensor:
    h, w = x.shape[1:]
    out = torch.zeros_like(x)
    for y, z in itertools.product(range(h), range(w)):
        if 0 <= y + dy < h and 0 <= z + dx < w:
            out[:, y + dy, z + dx] = x[:, y, z]
    return out


def plain_cutout(x: Tensor, center: tuple[int, int], size: tuple[int, int]) -> Tensor:
    out = x.clone()
    for y, z in itertools.product(range(x.shape[1]), range(x.shape[2])):
        if all(0 <= p - (c - s // 2) < s for p, c, s in zip((y, z), center, size, strict=True)):
            out[:, y, z] = 0
    return out


def whole(u: float, n: int) -> int:
    return min(int((u + 1) / 2 * n), n - 1)


def check_translation() -> None:
    for shape, share in itertools.product(SHAPES, (0.125, 0.25, 0.5)):
        x, noise = images_of(*shape), noise_of(shape[0])[:, 3:5]
        moved = translate(x, noise, share)
        for i, (u, v) in enumerate(noise.tolist()):
            ry, rx = (int(side * share + 0.5) for side in shape[2:])
            assert torch.equal(moved[i], plain_translation(x[i], whole(u, 2 * ry + 1) - ry, whole(v, 2 * rx + 1) - rx))


def test_translation_is_the_plain_one() -> None:
    check_translation()


def test_every_shift_is_equally_likely() -> None:
    """A lit pixel in the middle lands on each of 3 x 5 places as often, and nowhere else."""
    x = torch.zeros(15_000, 1, 7, 9)
    x[:, :, 3, 4] = 1
    torch.manual_seed(0)
    where = translate(x, draw_noise(len(x))[:, 3:5], 0.2).sum(0)[0]
    expected = torch.zeros(7, 9)
    expected[2:5, 2:7] = 1000
    chi2 = ((where - expected).square() / 1000).sum()
    assert torch.equal(where > 0, expected > 0)
    assert chi2 < 36.1  # 14 degrees of freedom, p = 0.001


def test_cutout_is_the_plain_one() -> None:
    for shape, share in itertools.product(SHAPES, (0.25, 0.5, 0.6)):
        x, noise = images_of(*shape), noise_of(shape[0])[:, 5:7]
        cut = cut_out(x, noise, share)
        size = [int(side * share + 0.5) for side in shape[2:]]
        for i, at in enumerate(noise.tolist()):
            center = [whole(u, side + 1 - s % 2) for u, side, s in zip(at, shape[2:], size, strict=True)]
            assert torch.equal(cut[i], plain_cutout(x[i], center, size))


def test_cutout_takes_every_place_and_both_ends_alike() -> None:
    torch.manual_seed(0)
    share_cut = 1 - cut_out(torch.ones(20_000, 1, 8, 8), draw_noise(20_000)[:, 5:7], 0.5).mean(0)[0]
    rows = torch.tensor([sum(c - 2 <= i < c + 2 for c in range(9)) for i in range(8)]) / 9  # of 9 centers
    torch.testing.assert_close(share_cut, rows[:, None] * rows, atol=0.015, rtol=0)


def test_colors_are_the_formulas() -> None:
    x, u = images_of(3, 3, 2, 2), torch.tensor([-0.5, 0.0, 0.75])
    for i, amount in enumerate(u.tolist()):
        values = x[i].tolist()
        mean = x[i].double().mean().item()
        for c, y, z in itertools.product(range(3), range(2), range(2)):
            value = values[c][y][z]
            gray = sum(values[k][y][z] for k in range(3)) / 3
            assert brighten(x, u)[i, c, y, z].item() == pytest.approx(value + amount / 2, abs=1e-6)
            assert saturate(x, u)[i, c, y, z].item() == pytest.approx(gray + (1 + amount) * (value - gray), abs=1e-6)
            assert contrast(x, u)[i, c, y, z].item() == pytest.approx(
                mean + (1 + amount / 2) * (value - mean), abs=1e-6
            )


def test_augment_is_its_steps_in_the_papers_order() -> None:
    x, noise = images_of(6, 3, 8, 8), noise_of(6)
    y = contrast(saturate(brighten(x, noise[:, 0]), noise[:, 1]), noise[:, 2])
    y = cut_out(translate(y, noise[:, 3:5], 0.125), noise[:, 5:7], 0.5)
    assert torch.equal(augment(x, PAPER, noise), y)
    half = augment(x, Policy(color=0.5), noise)
    torch.testing.assert_close(half, augment(x, Policy(color=1), noise / 2))


# What holds for all


@pytest.mark.parametrize("shape", SHAPES)
def test_zero_noise_changes_nothing(shape: tuple[int, ...]) -> None:
    x = images_of(*shape)
    torch.testing.assert_close(augment(x, Policy(translation=0.3, color=1), torch.zeros(len(x), NOISE)), x)
    assert augment(x, Policy(), noise_of(len(x))) is x
    assert not torch.equal(augment(x, Policy(translation=0.3), noise_of(len(x))), x)


def test_same_noise_same_image_whatever_else_is_in_the_batch() -> None:
    x, noise = images_of(6, 3, 8, 8), noise_of(6)
    whole_batch = augment(x, PAPER, noise)
    assert torch.equal(augment(x, PAPER, noise), whole_batch)
    for i in range(6):
        torch.testing.assert_close(augment(x[i : i + 1], PAPER, noise[i : i + 1])[0], whole_batch[i])
    assert not torch.equal(augment(x, PAPER, noise_of(6, seed=1)), whole_batch)


@pytest.mark.parametrize("policy", [PAPER, Policy(translation=0.5)])
def test_gradient_reaches_the_image_twice_over(policy: Policy) -> None:
    x, noise = images_of(2, 3, 3, 3, dtype=torch.float64).requires_grad_(), noise_of(2)
    assert torch.autograd.gradcheck(lambda y: augment(y, policy, noise), x)
    assert torch.autograd.gradgradcheck(lambda y: augment(y, policy, noise).pow(3), x)
    (slope,) = torch.autograd.grad(augment(x, policy, noise).sum(), x)
    assert (slope != 0).flatten(1).any(1).all()


def test_images_come_out_in_the_layout_that_they_come_in() -> None:
    for shape in SHAPES[:2]:
        x = images_of(*shape).to(memory_format=torch.channels_last)
        for policy in (PAPER, Policy(translation=0.2), Policy(cutout=0.5)):
            assert augment(x, policy, noise_of(len(x))).stride() == x.stride()


def test_noise_is_uniform_from_torchs_own_generator() -> None:
    noise = noise_of(20_000)
    assert noise.shape == (20_000, 7)
    assert noise.min() >= -1
    assert noise.max() < 1
    torch.testing.assert_close(noise.mean(0), torch.zeros(7), atol=0.02, rtol=0)
    torch.testing.assert_close(noise.square().mean(0), torch.full((7,), 1 / 3), atol=0.01, rtol=0)
    assert torch.equal(noise, noise_of(20_000))
    assert not torch.equal(noise, noise_of(20_000, seed=1))


def test_noise_of_another_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise for 3 images is \[3, 7\], not \[1, 7\]"):
        augment(images_of(3, 1, 4, 4), PAPER, noise_of(1))


# Defaults


GRAY, COLOR = ImageSpec(1, 28, 28, 256), ImageSpec(3, 32, 32, 256)


@pytest.mark.parametrize(
    ("spec", "images", "expected"),
    [
        (GRAY, 400, Policy(translation=0.125)),
        (GRAY, CUTOUT_FROM - 1, Policy(translation=0.125)),
        (GRAY, CUTOUT_FROM, Policy(translation=0.125, cutout=0.5)),
        (GRAY, ENOUGH - 1, Policy(translation=0.125, cutout=0.5)),
        (GRAY, ENOUGH, Policy()),
        (COLOR, 400, Policy(translation=0.125, color=1)),
        (COLOR, 5_000, PAPER),
        (COLOR, 50_000, Policy()),
        (ImageSpec(2, 8, 8, 4), 5_000, Policy(translation=0.125, cutout=0.5)),  # gray and alpha have no colors
    ],
)
def test_policies_by_data(spec: ImageSpec, images: int, expected: Policy) -> None:
    assert policy_for(spec, images) == expected
    assert expected.on == (images < 20_000)


def test_gray_images_keep_their_levels_by_default() -> None:
    """Every value is one of the image's own, or the 0 of what has left it; saturation leaves gray alone anyway."""
    x = images_of(16, 1, 8, 8)
    for images in (400, 5_000):
        seen = augment(x, policy_for(GRAY, images), noise_of(16))
        for before, after in zip(x, seen, strict=True):
            assert set(after.flatten().tolist()) <= {0.0, *before.flatten().tolist()}
    torch.testing.assert_close(saturate(x, noise_of(16)[:, 1]), x)


def test_nothing_is_ever_flipped() -> None:
    """A ramp that rises to the right still does, wherever it is not 0, under every policy."""
    ramp = torch.linspace(0.1, 1, 8).expand(16, 3, 8, 8)
    for policy in (PAPER, policy_for(GRAY, 400), policy_for(COLOR, 400), policy_for(COLOR, 5_000)):
        geometry = policy.model_copy(update={"color": 0.0})
        seen = augment(ramp, geometry, noise_of(16))
        for row in seen.flatten(0, 2):
            shown = row[row != 0]
            assert (shown.diff() > 0).all()


@pytest.mark.parametrize("given", [{"translation": 0.6}, {"cutout": 1.0}, {"color": -1}, {"flip": True}])
def test_policies_that_make_no_sense_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate(given)


def test_guard_of_translation_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """What leaves on one side must not come back on the other."""
    right = module._shifted

    def rolled(*args: object) -> tuple[Tensor, Tensor]:
        source, inside = right(*args)
        return source, torch.ones_like(inside)

    check_translation()
    monkeypatch.setattr(module, "_shifted", rolled)
    with pytest.raises(AssertionError):
        check_translation()
