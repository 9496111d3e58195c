"""The explanation of a prediction: its numbers are those of the model, and the image shows them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

import pixelloom as pl
from commands import Command, caller
from gan_toys import PAIRS
from pixelloom.core.errors import UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.config import DataConfig
from pixelloom.data.pixels import Scaling
from pixelloom.heads.discrete import HeadConfig
from pixelloom.layers.masked_conv import MaskedConv2d
from pixelloom.models.gan import GANDescription, GANModel
from pixelloom.models.pixel import PixelDescription, PixelModel
from pixelloom.networks import PIXEL_NETWORKS
from pixelloom.runs.evaluate import examples
from pixelloom.runs.explain import explanation
from pixelloom.viz.explain import figure_of
from pixelloom.viz.grid import save_png, to_image
from pixelloom.viz.receptive_field import FIELD_KINDS, field_kinds
from settings import live
from small_models import flat, save_run

SPEC = ImageSpec(1, 8, 10, 5)
SMALL: dict[str, dict[str, Any]] = {
    "pixelcnn": {"channels": 6, "blocks": 2, "kernel": 3, "first_kernel": 5, "hidden": 6},
    "pixelcnn-pp": {"channels": 4, "blocks": 1, "scales": 1},
    "pixel-transformer": {"channels": 8, "layers": 1},
    "gated-pixelcnn": {"channels": 6, "layers": 2, "first_kernel": 5, "kernel": 3},
}


def model(
    network: str = "pixelcnn",
    head: str = "categorical",
    spec: ImageSpec = SPEC,
    classes: int = 0,
    **more: Any,
) -> PixelModel:
    config = PIXEL_NETWORKS[network][0].model_validate(SMALL.get(network, {}) | more)
    found = PixelModel.build(
        PixelDescription(
            network=network,
            model=config,
            head=HeadConfig.model_validate({"kind": head}),
            image=spec,
            scaling=Scaling.symmetric(),
            classes=classes,
        )
    )
    live(found.network)
    return found


def image_of(spec: ImageSpec, seed: int = 0) -> torch.Tensor:
    return torch.randint(spec.levels, spec.shape, generator=torch.Generator().manual_seed(seed)).byte()


# ------------------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("channels", [1, 3])
def test_probabilities_are_the_softmax_of_the_prediction(channels: int) -> None:
    spec = ImageSpec(channels, 8, 10, 5)
    found, image = model(spec=spec), image_of(spec)
    logits = found.predict(image[None])[0, :, 3, 6].detach().double().reshape(channels, 5)
    made = explanation(found, image, (3, 6))
    np.testing.assert_allclose(made.probabilities, logits.softmax(1).numpy(), rtol=1e-12)
    assert made.true_levels == image[:, 3, 6].tolist()
    costs = [-math.log2(p[level]) for p, level in zip(made.probabilities, made.true_levels, strict=True)]
    np.testing.assert_allclose(made.bits[:, 3, 6], costs, rtol=1e-5)


@pytest.mark.parametrize(
    ("head", "channels", "levels"), [("bernoulli", 1, 2), ("logistics", 1, 256), ("logistics", 3, 8)]
)
def test_every_head_gives_a_distribution_and_the_bits_of_the_image(head: str, channels: int, levels: int) -> None:
    spec = ImageSpec(channels, 6, 5, levels)
    found, image = model(head=head, spec=spec), image_of(spec)
    made = explanation(found, image[None], (5, 4))
    assert made.probabilities.shape == (channels, levels)
    np.testing.assert_allclose(made.probabilities.sum(1), 1, rtol=1e-9)
    if head == "bernoulli":
        assert made.probabilities[0, 1] == pytest.approx(
            float(torch.sigmoid(found.predict(image[None])[0, 0, 5, 4].detach()))
        )
    costs = [-math.log2(p[level]) for p, level in zip(made.probabilities, made.true_levels, strict=True)]
    np.testing.assert_allclose(made.bits[:, 5, 4], costs, rtol=1e-4)
    assert made.pixel_bits.sum() == pytest.approx(-float(found.log_prob(image[None])) / math.log(2), rel=1e-6)


def test_later_pixels_change_nothing_of_the_prediction() -> None:
    found = model()
    image = image_of(found.spec)
    changed = image.clone()
    changed[0, 3, 7:] = (changed[0, 3, 7:] + 1) % 5
    changed[0, 4:] = (changed[0, 4:] + 2) % 5
    one, other = (explanation(found, x, (3, 6)) for x in (image, changed))
    np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=1e-6)
    np.testing.assert_allclose(one.bits[0, :3], other.bits[0, :3], rtol=1e-4, atol=1e-6)


def test_the_class_is_that_of_the_prediction() -> None:
    found = model(classes=3)
    image = image_of(found.spec)
    for label, number in ((2, 2), (None, 3)):  # 3 is the null class
        logits = found.predict(image[None], torch.tensor([number]))[0, :, 4, 5].detach().double()
        made = explanation(found, image, label=label)  # the center by default
        assert made.position == (4, 5)
        np.testing.assert_allclose(made.probabilities[0], logits.softmax(0).numpy(), rtol=1e-12)


@pytest.mark.parametrize("network", ["pixelcnn", "gated-pixelcnn", "pixelcnn-pp", "made"])
def test_the_field_is_the_receptive_field(network: str) -> None:
    spec = ImageSpec(1, 8, 8, 5)
    found = model(network, spec=spec)
    made = explanation(found, image_of(spec), (4, 3))
    assert np.array_equal(made.field, pl.receptive_field(found.network, spec, (4, 3)))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_mask_is_that_of_the_first_masked_convolution(channels: int) -> None:
    spec = ImageSpec(channels, 12, 12, 5)
    found = model(spec=spec)
    layer = next(layer for layer in found.network.modules() if isinstance(layer, MaskedConv2d))
    mask = layer.mask.bool().any(0).any(0)  # [rows, columns], of any feature
    expected = [(y - layer.radius, x - layer.radius) for y, x in np.argwhere(mask.numpy()).tolist()]
    assert explanation(found, image_of(spec)).taps == tuple(expected)
    assert ((0, 0) in expected) == (channels == 3)  # green reads red, blue both


def test_masks_of_other_first_layers() -> None:
    spec = ImageSpec(1, 12, 12, 5)

    def taps(network: str) -> set[tuple[int, int]] | None:
        found = explanation(model(network, spec=spec), image_of(spec)).taps
        return None if found is None else set(found)

    rows = {(dy, dx) for dy in (-3, -2, -1) for dx in range(-2, 3)}
    assert taps("gated-pixelcnn") == rows | {
        (0, -2),
        (0, -1),
    }  # the vertical stack, shifted down, and the horizontal one
    # Salimans et al. 2017: 2x3 down-shifted by one, 1x3 down-shifted and 2x1 right-shifted
    assert taps("pixelcnn-pp") == {(-2, -1), (-2, 0), (-2, 1), (-1, -1), (-1, 0), (-1, 1), (0, -1)}
    assert taps("made") is None
    assert taps("pixel-transformer") is None


def test_what_cannot_be_explained() -> None:
    found = model()
    image = image_of(found.spec)
    for position in ((8, 0), (0, 10), (-1, 0)):
        with pytest.raises(UsageError, match="position: rows 0 to 7 and columns 0 to 9"):
            pl.explain(found, image, position)
    with pytest.raises(UsageError, match=r"image: the model takes \[N, 1, 8, 10\], not \[1, 1, 8, 9\]"):
        pl.explain(found, image[..., :9])
    with pytest.raises(UsageError, match="one image is explained, not 2"):
        pl.explain(found, image[None].repeat(2, 1, 1, 1))
    with pytest.raises(UsageError, match="levels go from 0 to 4"):
        pl.explain(found, image + 5)
    orders = model("made", spec=ImageSpec(1, 4, 4, 2), orders=3)
    with pytest.raises(UsageError, match="3 orders"):
        pl.explain(orders, image_of(orders.spec))
    name, config = PAIRS["dcgan"]
    gan = GANModel.build(GANDescription(network=name, model=config, image=ImageSpec(1, 16, 16, 256)))
    with pytest.raises(UsageError, match=r"explain: a generator has no causal receptive field; a pixel model has"):
        pl.explain(gan, image_of(gan.spec))


# --------------------------------------------------------------------------------------------------------- the image


def test_the_chart_shows_these_numbers() -> None:
    spec = ImageSpec(3, 8, 10, 5)
    found, image = model(spec=spec), image_of(spec)
    made = explanation(found, image, (3, 6))
    figure = figure_of(made)
    figure.draw_without_rendering()
    shown, mask, field, *channels, cost, _ = figure.axes
    np.testing.assert_allclose(
        np.asarray(shown.get_images()[0].get_array()), image.permute(1, 2, 0).numpy() / 4, atol=0.003
    )
    cells = np.asarray(mask.get_images()[0].get_array())
    assert sum(to_hex(cell) == "#3b6ea5" for cell in cells.reshape(-1, 3)) == 12  # 5x5, its center apart
    kinds = field_kinds(made.field, (3, 6))
    gray = 0.3 + 0.7 * np.asarray(shown.get_images()[0].get_array()).mean(2, keepdims=True)
    colors = np.array([to_rgb(color) for color in FIELD_KINDS.values()])[kinds]
    np.testing.assert_allclose(np.asarray(field.get_images()[0].get_array()), 0.38 * gray + 0.62 * colors, atol=1e-6)
    legend = field.get_legend()
    assert legend is not None
    assert f"receptive field: {int((kinds == 1).sum())}" in [text.get_text() for text in legend.get_texts()]
    for axes, p, true, bits in zip(channels, made.probabilities, made.true_levels, made.bits[:, 3, 6], strict=True):
        assert [bar.get_height() for bar in axes.patches] == pytest.approx(p.tolist())  # type: ignore[attr-defined]
        marked = [to_hex(bar.get_facecolor()) == "#d9822b" for bar in axes.patches]
        assert marked == [level == true for level in range(5)]
        assert f"true level {true}: p = {p[true]:.3g}, costs −log₂ p = {bits:.3g} bits" in [
            text.get_text() for text in axes.texts
        ]
    np.testing.assert_allclose(np.asarray(cost.get_images()[0].get_array()), made.bits.sum(0))
    title = [text.get_text() for text in cost.texts]
    total = made.bits.sum()
    assert title == [f"bright: unexpected; {total:,.1f} bits in all, {total / 240:.4f} bits/dim"]


@pytest.mark.parametrize(("spec", "position"), [(ImageSpec(1, 3, 20, 2), (0, 0)), (ImageSpec(3, 20, 3, 256), (19, 2))])
def test_every_shape_has_an_image(spec: ImageSpec, position: tuple[int, int]) -> None:
    found = model(spec=spec)
    drawn = pl.explain(found, image_of(spec), position)
    assert drawn.mode == "RGB"
    assert min(drawn.size) > 900
    edge = np.asarray(drawn)
    assert (edge[:, -5:] == 255).all()  # nothing is cut off on the right
    assert (edge[-5:] == 255).all()


# ------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXELLOOM_OFFLINE", "1")
    return caller(capsys)


@pytest.fixture
def digits(run: Command) -> PixelModel:
    """``runs/digits``"""
    found = flat(ImageSpec(1, 8, 8, 17), DataConfig().model_dump(mode="json"))
    live(found.network)
    save_run(found, Path("runs/digits"))
    return found


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_the_command_explains_the_first_test_image(run: Command, digits: PixelModel) -> None:
    said = run("explain", "digits", "--position", "2,5")
    assert (said.code, said.out) == (0, "explain.png\n"), said.err
    image = examples(digits, DataConfig(), "test", 1).images[0]
    assert np.array_equal(pixels("explain.png"), np.asarray(pl.explain(pl.load("digits"), image, (2, 5))))


def test_the_command_explains_a_sample_and_a_file(run: Command, digits: PixelModel) -> None:
    sample = digits.sample(1, seed=4)[0]
    assert run("explain", "digits", "--seed", 4, "--out", "sample.png").code == 0
    save_png(to_image(sample.numpy(), 17), Path("mine.png"))
    assert run("explain", "digits", "mine.png", "--out", "file.png").code == 0
    assert np.array_equal(pixels("sample.png"), pixels("file.png"))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ("digits --position 8,0", "--position: ROW,COLUMN with rows 0 to 7 and columns 0 to 7, not '8,0'"),
        ("digits --position=-1,0", "--position: ROW,COLUMN"),
        ("digits --position center", "not 'center'"),
        ("digits mine.png --seed 3", "IMAGE, --seed: give an image file or the seed of a sample, not both"),
        ("digits --seed -1", "for --seed. Must be >= 0"),
        ("digits --class 1", "--class 1: this model is unconditional"),
        ("digits --out kept.png", "kept.png: exists already"),
        ("digits --posiiton 2,2", "Unknown option: --posiiton. Did you mean --position?"),
    ],
)
def test_wrong_usage(options: str, part: str, run: Command, digits: PixelModel) -> None:
    Path("kept.png").write_text("mine")
    said = run("explain", *options.split())
    assert (said.code, said.out) == (2, "")
    assert part in said.err
    assert Path("kept.png").read_text() == "mine"
    assert not Path("explain.png").exists()


def test_force_replaces_and_a_gan_is_refused(run: Command, digits: PixelModel) -> None:
    Path("kept.png").write_text("mine")
    assert run("explain", "digits", "--out", "kept.png", "--force").code == 0
    assert pixels("kept.png").shape[2] == 3
    name, config = PAIRS["dcgan"]
    GANModel.build(GANDescription(network=name, model=config, image=ImageSpec(1, 16, 16, 256))).save(Path("gan/model"))
    said = run("explain", "gan")
    assert said.code == 2
    assert "pixelloom explain: a generator has no causal receptive field; a pixel model has" in said.err
