"""Causal attention by its definition, the rows it is limited to, the pixel before, and how the fast sampler runs it."""

from __future__ import annotations

import math
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from checks import check_every_logit, check_fast_is_plain
from fast_toys import masks, poisoned, random_images
from pixelloom.core.types import ImageSpec
from pixelloom.layers import causal_attention
from pixelloom.layers.causal_attention import CausalAttention, PixelBefore
from pixelloom.layers.masked_conv import MaskedConv2d
from pixelloom.layers.reads import Earlier, Position, Size
from pixelloom.models.pixel import PixelModel
from pixelloom.networks.pixel.pixelcnn import PixelCNNConfig
from settings import ORDERED, Setting, live

SIZES = ((4, 5), (5, 3), (1, 6), (6, 1), (1, 1))
LIMITS = (None, 0, 2, 9)
each_size = pytest.mark.parametrize("size", SIZES)
each_own = pytest.mark.parametrize("own", [True, False])
each_limit = pytest.mark.parametrize("above", LIMITS)


def before(position: Position, size: Size, own: bool, above: int | None) -> list[Position]:
    """By the words: those before in raster order, perhaps itself, perhaps of some rows above and the own row only."""
    everywhere = [(v, u) for v in range(size[0]) for u in range(size[1])]
    found = [q for q in everywhere if q < position or (own and q == position)]
    return [(v, u) for v, u in found if above is None or v >= position[0] - above]


# Positions


@each_size
@each_own
@each_limit
def test_earlier_positions_of_some_rows(size: Size, own: bool, above: int | None) -> None:
    where, rng = Earlier(own, above), np.random.default_rng(0)
    for _ in range(3):
        values, marked = rng.integers(-3, 9, (2, *size)), rng.random((2, *size)) < rng.random()
        latest, back = np.full((2, *size), -1), np.zeros((2, *size), bool)
        for position in np.ndindex(*size):
            read = before(position, size, own, above)
            assert where.of(position, size) == read
            first, end = where.span(position, size)
            assert [divmod(i, size[1]) for i in range(first, end)] == read
            assert all(where.rows(position[0])[0] <= v <= where.rows(position[0])[1] for v, _ in read)
            for plane in range(2):
                latest[plane][position] = max([-1, *(int(values[plane][q]) for q in read)])
                for q in read if marked[plane][position] else ():
                    back[plane][q] = True
        np.testing.assert_array_equal(where.latest(values, size, -1), latest)
        np.testing.assert_array_equal(where.latest(values[1], size, -1), latest[1])
        np.testing.assert_array_equal(where.back(marked, size), back)
        np.testing.assert_array_equal(where.back(marked[1], size), back[1])


def test_a_limit_of_rows_reads_no_further_than_it_says() -> None:
    assert Earlier(above=2).rows(5) == (3, 5)
    assert Earlier(above=2).rows(1) == (0, 1)
    assert Earlier().rows(5) == (0, 5)


# The layer


def inputs(size: Size, heads: int, d: int, e: int, images: int = 2) -> list[Tensor]:
    """Queries, keys and values, large enough that weights differ."""
    generator = torch.Generator().manual_seed(0)
    return [2 * torch.randn(images, heads * n, *size, generator=generator, dtype=torch.float64) for n in (d, d, e)]


def attended(layer: CausalAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k / sqrt(d)) v in each head, position by position, differentiable."""
    images, size = len(q), (q.shape[2], q.shape[3])
    rows = []
    for image, position in ((i, p) for i in range(images) for p in np.ndindex(*size)):
        read = before(position, size, layer.where.own, layer.where.above)
        heads = []
        for qh, kh, vh in zip(*(x[image].chunk(layer.heads) for x in (q, k, v)), strict=True):
            scores = [(qh[:, *position] * kh[:, *p]).sum() / math.sqrt(len(qh)) for p in read]
            total = sum(torch.exp(s) for s in scores)
            out = sum((torch.exp(s) / total * vh[:, *p] for s, p in zip(scores, read, strict=True)), 0 * vh[:, 0, 0])
            heads.append(out)
        rows.append(torch.cat(heads))
    return torch.stack(rows).view(images, *size, -1).permute(0, 3, 1, 2)


@each_own
@each_limit
@pytest.mark.parametrize(("heads", "d", "e"), [(1, 4, 4), (2, 3, 3), (1, 2, 5), (2, 4, 3)])
@pytest.mark.parametrize("block", [1, 7])
def test_attention_is_its_definition(own: bool, above: int | None, heads: int, d: int, e: int, block: int) -> None:
    layer = CausalAttention(heads, own=own, above=above)
    for size in SIZES if block == 7 else SIZES[:1]:
        q, k, v = inputs(size, heads, d, e)
        with patch.object(causal_attention, "BLOCK", block):
            found = layer(q, k, v)
        torch.testing.assert_close(found, attended(layer, q, k, v), rtol=1e-10, atol=1e-12)


@each_own
@each_limit
@pytest.mark.parametrize("e", [4, 6])
def test_training_in_bf16_takes_the_same_gradients(own: bool, above: int | None, e: int) -> None:
    """What is multiplied out there, with bf16's 8 bits, against the definition."""
    layer, exact = CausalAttention(2, own=own, above=above), inputs((5, 4), 2, 4, e)
    exact = [x.bfloat16().double().requires_grad_() for x in exact]
    short = [x.detach().bfloat16().requires_grad_() for x in exact]
    aim = torch.randn(2, 2 * e, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = attended(layer, *exact)
    with patch.object(causal_attention, "BLOCK", 8):
        found = layer(*short)
    assert found.dtype == torch.bfloat16
    (expected * aim).sum().backward()
    (found * aim).sum().backward()
    for one, other in ((found, expected), *((s.grad, x.grad) for s, x in zip(short, exact, strict=True))):
        assert one is not None
        assert other is not None
        assert float((one.double() - other).detach().abs().max()) < 0.03 * float(other.detach().abs().max())


@each_own
@each_limit
def test_it_reads_what_it_says(own: bool, above: int | None) -> None:
    """By the gradient of every output at every position."""
    layer, size = CausalAttention(2, own=own, above=above), (4, 3)
    jacobians = torch.autograd.functional.jacobian(layer, tuple(inputs(size, 2, 2, 2, images=1)))
    for read, jacobian in zip(layer.reads(), jacobians, strict=True):
        assert isinstance(jacobian, Tensor)
        seen = (jacobian != 0)[0, :, :, :, 0].any(dim=3).any(dim=0)
        for position in np.ndindex(*size):
            said = [position] if read.input == 0 else before(position, size, own, above)
            if read.input < 2 and len(before(position, size, own, above)) < 2:
                said = []  # of one value the weight is 1, whatever query and key are
            assert [tuple(p) for p in seen[position].nonzero().tolist()] == said


@pytest.mark.parametrize(("d", "e"), [(3, 3), (2, 5)])
@pytest.mark.parametrize("n", [1, 4])
def test_what_is_allowed_may_be_anything(d: int, e: int, n: int) -> None:
    """Also nothing: the answer is zero then, and so is its gradient."""
    generator, layer = torch.Generator().manual_seed(0), CausalAttention(2, own=True)
    q, k, v = (
        torch.randn(3, m, 2 * f, generator=generator, dtype=torch.float64).requires_grad_()
        for m, f in ((n, d), (6, d), (6, e))
    )
    for trial in range(6):
        allowed = torch.rand(n, 6, generator=generator) < trial / 5
        allowed[0] = trial > 2
        found = layer.attend(q, k, v, allowed)
        expected = torch.zeros(3, n, 2 * e, dtype=torch.float64)
        for image, row, head in np.ndindex(3, n, 2):
            mine, theirs = slice(head * d, head * d + d), slice(head * e, head * e + e)
            if allowed[row].any():
                scores = (k[image, allowed[row], mine] * q[image, row, mine]).sum(1) / math.sqrt(d)
                expected[image, row, theirs] = (scores.exp() / scores.exp().sum()) @ v[image, allowed[row], theirs]
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        gradients = torch.autograd.grad(found.sum(), (q, k, v))
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    torch.testing.assert_close(layer.attend(q, k, v, None), layer.attend(q, k, v, torch.ones(n, 6, dtype=torch.bool)))


@each_own
@pytest.mark.parametrize("above", [None, 1])
def test_any_number_of_images_in_any_memory_format(own: bool, above: int | None) -> None:
    layer, given = CausalAttention(2, own=own, above=above), inputs((4, 5), 2, 4, 4)
    whole = layer(*given)
    found = layer(*(x.to(memory_format=torch.channels_last) for x in given))
    torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-12)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(*(x[1:] for x in given)), whole[1:], rtol=1e-12, atol=1e-12)
    assert layer(*(x[:0] for x in given)).shape == (0, 8, 4, 5)


# The pixel before


@each_size
def test_the_pixel_before_is_that_in_raster_order(size: Size) -> None:
    torch.manual_seed(0)
    layer = live(PixelBefore(3, 4, size[1])).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    found, line = layer(x).flatten(2), x.flatten(2)
    torch.testing.assert_close(found[:, :, 0], layer.bias.expand(2, 4))
    for i in range(1, found.shape[2]):
        torch.testing.assert_close(found[:, :, i], line[:, :, i - 1] @ layer.weight.T + layer.bias)
    by_taps = layer.bias[:, None, None].expand(2, 4, *size).clone()
    kernel = layer.kernel()
    for y, u in np.ndindex(*size):
        for (dy, dx), weight in zip(kernel.taps, kernel.weight, strict=True):
            if 0 <= y + dy < size[0] and 0 <= u + dx < size[1]:
                by_taps[:, :, y, u] += x[:, :, y + dy, u + dx] @ weight
    torch.testing.assert_close(by_taps.flatten(2), found)
    (read,) = layer.reads()
    for position in np.ndindex(*size):
        inside = [p for p in read.where.of(position, size) if 0 <= p[0] < size[0] and 0 <= p[1] < size[1]]
        number = position[0] * size[1] + position[1]
        assert inside == ([divmod(number - 1, size[1])] if number else [])


# The fast sampler


class Network(nn.Module):
    """Attention between convolutions. ``shared``: a window reads the keys as well, which then lie with margins."""

    def __init__(self, *, own: bool, above: int | None, shared: bool = False) -> None:
        super().__init__()
        self.first, self.next = (MaskedConv2d(n, 8, 3, mask=m) for n, m in ((1, "A"), (8, "B")))  # type: ignore[arg-type]
        self.query, self.value = MaskedConv2d(8, 4, 1, mask="B"), MaskedConv2d(8, 8, 1, mask="B")
        self.keys = MaskedConv2d(8, 4, 1, mask="B")
        self.window = MaskedConv2d(4, 8, 3, mask="B") if shared else MaskedConv2d(8, 8, 3, mask="B")
        self.attention, self.shared = CausalAttention(2, own=own, above=above), shared
        self.output = MaskedConv2d(8, 3, 1, mask="B")

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        k = self.keys(h)
        found = self.attention(self.query(h), k, self.value(h))
        out: Tensor = self.output(torch.tanh(found + self.window(k if self.shared else self.next(h))))
        return out


def model_of(size: Size = (5, 6), seed: int = 0, **options: object) -> PixelModel:
    description = Setting(PixelCNNConfig(), ORDERED, ImageSpec(1, *size, 3)).fresh().description
    return PixelModel(live(Network(**options), seed).double(), description)  # type: ignore[arg-type]


@each_own
@each_limit
@pytest.mark.parametrize("shared", [True, False])
def test_fast_images_equal_the_plain_ones(own: bool, above: int | None, shared: bool) -> None:
    for size in ((5, 6), (1, 7), (7, 1)):
        model = model_of(size, own=own, above=above, shared=shared)
        with poisoned():
            check_fast_is_plain(model, n=3, loop=True, seed=size[0])
        check_every_logit(model, 1e-9, n=2)


@pytest.mark.parametrize("place", ["the top", "the bottom", "scattered", "all but the last value", "everything"])
@pytest.mark.parametrize("above", [None, 1])
def test_partly_known_images(place: str, above: int | None) -> None:
    """All that known pixels give is computed at once: many queries, each with positions of its own."""
    for own in (True, False):
        model = model_of(own=own, above=above)
        given, mask = random_images(model.spec, 3), masks(model.spec, 3)[place]
        images = check_fast_is_plain(model, given=given, mask=mask)
        assert torch.equal(images[mask.expand_as(given)], given[mask.expand_as(given)])


@pytest.mark.parametrize("above", [None, 1])
def test_keys_and_values_are_read_where_they_lie(above: int | None) -> None:
    """One position asks at a time, without a mask, in the order of the image; nothing is copied for it."""
    model, size = model_of(own=True, above=above), (5, 6)
    network = model.network
    assert isinstance(network, Network)
    network.first = live(PixelBefore(1, 8, 6)).double()  # all positions one after the other
    asked: list[tuple[int, int]] = []
    bases: set[int] = set()
    attend = network.attention.attend

    def spy(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
        if len(q) == 1:  # while the network is traced
            return attend(q, k, v, allowed)
        assert allowed is None
        assert q.shape == (2, 1, 4)
        starts = k.storage_offset() // 4, v.storage_offset() // 8
        assert starts[0] == starts[1]
        asked.append((starts[0], starts[0] + k.shape[1]))
        bases.update((k.untyped_storage().data_ptr(), v.untyped_storage().data_ptr()))
        return attend(q, k, v, allowed)

    with patch.object(network.attention, "attend", spy):
        model.sample(2)
    assert len(bases) == 2  # one cache of keys, one of values
    expected = [(0 if above is None else max(0, y - above) * 6, 6 * y + x + 1) for y, x in np.ndindex(*size)]
    assert asked == expected
