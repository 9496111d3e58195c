"""The plan: every value is computed once and at its step, no two share an address, and shapes alone decide."""

from __future__ import annotations

import ast
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from checks import check_every_logit, check_fast_is_plain
from fast_toys import TALL, double, of_size, poisoned
from pixelloom import sampling
from pixelloom.core.types import ImageSpec
from pixelloom.models.pixel import PixelModel
from pixelloom.networks.pixel.pixelcnn import PixelCNNConfig
from pixelloom.sampling.fast import sampler as fast
from pixelloom.sampling.fast.analysis import NEVER
from pixelloom.sampling.fast.caches import Cache
from pixelloom.sampling.fast.layout import CacheLayout
from pixelloom.sampling.fast.planner import Plan
from pixelloom.sampling.fast.runtime import Runtime
from pixelloom.sampling.fast.sampler import make_plan
from pixelloom.sampling.fast.wavefronts import Segment, Wavefront, cut, ranges_of, sweep_of
from profiles import examples
from settings import CONFIGS, ORDERED, Setting
from test_shared_models import CLASSES, GATED, GRAY, model_of

each_config = pytest.mark.parametrize("setting", CONFIGS.values(), ids=CONFIGS)
Grid = np.ndarray[Any, Any]


def positions_of(segments: tuple[Segment, ...]) -> list[tuple[int, int]]:
    return [(s.y + i * s.dy, s.x + i * s.dx) for s in segments for i in range(s.n)]


# Segments and sweeps


@st.composite
def grids(draw: st.DrawFn, values: int) -> Grid:
    """Integers on a small grid, -1 included."""
    height, width = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    flat = draw(st.lists(st.integers(-1, values), min_size=height * width, max_size=height * width))
    return np.array(flat, np.int64).reshape(height, width)


@examples(200)
@given(grids(0))
def test_segments_hold_each_position_once_and_in_order(marks: Grid) -> None:
    positions = np.argwhere(marks == 0)
    segments = cut(positions)
    assert positions_of(segments) == [tuple(position) for position in positions.tolist()]
    assert all(s.n >= 1 for s in segments)
    for one, other in itertools.pairwise(segments):  # no two could be one
        joined = positions_of((one, other))
        assert one.n == 1 or len({(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(joined)}) > 1


@examples(200)
@given(grids(5))
def test_sweeps_hold_each_position_at_its_step(ready: Grid) -> None:
    sweep = sweep_of(ready)
    found = np.full_like(ready, NEVER)
    for step, segments in sweep.segments.items():
        for y, x in positions_of(segments):
            assert found[y, x] == NEVER
            found[y, x] = step
    np.testing.assert_array_equal(found, ready)
    assert sum(s.n for segments in sweep.segments.values() for s in segments) == (ready != NEVER).sum()


def test_the_wavefront_of_a_masked_convolution_is_one_line() -> None:
    y, x = np.indices((28, 28))
    sweep = sweep_of(x + 4 * y)
    assert len(sweep.segments) == 136
    assert all(len(segments) == 1 for segments in sweep.segments.values())
    assert sweep.segments[50][0] == Segment(6, 26, 1, -4, 7)
    assert all(s.n == 28 for (s,) in sweep_of(y).segments.values())  # a vertical stack: whole rows


@examples(200)
@given(st.sets(st.integers(0, 30), min_size=1))
def test_ranges_are_the_columns_and_their_indices(columns: set[int]) -> None:
    ascending = sorted(columns)
    ranges = ranges_of(np.array(ascending))
    assert [c for found, _ in ranges for c in range(found.start, found.stop)] == ascending
    assert [i for _, indices in ranges for i in range(indices.start, indices.stop)] == list(range(len(ascending)))
    assert all(found.stop - found.start == indices.stop - indices.start for found, indices in ranges)
    assert all(one.stop < other.start for (one, _), (other, _) in itertools.pairwise(ranges))


# Feature groups


def plan_of(model: PixelModel, known: Grid | None = None) -> Plan:
    return make_plan(model.network, model.head, model.spec, known)


def top_half(spec: ImageSpec) -> Grid:
    return np.broadcast_to((np.arange(spec.height) < spec.height // 2)[:, None], spec.shape)


@each_config
@pytest.mark.parametrize("half", [False, True])
def test_every_value_that_is_needed_is_computed_once_and_at_its_time(setting: Setting, half: bool) -> None:
    plan = plan_of(setting.fresh(), top_half(setting.image) if half else None)
    flow, ready = plan.schedule.flow, plan.schedule.ready
    slots: list[int] = []
    for number, groups in enumerate(plan.feature_groups):
        wanted = ready[number][flow.labels[number]]  # [features, height, width]
        times = np.full_like(wanted, NEVER)
        for group in groups:
            assert group.node == number
            slots.append(group.slot)
            for step, segments in plan.sweeps[group.sweep].segments.items():
                for y, x in positions_of(segments):
                    assert (times[group.columns, y, x] == NEVER).all()
                    times[group.columns, y, x] = step
        np.testing.assert_array_equal(times, wanted)
    assert sorted(slots) == list(range(plan.slots))


@each_config
def test_pixels_are_drawn_once_and_one_step_before_they_are_read(setting: Setting) -> None:
    known = top_half(setting.image)
    plan = plan_of(setting.fresh(), known)
    times = np.full(setting.image.shape, NEVER)
    for sweep, channels, _ in plan.pixel_groups:
        for step, segments in plan.sweeps[sweep].segments.items():
            for y, x in positions_of(segments):
                assert (times[channels, y, x] == NEVER).all()
                times[channels, y, x] = step
    np.testing.assert_array_equal(times == NEVER, known)
    np.testing.assert_array_equal(plan.schedule.ready[0], np.where(known, NEVER, times + 1))
    assert plan.schedule.steps == times.max() + 1


# Layout of caches


@st.composite
def layouts(draw: st.DrawFn) -> tuple[CacheLayout, int, int]:
    """A layout, the height of its images and their number."""
    side, few = st.integers(1, 6), st.integers(0, 3)
    height, top, bottom = draw(side), draw(few), draw(few)
    layout = CacheLayout(
        features=draw(st.integers(1, 3)),
        width=draw(side),
        rows=top + height + bottom,
        top=top,
        bottom=bottom,
        margin=draw(few),
        skew=draw(few),
    )
    return layout, height, draw(st.integers(1, 3))


def cache_of(layout: CacheLayout, images: int) -> Cache:
    cache = Cache(layout, images, torch.float64, torch.device("cpu"))
    cache.reset()
    return cache


@examples(100)
@given(layouts())
def test_no_two_values_share_an_address_and_none_lies_in_a_margin(made: tuple[CacheLayout, int, int]) -> None:
    layout, height, images = made
    cache = cache_of(layout, images)
    places = torch.arange(cache.flat.numel()).double().view_as(cache.flat)
    cache.flat.copy_(places)
    seen = torch.stack([cache.line(y).clone() for y in range(height)])
    assert seen.unique().numel() == seen.numel() == height * images * layout.width * layout.features
    # No value has the address of a position beyond an edge.
    for y, x, i in itertools.product(
        range(-layout.top, height + layout.bottom), range(-layout.margin, layout.width + layout.margin), range(images)
    ):
        if not (0 <= y < height and 0 <= x < layout.width):
            address = cache.address(y, x) + i * layout.pitch
            assert not (seen == address * layout.features).any()


@examples(150)
@given(layouts(), st.data())
def test_views_are_the_values_at_each_position_and_zeros_beyond_the_edge(
    made: tuple[CacheLayout, int, int], data: st.DataObject
) -> None:
    layout, height, images = made
    cache = cache_of(layout, images)
    values = 1 + torch.rand(height, images, layout.width, layout.features, dtype=torch.float64)
    for y in range(height):
        cache.line(y).copy_(values[y])
    stride = data.draw(st.sampled_from([(1, 1), (2, 2), (1, 2)]))
    dy, dx = data.draw(st.integers(-layout.top, layout.bottom)), data.draw(st.integers(-layout.margin, layout.margin))
    taps = data.draw(st.integers(1, layout.margin - dx + 1))
    features = data.draw(st.integers(1, layout.features))
    inner = (-(-height // stride[0]), -(-layout.width // stride[1]))
    ready = data.draw(st.lists(st.integers(0, 2), min_size=inner[0] * inner[1], max_size=inner[0] * inner[1]))

    def value(y: int, x: int, image: int) -> Tensor:
        inside = 0 <= y < height and 0 <= x < layout.width
        return values[y, image, x] if inside else torch.zeros(layout.features).double()

    for segments in sweep_of(np.array(ready).reshape(inner)).segments.values():
        for segment in segments:
            columns = slice(0, features)
            view = cache.view(segment, columns, taps, (dy, dx), stride).reshape(segment.n, images, -1)
            for place, (y, x) in enumerate(positions_of((segment,))):
                for image in range(images):
                    v, u = y * stride[0] + dy, x * stride[1] + dx
                    row = torch.cat([value(v, u + tap, image) for tap in range(taps)])
                    expected = row[: (taps - 1) * layout.features + features]
                    assert torch.equal(view[place, image], expected)


@examples(100)
@given(layouts(), st.data())
def test_reads_return_what_was_written_and_nothing_else_changes(
    made: tuple[CacheLayout, int, int], data: st.DataObject
) -> None:
    layout, height, images = made
    cache = cache_of(layout, images)
    ready = data.draw(st.lists(st.integers(-1, 2), min_size=height * layout.width, max_size=height * layout.width))
    columns = np.array(sorted(data.draw(st.sets(st.integers(0, layout.features - 1), min_size=1))))
    truth = torch.zeros(height, images, layout.width, layout.features, dtype=torch.float64)
    for segments in sweep_of(np.array(ready).reshape(height, layout.width)).segments.values():
        wavefront = Wavefront(segments, images, layout.width)
        rows = torch.rand(wavefront.rows, len(columns), dtype=torch.float64)
        cache.write(wavefront, ranges_of(columns), rows)
        for place, (y, x) in enumerate(wavefront.positions):
            truth[y, :, x, columns] = rows[place * images : (place + 1) * images]
        assert torch.equal(cache.read(wavefront, ranges_of(columns)), rows)
        assert torch.equal(torch.stack([cache.line(y) for y in range(height)]), truth)
    for y in range(height):
        cache.line(y).zero_()
    assert not cache.flat.any(), "a margin was written"


# Live ranges


@each_config
def test_nothing_is_read_before_it_is_written(setting: Setting) -> None:
    model = double(setting)
    given = torch.randint(0, setting.image.levels, (1, *setting.image.shape), dtype=torch.uint8)
    with poisoned() as counts:
        check_every_logit(model, tolerance=1e-13, n=2)
        assert counts["pixels"] == setting.image.dims
        check_fast_is_plain(model, n=2, given=given, mask=torch.from_numpy(top_half(setting.image).copy()))
        check_fast_is_plain(model, n=2, given=given, mask=torch.rand(2, *setting.image.shape) < 0.5)


@pytest.mark.parametrize("rows", [0, 1, 19, 33])
def test_rows_are_released_after_their_last_reader(rows: int) -> None:
    model = double(TALL)
    mask = torch.arange(40)[:, None] < rows
    given = torch.randint(0, 2, (1, 1, 40, 3), dtype=torch.uint8)
    with poisoned() as counts:
        check_fast_is_plain(model, given=given, mask=mask)
    assert counts["moves"] > 0


def test_colors_release_rows_too() -> None:
    config = PixelCNNConfig(block="gated", channels=7, first_kernel=3, kernel=3, blocks=1, norm="channel")
    with poisoned() as counts:
        check_fast_is_plain(double(Setting(config, ORDERED, ImageSpec(3, 24, 3, 3))))
    assert counts["moves"] > 0


@pytest.mark.parametrize("setting", [*CONFIGS.values(), TALL], ids=[*CONFIGS, "tall"])
def test_margins_stay_zero(setting: Setting) -> None:
    plan = plan_of(setting.model())
    run = Runtime(plan, 2, torch.float32, torch.device("cpu"))
    run.begin(torch.rand(setting.image.height * setting.image.width, 2, setting.image.channels))
    with torch.no_grad():
        for step in range(plan.schedule.steps):
            run.step(step, lambda params, wavefront, channels: torch.rand(wavefront.rows, len(channels)))
    for cache in run.caches.values():
        assert cache.flat.any()
        for y in range(max(cache.first_row, 0), cache.first_row + cache.layout.rows - cache.layout.bottom):
            cache.line(y).zero_()
        assert not cache.flat.any()


# Memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_config
def test_memory_of_an_image_is_what_is_allocated(setting: Setting, dtype: torch.dtype) -> None:
    model = setting.model()
    model.network.to(dtype)
    sampler, images = model.fast_sampler(), 50
    run = Runtime(sampler.plan, images, dtype, torch.device("cpu"))
    allocated = sum(cache.flat.nbytes for cache in run.caches.values())
    skewed = sum(c.layout.features * (2 * c.layout.margin + c.layout.rows * c.layout.skew) for c in run.caches.values())
    assert allocated == images * sampler.plan.values_per_image() * dtype.itemsize + skewed * dtype.itemsize
    noise_and_levels = setting.image.dims * (8 + 1 + 1)
    at_once = sampler.plan.peak_values_per_image() * dtype.itemsize
    assert sampler.bytes_per_image == sampler.plan.values_per_image() * dtype.itemsize + at_once + noise_and_levels
    assert 0 < at_once < sampler.bytes_per_image / 2


def test_values_of_the_largest_step() -> None:
    """Counted over all features, step by step."""
    plan = plan_of(CONFIGS["gated-rgb-20"].fresh())
    held: Counter[int] = Counter()
    for number in range(1, len(plan.nodes)):
        times = plan.schedule.ready[number][plan.schedule.flow.labels[number]]
        held.update(times[times != NEVER].tolist())
    assert plan.peak_values_per_image() == max(held.values())


@pytest.mark.parametrize("name", ["gated", "mnist-gray", "rgb-ordered"])
def test_memory_of_a_tall_image_is_that_of_the_rows_alive(name: str) -> None:
    channels = CONFIGS[name].image.channels

    def values(height: int) -> tuple[int, int]:
        """Features in the caches, and how many they would be with all rows."""
        plan = plan_of(of_size(name, height, 16).fresh())
        features = [layout for node, layout in plan.caches.items() if node]
        whole = sum((c.top + height + c.bottom) * c.pitch * c.features for c in features)
        return plan.values_per_image() - plan.caches[0].rows * plan.caches[0].pitch * channels, whole

    alive, whole = values(128)
    assert alive < whole / 2
    if channels == 1:  # the first of ordered channels reads nothing of its own pixel: that is ready from the start
        assert values(96)[0] == alive


def test_a_batch_is_as_large_as_its_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = CONFIGS["gated"].model().fast_sampler()
    assert sampler.batch(10) == 10
    assert sampler.batch(10**6) == fast.LARGEST_BATCH
    monkeypatch.setattr(fast, "MEMORY", 5 * sampler.bytes_per_image)
    assert sampler.batch(10**6) == 5
    assert sampler.batch(3) == 3
    monkeypatch.setattr(fast, "MEMORY", 1)
    assert sampler.batch(3) == 1


# What a plan depends on


def described(plan: Plan) -> dict[str, Any]:
    """All that a plan says of steps and places."""
    return {
        "sweeps": [sweep.segments for sweep in plan.sweeps],
        "groups": [(g.node, g.columns.tolist(), g.sweep, g.slot) for groups in plan.feature_groups for g in groups],
        "gathers": {
            slot: [
                (g.node, g.columns.tolist(), g.slot, None if g.within is None else g.within.tolist()) for g in gathers
            ]
            for slot, gathers in plan.gathers.items()
        },
        "pixels": [(sweep, channels, columns.tolist()) for sweep, channels, columns in plan.pixel_groups],
        "caches": plan.caches,
        "memory": (plan.values_per_image(), plan.peak_values_per_image(), plan.grain),
        "conditioned": plan.conditioned,
    }


def test_a_plan_depends_on_shapes_alone() -> None:
    """Other weights and other values of the conditioning give the same plan; another shape gives another one."""
    one, other = (model_of("gated-pixelcnn", GATED, classes=CLASSES, condition="downsample@2") for _ in range(2))
    for parameter in other.network.parameters():
        torch.nn.init.normal_(parameter)
    plans = [
        make_plan(
            model.network,
            model.head,
            model.spec,
            conditioning={"labels": torch.tensor([label]), "condition": torch.full((1, 1, *size), value).double()},
        )
        for model, label, value, size in (
            (one, 0, 0.0, (GRAY.height, GRAY.width)),
            (other, CLASSES, 0.7, (GRAY.height, GRAY.width)),
            (one, 0, 0.0, (1, 1)),
        )
    ]
    assert described(plans[0]) == described(plans[1])
    assert described(plans[0])["memory"] != described(plans[2])["memory"]


def test_no_sampler_identifies_an_object_by_its_address() -> None:
    """An address may serve the next object: what ``id`` or ``data_ptr`` says of one may be true of another later."""
    for path in sorted(Path(sampling.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.Name) and node.id == "id"), f"{path.name}:{node.lineno}"
            assert not (isinstance(node, ast.Attribute) and node.attr == "data_ptr"), f"{path.name}:{node.lineno}"
