"""Steps of the fast sampler as programs: recorded functions, views that move, features that wait until they are due."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pixelloom.layers.reads import HERE
from pixelloom.sampling.fast.analysis import NEVER, Dataflow, schedule
from pixelloom.sampling.fast.batching import _LATE, _in_raster_order, _late, _of_states, batched
from pixelloom.sampling.fast.caches import Cache
from pixelloom.sampling.fast.ir import Recurrence
from pixelloom.sampling.fast.layout import CacheLayout
from pixelloom.sampling.fast.program import Binding, all_move
from pixelloom.sampling.fast.recorder import Scratch, record
from pixelloom.sampling.fast.wavefronts import Segment, Wavefront
from settings import CONFIGS, Setting
from test_shared_models import GATED, model_of

CPU = torch.device("cpu")

# Recorded functions


def chain(x: Tensor, y: Tensor) -> Tensor:
    a, b = (x @ y).chunk(2, dim=1)
    h = torch.tanh(a) * torch.sigmoid(b) + 1
    h += F.relu(a)
    return F.elu(torch.cat((h, -h), 1))


def norm(x: Tensor, y: Tensor) -> Tensor:
    return F.layer_norm(x[:, :, None, None].permute(0, 2, 3, 1), (4,))[:, 0, 0] + y.sum()


def levels(x: Tensor, y: Tensor) -> Tensor:
    table = F.softmax(x.double() / 0.7, 1).cumsum(1)
    return (table[:, :-1] <= y[:1, :1] * table[:, -1:]).sum(1).to(torch.uint8)


@pytest.mark.parametrize("function", [chain, norm, levels])
def test_recorded_calls_compute_the_function_of_later_values(function: Callable[..., Tensor]) -> None:
    x, y = torch.randn(3, 4), torch.randn(4, 8)
    with torch.no_grad():
        out = torch.zeros_like(function(x, y))
        recording = record(function, [x, y], Scratch(CPU), torch.add)
        assert recording is not None
        calls = recording.into(out)
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            x.copy_(torch.randn(3, 4, generator=generator))
            y.copy_(torch.randn(4, 8, generator=generator))
            for call in calls:
                call()
            assert torch.equal(out, function(x, y))


def test_functions_that_look_at_values_are_not_recorded() -> None:
    x = torch.ones(2)
    assert record(lambda x: x * 2 if x.sum() > 0 else x, [x], Scratch(CPU), torch.add) is None


def test_functions_that_change_a_constant_are_not_recorded() -> None:
    """The next run would find the constant changed."""
    x = torch.ones(2)

    def count(x: Tensor) -> Tensor:
        seen = torch.zeros(2)
        seen += x
        return seen

    assert record(count, [x], Scratch(CPU), torch.add) is None


def test_functions_of_others_are_not_recorded() -> None:
    """A layer of one's own may do what a recording does not see, such as count its calls."""
    x = torch.ones(2)
    assert record(chain, [x, x], Scratch(CPU), chain) is None


# Views that move


def test_views_move_with_their_wavefront() -> None:
    layout = CacheLayout(features=2, width=5, rows=6, margin=1, skew=2)
    cache = Cache(layout, 3, torch.float64, CPU)
    cache.flat.copy_(torch.arange(cache.flat.numel()).view_as(cache.flat))
    here, there = (Wavefront((Segment(y, x, 1, -2, 2),), 3, 5) for y, x in ((0, 2), (3, 4)))
    binding = cache.binding = Binding()
    binding.follow(0, here)
    views = [cache.view(here.segments[0], slice(0, 2), 2, (0, -1)), cache.view(here.segments[0], slice(1, 2))]
    cache.binding = None
    for wavefront in (there, here):
        binding.program().move(7, [{7: wavefront}])
        segment = wavefront.segments[0]
        assert torch.equal(views[0], cache.view(segment, slice(0, 2), 2, (0, -1)))
        assert torch.equal(views[1], cache.view(segment, slice(1, 2)))


# Batching


@pytest.mark.parametrize("setting", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("raster", [False, True])
def test_waiting_features_are_computed_after_what_they_read_and_before_their_readers(
    setting: Setting, raster: bool
) -> None:
    flow = Dataflow(setting.fresh().network, setting.image.shape, setting.fresh().head.groups)
    first = schedule(flow)
    first = _in_raster_order(first) if raster else first
    late = _late(first)
    np.testing.assert_array_equal(late.ready[0], first.ready[0])
    for number, node in enumerate(flow.nodes[1:], 1):
        assert ((late.ready[number] == NEVER) == (first.ready[number] == NEVER)).all()
        for own, reads in zip(late.ready[number], flow.sources[number], strict=True):
            for read in reads:
                where = HERE if isinstance(node.operation, Recurrence) else read.where
                for one in read.classes:
                    needed = where.latest(late.ready[read.node][one], node.size, 0)
                    assert ((own == NEVER) | (own >= needed)).all()
    for channel, classes in enumerate(flow.output_classes()):
        for one in classes:
            drawn = late.ready[0][channel] != NEVER
            assert (late.ready[-1][one][drawn] <= late.ready[0][channel][drawn] - 1).all()


def test_a_vertical_stack_computes_whole_rows() -> None:
    model = model_of("gated-pixelcnn", GATED)
    flow = Dataflow(model.network, model.spec.shape, model.head.groups)
    late = _late(_in_raster_order(schedule(flow)))
    vertical = [number for number, node in enumerate(flow.nodes) if node.name.endswith("vertical")]
    assert vertical
    for number in vertical:
        grid = late.ready[number]
        assert all(len(np.unique(row[row != NEVER])) <= 1 for plane in grid for row in plane)
    assert batched(schedule(flow)).steps >= schedule(flow).steps


# States


@pytest.mark.parametrize("carried", [((0, -1), (-1, 0)), ((0, 1), (-1, 0)), ((-1, -1), (-1, 0), (-1, 1))])
def test_a_state_is_computed_before_those_that_carry_it_on(carried: tuple[tuple[int, int], ...]) -> None:
    """Also where no other node reads it, and where its readers are late."""
    rng = np.random.default_rng(3)
    for _ in range(40):
        due = rng.integers(20, 60, (4, 5))
        due[rng.random((4, 5)) < 0.4] = _LATE
        ready = np.zeros((4, 5), np.int64)
        for y, x in (
            np.ndindex(4, 5) if (0, 1) not in carried else ((y, x) for y in range(4) for x in reversed(range(5)))
        ):
            before = [ready[y + dy, x + dx] for dy, dx in carried if y + dy >= 0 and 0 <= x + dx < 5]
            ready[y, x] = max(before, default=0) + int(rng.integers(0, 3))
        steps = _of_states(carried, ready, due)
        assert (steps >= ready).all()
        assert (steps[due != _LATE] <= due[due != _LATE]).all()
        assert steps.max() < _LATE
        for y, x in np.ndindex(4, 5):
            for dy, dx in carried:
                if y + dy >= 0 and 0 <= x + dx < 5:
                    assert steps[y + dy, x + dx] <= steps[y, x]


# Views of views


def test_a_program_with_a_view_of_a_view_holds_for_its_step_alone() -> None:
    cache = Cache(CacheLayout(features=3, width=5, rows=6, margin=1, skew=2), 2, torch.float32, CPU)
    binding = Binding()
    cache.binding = binding
    wavefront = Wavefront((Segment(1, 2, 0, 1, 1),), 2, 5)
    binding.follow(0, wavefront)
    view = cache.view(wavefront.segments[0], slice(0, 3))
    out = torch.zeros(2, 3)
    assert all_move(binding.program(), [partial(out.copy_, view), partial(view.copy_, out)])
    assert not all_move(binding.program(), [partial(out[:1].copy_, view[:1])])
    assert not all_move(binding.program(), [view.t().zero_])
