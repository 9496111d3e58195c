"""Causality of every configuration, by gradient and by bits; the receptive field, blind spot included."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from checks import Bools, check_causality, check_future_is_ignored, check_thirds, dependences, earlier, reachable
from pixelloom.core.errors import UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.layers.masked_conv import MaskedConv2d
from pixelloom.networks import PIXEL_NETWORKS, build_network
from pixelloom.networks.pixel.pixelcnn import PixelCNN, PixelCNNConfig
from pixelloom.runs.recipes import RECIPES
from settings import BERNOULLI, CONFIGS, INDEPENDENT, ORDERED, Setting

each_config = pytest.mark.parametrize("setting", CONFIGS.values(), ids=CONFIGS)


@each_config
def test_reads_the_past_as_far_as_its_masks_reach_and_nothing_else(setting: Setting) -> None:
    check_causality(setting)


@each_config
def test_future_levels_change_no_bit(setting: Setting) -> None:
    check_future_is_ignored(setting)


@each_config
def test_head_reads_the_groups_that_the_masks_keep(setting: Setting) -> None:
    check_thirds(setting)


@pytest.mark.parametrize("name", [name for name, run in RECIPES.items() if run.network == "pixelcnn"])
def test_recipes_at_full_width_are_causal(name: str) -> None:
    run = RECIPES[name]
    channels, levels = (3, 4) if name in ("colored-mnist", "rgb") else (1, 2 if "binar" in name else 17)
    setting = Setting(run.model, run.head, ImageSpec(channels, 3, 5, levels))
    check_causality(setting)
    check_future_is_ignored(setting)


TESTED_IN = {
    "pixelcnn": "test_networks.py",
    "gated-pixelcnn": "test_gated.py",
    "pixelcnn-pp": "test_pixelcnnpp.py",
    "pixelsnail": "test_pixelsnail.py",
    "pixel-transformer": "test_transformer.py",
    "row-lstm": "test_pixelrnn.py",
    "diagonal-bilstm": "test_pixelrnn.py",
    "nade": "test_nade.py",
    "made": "test_nade.py",
}


@pytest.mark.parametrize("network", PIXEL_NETWORKS)
def test_every_network_of_the_table_has_its_tests(network: str) -> None:
    assert network in TESTED_IN, "say where the new network is tested"
    text = (Path(__file__).parent / TESTED_IN[network]).read_text(encoding="utf-8")
    config, _ = PIXEL_NETWORKS[network]
    assert config.__name__ in text


@pytest.mark.parametrize("name", ["colored-mnist", "rgb-ordered", "gated-rgb-20"])
def test_what_order_means_within_a_pixel(name: str) -> None:
    """Green depends on the red of its own pixel, blue on both; independent channels on neither."""
    spec = CONFIGS[name].image
    middle = np.ravel_multi_index(([0, 1, 2], 1, 1), spec.shape)
    for head, within in ((ORDERED, [[0, 0, 0], [1, 0, 0], [1, 1, 0]]), (INDEPENDENT, [[0] * 3] * 3)):
        setting = Setting(CONFIGS[name].config, head, spec)
        seen = dependences(setting, reachable(setting))
        assert seen[np.ix_(middle, middle)].astype(int).tolist() == within


def test_the_map_of_reads_is_not_vacuous() -> None:
    for name, setting in CONFIGS.items():
        reads, before = reachable(setting), earlier(setting.image, setting.ordered)
        assert not (reads & ~before).any(), name
        assert reads.sum() > 0.5 * before.sum(), name


# The blind spot (trap 1)


def cone(spec: ImageSpec, first: int, radius: int, layers: int) -> Bools:
    """Pixels that a stack sees, from geometry: only a layer that climbs a row or more can also step to the right.

    Seen from (i, j), let a pixel be (i - up, j + right). What lies further right than ``radius`` for each row climbed
    is in the blind spot, however deep the stack; to the left and up the view ends with the sum of the radii.
    """
    h, w = spec.height, spec.width
    seen = np.zeros((h, w, h, w), bool)
    for i, j, y, x in itertools.product(range(h), range(w), range(h), range(w)):
        up, right = i - y, x - j
        reach = first + layers * radius
        # The first layer (mask A) must move: it climbs and goes right by its own radius, or it goes one to the left.
        climbs, stays = first + min(up - 1, layers) * radius, min(up, layers) * radius - 1
        seen[i, j, y, x] = 0 <= up <= reach and -reach <= right <= (max(climbs, stays) if up else -1)
    return seen.reshape(h * w, h * w)


@pytest.mark.parametrize(
    ("first", "kernel", "blocks"), [(3, 3, 6), (7, 7, 3), (5, 3, 2), (3, 5, 2), (7, 3, 0), (3, 3, 1)]
)
def test_blind_spot_of_the_plain_stack_is_exactly_the_cone(first: int, kernel: int, blocks: int) -> None:
    spec = ImageSpec(1, 8, 11, 2)
    config = PixelCNNConfig(block="plain", channels=8, first_kernel=first, kernel=kernel, blocks=blocks)
    expected = cone(spec, first // 2, kernel // 2, blocks)
    np.testing.assert_array_equal(dependences(Setting(config, BERNOULLI, spec), expected), expected)


def test_no_depth_removes_the_blind_spot() -> None:
    """With 3x3 kernels all that lies above the diagonal on the right stays unseen."""
    spec = ImageSpec(1, 5, 9, 2)
    config = PixelCNNConfig(block="plain", channels=16, first_kernel=3, kernel=3, blocks=12)
    field = [
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0, 0],  # the pixel that is predicted is the fifth
    ]
    setting = Setting(config, BERNOULLI, spec)
    seen = dependences(setting, reachable(setting)).reshape(5, 9, 5, 9)
    assert seen[4, 4].astype(int).tolist() == field


# Before training, parameters, configuration


@each_config
def test_first_prediction_is_uniform(setting: Setting) -> None:
    model = setting.fresh()
    images = torch.randint(0, setting.image.levels, (3, *setting.image.shape)).byte()
    assert not model.predict(images).detach().any()
    expected = -setting.image.dims * math.log(setting.image.levels)
    assert model.log_prob(images).tolist() == pytest.approx([expected] * 3, rel=1e-6)


@each_config
def test_every_parameter_learns(setting: Setting) -> None:
    """Nothing is left out of the graph: after a step away from zero each parameter has a gradient."""
    model = setting.model()
    images = torch.randint(0, setting.image.levels, (8, *setting.image.shape)).byte()
    model.head.nats(model.predict(images), images).sum().backward()
    for name, parameter in model.network.named_parameters():
        assert parameter.grad is not None, name
        assert bool((parameter.grad != 0).any()), name


LAYERS = {
    # sides of all masked kernels in order, and the number of parameters, counted by hand (stored taps, biases, norms)
    "mnist-gray": ([7] * 8 + [1], 64 * 28 + 7 * 64 * 64 * 28 + 8 * 128 + 256 * 65),
    "mnist-binary": (
        [7] + [1, 3, 1] * 5 + [3, 3, 1],
        128 * 29 + 5 * (64 * 129 + 64 * (64 * 6 + 1) + 128 * 65) + 2 * 128 * (128 * 6 + 1) + 129,
    ),
    "mnist-binary-7x7": (
        [7] + [1, 7, 1] * 4 + [1, 1],
        64 * 29 + 4 * (64 * 65 + 64 * (64 * 28 + 1) + 64 * 65) + 64 * 65 + 2 * 65,
    ),
    "colored-mnist": (
        [7] + [1, 7, 1] * 7 + [1, 1],
        120 * (3 * 28 + 1) + 7 * (120 * 121 + 120 * (120 * 28 + 1) + 120 * 121) + 120 * 121 + 12 * 121,
    ),
    "rgb": ([7] * 6 + [1], 64 * (3 * 28 + 1) + 5 * 64 * (64 * 28 + 1) + 768 * 65),
}
SPECS = {"mnist-gray": (1, 256), "mnist-binary": (1, 2), "mnist-binary-7x7": (1, 2), "colored-mnist": (3, 4)}


@pytest.mark.parametrize("name", LAYERS)
def test_tutorial_recipes_are_the_networks_of_the_tutorials(name: str) -> None:
    run, (sides, count) = RECIPES[name], LAYERS[name]
    channels, levels = SPECS.get(name, (3, 256))
    model = Setting(run.model, run.head, ImageSpec(channels, 8, 8, levels)).fresh()
    convolutions = [layer for layer in model.network.modules() if isinstance(layer, MaskedConv2d)]
    assert [layer.weight.shape[-1] for layer in convolutions] == sides
    assert [layer.kind for layer in convolutions] == ["A"] + ["B"] * (len(sides) - 1)
    assert model.parameters == count


@pytest.mark.parametrize("norm", ["batch", "channel"])
@pytest.mark.parametrize("block", ["plain", "residual", "preactivation", "gated"])
def test_norms_stand_where_the_configuration_puts_them(block: str, norm: str) -> None:
    config = PixelCNNConfig.model_validate({"block": block, "channels": 6, "blocks": 2, "norm": norm})
    network = PixelCNN(config, ImageSpec(1, 4, 4, 2), outputs=1, groups=1)
    kind = "BatchNorm2d" if norm == "batch" else "ChannelNorm"
    found = [type(layer).__name__ for layer in network.modules()].count(kind)
    assert found == {"plain": 1 + 2, "residual": 1 + 6, "preactivation": 6, "gated": 2}[block]


def test_dropout_acts_in_training_only() -> None:
    model = CONFIGS["gated"].model()
    images = torch.randint(0, 17, (2, *model.spec.shape)).byte()
    assert torch.equal(model.predict(images), model.predict(images))
    model.network.train()
    assert not torch.equal(model.predict(images), model.predict(images))
    rates = {layer.p for layer in model.network.modules() if isinstance(layer, nn.Dropout)}
    assert rates == {0.2}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"kernel": 4}, "an odd side such as 5, not 4"),
        ({"first_kernel": 8}, "an odd side such as 9, not 8"),
        ({"head_kernels": (3, 2)}, "an odd side such as 3, not 2"),
        ({"head_kernels": (0,)}, "greater than or equal to 1"),
        ({"kernel": -3}, "greater than or equal to 1"),
        ({"channels": 0}, "greater than or equal to 1"),
        ({"dropout": 1.0}, "less than 1"),
        ({"block": "gate"}, "'plain', 'residual', 'preactivation' or 'gated'"),
        ({"chanels": 3}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_make_no_network_are_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        PixelCNNConfig.model_validate(settings)


def test_building_names_what_is_wrong() -> None:
    image = ImageSpec(3, 4, 4, 2)
    with pytest.raises(UsageError, match=r"'pixelcn'\. Did you mean 'pixelcnn'"):
        build_network("pixelcn", PixelCNNConfig(), image, outputs=3, groups=3)
    with pytest.raises(UsageError, match="takes a PixelCNNConfig, not a ImageSpec"):
        build_network("pixelcnn", image, image, outputs=3, groups=3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="2 features cannot be shared among 3 image channels: give at least 3"):
        build_network("pixelcnn", PixelCNNConfig(channels=2), image, outputs=3, groups=3)
    with pytest.raises(UsageError, match="2 features cannot be shared among 3"):
        build_network("pixelcnn", PixelCNNConfig(channels=5), image, outputs=3, groups=3)  # half of 5 in the bottleneck
