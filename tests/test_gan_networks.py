"""Generators and discriminators: sizes and ranges, the papers' counts and equations, gradients, classes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from gan_toys import PAIRS, awake, double, pair, spec
from pixelloom.core.errors import UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.layers.class_conditioning import ClassBatchNorm2d, Projection
from pixelloom.layers.self_attention import SelfAttention
from pixelloom.networks import GAN_NETWORKS, build_pair
from pixelloom.networks.gan import r3gan
from pixelloom.networks.gan.dcgan import DCGANConfig
from pixelloom.networks.gan.r3gan import R3GANConfig
from pixelloom.networks.gan.sagan import SAGANConfig
from pixelloom.networks.gan.sngan import EPS, DownBlock, SNGANConfig, UpBlock, class_deviation

each_kind = pytest.mark.parametrize("kind", PAIRS)
SIZES = (16, 32, 64, 128)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def given(network: nn.Module, n: int = 4, size: int = 16, channels: int = 1) -> Tensor:
    """Noise for a generator, images for a discriminator."""
    return torch.randn(n, network.latent) if hasattr(network, "latent") else torch.randn(n, channels, size, size)


def test_every_network_of_the_table_is_tested() -> None:
    assert {name for name, _ in PAIRS.values()} == GAN_NETWORKS.keys()
    for name, (config, _, _) in GAN_NETWORKS.items():
        for field, about in config.model_fields.items():
            assert about.description, (name, field)


@each_kind
@pytest.mark.parametrize("size", SIZES)
def test_sizes_and_ranges(kind: str, size: int) -> None:
    for channels in (1, 3):
        generator, discriminator = (network.eval() for network in pair(kind, size, channels))
        with torch.no_grad():
            generator.last.weight.mul_(1e9)
            x = generator(torch.randn(2, generator.latent))
            assert x.shape == (2, channels, size, size)
            assert torch.isfinite(x).all()
            # All but R3GAN end in a tanh; its images are what comes out, as wide as the weights make them.
            assert (x.abs().max() > 1e6) if kind == "r3gan" else (0.5 < x.abs().max() <= 1)
            logits = discriminator(x)
        assert logits.shape == (2,)
        assert logits[0] != logits[1]


@pytest.mark.parametrize("name", GAN_NETWORKS)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (24, 24), (28, 28), (256, 256), (32, 64)])
def test_other_sizes_are_refused(name: str, height: int, width: int) -> None:
    config, generator, discriminator = GAN_NETWORKS[name]
    image = ImageSpec(3, height, width, 256)
    for network in (generator, discriminator):
        with pytest.raises(ValueError, match=rf"side of 16, 32, 64, 128, not images of 3x{height}x{width}"):
            network(config(), image)
    near = {8: 16, 24: 16, 28: 32, 256: 128, 32: 64}[height]  # to the larger side, of two as near the smaller
    with pytest.raises(UsageError, match=rf"model: this network takes squares .*; resize them with --size {near}$"):
        build_pair(name, config(), image)


def test_names_and_settings_are_checked() -> None:
    with pytest.raises(UsageError, match="Did you mean 'sagan'"):
        build_pair("sagann", SAGANConfig(), spec())
    with pytest.raises(UsageError, match="'dcgan' takes a DCGANConfig, not a SAGANConfig"):
        build_pair("dcgan", SAGANConfig(), spec())
    with pytest.raises(ValidationError, match="Extra inputs"):
        DCGANConfig.model_validate({"width": 3})
    with pytest.raises(ValidationError, match="width x expansion = 20 features do not divide into groups of 16"):
        R3GANConfig(width=10)


@each_kind
def test_labels_are_wanted_if_and_only_if_there_are_classes(kind: str) -> None:
    labels = torch.zeros(4, dtype=torch.int64)
    for network in pair(kind):
        with pytest.raises(UsageError, match="labels: this network was built without labels"):
            network(given(network), labels)
    for network in pair(kind, classes=3):
        with pytest.raises(UsageError, match="labels: this network was built with labels"):
            network(given(network))


@each_kind
def test_runs_without_a_gpu(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("CUDA was asked for"))
    for network in pair(kind, classes=2):
        out = network(given(network), torch.tensor([0, 1, 0, 1]))
        out.sum().backward()
        assert {tensor.device.type for tensor in (out, *network.state_dict().values())} == {"cpu"}


# Counts, in closed form


def attention_count(f: int, style: str) -> int:
    """Query with a bias and key, value with a bias, gamma; or four without biases, values of half the width, gamma."""
    q = f // 8
    return (f * q + q) + f * q + (f * f + f) + 1 if style == "tutorial" else 2 * f * q + 2 * f * (f // 2) + 1


def test_counts_of_the_tutorials_networks() -> None:
    widths = [512, 256, 128, 64]
    made = 16 * sum(a * b for a, b in itertools.pairwise([20, *widths])) + 2 * sum(widths) + 16 * 64 + 1
    judged = sum(16 * a * b + b for a, b in itertools.pairwise([1, *widths[::-1]])) + 16 * 512 + 1
    generator, discriminator = build_pair("dcgan", DCGANConfig(), spec(64))
    # With a bias in front of each norm too, as the tutorial has it and which no norm lets through, 2 920 257.
    assert count(generator) == made == 2_919_297 == 2_920_257 - sum(widths)
    assert count(discriminator) == judged == 2_762_689

    for style in ("tutorial", "paper"):
        generator, discriminator = build_pair("sagan", SAGANConfig(attention=style), spec(64))
        assert count(generator) == made + attention_count(128, style) + attention_count(64, style)
        assert count(discriminator) == judged + attention_count(256, style) + attention_count(512, style)


def test_counts_of_the_papers_networks() -> None:
    generator, discriminator = build_pair("sngan", SNGANConfig(), spec(32, 3))
    f = 256
    block = 2 * 9 * f * f + f * f + 2 * 2 * f  # two 3x3, a 1x1 and two norms
    assert count(generator) == (128 + 1) * 16 * f + 3 * block + 2 * f + (9 * f + 1) * 3
    f = 128
    first = (9 * 3 + 1) * f + (9 * f + 1) * f + (3 + 1) * f
    plain = 2 * (9 * f + 1) * f
    assert count(discriminator) == first + 3 * plain + (f + 1) * f + f + 1

    config = R3GANConfig(blocks=2)
    widths, z = [256, 128, 64, 32], 64
    inside = sum(2 * (f * 2 * f + 2 * f + 9 * 16 * 2 * f + 2 * f + 2 * f * f) for f in widths)
    between = sum(a * b for a, b in itertools.pairwise(widths))
    generator, discriminator = build_pair("r3gan", config, spec(32, 3))
    assert count(generator) == z * 256 + 16 * 256 + inside + between + 32 * 3
    assert count(discriminator) == 3 * 32 + inside + between + 16 * 256 + 256  # its mirror image


def test_widths_follow_the_size() -> None:
    def widths(size: int) -> tuple[list[int], list[int]]:
        made, judged = build_pair(
            "dcgan", DCGANConfig(generator_width=6, discriminator_width=4, most_features=48), spec(size)
        )
        return [s.conv.out_channels for s in made.stages], [s.out_channels for s in judged.stages]

    assert widths(16) == ([12, 6], [4, 8])
    assert widths(64) == ([48, 24, 12, 6], [4, 8, 16, 32])
    assert widths(128) == ([48, 48, 24, 12, 6], [4, 8, 16, 32, 48])


def test_places_of_attention() -> None:
    def places(network: nn.Module) -> list[int]:
        return [i for i, layer in enumerate(network.after) if isinstance(layer, SelfAttention)]

    assert [places(network) for network in pair("sagan", 64)] == [[2, 3], [2, 3]]  # third and fourth
    assert [places(network) for network in pair("sagan", 16)] == [[0, 1], [0, 1]]
    assert [places(network) for network in pair("sagan", 128)] == [[2, 3], [3, 4]]  # none at 64x64 in the generator


# First weights


@pytest.mark.parametrize("name", ["dcgan", "sagan"])
def test_first_weights_of_dcgan(name: str) -> None:
    """N(0, 0.02) and N(1, 0.02), within 4 standard errors; biases zero; attention and vectors of classes apart."""
    for network in build_pair(name, GAN_NETWORKS[name][0](), spec(32), classes=10):
        for where, parameter in network.named_parameters():
            error = 4 * 0.02 / math.sqrt(parameter.numel())
            if where.endswith("bias") or "biases" in where:
                assert not parameter.any(), where
            elif "gain" in where:
                assert abs(parameter.mean().item() - 1) < error, where
                assert abs(parameter.std().item() - 0.02) < error, where
            elif where.startswith("embedding"):
                assert parameter.shape == (10, 20)
                assert abs(parameter.std().item() - 1) < 4 / math.sqrt(2 * 200)
            elif not where.startswith("after"):
                assert abs(parameter.mean().item()) < error, where
                assert abs(parameter.std().item() - 0.02) < error, where
            elif parameter.ndim == 4:
                assert parameter.std().item() > 0.05, where
    norms = [
        m.weight
        for m in build_pair(name, GAN_NETWORKS[name][0](), spec(32))[0].modules()
        if isinstance(m, nn.BatchNorm2d)
    ]
    assert len(norms) == 3
    for weight in norms:
        assert abs(weight.std().item() - 0.02) < 4 * 0.02 / math.sqrt(2 * len(weight))


def test_first_weights_of_r3gan_keep_the_identity() -> None:
    config = R3GANConfig(blocks=3)
    for network in build_pair("r3gan", config, spec(32)):
        blocks = [module for module in network.modules() if isinstance(module, r3gan.Block)]
        assert len(blocks) == 4 * 3
        gain = math.sqrt(2 / 1.04) * 12**-0.25
        for block in blocks:
            assert not block.narrow.weight.any()
            for layer in (block.widen, block.mix):
                inputs = layer.weight[0].numel()
                assert abs(layer.weight.std().item() * math.sqrt(inputs) / gain - 1) < 0.1
                assert not layer.bias.any()
            x = torch.randn(2, block.widen.in_channels, 3, 3)
            assert torch.equal(block(x), x)
        assert not any(isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm) for module in network.modules())


# The papers' equations, written plainly


def test_dcgan_is_its_stages_one_after_the_other() -> None:
    generator, discriminator = (awake(network).eval() for network in pair("dcgan", 32, 3, classes=4))
    labels = torch.tensor([3, 0, 3])
    z = torch.randn(3, 5)
    h = torch.cat([z, generator.embedding.weight[labels]], dim=1).reshape(3, 10, 1, 1)
    for i, stage in enumerate(generator.stages):
        h = F.conv_transpose2d(h, stage.conv.weight, None, 2 if i else 1, 1 if i else 0)
        mean, variance = stage.norm.running_mean.reshape(1, -1, 1, 1), stage.norm.running_var.reshape(1, -1, 1, 1)
        gain, bias = (table.weight[labels].reshape(3, -1, 1, 1) for table in (stage.norm.gains, stage.norm.biases))
        h = (gain * (h - mean) / (variance + 1e-5).sqrt() + bias).clamp(min=0)
    x = F.conv_transpose2d(h, generator.last.weight, generator.last.bias, 2, 1).tanh()
    torch.testing.assert_close(generator(z, labels), x)

    h = x
    for stage in discriminator.stages:
        h = F.conv2d(h, stage.weight, stage.bias, 2, 1)
        h = torch.where(h > 0, h, 0.1 * h)
    logits = (discriminator.last.weight * h).sum(dim=(1, 2, 3)) + discriminator.last.bias
    logits += torch.stack([discriminator.projection.weight[label] @ h[b].sum((1, 2)) for b, label in enumerate(labels)])
    torch.testing.assert_close(discriminator(x, labels), logits)


def test_sagan_is_dcgan_with_norms_and_attention() -> None:
    """The same forward pass, layer by layer: with gamma = 0 and its normed weights, DCGAN is SAGAN."""
    for plain, network in zip(pair("dcgan"), pair("sagan"), strict=True):
        normed = {
            name.replace(".parametrizations", "").replace(".weight.original", ".weight"): parameter
            for name, parameter in network.state_dict().items()
            if "after" not in name and not name.endswith((".u", ".v"))
        }
        plain.load_state_dict(normed)
        for stages in zip(plain.stages, network.eval().stages, strict=True):
            mine, theirs = (getattr(stage, "conv", stage) for stage in stages)
            mine.weight.data = theirs.weight.detach()
        x = given(network)
        torch.testing.assert_close(plain.eval()(x), network(x))


def test_class_batch_norm_is_its_equation() -> None:
    with double():
        norm, x, labels = ClassBatchNorm2d(3, 4), 2 + 3 * torch.randn(5, 3, 2, 2), torch.tensor([0, 3, 3, 1, 2])
        awake(norm)
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    expected = torch.empty_like(x)
    for b, c in itertools.product(range(5), range(3)):
        gain, bias = norm.gains.weight[labels[b], c], norm.biases.weight[labels[b], c]
        expected[b, c] = gain * (x[b, c] - mean[c]) / (variance[c] + 1e-5).sqrt() + bias
    torch.testing.assert_close(norm(x, labels), expected)
    torch.testing.assert_close(norm.running_mean, 0.1 * mean)
    plain = ClassBatchNorm2d(3, deviation=0.02)
    assert isinstance(plain, nn.BatchNorm2d)
    assert [name for name, _ in plain.named_parameters()] == ["weight", "bias"]


@pytest.mark.parametrize("kind", GAN_NETWORKS)
def test_classes_differ_from_the_first_step_as_much_as_noise(kind: str) -> None:
    """Before any training, by the default settings: the same noise of two classes, two noises of the same class."""
    generator, _ = build_pair(kind, GAN_NETWORKS[kind][0](), spec(32), classes=2)
    with torch.no_grad():
        z, classes = torch.randn(2, 16, generator.latent), torch.arange(2).repeat_interleave(16)
        images = generator(z[0].repeat(2, 1), classes)
        others = generator(z[1].repeat(2, 1), classes)
    of_class = (images[:16] - images[16:]).square().mean()
    of_noise = (images - others).square().mean()
    assert 1 / 3 < of_class / of_noise < 3


def test_projection_is_its_equation() -> None:
    projection, h, labels = Projection(4, 6), torch.randn(3, 6), torch.tensor([2, 0, 2])
    expected = [sum(projection.weight[y, j] * h[b, j] for j in range(6)) for b, y in enumerate(labels)]
    torch.testing.assert_close(projection(h, labels), torch.stack(expected))


def test_sngan_blocks_are_the_papers() -> None:
    """Skip connections after the change of size, where the paper has them and the network, cheaper, before or after."""
    with double():
        up = awake(UpBlock(4, 6, 3)).eval()
        x, labels = torch.randn(2, 4, 3, 3), torch.tensor([2, 0])

        def norm(layer: ClassBatchNorm2d, h: Tensor) -> Tensor:
            gain, bias = (table.weight[labels][:, :, None, None] for table in (layer.gains, layer.biases))
            return gain * h / math.sqrt(1 + 1e-5) + bias  # running mean 0, variance 1

        def twice(h: Tensor) -> Tensor:
            return h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

        h = F.conv2d(twice(norm(up.norm1, x).relu()), up.conv1.weight, padding=1)
        h = F.conv2d(norm(up.norm2, h).relu(), up.conv2.weight, padding=1)
        torch.testing.assert_close(up(x, labels), h + F.conv2d(twice(x), up.skip.weight))

        for first, down in ((True, True), (False, True), (False, False)):
            block = awake(DownBlock(4, 4 if not down else 6, first=first, down=down)).eval()
            x = torch.randn(2, 4, 6, 6)
            before = x.clone()
            h = F.conv2d(x if first else x.relu(), block.conv1.weight, block.conv1.bias, padding=1)
            h = F.conv2d(h.relu(), block.conv2.weight, block.conv2.bias, padding=1)
            skip = F.conv2d(x, block.skip.weight, block.skip.bias) if down else x
            h = h + skip
            if down:
                h = (h[:, :, ::2, ::2] + h[:, :, 1::2, ::2] + h[:, :, ::2, 1::2] + h[:, :, 1::2, 1::2]) / 4
            torch.testing.assert_close(block(x), h)
            assert torch.equal(x, before)


def test_sngan_discriminator_sums_over_positions() -> None:
    network = awake(pair("sngan", 32, classes=3)[1]).eval()
    x, labels = torch.randn(2, 1, 32, 32), torch.tensor([1, 2])
    h = network.blocks(x)
    assert h.shape[2:] == (8, 8)
    h = h.clamp(min=0).sum((2, 3))
    expected = h @ network.last.weight[0] + network.last.bias + (network.projection.weight[labels] * h).sum(1)
    torch.testing.assert_close(network(x, labels), expected)


def test_class_deviation_is_that_of_the_images_of_a_class() -> None:
    h, labels = torch.randn(40, 5) * 3 + 7, torch.randint(4, (40,))
    labels[0], labels[1:][labels[1:] == labels[0]] = 4, 3  # one image of class 4
    found = class_deviation(h, labels)
    for c in range(5):
        rows = labels == c
        expected = (h[rows].var(0, correction=0) + EPS).sqrt().expand(int(rows.sum()), -1)
        torch.testing.assert_close(found[rows], expected)
    assert torch.equal(found[0], torch.full((5,), EPS).sqrt())
    torch.testing.assert_close(class_deviation(h, None), (h.var(0, correction=0) + EPS).sqrt().expand(40, -1))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(class_deviation(h, labels), found)


@pytest.mark.parametrize("classes", [0, 3])
def test_sngan_deviation_adds_a_term_that_tells_equal_images_from_various_ones(classes: int) -> None:
    config = SNGANConfig(latent=6, generator_width=8, discriminator_width=6, deviation=True)
    network = awake(build_pair("sngan", config, spec(32), classes=classes)[1]).eval()
    x, labels = torch.randn(6, 1, 32, 32), torch.tensor([0, 0, 0, 1, 1, 2]) if classes else None
    h = network.blocks(x).clamp(min=0).sum((2, 3))
    deviation = class_deviation(h, labels)
    expected = network.last(h)[:, 0] + deviation @ network.spread.weight[0]
    if labels is not None:
        expected = expected + (network.projection.weight[labels] * h).sum(1)
    torch.testing.assert_close(network(x, labels), expected)
    same = x[:1].expand(6, -1, -1, -1)  # its logit differs among various images and among equal ones
    assert (network(x, labels) - network(same, labels))[0].abs() > 1e-4
    y = x.clone().requires_grad_()  # the slope is finite for a class with one image, and for equal images
    gradient = torch.autograd.grad(network(y, labels).sum(), y)[0]
    assert torch.isfinite(gradient).all()
    y = same.clone().requires_grad_()
    gradient = torch.autograd.grad(network(y, labels).sum(), y)[0]
    assert torch.isfinite(gradient).all()
    plain = build_pair("sngan", config.model_copy(update={"deviation": False}), spec(32), classes=classes)[1]
    assert network.state_dict().keys() - plain.state_dict().keys() == {
        key for key in network.state_dict() if key.startswith("spread.")
    }


def test_r3gan_block_and_conditioning_are_their_equations() -> None:
    with double():
        block = awake(r3gan.Block(4, R3GANConfig(width=8, group_width=2), 1))
        generator, discriminator = (awake(network) for network in pair("r3gan", classes=3))
        x, labels = torch.randn(2, 4, 3, 3), torch.tensor([2, 0])
        f = nn.LeakyReLU(0.2)
        h = f(torch.einsum("oi,bihw->bohw", block.widen.weight[:, :, 0, 0], x) + block.widen.bias[:, None, None])
        groups = zip(h.split(2, dim=1), block.mix.weight.split(2), strict=True)
        h = f(
            torch.cat([F.conv2d(part, weight, padding=1) for part, weight in groups], 1) + block.mix.bias[:, None, None]
        )
        h = torch.einsum("oi,bihw->bohw", block.narrow.weight[:, :, 0, 0], h)
        torch.testing.assert_close(block(x), x + h)

        z = torch.randn(2, 5)
        inputs = torch.cat([z, generator.embedding.weight[labels]], dim=1)
        h = torch.einsum("cyx,ci,bi->bcyx", generator.basis, generator.first.weight, inputs)
        h = generator.stages[0](h)
        for change, blocks in zip(generator.widths, generator.stages[1:], strict=True):
            h = blocks(F.interpolate(change(h), scale_factor=2, mode="bilinear", align_corners=False))
        torch.testing.assert_close(generator(z, labels), generator.last(h))

        h = discriminator.stages[0](discriminator.first(generator.last(h)))
        for change, blocks in zip(discriminator.widths, discriminator.stages[1:], strict=True):
            h = blocks(change(F.interpolate(h, scale_factor=0.5, mode="bilinear", align_corners=False)))
        h = torch.einsum("bcyx,cyx->bc", h, discriminator.basis.weight[:, 0]) @ discriminator.last.weight.T
        expected = (h * discriminator.projection.weight[labels]).sum(1)
        torch.testing.assert_close(discriminator(generator(z, labels), labels), expected)


# Gradients


def asleep(network: nn.Module) -> set[str]:
    """Parameters whose gradient is exactly zero because of a factor that starts at zero."""
    names = set()
    for name, module in network.named_modules():
        if isinstance(module, SelfAttention):
            names |= {f"{name}.{inner}" for inner, _ in module.named_parameters() if inner != "gamma"}
        if isinstance(module, r3gan.Block):
            names |= {f"{name}.{inner}" for inner, _ in module.named_parameters() if inner != "narrow.weight"}
    return names


@each_kind
@pytest.mark.parametrize("classes", [0, 3])
def test_every_parameter_gets_a_gradient(kind: str, classes: int) -> None:
    labels = torch.tensor([0, 1, 2, 0, 1, 2]) if classes else None
    with double():
        for network in pair(kind, classes=classes):
            for first in (True, False):
                out = network(given(network, 6), labels)
                network.zero_grad()
                (out * torch.randn(out.shape)).sum().backward()
                missing = {name for name, parameter in network.named_parameters() if parameter.grad is None}
                assert missing == set()
                still = {name for name, parameter in network.named_parameters() if not parameter.grad.any()}
                assert still == (asleep(network) if first else set())
                tiny = {name: p.grad.abs().max().item() for name, p in network.named_parameters() if name not in still}
                assert min(tiny.values()) > 1e-9, min(tiny, key=tiny.get)  # and none by rounding alone
                awake(network)


@each_kind
def test_penalties_on_the_gradient_of_the_discriminator_can_be_trained(kind: str) -> None:
    """The gradient of mean |dD/dx|^2 along a direction against its difference quotient."""
    with double():
        network = awake(pair(kind, classes=2)[1]).eval()
        x, labels = torch.randn(3, 1, 16, 16, requires_grad=True), torch.tensor([0, 1, 1])

        def penalty() -> Tensor:
            (slope,) = torch.autograd.grad(network(x, labels).sum(), x, create_graph=True)
            return slope.square().sum((1, 2, 3)).mean()

        parameters = list(network.parameters())
        gradients = torch.autograd.grad(penalty(), parameters, allow_unused=True)
        direction = [torch.randn(parameter.shape) for parameter in parameters]
        slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True) if g is not None)
        ends = []
        for step in (1e-9, -2e-9):  # small, since a ReLU that changes sides makes the penalty jump
            with torch.no_grad():
                torch._foreach_add_(parameters, direction, alpha=step)
            ends.append(penalty().item())
    assert (ends[0] - ends[1]) / 2e-9 == pytest.approx(slope.item(), rel=1e-3)


# Classes, batches, precision


@each_kind
def test_classes_make_a_difference(kind: str) -> None:
    for network in pair(kind, classes=3):
        x = given(awake(network).eval(), 2)
        outs = [network(x, torch.full((2,), label)) for label in range(3)]
        for a, b in itertools.combinations(outs, 2):
            assert ((a - b).abs().flatten(1).amax(1) > 1e-3 * a.abs().max()).all() if a.ndim == 4 else (a != b).all()


@each_kind
def test_an_image_does_not_depend_on_the_rest_of_its_batch(kind: str) -> None:
    labels = torch.tensor([0, 2, 1, 2])
    with double():
        generator, discriminator = (awake(network) for network in pair(kind, classes=3))
        z = given(generator)
        generator(z, labels), discriminator(given(discriminator), labels)  # running statistics are no longer 0 and 1
        for network, x in ((generator.eval(), z), (discriminator.eval(), given(discriminator))):
            whole = network(x, labels)
            for i in range(4):
                torch.testing.assert_close(network(x[i : i + 1], labels[i : i + 1])[0], whole[i])
        if kind != "r3gan":  # in training mode batch norm mixes images: the test could fail
            generator.train()
            assert not torch.allclose(generator(z[:2], labels[:2]), generator(z, labels)[:2])


@each_kind
def test_bf16_and_channels_last_are_the_same_network(kind: str) -> None:
    for network in pair(kind, 32, classes=2):
        x, labels = given(awake(network).eval(), 2, 32), torch.tensor([0, 1])
        with torch.no_grad():
            expected = network(x, labels)
            with torch.autocast("cpu", torch.bfloat16):
                rough = network(x, labels)
            last = network.to(memory_format=torch.channels_last)(x, labels)
        scale = expected.abs().max().item()
        assert (rough.float() - expected).abs().mean() < 0.02 * scale
        torch.testing.assert_close(last, expected, atol=1e-4 * scale, rtol=0)
