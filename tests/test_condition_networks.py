"""Conditioning images in every network that takes them: what they reach, samplers, completion, several orders."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from checks import all_images
from pixelloom import api
from pixelloom.codec.export import lower
from pixelloom.core.errors import ModelError, UsageError
from pixelloom.core.types import ImageSpec
from pixelloom.data.pixels import Scaling
from pixelloom.heads.discrete import HeadConfig
from pixelloom.models.pixel import PixelDescription, PixelModel, load_pixel
from pixelloom.networks import PIXEL_NETWORKS, takes_condition
from pixelloom.networks.pixel.pixelcnnpp import PixelCNNPlusPlusConfig
from pixelloom.sampling.fast.analysis import Dataflow, assert_autoregressive
from settings import BERNOULLI, ORDERED, live
from test_completion import BITS, MASKS, ORDERS, noise_of, turned, variation

CONFIGS: dict[str, Any] = ORDERS | {
    "pixelcnn-pp": PixelCNNPlusPlusConfig(channels=4, blocks=1, scales=2, dropout=0.0, weight_norm=False)
}
NETWORKS = [name for name in PIXEL_NETWORKS if takes_condition(name)]
each_network = pytest.mark.parametrize("name", NETWORKS)
WIDE = ImageSpec(1, 3, 5, 2)  # odd sides: excess positions at the lower scale


def model_of(
    name: str,
    spec: ImageSpec = BITS,
    head: HeadConfig = BERNOULLI,
    rule: str = "mask",
    encoder: str = "u-net",
    **more: Any,
) -> PixelModel:
    """A narrow network with random weights, in float64."""
    config = CONFIGS[name].model_copy(update={"condition_encoder": encoder})
    description = PixelDescription(
        network=name, model=config, head=head, image=spec, scaling=Scaling.symmetric(), condition=rule, **more
    )  # fmt: skip
    torch.manual_seed(0)
    model = PixelModel.build(description)
    live(model.network).double()
    return model


def some(spec: ImageSpec, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random images uint8 [n, C, H, W], and hidden pixels bool [n, 1, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(spec.levels, (n, *spec.shape), generator=generator, dtype=torch.uint8)
    return images, torch.rand(n, 1, spec.height, spec.width, generator=generator) < 0.5


class Fixed(nn.Module):
    """A network with the same conditioning image for every image of a batch."""

    def __init__(self, network: nn.Module, condition: Tensor) -> None:
        super().__init__()
        self.network, self.condition = network, condition

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.network(x, condition=self.condition.expand(len(x), -1, -1, -1))
        return out


def test_all_networks_but_those_with_weights_of_each_pixel() -> None:
    assert set(PIXEL_NETWORKS) - set(NETWORKS) == {"nade", "made"}


@each_network
@pytest.mark.parametrize("head", [BERNOULLI, ORDERED], ids=["one channel", "ordered channels"])
def test_causal_in_the_image_and_free_in_the_conditioning_image(name: str, head: HeadConfig) -> None:
    spec = WIDE if head is BERNOULLI else replace(WIDE, channels=3, levels=3)
    model = model_of(name, spec, head)
    assert model.condition is not None
    images, hidden = some(spec, 4)
    planes = model.condition.planes(model.condition.partly(images, hidden)).double()
    Dataflow(model.network, spec.shape, model.head.groups, {"condition": planes[:1]}).check()
    assert_autoregressive(Fixed(model.network, planes[:1]), spec, groups=model.head.groups, by="gradient")
    # Every value of the conditioning image reaches the first pixel and the last one, for some images and weights.
    at, seen = planes.clone().requires_grad_(), torch.zeros(2, *planes.shape[1:], dtype=torch.bool)
    for seed in range(9):
        out = live(model.network, seed)(images.double(), condition=at)
        for i, (row, column) in enumerate(((0, 0), (-1, -1))):
            (slope,) = torch.autograd.grad(out[:, :, row, column].sum(), at, retain_graph=True)
            seen[i] |= (slope != 0).any(0)
        if bool(seen.all()):
            return
    pytest.fail(f"unread: {(~seen).nonzero().tolist()}")


@each_network
def test_conditioning_starts_at_zero_and_changes_no_other_weight(name: str) -> None:
    spec, constructor = BITS, PIXEL_NETWORKS[name][1]
    networks = [constructor(CONFIGS[name], spec, outputs=1, groups=1, condition=n) for n in (0, 2)]
    plain, conditioned = networks
    shared = plain.state_dict()
    assert {key for key in conditioned.state_dict() if key not in shared}
    assert shared.keys() <= conditioned.state_dict().keys()
    x = torch.randn(2, 1, 3, 3)
    live(plain)
    conditioned.load_state_dict(plain.state_dict(), strict=False)
    found = [conditioned.eval()(x, condition=torch.randn(2, 2, 3, 3)) for _ in range(2)]
    assert torch.equal(*found)
    torch.testing.assert_close(found[0], plain.eval()(x), rtol=1e-6, atol=1e-6)
    with pytest.raises(UsageError, match=r"^condition: this network was built without condition"):
        plain(x, condition=x)
    with pytest.raises(UsageError, match=r"^condition: this network was built with condition"):
        conditioned(x)


@each_network
@pytest.mark.parametrize(("rule", "encoder"), [("mask", "u-net"), ("edges", "kernels")])
def test_the_fast_sampler_equals_the_plain_loop(name: str, rule: str, encoder: str) -> None:
    model = model_of(name, replace(WIDE, levels=4), ORDERED, rule, encoder, classes=2)
    assert model.condition is not None
    images, hidden = some(model.spec, 4)
    given = model.condition.partly(images, hidden) if rule == "mask" else model.condition.of(images)
    labels = torch.tensor([0, 1, 2, 0])
    plain = model.sample(4, condition=given, labels=labels, method="plain", seed=2)
    assert torch.equal(model.sample(4, condition=given, labels=labels, seed=2, batch=3), plain)
    assert not torch.equal(model.sample(4, condition=given.flip(0), labels=labels, seed=2), plain)
    if rule == "mask":
        assert torch.equal(plain * ~hidden, images * ~hidden)


def by_hand(model: PixelModel, images: Tensor, hidden: Tensor) -> Tensor:
    """log p(hidden | known) of images [n, C, H, W] by one pass for each order over images that are turned by hand."""
    orders = model.description.orders
    network = model.network.network if orders > 1 else model.network
    planes = torch.cat((images * ~hidden, (~hidden).expand_as(images).byte()), 1).numpy()
    each = []
    for order in range(orders):
        x, c, open_ = (
            torch.stack([torch.from_numpy(turned(image, order)) for image in many])
            for many in (images.numpy(), planes, hidden.expand_as(images).numpy())
        )
        labels = {"labels": torch.full((len(x),), order)} if orders > 1 else {}
        params = network(x.double() * 2 - 1, condition=c.double(), **labels)
        each.append(-(model.head.nats(params, x).double() * open_).flatten(1).sum(1))
    return torch.stack(each).logsumexp(0).detach() - math.log(orders)


@each_network
@pytest.mark.parametrize(("orders", "mask"), [(1, "top"), (8, "corners")])
def test_completions_follow_the_enumerated_conditional(name: str, orders: int, mask: str) -> None:
    model, hidden = model_of(name, orders=orders), torch.tensor(MASKS[mask]).bool()
    assert model.condition is not None
    images = all_images(BITS)
    given = images[173]
    agrees = images[((images == given) | hidden).flatten(1).all(1)]
    expected = by_hand(model, agrees, hidden[None, None])
    assert float(expected.exp().sum()) == pytest.approx(1, abs=1e-6)
    partly = model.condition.partly(agrees, hidden[None, None])
    torch.testing.assert_close(model.log_prob(agrees, condition=partly), expected, rtol=0, atol=1e-6)
    truth = {image.numpy().tobytes(): math.exp(p) for image, p in zip(agrees, expected, strict=True)}
    found = model.complete(given.expand(10, *given.shape), hidden, 200, seed=2)
    assert found.method == "mask"
    drawn = found.images.flatten(0, 1)
    assert variation(drawn, truth) < noise_of(truth, len(drawn)) + 0.02
    of_each = torch.tensor([truth[image.numpy().tobytes()] for image in drawn]).double().log()
    torch.testing.assert_close(found.log_prob.flatten(), of_each, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["pixelcnn", "gated-pixelcnn"])
@pytest.mark.parametrize("rule", ["downsample@2", "edges"])
def test_orders_with_other_conditioning_images(name: str, rule: str) -> None:
    """p(x | c) sums to 1 for each c, and both samplers draw the same images."""
    model = model_of(name, ImageSpec(1, 2, 4, 2), rule=rule, encoder="kernels", orders=4)
    assert model.condition is not None
    worlds = all_images(model.spec)
    for given in model.condition.of(worlds[[3, 200]]):
        assert float(model.log_prob(worlds, condition=given[None]).exp().sum()) == pytest.approx(1, abs=1e-6)
    given = model.condition.of(worlds[[3, 200, 77, 90, 14]])
    drawn = model.sample(5, condition=given)
    assert torch.equal(drawn, model.sample(5, condition=given, method="plain", batch=2))
    for_all = model.sample(5, condition=given[:1])
    assert torch.equal(for_all, model.sample(5, condition=given[:1].expand(5, -1, -1, -1)))
    other = model.log_prob(worlds, condition=given[:1]) - model.log_prob(worlds, condition=given[1:2])
    assert other.abs().max() > 1e-3


def test_partly_known_images_of_several_orders_need_the_rule_mask() -> None:
    model = model_of("pixelcnn", orders=4)
    images, hidden = some(BITS, 2)
    with pytest.raises(UsageError, match=r"^given: this model averages over 4 orders"):
        model.sample(2, given=images, mask=~hidden)


@each_network
def test_the_codec_refuses_it_by_name(name: str) -> None:
    with pytest.raises(ModelError, match="a conditioning image"):
        lower(model_of(name), some(BITS, 4)[0])


def test_a_short_run_with_masks_and_orders(tmp_path: Path) -> None:
    """The encoder of masks is a U-Net, the run validates and draws, and the saved model computes the same."""
    model = api.train(
        "pixelcnn", data="digits", out=tmp_path, images=16, precision="fp32",
        overrides={
            "condition": "mask", "orders": 4, "samples": 2, "validation_images": 8, "train.batch": 8,
            "model.channels": 6, "model.blocks": 1,
        },
    )  # fmt: skip
    assert isinstance(model, PixelModel)
    assert model.description.model.condition_encoder == "u-net"  # type: ignore[attr-defined]
    again = load_pixel(tmp_path / "model")
    images, hidden = some(model.spec, 3)
    assert model.condition is not None
    given = model.condition.partly(images, hidden)
    found = model.sample(3, condition=given, seed=1)
    assert torch.equal(found * ~hidden, images * ~hidden)
    assert torch.equal(again.sample(3, condition=given, seed=1), found)
    assert torch.equal(again.log_prob(images, condition=given), model.log_prob(images, condition=given))
