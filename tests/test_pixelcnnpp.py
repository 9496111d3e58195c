"""PixelCNN++: by the paper's own operations, at any size, without a blind spot, and by both samplers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from checks import (
    check_batch_free,
    check_every_logit,
    check_fast_is_plain,
    check_sampler,
    check_world_sums_to_one,
    earlier,
    jacobian,
)
from fast_toys import masks, poisoned, random_images
from pixelloom.core.errors import UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import Scaling
from pixelloom.heads.discrete import HeadConfig, make_head
from pixelloom.layers.shifted_conv import BoxConv2d
from pixelloom.models.pixel import PixelDescription, PixelModel
from pixelloom.networks.pixel.pixelcnnpp import Block, Both, Double, PixelCNNPlusPlus, PixelCNNPlusPlusConfig, Residual
from pixelloom.runs.recipes import recipe
from pixelloom.sampling.fast.analysis import Dataflow, assert_autoregressive, receptive_field, schedule
from pixelloom.sampling.fast.causality import NotAutoregressiveError
from settings import BERNOULLI, BINARY_WORLD, COLOR_WORLD, INDEPENDENT, ORDERED, live

LOGISTICS = HeadConfig(kind="logistics", mixtures=3)

SMALL = PixelCNNPlusPlusConfig(channels=5, blocks=1)
FLAT = PixelCNNPlusPlusConfig(channels=6, blocks=2, scales=1, weight_norm=False)
DEEP = PixelCNNPlusPlusConfig(channels=4, blocks=1, scales=4, weight_norm=False)
WORLDS = {
    "logistics, color": (SMALL, LOGISTICS, ImageSpec(3, 8, 4, 256)),
    "logistics, gray, odd": (SMALL, LOGISTICS, ImageSpec(1, 5, 7, 17)),
    "Bernoulli": (SMALL, BERNOULLI, ImageSpec(1, 4, 6, 2)),
    "categorical, odd": (DEEP, ORDERED, ImageSpec(1, 9, 3, 7)),
    "ordered": (SMALL, ORDERED, ImageSpec(3, 3, 5, 4)),
    "independent": (SMALL, INDEPENDENT, ImageSpec(3, 5, 4, 5)),
    "Bernoulli, three channels": (FLAT, BERNOULLI, ImageSpec(3, 3, 4, 2)),
    "a row": (SMALL, LOGISTICS, ImageSpec(3, 1, 7, 5)),
    "a column": (SMALL, ORDERED, ImageSpec(3, 7, 1, 3)),
    "a pixel": (DEEP, LOGISTICS, ImageSpec(3, 1, 1, 256)),
}
World = tuple[PixelCNNPlusPlusConfig, HeadConfig, ImageSpec]
each_world = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


def fresh(world: World, classes: int = 0) -> PixelModel:
    """As it is before training."""
    config, head, image = world
    torch.manual_seed(0)
    return PixelModel.build(
        PixelDescription(
            network="pixelcnn-pp",
            model=config,
            head=head,
            image=image,
            scaling=Scaling.symmetric(),
            classes=classes,
        )
    )


def model_of(world: World, seed: int = 0, classes: int = 0) -> PixelModel:
    """As if trained, in float64. Skip connections, gates and directions are random; lengths of weights are about 1."""
    model = fresh(world, classes)
    live(model.network, seed).double()
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if name.endswith("original0"):
                parameter.copy_(1 + 0.2 * parameter)
    return model


def network_of(model: PixelModel) -> PixelCNNPlusPlus:
    assert isinstance(model.network, PixelCNNPlusPlus)
    return model.network


# The paper's own operations


def down_shifted(x: Tensor, layer: BoxConv2d, stride: int = 1) -> Tensor:
    """A row of zeros above and a column at either side, then an ordinary convolution."""
    rows, columns = layer.weight.shape[2:]
    padded = F.pad(x, ((columns - 1) // 2, (columns - 1) // 2, rows - 1, 0))
    return F.conv2d(padded, layer.weight, layer.bias, stride)


def down_right_shifted(x: Tensor, layer: BoxConv2d, stride: int = 1) -> Tensor:
    """Rows of zeros above and columns on the left."""
    rows, columns = layer.weight.shape[2:]
    return F.conv2d(F.pad(x, (columns - 1, 0, rows - 1, 0)), layer.weight, layer.bias, stride)


def transposed(x: Tensor, double: Double, height: int, width: int) -> Tensor:
    """A transposed convolution of stride 2: out[2 i + r, 2 j + s] += x[i, j] kernel[r, s], cut to size.

    Its kernel has two rows; its columns go from 0 to 1, and from -2 where the layer reads one input to the right.
    """
    phases = double.phases.weight  # [4 c, c, 1, 1 + right]
    features, right = phases.shape[1], phases.shape[3] - 1
    kernel = phases.new_zeros(features, features, 2, 2 + 2 * right)
    for o, r, s, tap in np.ndindex(features, 2, 2, 1 + right):
        kernel[:, o, r, s - 2 * tap + 2 * right] = phases[4 * o + 2 * r + s, :, 0, tap]
    whole = F.conv_transpose2d(x, kernel, stride=2)[:, :, :height, 2 * right : 2 * right + width]
    assert double.phases.bias is not None
    bias = double.phases.bias.view(features, 2, 2).repeat(1, height // 2 + 1, width // 2 + 1)
    return whole + bias[:, :height, :width]


def concat_elu(x: Tensor) -> Tensor:
    return torch.cat((F.elu(x), F.elu(-x)), dim=1)


def gated_resnet(
    x: Tensor, a: Tensor | None, layer: Residual, convolve: Callable[[Tensor, BoxConv2d], Tensor], labels: Tensor | None
) -> Tensor:
    c1 = convolve(concat_elu(x), layer.first)
    if a is not None:
        assert layer.join is not None
        c1 = c1 + torch.einsum("oi,bihw->bohw", layer.join.weight[:, :, 0, 0], concat_elu(a))
    c2 = convolve(concat_elu(c1), layer.last)
    if labels is not None:
        assert layer.label is not None
        c2 = c2 + layer.label.weight[labels][:, :, None, None]
    a, b = c2[:, : x.shape[1]], c2[:, x.shape[1] :]
    return x + a * torch.sigmoid(b)


def by_the_paper(network: PixelCNNPlusPlus, x: Tensor, labels: Tensor | None = None) -> Tensor:
    """The last features of the stream ul, from pixels in model space."""
    padded = torch.cat((x, torch.ones_like(x[:, :1])), dim=1)

    def shifted(convolve: Callable[[Tensor, BoxConv2d], Tensor], layer: BoxConv2d, margins: tuple[int, ...]) -> Tensor:
        """Moved by a row or column. What moves in is zero, but for the bias: the paper leaves it out there."""
        assert layer.bias is not None
        bias = layer.bias[:, None, None]
        return F.pad(convolve(padded, layer) - bias, margins) + bias

    down, right = (0, 0, 1, -1), (1, -1)
    u_list = [shifted(down_shifted, network.above, down)]
    ul_list = [shifted(down_shifted, network.row_above, down) + shifted(down_right_shifted, network.beside, right)]
    for layer in network.down:
        if isinstance(layer, Block):
            u_list.append(gated_resnet(u_list[-1], None, layer.u, down_shifted, labels))
            ul_list.append(gated_resnet(ul_list[-1], u_list[-1], layer.ul, down_right_shifted, labels))
        else:
            u_list.append(down_shifted(u_list[-1], layer.u, 2))
            ul_list.append(down_right_shifted(ul_list[-1], layer.ul, 2))
    u, ul = u_list.pop(), ul_list.pop()
    for layer in network.up:
        size = u_list[-1].shape[2:]
        if isinstance(layer, Block):
            u = gated_resnet(u, u_list.pop(), layer.u, down_shifted, labels)
            ul = gated_resnet(ul, torch.cat((u, ul_list.pop()), 1), layer.ul, down_right_shifted, labels)
        else:
            u, ul = transposed(u, layer.u, *size), transposed(ul, layer.ul, *size)
    assert not u_list
    return ul


@each_world
@pytest.mark.parametrize("classes", [0, 3])
def test_is_the_network_of_the_paper(world: World, classes: int) -> None:
    model = model_of(world, classes=classes)
    network = network_of(model)
    x = torch.randn(4, *model.spec.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3]) if classes else None
    features: list[Tensor] = []
    hook = network.output.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with torch.no_grad():
        out = network(x, labels)
        expected = by_the_paper(network, x, labels)
        hook.remove()
        torch.testing.assert_close(features[0], expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(out, network.output(expected, x), rtol=1e-9, atol=1e-9)
    assert float(expected.abs().mean()) > 0.1
    if labels is not None:
        assert not torch.allclose(out[0], network(x[:1], labels[1:2])[0])


def test_windows_are_the_papers() -> None:
    """2x3 and 2x2, doubled features into every convolution of a block, 4x features out of a doubling."""
    network = network_of(fresh((SMALL, BERNOULLI, ImageSpec(1, 8, 8, 2))))
    block = network.up[-1]
    assert isinstance(block, Block)
    assert [tuple(layer.weight.shape) for layer in (block.u.first, block.u.last)] == [(5, 10, 2, 3), (10, 10, 2, 3)]
    assert [tuple(layer.weight.shape) for layer in (block.ul.first, block.ul.last)] == [(5, 10, 2, 2), (10, 10, 2, 2)]
    kinds = [type(layer) for layer in network.down], [type(layer) for layer in network.up]
    assert kinds == ([Block, Both, Block, Both, Block], [Block, Both, Block, Block, Both, Block, Block])


def test_the_papers_network_has_its_parameters() -> None:
    """53 million of them, counted by hand; the doublings of u have 8 taps where the paper's have 6."""
    config, c = PixelCNNPlusPlusConfig(), 160
    with torch.device("meta"):
        network = PixelCNNPlusPlus(config, ImageSpec(3, 32, 32, 256), outputs=100, groups=1)

    def layer(inputs: int, outputs: int, taps: int) -> int:
        return outputs * (inputs * taps + 2)  # and a length and a bias

    def block(join_u: int, join_ul: int) -> int:
        taps = [layer(2 * c, c, t) + layer(2 * c, 2 * c, t) for t in (6, 4)]
        return sum(taps) + sum(c * (2 * join + 1) for join in (join_u, join_ul) if join)

    first = layer(4, c, 6) + layer(4, c, 3) + layer(4, c, 2)
    halves = 2 * (layer(c, c, 6) + layer(c, c, 4))
    doubles = 2 * (layer(c, 4 * c, 2) + layer(c, 4 * c, 1))
    down, up = 15 * block(0, c), 17 * block(c, 2 * c)
    expected = first + halves + doubles + down + up + 100 * (c + 1)
    assert sum(p.numel() for p in network.parameters()) == expected
    assert 53e6 < expected < 54e6


# Causality


@each_world
def test_is_autoregressive(world: World) -> None:
    model = model_of(world)
    Dataflow(model.network, model.spec.shape, model.head.groups).check()
    assert_autoregressive(model.network, model.spec, groups=model.head.groups, by=("schedule", "gradient"))


def test_is_autoregressive_whatever_the_class() -> None:
    model = model_of(WORLDS["ordered"], classes=3)
    given = {"labels": torch.tensor([1])}
    Dataflow(model.network, model.spec.shape, model.head.groups, given).check()


@pytest.mark.parametrize(
    ("layer", "moved"),
    [
        ("above", {"bottom": 0}),
        ("row_above", {"top": 0, "bottom": 0}),
        ("beside", {"right": 0}),
        ("down.0.u.first", {"bottom": 1}),
        ("down.1.ul", {"right": 1}),
        ("up.1.ul.phases", {"right": 1}),
        ("up.4.u.phases", {"bottom": 1}),
    ],
)
@pytest.mark.parametrize("way", ["schedule", "gradient"])
def test_a_window_too_far_is_found(layer: str, moved: dict[str, int], way: str) -> None:
    network = network_of(model_of((SMALL.model_copy(update={"weight_norm": False}), BERNOULLI, ImageSpec(1, 8, 8, 2))))
    before = network.get_submodule(layer)
    assert isinstance(before, BoxConv2d)
    box = {side: getattr(before, side) for side in ("top", "bottom", "left", "right", "stride")} | moved
    after = BoxConv2d(before.weight.shape[1], before.weight.shape[0], **box).double()
    network.set_submodule(layer, after)
    with pytest.raises(NotAutoregressiveError):
        assert_autoregressive(network, ImageSpec(1, 8, 8, 2), by=way)


@pytest.mark.parametrize(
    ("head", "image"),
    [
        (BERNOULLI, ImageSpec(1, 5, 6, 2)),
        (ORDERED, ImageSpec(3, 3, 4, 2)),
        (INDEPENDENT, ImageSpec(3, 2, 5, 2)),
        (LOGISTICS, ImageSpec(3, 3, 3, 8)),
    ],
    ids=["one channel", "ordered", "independent", "logistics"],
)
@pytest.mark.parametrize("scales", [1, 3])
def test_no_blind_spot(head: HeadConfig, image: ImageSpec, scales: int) -> None:
    """Every value sees all before it, in raster order and then in the order of the channels, and nothing else.

    That a mixture of logistics orders the channels is no matter of the network.
    """
    config = PixelCNNPlusPlusConfig(channels=6, blocks=2, scales=scales)
    model = model_of((config, head, image))
    expected = earlier(image, model.head.groups > 1)
    seen = np.zeros_like(expected)
    for seed in range(9):
        seen |= jacobian(one_a_value(model_of((config, head, image), seed), seed), image, seed) != 0
        if not (expected & ~seen).any():
            break
    np.testing.assert_array_equal(seen, expected)
    last = expected.reshape(*image.shape, *image.shape)[-1]
    for y, x in ((0, 0), (0, 2), (1, 0), (image.height - 1, image.width - 1)):
        found = receptive_field(model.network, image, (y, x), model.head.groups)
        np.testing.assert_array_equal(found, last[y, x])


def one_a_value(model: PixelModel, seed: int) -> nn.Module:
    """Parameters of a pixel that belong to no channel, as those of a mixture, mixed to one for each."""
    network, channels = model.network, model.spec.channels
    if model.head.kind != "logistics":
        return network
    mix = torch.randn(channels, model.head.outputs, 1, 1, generator=torch.Generator().manual_seed(seed)).double()
    conv = nn.Conv2d(model.head.outputs, channels, 1, bias=False)
    conv.weight = nn.Parameter(mix)
    return nn.Sequential(network, conv)


@pytest.mark.parametrize("blocks", [0, 2, 5])
def test_the_schedule_of_the_paper(blocks: int) -> None:
    """Steps at 32x32, by hand.

    A row lags behind the one above as far as it looks to the right there. Even rows look over the coarse grids, which
    know all of it. Odd rows, of which a coarse position has the upper half only, look through the finest grid alone:
    by 1 in the first layer, 2 in each block on the way down, 1 in the first on the way up, where the short-cut comes
    in half-way, and 2 in the others.
    """
    config = PixelCNNPlusPlusConfig(channels=2, blocks=blocks)
    network = PixelCNNPlusPlus(config, ImageSpec(3, 32, 32, 256), outputs=10, groups=1)
    found = schedule(Dataflow(network, (3, 32, 32), 1))
    right = 1 + 2 * blocks + 1 + 2 * blocks
    lags = np.diff(found.ready[0][0][:, 0])
    assert lags[0::2].tolist() == [right + 1] * 16
    if blocks == 5:
        assert lags[1::2].tolist() == [32] * 15
        assert found.steps == 32 + 16 * (right + 1) + 15 * 32 == 880


# Small worlds, samplers


@pytest.mark.parametrize(
    "world",
    [
        (SMALL, BERNOULLI, BINARY_WORLD),
        (FLAT, ORDERED, COLOR_WORLD),
        (SMALL, LOGISTICS, COLOR_WORLD),
    ],
    ids=["binary, Bernoulli", "color, ordered", "color, logistics"],
)
def test_probabilities_of_small_worlds(world: World) -> None:
    model = model_of(world, seed=1)
    check_world_sums_to_one(model)
    check_sampler(model)


@each_world
def test_fast_images_equal_the_plain_ones(world: World) -> None:
    model = model_of(world)
    check_fast_is_plain(model)
    check_every_logit(model, 1e-9)


@pytest.mark.parametrize("name", ["logistics, color", "ordered"])
@pytest.mark.parametrize("place", ["the top", "one channel", "different in each"])
def test_fast_images_of_which_some_is_known(name: str, place: str) -> None:
    model = model_of(WORLDS[name])
    mask = masks(model.spec, 3)[place].expand(3, *model.spec.shape)
    check_fast_is_plain(model, given=random_images(model.spec, 3), mask=mask, seed=1)


def test_images_do_not_depend_on_the_batch() -> None:
    check_batch_free(model_of(WORLDS["categorical, odd"]))


@pytest.mark.parametrize("name", ["categorical, odd", "ordered"])
def test_fast_images_of_classes(name: str) -> None:
    model = model_of(WORLDS[name], classes=3)
    drawn = check_fast_is_plain(model, labels=torch.tensor([1, 3, 0]))
    assert not torch.equal(model.sample(3, labels=2), drawn)


@pytest.mark.parametrize("name", ["logistics, color", "logistics, gray, odd", "ordered"])
def test_nothing_is_read_before_its_time(name: str) -> None:
    model = model_of(WORLDS[name])
    expected = model.sample(2)
    with poisoned() as counts:
        assert torch.equal(model.sample(2), expected)
    assert counts["pixels"] > 0


def test_the_fast_sampler_follows_the_weights() -> None:
    """Weights that are worked out from length and direction are those of now."""
    model = model_of(WORLDS["logistics, color"])
    before = model.sample(2)
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if name.endswith("original0"):
                parameter.mul_(1.5)
    assert not torch.equal(check_fast_is_plain(model, n=2), before)


# Before and in training


@pytest.mark.parametrize("name", ["Bernoulli", "ordered", "logistics, color"])
def test_first_prediction_knows_nothing(name: str) -> None:
    model = fresh(WORLDS[name])
    images = random_images(model.spec, 2)
    params = model.predict(images)
    assert not params.detach().any()
    if model.head.kind != "logistics":
        expected = -model.spec.dims * float(np.log(model.spec.levels))
        assert model.log_prob(images).tolist() == pytest.approx([expected] * 2)


@pytest.mark.parametrize("name", ["Bernoulli", "logistics, color", "categorical, odd"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_every_parameter_learns(name: str, precision: torch.dtype) -> None:
    """After a step away from zero each parameter has a gradient, by mixed precision too."""
    model = model_of(WORLDS[name], classes=2)
    model.network.float().train()
    images = random_images(model.spec, 8)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        params = model.predict(images, torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]))
        model.head.nats(params, images).mean().backward()
    for parameter_name, parameter in model.network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert bool(parameter.grad.isfinite().all()), parameter_name
        assert bool((parameter.grad != 0).any()), parameter_name


def test_weight_norm_changes_the_parameters_and_not_the_network() -> None:
    image = ImageSpec(1, 6, 6, 2)
    torch.manual_seed(0)
    plain = PixelCNNPlusPlus(SMALL.model_copy(update={"weight_norm": False}), image, outputs=1, groups=1)
    normed = network_of(fresh((SMALL, BERNOULLI, image)))
    boxes = [[m for m in network.modules() if isinstance(m, BoxConv2d)] for network in (plain, normed)]
    assert len(boxes[0]) == len(boxes[1]) > 30
    for a, b in zip(*boxes, strict=True):
        torch.testing.assert_close(a.weight, b.weight)
        length, direction = b.parametrizations.weight.original0, b.parametrizations.weight.original1
        expected = length * direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        torch.testing.assert_close(b.weight, expected)
        assert length.shape == (len(direction), 1, 1, 1)


def test_dropout_acts_in_blocks_and_in_training_only() -> None:
    model = model_of(WORLDS["Bernoulli"])
    images = random_images(model.spec, 2)
    assert torch.equal(model.predict(images), model.predict(images))
    model.network.train()
    assert not torch.equal(model.predict(images), model.predict(images))
    drops = [layer.p for layer in model.network.modules() if isinstance(layer, nn.Dropout)]
    assert drops == [0.5] * 2 * (3 * 1 + 1 + 2 + 2)


# Configuration


def test_recipes() -> None:
    paper, small = recipe("pixelcnn-pp-cifar10"), recipe("pixelcnn-pp")
    assert paper.model == PixelCNNPlusPlusConfig()
    assert (paper.head.kind, paper.head.mixtures, paper.data.source) == ("logistics", 10, "cifar10")
    assert (small.network, small.data.source) == ("pixelcnn-pp", "binarized-mnist")
    assert make_head(small.head, ImageSpec(1, 28, 28, 2)).kind == "bernoulli"
    for run, image in ((paper, ImageSpec(3, 32, 32, 256)), (small, ImageSpec(1, 28, 28, 2))):
        with torch.device("meta"):
            fresh((run.model, run.head, image))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"channels": 0}, "greater than or equal to 1"),
        ({"scales": 0}, "greater than or equal to 1"),
        ({"scales": 9}, "less than or equal to 8"),
        ({"blocks": -1}, "greater than or equal to 0"),
        ({"dropout": 1}, "less than 1"),
        ({"hidden": 3}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_make_no_network_are_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        PixelCNNPlusPlusConfig.model_validate(settings)


def test_labels_are_neither_missing_nor_ignored() -> None:
    conditional, unconditional = fresh(WORLDS["Bernoulli"], classes=2), fresh(WORLDS["Bernoulli"])
    x = torch.zeros(1, 1, 6, 10)
    with pytest.raises(UsageError, match="labels: this network was built with labels"):
        conditional.network(x)
    with pytest.raises(UsageError, match="labels: this network was built without labels"):
        unconditional.network(x, torch.tensor([0]))


@pytest.mark.parametrize(("width", "narrow"), [(1, True), (2, True), (3, False)])
def test_one_column_is_downsampled_in_fp32(width: int, narrow: bool) -> None:
    """Torch's bf16 convolution of stride 2 with one output column is wrong on some CPUs."""
    torch.manual_seed(0)
    layer, x = BoxConv2d(16, 16, top=-1, bottom=0, left=-1, right=1, stride=2), torch.randn(2, 16, 9, width)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == (torch.float32 if narrow else torch.bfloat16)
    assert torch.equal(found, expected) == narrow
    half = layer.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    rounded = BoxConv2d(16, 16, top=-1, bottom=0, left=-1, right=1, stride=2)
    rounded.load_state_dict(layer.state_dict())
    assert torch.allclose(half.float(), rounded(x.bfloat16().float()), rtol=2**-7, atol=2**-7)
