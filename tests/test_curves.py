"""Curves draw the metrics that the run wrote and no others, in the panels that these metrics belong to."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from pixelloom.core.errors import ModelError, UsageError
from pixelloom.viz import curves


def metrics(path: Path, lines: list[dict[str, object]], tail: str = "") -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    return path


RUN = [
    {"split": "train", "step": 1, "images": 100, "bits/dim": 4.0, "network/loss": 9.0},
    {"split": "val", "step": 1, "images": 100, "bits/dim": 3.5},
    {"split": "train", "step": 2, "images": 200, "bits/dim": 3.0},
    {"split": "train", "step": 3, "images": 300, "bits/dim": math.nan},
    {"split": "val", "step": 4, "images": 400, "bits/dim": 2.5},
    {"split": "val", "step": 5, "images": 500, "bits/dim": 2.75},
    {"split": "val", "step": 6, "images": 600, "bits/dim": math.inf},
    {"split": "val", "step": 7, "images": 700, "nats/image": 80.0},
    {"split": "other", "step": 7, "images": 700, "bits/dim": 1.0},
]
GAN_RUN = [
    {"split": "train", "step": 10, "images": 640, "D/real": 0.5, "D/fake": -0.5, "D/r_t": 0.25, "G/loss": 1.0},
    {"split": "val", "step": 10, "images": 640, "kid-lenet-mnist": 0.5},
    {"split": "train", "step": 20, "images": 1280, "D/real": 1.5, "D/fake": -1.0, "D/r_t": 0.75, "G/loss": 2.0},
    {"split": "val", "step": 20, "images": 1280, "kid-lenet-mnist": 0.125},
    {"split": "train", "step": 30, "images": 1920, "D/real": 1.0, "D/fake": math.nan, "D/r_t": 0.5},
    {"split": "val", "step": 30, "images": 1920, "kid-lenet-mnist": 0.25},
]


def lines_of(axes: Axes) -> list[list[list[float]]]:
    return [np.asarray(line.get_xydata()).tolist() for line in axes.lines]


def told(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def test_the_history_is_what_the_run_wrote(tmp_path: Path) -> None:
    history = curves.read_history(metrics(tmp_path / "m.jsonl", RUN, tail='{"split": "val", "ima'))
    assert set(history.train) == {"bits/dim", "network/loss"}
    assert set(history.validation) == {"bits/dim", "nats/image"}
    assert np.stack(history.train["bits/dim"]).tolist() == [[100, 200], [4.0, 3.0], [1, 2]]
    assert np.stack(history.validation["bits/dim"]).tolist() == [[100, 400, 500], [3.5, 2.5, 2.75], [1, 4, 5]]
    assert history.validation["bits/dim"].best == (400, 2.5, 4)
    assert history.selecting == ["bits/dim"]


def test_lines_that_no_run_of_ours_wrote(tmp_path: Path) -> None:
    odd = [
        {"split": "val", "images": 100, "bits/dim": "low"},
        {"split": "val", "images": 100, "bits/dim": True},
        {"split": "val", "images": 100, "bits/dim": None},
        {"split": "val", "images": 100, "bits/dim": 10**400},
        {"split": "val", "images": None, "bits/dim": 1.0},
        {"split": "val", "bits/dim": 1.0},
        {"split": ["val"], "images": 100, "bits/dim": 1.0},
        {"images": 100, "bits/dim": 1.0},
        {"split": "val", "images": 700, "bits/dim": 2.0},
    ]
    tail = "[1, 2]\n" + "[" * 100_000 + "\n3\n"
    history = curves.read_history(metrics(tmp_path / "m.jsonl", odd, tail))
    assert not history.train
    (series,) = history.validation.values()
    assert (series.images.tolist(), series.values.tolist()) == ([700], [2.0])
    assert math.isnan(series.steps[0])  # that line named none
    (tmp_path / "m.jsonl").write_bytes(b'\xff\xfe\n{"split": "val", "images": 1, "kid-pixels": 0.5}\n')
    assert curves.read_history(tmp_path / "m.jsonl").selecting == ["kid-pixels"]


def test_the_chart_draws_the_history_in_both_units(tmp_path: Path) -> None:
    figure = curves.figure_of(curves.read_history(metrics(tmp_path / "m.jsonl", RUN)))
    assert figure is not None
    (axes,) = figure.axes
    drawn = lines_of(axes)
    assert [[100, 3.5], [400, 2.5], [500, 2.75]] in drawn  # validation as it is
    assert [[100, 4.0], [200, 3.0]] in drawn  # training as it is, faint
    assert [[400, 2.5]] in drawn  # the best is marked
    assert axes.get_ylabel() == "bits/dim"
    (nats,) = axes.child_axes
    figure.draw_without_rendering()
    assert nats.get_ylabel() == "nats/dim"
    assert np.allclose(nats.get_ylim(), np.array(axes.get_ylim()) * math.log(2))
    assert any("2.500" in text for text in told(axes))


def test_the_panels_of_a_run_with_two_sides(tmp_path: Path) -> None:
    figure = curves.figure_of(curves.read_history(metrics(tmp_path / "m.jsonl", GAN_RUN)))
    assert figure is not None
    margins, dial, distance = figure.axes
    figure.draw_without_rendering()
    assert margins.get_position().y0 > dial.get_position().y0 > distance.get_position().y0
    assert [[640, 0.5], [1280, 1.5], [1920, 1.0]] in lines_of(margins)  # real
    assert [[640, -0.5], [1280, -1.0]] in lines_of(margins)  # generated
    assert told(margins) == ["real images", "generated images", "margin"]
    (band,) = margins.collections
    (path,) = band.get_paths()
    corners = {tuple(corner) for corner in np.round(np.asarray(path.vertices, np.float64), 6).tolist()}
    assert {(640, 0.5), (640, -0.5)} <= corners  # between the two where smoothing has not begun
    assert [[640, 0.25], [1280, 0.75], [1920, 0.5]] in lines_of(dial)
    assert dial.get_ylim() == (-1.1, 1.1)
    assert distance.get_ylabel() == "kid-lenet-mnist"
    assert [[640, 0.5], [1280, 0.125], [1920, 0.25]] in lines_of(distance)
    assert [[1280, 0.125]] in lines_of(distance)
    assert "best: 0.125" in told(distance)
    assert distance.get_xlabel() == "images seen"
    assert margins.get_xlim() == dial.get_xlim() == distance.get_xlim()


def test_a_single_point_of_training_is_seen_and_more_are_a_line(tmp_path: Path) -> None:
    for count, marker in ((1, "o"), (2, "None")):
        figure = curves.figure_of(curves.read_history(metrics(tmp_path / "m.jsonl", GAN_RUN[: 2 * count])))
        assert figure is not None
        margins, dial, _ = figure.axes
        for axes, drawn in ((margins, 2), (dial, 1)):
            thick = [line for line in axes.lines if line.get_linewidth() == 1.6]
            assert [line.get_marker() for line in thick] == [marker] * drawn


@pytest.mark.parametrize(
    ("names", "panels"),
    [
        (["D/real", "D/fake"], ["mean logit of D"]),
        (["D/real", "D/r_t"], ["D/r_t"]),
        (["bits/dim", "D/real", "D/fake"], ["bits/dim", "mean logit of D"]),
        (["G/loss", "D/loss", "network/loss"], []),
    ],
)
def test_panels_are_chosen_by_name(names: list[str], panels: list[str], tmp_path: Path) -> None:
    line: dict[str, object] = {"split": "train", "step": 1, "images": 9} | dict.fromkeys(names, 0.5)
    figure = curves.figure_of(curves.read_history(metrics(tmp_path / "m.jsonl", [line])))
    assert [axes.get_ylabel() for axes in (figure.axes if figure else [])] == panels


def test_each_extractor_has_a_panel(tmp_path: Path) -> None:
    line: dict[str, object] = {"split": "val", "step": 1, "images": 9, "kid-a": 1.0, "fd-a": 5.0, "kid-b": 2.0}
    figure = curves.figure_of(curves.read_history(metrics(tmp_path / "m.jsonl", [line])))
    assert figure is not None
    assert [axes.get_ylabel() for axes in figure.axes] == ["kid-a", "kid-b"]


def test_the_first_moments_do_not_press_the_rest_flat(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"split": "train", "images": i, "bits/dim": 8.0 if i < 5 else 1.0 + 1 / i} for i in range(1, 400)
    ]
    figure = curves.figure_of(curves.read_history(metrics(tmp_path / "m.jsonl", lines)))
    assert figure is not None
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    assert low < 1.0 + 1 / 399
    assert 1.0 + 1 / 30 < high < 2


def test_smoothing_by_hand() -> None:
    assert curves.smooth(np.full(9, 2.5), 7).tolist() == pytest.approx([2.5] * 9)
    assert curves.smooth(np.array([1.0, 5.0, 2.0]), 1).tolist() == [1.0, 5.0, 2.0]
    # span 2: weights 1/2, 1/4, 1/8 back in time, divided by their sum
    assert curves.smooth(np.array([1.0, 5.0, 2.0]), 2).tolist() == pytest.approx([1.0, 11 / 3, (1 + 10 + 8) / 7])


@pytest.mark.parametrize(
    "lines",
    [
        RUN,
        RUN[:1],
        RUN[1:2],
        [RUN[3], RUN[1]],
        GAN_RUN,
        GAN_RUN[:1],
        GAN_RUN[1:2],
        [*RUN, *GAN_RUN],
    ],
)
def test_curves_are_a_png_from_the_first_metric_on(lines: list[dict[str, object]], tmp_path: Path) -> None:
    curves.draw(metrics(tmp_path / "m.jsonl", lines), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as drawn:
        assert min(drawn.size) > 300
        assert len(drawn.convert("RGB").getcolors(1 << 20) or []) > 10  # something is on it


def test_nothing_to_draw_draws_nothing(tmp_path: Path) -> None:
    curves.draw(metrics(tmp_path / "m.jsonl", [RUN[3]]), tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_metrics_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"m\.jsonl: cannot be read"):
        curves.draw(tmp_path / "m.jsonl", tmp_path / "curves.png")
    with pytest.raises(ModelError, match=r"absent/curves\.png"):
        curves.draw(metrics(tmp_path / "m.jsonl", RUN), tmp_path / "absent" / "curves.png")
