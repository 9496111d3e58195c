"""Our recipes are the tutorials' networks: with the same weights they give the same outputs, and the same losses.

The tutorials' networks are the plain ones of benchmarks/training_tutorials.py, at full width and depth.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixelloom.data.pixels import Scaling
from pixelloom.layers.masked_conv import causal_mask
from pixelloom.layers.self_attention import attention_layers, attention_maps
from pixelloom.layers.spectral_norm import spectral_layers
from pixelloom.objectives.gan_losses import LOSSES
from pixelloom.runs.compose import compose
from pixelloom.runs.recipes import GAN_RECIPES, RECIPES
from tutorials import (
    IMAGES,
    attentions,
    described,
    latent_pairs,
    pixel_pair,
    pixel_run,
    plain,
    relative,
    tutorial_maps,
)

EQUAL = 1e-14
"""Of float64 outputs, relative to the largest: rounding of sums that are taken in another order."""

EQUAL_MAPS = 5e-14
"""The same of attention maps, which are exponentials of scores: the absolute error of a score is their relative one."""

GAN_NETWORKS = ("dcgan", "sagan")


@pytest.mark.parametrize("name", IMAGES)
def test_a_pixel_network_is_its_tutorials(name: str) -> None:
    pair = pixel_pair(name)
    theirs, _ = pair.outputs()
    assert theirs.std() > 0.1
    assert pair.deviation() < EQUAL


@pytest.mark.parametrize("part", [0, 1], ids=["G", "D"])
@pytest.mark.parametrize("name", GAN_NETWORKS)
def test_a_latent_network_is_its_tutorials(name: str, part: int) -> None:
    pair = latent_pairs(name)[part]
    theirs, _ = pair.outputs()
    assert theirs.abs().max() > 0.1
    assert (theirs[0] - theirs[1]).abs().max() > 0.01
    assert pair.deviation() < EQUAL
    assert len(list(spectral_layers(pair.ours))) == (4 if name == "sagan" else 0)


@pytest.mark.parametrize(("part", "sides"), [(0, [16, 32]), (1, [8, 4])], ids=["G", "D"])
def test_attention_looks_where_the_tutorials_does(part: int, sides: list[int]) -> None:
    pair = latent_pairs("sagan")[part]
    with attention_maps(pair.ours) as found:
        pair.outputs()
    expected = tutorial_maps(pair.theirs, pair.x)
    assert [weights.shape[1:] for _, weights in found] == [(side,) * 4 for side in sides]
    for (_, weights), theirs in zip(found, expected, strict=True):
        most = theirs.max(dim=2).values.mean() * theirs.shape[2]
        assert most > 1.5, "uniform maps would be the same from any weights"
        assert relative(weights.flatten(3).flatten(1, 2), theirs) < EQUAL_MAPS


# What would not be equal

PIXEL_CHANGES = {
    "another activation": ("mnist-gray", {"model.activation": "silu"}),
    "ReLUs before the convolutions of a bottleneck": ("mnist-binary", {"model.block": "preactivation"}),
    "ReLUs before the convolutions of a block": ("mnist-binary-7x7", {"model.block": "preactivation"}),
    "no order of channels": ("colored-mnist", {"head.channels": "independent"}),
    "an order of channels": ("rgb", {"head.channels": "ordered"}),
}


@pytest.mark.parametrize("change", PIXEL_CHANGES)
def test_another_pixel_network_of_the_same_weights_is_not_equal(change: str) -> None:
    name, overrides = PIXEL_CHANGES[change]
    assert pixel_pair(name, compose(pixel_run(name), overrides=overrides)).deviation() > 1e-3


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("mnist-gray", "model.blocks", 8),
        ("mnist-binary", "model.blocks", 4),
        ("mnist-binary-7x7", "model.blocks", 5),
        ("colored-mnist", "model.blocks", 8),
        ("rgb", "model.blocks", 6),
        ("mnist-binary-7x7", "model.head_kernels", ()),
    ],
)
def test_a_network_of_another_depth_has_no_layers_for_the_same_weights(name: str, field: str, value: object) -> None:
    with pytest.raises(ValueError, match="zip"):
        pixel_pair(name, compose(pixel_run(name), overrides={field: value}))


@pytest.mark.parametrize("hidden", [32, None])
def test_a_bottleneck_does_not_take_the_weights_of_the_third_tutorial(hidden: int | None) -> None:
    with pytest.raises(ValueError, match=r"layer 1: \[64, 64, 1, 1\] is not \[32, 64, 1, 1\]"):
        pixel_pair("mnist-binary-7x7", compose(pixel_run("mnist-binary-7x7"), overrides={"model.hidden": hidden}))


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("row", [0, 1], ids=["left", "center"])
def test_a_mask_with_one_tap_more_or_less_is_not_equal(name: str, row: int) -> None:
    """In the first layer, of which the network makes the most: the pixel itself read, or its left neighbor not."""
    pair = pixel_pair(name)
    mask = pair.ours.first.mask
    mask[:, :, 3, 2 + row] = 1 - mask[:, :, 3, 2 + row]
    assert pair.deviation() > 1e-3


def _no_attention(network: nn.Module) -> None:
    for _, block in attention_layers(network):
        block.gamma.zero_()


def _flat_attention(network: nn.Module) -> None:
    for _, block in attention_layers(network):
        block.query.weight.zero_()
        block.query.bias.zero_()


def _another_sigma(network: nn.Module) -> None:
    _, _, norm, _ = next(spectral_layers(network))
    norm.u.mul_(1.01)


def _another_mean(network: nn.Module) -> None:
    next(layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)).running_mean.add_(0.1)


@pytest.mark.parametrize(
    ("name", "part", "change"),
    [
        ("sagan", 0, _no_attention),
        ("sagan", 1, _no_attention),
        ("sagan", 0, _flat_attention),
        ("sagan", 1, _flat_attention),
        ("sagan", 0, _another_sigma),
        ("sagan", 1, _another_sigma),
        ("sagan", 0, _another_mean),
        ("dcgan", 0, _another_mean),
    ],
)
@torch.no_grad()
def test_another_latent_network_of_the_same_weights_is_not_equal(
    name: str, part: int, change: Callable[[nn.Module], None]
) -> None:
    pair = latent_pairs(name)[part]
    change(pair.ours)
    assert pair.deviation() > 1e-6


def test_a_leak_of_another_slope_is_not_equal() -> None:
    _, pair = latent_pairs("dcgan")
    for layer in pair.theirs.modules():
        if isinstance(layer, nn.LeakyReLU):
            layer.negative_slope = 0.2
    assert pair.deviation() > 1e-3


# Masks and probabilities of color


@pytest.mark.parametrize(
    ("mask", "inputs", "outputs", "kernel"), [("A", 3, 120, 7), ("B", 120, 120, 7), ("B", 120, 12, 1)]
)
def test_masks_of_ordered_channels_are_the_third_tutorials(mask: str, inputs: int, outputs: int, kernel: int) -> None:
    seen = plain.TutorialColorConv(mask, inputs, outputs, kernel).seen
    ours = causal_mask(kernel, mask, outputs, inputs, groups=3)
    assert torch.equal(seen[:, :, : kernel // 2 + 1] > 0, ours)
    assert not seen[:, :, kernel // 2 + 1 :].any()


@pytest.mark.parametrize("name", IMAGES)
def test_the_head_reads_the_probabilities_of_the_tutorial(name: str) -> None:
    """The output holds all levels of red, then those of green, then those of blue."""
    pair, spec = pixel_pair(name), IMAGES[name]
    theirs, ours = pair.outputs()
    log_p = pair.head.table(ours).log()
    if name == "mnist-binary":
        expected = F.logsigmoid(torch.stack([-theirs, theirs], dim=2))
    else:
        expected = F.log_softmax(theirs.view(len(theirs), spec.channels, spec.levels, *spec.shape[1:]), dim=2)
    assert expected.std() > 0.3
    assert (log_p - expected).abs().max() < 1e-12
    nats = pair.head.nats(ours, pair.levels)
    at = expected.gather(2, pair.levels[:, :, None].long()).squeeze(2)
    torch.testing.assert_close(nats.double(), -at, rtol=1e-5, atol=1e-5)


# Losses


@pytest.mark.parametrize("name", IMAGES)
def test_the_loss_of_a_pixel_network_is_its_tutorials(name: str) -> None:
    """The third tutorial sums over the batch what the others and ours average."""
    pair, spec = pixel_pair(name), IMAGES[name]
    theirs, ours = pair.outputs()
    mean = pair.head.nats(ours, pair.levels).mean().item()
    if name in ("mnist-binary-7x7", "colored-mnist"):
        total = plain.third_loss(theirs, pair.levels, spec.levels).item()
        assert mean * pair.levels.numel() == pytest.approx(total, rel=1e-5)
    else:
        assert mean == pytest.approx(plain.pixel_loss(theirs, pair.levels, spec.levels).item(), rel=1e-5)


@pytest.mark.parametrize("name", IMAGES)
def test_a_pixel_network_is_handed_what_its_tutorial_hands_it(name: str) -> None:
    """Levels divided by the highest, or with the mean and deviation of each channel of the training images taken out.

    Ours has one mean and deviation for all channels: the same where, as here, every channel has the same levels.
    """
    spec, run = IMAGES[name], pixel_run(name)
    one = torch.randint(0, spec.levels, (40, 1, *spec.shape[1:]), generator=torch.Generator().manual_seed(1)).byte()
    levels = torch.cat([one, one.flip(2), one.flip(3)][: spec.channels], dim=1)
    if run.inputs == "unit":
        x, scaling = levels.double() / (spec.levels - 1), Scaling.unit()
    else:
        assert run.inputs == "standard"
        mean, deviation = (f(levels.double(), dim=(0, 2, 3), keepdim=True) for f in (torch.mean, _deviation))
        x, scaling = (levels - mean) / deviation, Scaling.standard(levels.numpy(), spec.levels)
    model, pair = described(run, spec, scaling), pixel_pair(name)
    model.network.load_state_dict(pair.ours.state_dict())
    with torch.no_grad():
        assert relative(model.predict(levels[:2]).double(), pair.theirs(x[:2])) < 1e-4


def _deviation(x: Tensor, **where: object) -> Tensor:
    return torch.std(x, correction=0, **where)


def test_clipping_a_long_gradient_of_the_mean_at_a_hundredth_is_clipping_that_of_the_sum_at_one() -> None:
    """Up to a constant factor, which Adam takes out: so the third tutorial's steps need no sum over the batch."""
    name = "mnist-binary-7x7"
    pair, clip = pixel_pair(name), RECIPES[name].optim.clip
    assert clip == 1e-2
    gradients = []
    for largest, total in ((1.0, True), (clip, False)):
        network = pair.theirs.requires_grad_()
        network.zero_grad()
        loss = plain.third_loss(network(pair.x), pair.levels, 2)
        (loss if total else loss / pair.levels.numel()).backward()
        before = nn.utils.clip_grad_norm_(network.parameters(), largest)
        assert before > largest
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in network.parameters()]))
    of_sum, of_mean = gradients
    assert of_sum.norm().item() == pytest.approx(1, rel=1e-5)
    assert relative(of_mean / clip, of_sum) < 1e-3  # clipping adds 1e-6 to a norm before it divides by it


@pytest.mark.parametrize("name", GAN_NETWORKS)
def test_the_losses_of_a_latent_network_are_its_tutorials(name: str) -> None:
    real, fake = torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss, hinge = LOSSES[GAN_RECIPES[f"{name}-tutorial"].loss], name == "sagan"
    ours = loss.discriminator(real, fake), loss.generator(fake, None)
    theirs = plain.d_loss(real, fake, hinge=hinge), plain.g_loss(fake, hinge=hinge)
    assert [value.item() for value in ours] == pytest.approx([value.item() for value in theirs], rel=1e-14)
    assert plain.d_loss(real, fake, hinge=not hinge).item() != pytest.approx(theirs[0].item(), rel=0.01)


def test_the_weights_are_not_trivial() -> None:
    """Statistics of batch normalization, gamma, u and v are none that a fresh network has."""
    generator, discriminator = latent_pairs("sagan")
    for pair in (generator, discriminator):
        for block in attentions(pair.theirs):
            assert block.gamma > 0.4
        for name, buffer in pair.theirs.named_buffers():
            if name.endswith("running_mean"):
                assert buffer.std() > 0.1
        for _, layer, norm, weight in spectral_layers(pair.ours):
            matrix = norm._matrix(weight)
            sigma, exact = norm.u @ matrix @ norm.v, torch.linalg.matrix_norm(matrix, 2)
            assert 0.5 * exact < sigma < 0.999 * exact, "u and v have settled, and any would be the same"
            assert not torch.allclose(layer.weight, weight, rtol=0.01)
