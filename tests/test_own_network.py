"""Networks of one's own: masked convolutions of any origin are read, scored, sampled, trained, saved and loaded."""

from __future__ import annotations

import itertools
import logging
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pixelloom as pl
from own_networks import READ, InPlace, Maker, Product, Unfolded, Wrapper, mask_of, network_of, stepped
from pixelloom.data.pixels import Scaling
from pixelloom.heads.config import HeadConfig
from pixelloom.heads.discrete import Categorical
from pixelloom.models.pixel_description import OWN
from pixelloom.runs import config as run_config
from small_models import flat

SPEC = pl.ImageSpec(1, 6, 7, 2)
BOTH, GRADIENT = ("schedule", "gradient"), ("gradient",)
layers = pytest.mark.parametrize("layer", READ.values(), ids=READ)
quiet = pytest.mark.filterwarnings("ignore:.*weight_norm.*", "ignore:.*WeightNorm.*")


def every_image(spec: pl.ImageSpec) -> Tensor:
    values = torch.tensor(list(itertools.product(range(spec.levels), repeat=spec.dims)), dtype=torch.uint8)
    return values.view(-1, *spec.shape)


def dependence(network: nn.Module, position: tuple[int, int]) -> np.ndarray:
    """The pixels whose change changes the output at a position, from 1 + C H W passes."""
    torch.manual_seed(1)
    x = torch.rand(1, *SPEC.shape, dtype=torch.float64)
    changed = x + torch.eye(SPEC.dims, dtype=torch.float64).view(-1, *SPEC.shape)
    with torch.no_grad():
        out = network.double()(torch.cat([x, changed]))[:, :, position[0], position[1]]
    return (out[1:] != out[:1]).any(1).view(SPEC.shape).numpy()


# Reading


@quiet
@layers
def test_masks_are_read_however_they_are_applied(layer: Maker) -> None:
    network = network_of(layer)
    assert pl.assert_autoregressive(network, SPEC) == BOTH
    for position in ((3, 3), (0, 0), (5, 6)):
        assert np.array_equal(pl.receptive_field(network, SPEC, position), dependence(network_of(layer), position))
    with pytest.raises(pl.NotAutoregressiveError, match=r"^0.*: reads input at offset \(\+0, \+0\)"):
        pl.assert_autoregressive(network_of(layer, "B"), SPEC)


@quiet
@layers
def test_samples_are_those_of_the_plain_loop_after_any_step(layer: Maker) -> None:
    """Also where a step has changed weights that the next forward sets to zero."""
    spec = pl.ImageSpec(1, 6, 7, 3)
    model = pl.PixelModel.of(network_of(layer, outputs=3), spec)
    model.network.double()
    if hasattr(model.network[0], "causal"):  # a plain tensor, which module.double() does not convert
        for part in model.network.modules():
            if hasattr(part, "causal"):
                part.causal = part.causal.double()
    drawn = []
    for step in range(3):
        stepped(model.network, step)
        drawn.append(model.sample(6, seed=step))
        assert torch.equal(drawn[-1], model.sample(6, seed=step, method="plain"))
    assert model.fast_sampler().steps < spec.height * spec.width
    assert not torch.equal(drawn[0], drawn[1])


@quiet
@layers
def test_probabilities_of_all_images_sum_to_one(layer: Maker) -> None:
    for spec, outputs in ((pl.ImageSpec(1, 3, 3, 2), 1), (pl.ImageSpec(1, 2, 2, 4), 4)):
        model = pl.PixelModel.of(network_of(layer, outputs=outputs), spec)
        stepped(model.network, 5)
        assert float(model.log_prob(every_image(spec)).exp().sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("layer", [InPlace, Product, Wrapper])
@pytest.mark.parametrize("bias", [False, True])
def test_padding_by_name_and_no_bias(layer: Maker, bias: bool) -> None:
    model = pl.PixelModel.of(network_of(layer, padding=True, bias=bias), SPEC)
    model.network.double()
    assert torch.equal(model.sample(8), model.sample(8, method="plain"))


GEOMETRY: dict[str, dict[str, Any]] = {
    "dilation": {"dilation": 2, "padding": 2},
    "groups": {"groups": 2, "padding": 1},
    "more padding than needed": {"padding": (1, 2), "kernel_size": (3, 5)},
    "one side": {"padding": (1, 0), "kernel_size": (3, 1)},
}


@pytest.mark.parametrize("options", GEOMETRY.values(), ids=GEOMETRY)
def test_windows_of_any_shape(options: dict[str, Any]) -> None:
    class Masked(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            self.weight.data *= mask_of(self.weight.data, "B")
            return super().forward(x)

    torch.manual_seed(0)
    middle = Masked(4, 4, **{"kernel_size": 3, **options})
    network = nn.Sequential(InPlace("A", 1, 4, 3, padding=1), middle, nn.Tanh(), nn.Conv2d(4, 1, 1))
    model = pl.PixelModel.of(network, SPEC)
    model.network.double()
    stepped(model.network, 1)
    assert torch.equal(model.sample(8), model.sample(8, method="plain"))
    assert np.array_equal(pl.receptive_field(network, SPEC, (3, 3)), dependence(network, (3, 3)))


def test_the_mask_is_read_and_not_the_weights() -> None:
    """Weights of zero, as an output layer begins with, are read all the same; frozen ones too."""
    for frozen in (False, True):
        network = network_of(InPlace)
        whole = pl.receptive_field(network, SPEC, (3, 3))
        for parameter in network.parameters():
            parameter.data.zero_()
            parameter.requires_grad_(not frozen)
        assert np.array_equal(pl.receptive_field(network, SPEC, (3, 3)), whole)


def test_the_name_of_a_buffer_proves_nothing() -> None:
    class Unused(InPlace):
        def forward(self, x: Tensor) -> Tensor:
            return nn.Conv2d.forward(self, x)

    class Backwards(InPlace):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight * (1 - self.mask), self.bias, padding=self.padding)

    for wrong in (Unused, Backwards):
        with pytest.raises(pl.NotAutoregressiveError, match=r"^0: reads input at offset \(\+"):
            pl.assert_autoregressive(network_of(wrong), SPEC)


def test_a_layer_that_changes_its_input_or_its_output_is_not_taken_for_a_convolution() -> None:
    class Before(InPlace):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mul_(0.5))

    class After(InPlace):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).mul_(3)

    def network(layer: Maker) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(InPlace("A", 1, 6, 3, padding=1), nn.Tanh(), layer("B", 6, 2, 3, padding=1)).double()

    with pytest.raises(pl.ModelError, match=r"^2 \(Before\): is not the convolution by its masked weights"):
        pl.assert_autoregressive(network(Before), SPEC, by="schedule")
    model = pl.PixelModel.of(network(After), SPEC, "categorical")
    stepped(model.network, 2)
    assert torch.equal(model.sample(16), model.sample(16, method="plain"))


def test_a_mask_that_changes_afterwards_is_noticed() -> None:
    model = pl.PixelModel.of(network_of(Product), SPEC)
    model.sample(1)
    model.network[0].mask[:] = mask_of(model.network[0].weight, "B")
    with pytest.raises(pl.ModelError, match="0: its mask has changed"):
        model.sample(1)


def test_reading_changes_nothing_in_the_network() -> None:
    network = network_of(Product).train()
    network[1].eval()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    before = torch.get_rng_state()
    pl.assert_autoregressive(network, SPEC, by="schedule")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert [network[0].training, network[1].training] == [True, False]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


# What cannot be read


def test_gradients_decide_where_layers_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    assert pl.assert_autoregressive(network_of(Unfolded), SPEC) == GRADIENT
    assert "checked by gradient alone, since the layers cannot be read" in caplog.text
    field = pl.receptive_field(network_of(Unfolded), SPEC, (3, 3))
    assert np.array_equal(field, dependence(network_of(Unfolded), (3, 3)))
    assert "receptive field by gradient" in caplog.text
    with pytest.raises(pl.NotAutoregressiveError, match="row 0, column 0 depends on channel 0 of the pixel at row 0"):
        pl.assert_autoregressive(network_of(Unfolded, "B"), SPEC)


def test_weights_of_zero_do_not_hide_a_dependence_from_the_gradient() -> None:
    network = network_of(Unfolded, "B")
    nn.init.zeros_(network[-1].weight)
    with pytest.raises(pl.NotAutoregressiveError, match="row 0, column 0 depends on"):
        pl.PixelModel.of(network, SPEC)
    pl.assert_autoregressive(network, SPEC, by="gradient")  # of these weights alone


def test_a_network_that_cannot_be_read_is_sampled_plainly_with_one_message(caplog: pytest.LogCaptureFixture) -> None:
    model = pl.PixelModel.of(network_of(Unfolded), SPEC)
    caplog.clear()
    drawn = [model.sample(3) for _ in range(2)]
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(messages) == 1
    assert messages[0].startswith("sampling takes 42 passes of the network, since its layers cannot be read")
    assert torch.equal(drawn[0], model.sample(3, method="plain"))
    assert torch.equal(drawn[0], drawn[1])
    assert float(pl.PixelModel.of(network_of(Unfolded), pl.ImageSpec(1, 3, 3, 2)).log_prob(
        every_image(pl.ImageSpec(1, 3, 3, 2))).exp().sum()) == pytest.approx(1, abs=1e-5)  # fmt: skip


# Models


@pytest.mark.parametrize(
    ("inputs", "scale"),
    [
        ("symmetric", lambda v: 2 * v / 4 - 1),
        ("unit", lambda v: v / 4),
        ("levels", lambda v: v),
        (Scaling(0.5, 2.0), lambda v: (v / 4 - 0.5) / 2),
    ],
)
def test_scores_are_those_of_the_network_on_scaled_levels(inputs: Any, scale: Any) -> None:
    spec = pl.ImageSpec(1, 6, 7, 5)
    network = network_of(InPlace, outputs=5)
    levels = torch.randint(0, 5, (4, *spec.shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    found = pl.PixelModel.of(network, spec, inputs=inputs).log_prob(levels)
    with torch.no_grad():
        expected = (
            -F.cross_entropy(network(scale(levels.float())), levels[:, 0].long(), reduction="none").double().sum((1, 2))
        )
    assert torch.allclose(found, expected, rtol=1e-5)


def test_heads_by_name_configuration_and_object() -> None:
    spec = pl.ImageSpec(1, 6, 7, 5)
    network = network_of(InPlace, outputs=5)
    kinds = {
        pl.PixelModel.of(network, spec, head).head for head in ("auto", "categorical", HeadConfig(), Categorical(spec))
    }
    assert kinds == {Categorical(spec)}
    assert (
        pl.PixelModel.of(network_of(InPlace, outputs=6), spec, HeadConfig(kind="logistics", mixtures=2)).head.outputs
        == 6
    )
    assert pl.PixelModel.of(network_of(InPlace), SPEC).head.kind == "bernoulli"
    assert pl.PixelModel.of(network_of(InPlace, outputs=2), SPEC, "categorical").head.kind == "categorical"


class OfChannels(nn.Conv2d):
    """Feature i belongs to channel i % 3 of the pixel, R before G before B."""

    def __init__(self, kind: str, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        mask = mask_of(self.weight.data, "A")
        outputs, inputs = torch.arange(len(mask))[:, None] % 3, torch.arange(mask.shape[1]) % 3
        center = self.kernel_size[0] // 2
        mask[:, :, center, center] = (inputs < outputs if kind == "A" else inputs <= outputs).float()
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= self.mask
        return super().forward(x)


class ChannelBlock(nn.Module):
    """The mask of the layer within, which leaves out more than it must, applied from outside, and an activation."""

    def __init__(self, kind: str, *args: Any, **options: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(*args, **options)
        self.mask = OfChannels(kind, *args, **options).mask.double()
        self.mask[::2, 1::2, 0, 0] = 0  # of a pixel above, some features

    def forward(self, x: Tensor) -> Tensor:
        self.conv.weight.data *= self.mask
        return torch.tanh(self.conv(x))


def test_channels_of_color_may_be_ordered_in_any_grouping_of_features() -> None:
    spec = pl.ImageSpec(3, 2, 2, 2)

    def network(first: str, layer: Maker = OfChannels) -> nn.Module:
        torch.manual_seed(0)
        layers = [layer(first, 3, 9, 3, padding=1), nn.Tanh(), layer("B", 9, 9, 3, padding=1), nn.Tanh()]
        return nn.Sequential(*layers, OfChannels("B", 9, 3, 1))

    # The third reads earlier pixels only.
    for made in (network("A"), network("A", ChannelBlock), network_of(InPlace, channels=3, outputs=3)):
        model = pl.PixelModel.of(made, spec)
        assert float(model.log_prob(every_image(spec)).exp().sum()) == pytest.approx(1, abs=1e-5)
        larger = pl.PixelModel.of(made.double(), pl.ImageSpec(3, 5, 5, 2))
        stepped(made, 1)
        assert torch.equal(larger.sample(40), larger.sample(40, method="plain"))
    with pytest.raises(pl.NotAutoregressiveError):
        pl.PixelModel.of(network("B"), spec)
    with pytest.raises(pl.NotAutoregressiveError):  # green reads red
        pl.PixelModel.of(network("A"), spec, HeadConfig(channels="independent"))


def test_what_does_not_fit_is_refused_with_what_is_needed() -> None:
    with pytest.raises(pl.UsageError, match=r"gives \[1, 1, 6, 7\] for one .* takes \[1, 4, 6, 7\], 4 outputs per"):
        pl.PixelModel.of(network_of(InPlace), pl.ImageSpec(1, 6, 7, 4))
    with pytest.raises(pl.UsageError, match=r"head: auto, bernoulli, .* or a HeadConfig, not 'softmax'"):
        pl.PixelModel.of(network_of(InPlace), SPEC, "softmax")
    with pytest.raises(pl.UsageError, match="inputs: symmetric, unit, levels or a Scaling, not 'standard'"):
        pl.PixelModel.of(network_of(InPlace), SPEC, inputs="standard")  # type: ignore[arg-type]
    with pytest.raises(pl.UsageError, match="network: it has no parameters"):
        pl.PixelModel.of(nn.Tanh(), SPEC)
    with pytest.raises(pl.UsageError, match="network: a torch module is needed, not <class"):
        pl.PixelModel.of(InPlace, SPEC)  # type: ignore[arg-type]


# Files


class Net(nn.Module):
    def __init__(self, features: int = 6) -> None:
        super().__init__()
        self.first, self.out = InPlace("A", 1, features, 3, padding=1), nn.Conv2d(features, 17, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(torch.relu(self.first(x)))
        return out


DIGITS = pl.ImageSpec(1, 8, 8, 17)


def test_a_saved_model_is_loaded_into_the_network_that_is_given_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = pl.PixelModel.of(Net(), DIGITS, inputs="unit")
    model.save(tmp_path / "m")
    drawn, scored = model.sample(3), model.log_prob(model.sample(3))
    for network in (Net(), Net, lambda: Net(6)):
        again = pl.load(tmp_path / "m", network=network)
        assert torch.equal(again.sample(3), drawn)
        assert torch.equal(again.log_prob(drawn), scored)  # type: ignore[attr-defined]
    assert not caplog.records
    with pytest.raises(pl.ModelError, match=r"class of your own, test_own_network\.Net; .* network=Net\(\.\.\.\)\)"):
        pl.load(tmp_path / "m")
    with pytest.raises(pl.ModelError, match=r"first\.bias is float32 \[6\], needed float32 \[5\]"):
        pl.load(tmp_path / "m", network=Net(5))
    with pytest.raises(pl.ModelError, match="torch module is needed, not 5"):
        pl.load(tmp_path / "m", network=lambda: 5)  # type: ignore[arg-type,return-value]

    class Leaky(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + x

    with pytest.raises(pl.NotAutoregressiveError):
        pl.load(tmp_path / "m", network=Leaky())
    assert "was saved with a network of class test_own_network.Net; given is" in caplog.text
    flat(DIGITS).save(tmp_path / "named")
    with pytest.raises(pl.ModelError, match="its network is 'pixelcnn', by name; leave out network="):
        pl.load(tmp_path / "named", network=Net())


def test_a_file_runs_no_code(tmp_path: Path) -> None:
    """The class of the file is looked up nowhere, though a module of its name could be imported."""
    (tmp_path / "hostile.py").write_text("raise SystemExit('imported')")
    model = pl.PixelModel.of(Net(), DIGITS)
    about = model.description
    model.description = about.model_copy(update={"model": about.model.model_copy(update={"kind": "hostile.Net"})})
    model.save(tmp_path / "m")
    script = "import pixelloom as pl\ntry: pl.load('m')\nexcept pl.ModelError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "its network is a class of your own, hostile.Net" in done.stdout


# Training


def test_training_is_that_of_any_model_in_place(tmp_path: Path) -> None:
    assert run_config.OWN == OWN
    torch.manual_seed(0)
    network = Net()
    model = pl.PixelModel.of(network, DIGITS)
    before = pl.evaluate(model, "digits", limit=50).bits_per_dim
    options = {"optim.lr": 2e-2, "optim.warmup": 0, "train.batch": 16, "samples": 1}
    trained = pl.train(model, data="digits", images=1280, out=tmp_path / "run", overrides=options)
    assert trained is model
    assert model.network is network
    after = pl.evaluate(model, "digits", limit=50).bits_per_dim
    assert after < before - 0.3
    assert after < math.log2(17)
    record = model.description.training
    assert (record.images, record.recipe) == (1280, "own")
    again = pl.load(tmp_path / "run", network=Net)
    assert torch.equal(again.sample(4), model.sample(4))
    assert torch.equal(model.sample(4), model.sample(4, method="plain"))
    with pytest.raises(pl.UsageError, match="network: this run trains a network of your own, which only Python has"):
        pl.train(config=tmp_path / "run/config.yaml", out=tmp_path / "other")


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    def trained(images: int, out: str, *, resume: bool = False) -> pl.PixelModel:
        torch.manual_seed(0)
        model = pl.PixelModel.of(Net(), DIGITS)
        fixed = {"train.threads": 1, "train.precision": "fp32", "optim.decay": "none", "samples": 0}
        pl.train(model, data="digits", images=images, out=tmp_path / out, resume=resume, overrides=fixed)
        return model

    whole = trained(512, "whole")
    trained(256, "parts")
    parts = trained(512, "parts", resume=True)
    state = whole.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in parts.network.state_dict().items())


def test_training_refuses_what_does_not_fit(tmp_path: Path) -> None:
    wrong = {
        "images of 1x8x8 with 17 levels, the model is made for 1x6x7 with 2": (
            {},
            network_of(InPlace),
            SPEC,
        ),
        "inputs: a network of your own is trained as PixelModel.of has made it": ({"inputs": "unit"}, Net(), DIGITS),
        "head.kind: given twice": ({"head.kind": "logistics"}, Net(), DIGITS),
    }
    for message, (overrides, network, spec) in wrong.items():
        with pytest.raises(pl.UsageError, match=re.escape(message)):
            pl.train(pl.PixelModel.of(network, spec), data="digits", out=tmp_path / "run", overrides=overrides)
    with pytest.raises(pl.UsageError, match="not PixelModel of the network 'pixelcnn'"):
        pl.train(flat(DIGITS), data="digits", out=tmp_path / "run")
    assert not (tmp_path / "run/model").exists()


def test_weights_that_need_other_layers_of_storage_are_trained(tmp_path: Path) -> None:
    """Weights that are computed from others are no leaves, which torch refuses to copy."""
    for name in ("weight norm by hook", "parametrized", "plain tensor"):
        model = pl.PixelModel.of(network_of(READ[name], outputs=17), DIGITS)
        before = pl.evaluate(model, "digits", limit=20).bits_per_dim
        pl.train(model, data="digits", images=256, out=tmp_path / name, overrides={"samples": 1, "train.ema": 0.1})
        assert pl.evaluate(model, "digits", limit=20).bits_per_dim < before
